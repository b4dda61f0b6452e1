"""What was picked: how many picks a tie decided, and what the picks are worth beside a random pick and the oracle.

picks = Picks(["judge"], by="judge", has_gold=True)
picks.add(keys, candidates)
picks.plain()
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.best_of_n import decided_by_tie
from rmbatch.evaluation.ragged import Floats
from rmbatch.reports.candidates import Candidates
from rmbatch.reports.means import PromptMeans, describe_mean
from rmbatch.selection.control import decided_by_tie as kept_by_tie
from rmbatch.selection.control import oracle_pick


class Picks:
    """Counts of prompts and of what was kept."""

    def __init__(self, names: Sequence[str], by: str | None, *, has_gold: bool, replicates: int = 1000) -> None:
        self.by, self.has_gold = by, has_gold
        self.prompts = self.candidates = 0
        self.ties = {name: {"prompts": 0, "tied": 0, "that_matter": 0} for name in names}
        self.kept = self.kept_prompts = self.kept_by_tie = self.ties_that_matter = 0
        self._worth = PromptMeans(3, replicates)

    def add(self, keys: NDArray[Any], found: Candidates) -> None:
        """Add prompts. keys[prompts] uint64."""
        self.prompts += found.num_prompts
        self.candidates += found.num_candidates
        for name, values in found.scores.items():
            self._count_ties(name, values, found)
        if found.rank is None:
            return
        kept = found.rank > 0
        size = np.bincount(
            np.repeat(np.arange(found.num_prompts), np.diff(found.offsets))[kept], minlength=found.num_prompts
        )
        self.kept += int(kept.sum())
        self.kept_prompts += int(np.count_nonzero(size))
        if found.by is not None:
            value = found.scores[found.by]
            decided = kept_by_tie(value, kept, ~kept & ~np.isnan(value), found.offsets)
            self.kept_by_tie += int(decided.sum())
            if found.gold is not None:
                tied = found.ragged(np.where(decided, value, np.nan)).maximum()
                equal = value == np.repeat(tied, np.diff(found.offsets))
                golds = found.ragged(np.where(equal & np.isfinite(found.gold), found.gold, np.nan))
                was_tied = found.ragged(decided).sum() > 0
                self.ties_that_matter += int(np.count_nonzero(was_tied & (golds.maximum() > golds.minimum())))
        if found.gold is not None:
            self._worth.add(keys, _compare(found, kept, size, found.gold))

    def _count_ties(self, name: str, values: Floats, found: Candidates) -> None:
        lists = found.ragged(values)
        counts = self.ties[name]
        counts["prompts"] += int(np.count_nonzero(lists.sum(~np.isnan(values)) > 0))
        tied = decided_by_tie(lists)
        counts["tied"] += int(tied.sum())
        if found.gold is not None:
            top = lists.values == np.repeat(lists.maximum(), lists.counts)
            golds = found.ragged(np.where(top, found.gold, np.nan))
            counts["that_matter"] += int(np.count_nonzero(tied & (golds.maximum() > golds.minimum())))

    def plain(self) -> dict[str, Any]:
        """As plain values. ``ties``: by score, prompts whose highest score belongs to several candidates, and those of
        them whose gold differs; ``kept_by_tie``: kept candidates that a tie-break preferred to an equal one;
        ``ties_that_matter``: prompts of these whose equal candidates differ in gold."""
        worth: dict[str, Any] | None = None
        if self.kept and self.has_gold and self._worth.counts[0]:
            means = self._worth.replicates()
            worth = {
                name: describe_mean(means[:, place]) for place, name in enumerate(("selected", "random", "oracle"))
            }
            worth["gain"] = describe_mean(means[:, 0] - means[:, 1])
            worth["prompts"] = int(self._worth.counts[0])
        return {
            "prompts": self.prompts,
            "candidates": self.candidates,
            "by": self.by,
            "kept": self.kept,
            "kept_prompts": self.kept_prompts,
            "kept_by_tie": self.kept_by_tie,
            "ties_that_matter": self.ties_that_matter,
            "ties": self.ties,
            "worth": worth,
        }


def _compare(found: Candidates, kept: NDArray[np.bool_], size: NDArray[np.int64], gold: Floats) -> Floats:
    """Of each prompt the mean gold of what was kept, of all that could be, and of as many best ones; NaN for none.

    As for the control of ``select``, a candidate without a score could not be kept.
    """
    known = np.isfinite(gold)
    if found.by is not None:
        known &= ~np.isnan(found.scores[found.by])
    lists = found.ragged(np.where(known, gold, 0.0))
    best = oracle_pick(gold, known, found.offsets, size)
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [lists.sum(lists.values * mask) / lists.sum(mask) for mask in (kept & known, known, best)]
    worth = np.column_stack(columns)
    worth[np.isnan(worth).any(axis=1)] = np.nan
    return worth
