"""What differs between two scorings or two selections of the same candidates, summed up block by block.

Blocks hold whole prompts, so memory grows with a block and not with the data.

    changes = ScoreChanges()
    changes.add(a, b, offsets)           # float64, NaN for no score; prompt i has offsets[i]:offsets[i + 1]
    changes.plain()                      # counts, mean change, flips, tau, first places
"""

import heapq
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.ragged import Ragged
from rmbatch.inspection.rank_pairs import Floats, Ints, count_pairs

BINS = np.linspace(-1.0, 1.0, 11)
"""Borders of the distribution of tau; the last bin holds 1 too."""


@dataclass(frozen=True)
class Flip:
    """Two candidates of a prompt whose order differs. The first score prefers ``better``, the second one ``worse``."""

    size: float
    """The geometric mean of both differences."""
    better: int
    """Its number in the block."""
    worse: int


class ScoreChanges:
    """The changes from one score to another, over the blocks that were added."""

    def __init__(self) -> None:
        self.counts = _zeros("same", "changed", "gained", "lost", "no_score")
        self.pairs = _zeros("kept", "flipped", "tied_before", "tied_after", "tied")
        self.first_place = _zeros("same", "overlaps", "changed")
        self.histogram = np.zeros(len(BINS) - 1, np.int64)
        self.num_defined = self.num_all_tied = self.num_too_few = self.num_with_flip = 0
        self._sum = self._sum_absolute = self._tau = 0.0
        self._num_finite = 0

    def add(self, a: Floats, b: Floats, offsets: Ints) -> list[Flip]:
        """Add the candidates of whole prompts. Return the largest flip of each prompt that has one."""
        has_a, has_b = ~np.isnan(a), ~np.isnan(b)
        both = has_a & has_b
        is_same = both & (a == b)
        for name, where in {
            "same": is_same,
            "changed": both & ~is_same,
            "gained": ~has_a & has_b,
            "lost": has_a & ~has_b,
            "no_score": ~has_a & ~has_b,
        }.items():
            self.counts[name] += int(np.count_nonzero(where))
        finite = np.isfinite(a) & np.isfinite(b)
        change = b[finite] - a[finite]
        self._num_finite += len(change)
        self._sum += float(change.sum())
        self._sum_absolute += float(np.abs(change).sum())
        self._add_firsts(a, b, offsets)
        places = np.flatnonzero(both)
        return self._add_ranks(a[both], b[both], _narrow(offsets, both), places)

    def _add_ranks(self, a: Floats, b: Floats, offsets: Ints, places: Ints) -> list[Flip]:
        pairs = count_pairs(a, b, offsets)
        for name in self.pairs:
            self.pairs[name] += int(getattr(pairs, name).sum())
        tau, lengths = pairs.tau(), np.diff(offsets)
        defined = ~np.isnan(tau)
        self.num_defined += int(np.count_nonzero(defined))
        self.num_too_few += int(np.count_nonzero(lengths < 2))
        self.num_all_tied += int(np.count_nonzero(~defined & (lengths > 1)))
        self._tau += float(tau[defined].sum())
        self.histogram += np.histogram(tau[defined], BINS)[0]
        flips = np.flatnonzero(pairs.flipped)
        self.num_with_flip += len(flips)
        return [
            Flip(float(pairs.size[each]), int(places[pairs.first[each]]), int(places[pairs.second[each]]))
            for each in flips
        ]

    def _add_firsts(self, a: Floats, b: Floats, offsets: Ints) -> None:
        """Compare the best responses of each prompt that has a score in both; no score is no best one."""
        best_a, best_b = _find_best(a, offsets), _find_best(b, offsets)
        is_told = (_sums(best_a, offsets) > 0) & (_sums(best_b, offsets) > 0)
        differ, shared = _sums(best_a != best_b, offsets) > 0, _sums(best_a & best_b, offsets) > 0
        self.first_place["same"] += int(np.count_nonzero(is_told & ~differ))
        self.first_place["overlaps"] += int(np.count_nonzero(is_told & differ & shared))
        self.first_place["changed"] += int(np.count_nonzero(is_told & ~shared))

    def plain(self) -> dict[str, Any]:
        """As plain values. Means are None where there is nothing to average."""
        return {
            "candidates": self.counts,
            "mean_change": self._sum / self._num_finite if self._num_finite else None,
            "mean_absolute_change": self._sum_absolute / self._num_finite if self._num_finite else None,
            "pairs": self.pairs,
            "prompts_with_flip": self.num_with_flip,
            "tau": {
                "mean": self._tau / self.num_defined if self.num_defined else None,
                "prompts": self.num_defined,
                "undefined_all_tied": self.num_all_tied,
                "undefined_too_few": self.num_too_few,
                "borders": [round(float(each), 1) for each in BINS],
                "histogram": [int(each) for each in self.histogram],
            },
            "first_place": self.first_place,
        }


