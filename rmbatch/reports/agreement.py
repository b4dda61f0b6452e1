"""How far rewards agree: which of two candidates of a prompt is better, and which candidate is the best.

found = Agreement(["math", "judge"])
found.add(np.stack([math, judge]), offsets)      # [rewards, candidates], NaN: no score
found.plain()                                    # a line for each pair of rewards
"""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.ragged import Floats, Ragged
from rmbatch.reports.means import plain


class Agreement:
    """Counts over pairs of candidates of a prompt, for each two rewards."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        size = len(names)
        self.net = np.zeros((size, size))
        """Pairs that both order alike, less those that they order the other way round."""
        self.both = np.zeros((size, size))
        """Pairs that both order."""
        self.scored = np.zeros((size, size))
        """Pairs of which both have scores."""
        self.same_pick = np.zeros((size, size))
        self.prompts = np.zeros((size, size))
        """Prompts of which both have scores, and more than one candidate."""
        self.num_prompts = 0

    def add(self, scores: Floats, offsets: NDArray[np.int64]) -> None:
        """Add prompts. scores[rewards, candidates], NaN: no score."""
        counts = np.diff(offsets)
        self.num_prompts += int(np.count_nonzero(counts > 1))
        ends = np.repeat(offsets[1:], counts)
        for lag in range(1, int(counts.max(initial=0))):
            first = np.flatnonzero(np.arange(scores.shape[1]) + lag < ends)
            if not len(first):
                break
            with np.errstate(invalid="ignore"):
                apart = np.sign(scores[:, first + lag] - scores[:, first])
            equal = scores[:, first + lag] == scores[:, first]  # also of two infinities, whose difference is none
            known = (~np.isnan(apart) | equal).astype(np.float32)
            order = np.nan_to_num(apart).astype(np.float32)
            ordered = np.abs(order)
            self.net += order @ order.T
            self.both += ordered @ ordered.T
            self.scored += known @ known.T
        self._add_picks(scores, offsets)

    def _add_picks(self, scores: Floats, offsets: NDArray[np.int64]) -> None:
        """The chance that both pick the same candidate where each breaks its ties at random."""
        lists = [Ragged(each, offsets) for each in scores]
        tops = [each.maximum() for each in lists]
        best = [(each.values == np.repeat(top, each.counts)).astype(np.float64) for each, top in zip(lists, tops)]
        sizes = [each.sum(some) for each, some in zip(lists, best)]
        several = np.diff(offsets) > 1
        for a, b in combinations(range(len(lists)), 2):
            has = several & (sizes[a] > 0) & (sizes[b] > 0)
            shared = lists[a].sum(best[a] * best[b])[has] / (sizes[a] * sizes[b])[has]
            self.same_pick[a, b] += float(shared.sum())
            self.prompts[a, b] += int(has.sum())

    def pair(self, a: int, b: int) -> dict[str, Any]:
        """What two rewards have in common, as plain values; None where nothing tells."""
        both, scored = float(self.both[a, b]), float(self.scored[a, b])
        prompts = float(self.prompts[a, b])
        return {
            "first": self.names[a],
            "second": self.names[b],
            "pairs": int(scored),
            "ordered": int(both),
            "agreement": plain((self.net[a, b] + both) / (2 * both)) if both else None,
            "same_pick": plain(self.same_pick[a, b] / prompts) if prompts else None,
            "prompts": int(prompts),
        }

    def plain(self) -> list[dict[str, Any]]:
        """A line for each two rewards. ``pairs``: pairs of candidates with both scores; ``ordered``: those that neither
        holds for equal; ``agreement``: the share of these that both order alike; ``same_pick``: how often both pick the
        same candidate."""
        return [self.pair(a, b) for a, b in combinations(range(len(self.names)), 2)]