def _zeros(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@dataclass
class SelectionChanges:
    """The changes from one selection to another."""

    candidates: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("both", "only_a", "only_b", "neither"), 0)
    )
    """By who keeps them."""
    prompts: dict[str, int] = field(default_factory=partial(_zeros, "same", "changed", "gained", "lost"))
    """By what is kept of them: the same candidates, others, something where A kept nothing, nothing where A kept
    something. Prompts of which neither keeps anything are the same."""
    first: dict[str, int] = field(default_factory=partial(_zeros, "same", "changed"))
    """Of the prompts of which both keep something: whether the candidate with rank 1 is the same."""

    def add(self, a: Ints, b: Ints, offsets: Ints) -> None:
        """Add the ranks of the candidates of whole prompts; 0: not kept."""
        kept_a, kept_b = a > 0, b > 0
        for name, where in {
            "both": kept_a & kept_b,
            "only_a": kept_a & ~kept_b,
            "only_b": ~kept_a & kept_b,
            "neither": ~kept_a & ~kept_b,
        }.items():
            self.candidates[name] += int(np.count_nonzero(where))
        num_a, num_b, num_different = (_sums(each, offsets) for each in (kept_a, kept_b, kept_a != kept_b))
        gained, lost = (num_a == 0) & (num_b > 0), (num_a > 0) & (num_b == 0)
        changed = (num_different > 0) & ~gained & ~lost
        for name, where in {"same": num_different == 0, "changed": changed, "gained": gained, "lost": lost}.items():
            self.prompts[name] += int(np.count_nonzero(where))
        in_both = (num_a > 0) & (num_b > 0)
        same_first = _sums((a == 1) & (b == 1), offsets) > 0
        self.first["same"] += int(np.count_nonzero(in_both & same_first))
        self.first["changed"] += int(np.count_nonzero(in_both & ~same_first))

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {"candidates": self.candidates, "prompts": self.prompts, "rank_1": self.first}


class Largest:
    """The largest of what it is shown."""

    def __init__(self, limit: int) -> None:
        self._limit, self._heap, self._order = limit, list[tuple[float, int, Any]](), count()

    def wants(self, size: float) -> bool:
        """Whether something of this size would be among them."""
        return self._limit > 0 and (len(self._heap) < self._limit or size > self._heap[0][0])

    def add(self, size: float, item: Any) -> None:
        """Show it something. Of equal ones the first stay."""
        heapq.heappush(self._heap, (size, -next(self._order), item))
        if len(self._heap) > self._limit:
            heapq.heappop(self._heap)

    def items(self) -> list[Any]:
        """The largest, in order."""
        return [item for *_, item in sorted(self._heap, reverse=True, key=lambda each: each[:2])]


def _narrow(offsets: Ints, keep: NDArray[np.bool_]) -> Ints:
    """The offsets when only these candidates are left."""
    before: Ints = np.concatenate([[0], np.cumsum(keep)])
    return before[offsets]


def _sums(values: NDArray[Any], offsets: Ints) -> Ints:
    before = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    sums: Ints = before[offsets[1:]] - before[offsets[:-1]]
    return sums


def _find_best(values: Floats, offsets: Ints) -> NDArray[np.bool_]:
    """Which candidates have the highest score of their prompt."""
    lists = Ragged(values, offsets)
    found: NDArray[np.bool_] = values == np.repeat(lists.maximum(), lists.counts)
    return found
