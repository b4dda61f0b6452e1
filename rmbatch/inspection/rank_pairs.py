"""Pairs of candidates within each prompt under two scores: which keep their order, which flip, and Kendall's tau-b.

counts = count_pairs(a, b, offsets)      # float64 without NaN; prompt i has the candidates offsets[i]:offsets[i + 1]
counts.flipped, counts.tau()             # one value a prompt
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_CELLS = 1 << 21
"""Pairs that are compared at once."""


@dataclass(frozen=True)
class PairCounts:
    """Numbers of pairs, int64 a prompt. Each pair is in exactly one of them."""

    kept: Ints
    """Ordered alike by both scores."""
    flipped: Ints
    """Ordered by one score one way and by the other the other way."""
    tied_before: Ints
    """Equal by the first score only."""
    tied_after: Ints
    """Equal by the second score only."""
    tied: Ints
    """Equal by both."""
    size: Floats
    """Of the largest flip of the prompt: the geometric mean of its two differences of scores; 0 without a flip. Scaling
    a score does not change which flip is the largest."""
    first: Ints
    second: Ints
    """The candidates of that flip, counted over all prompts; -1 without one. The first score prefers ``first``."""

    def tau(self) -> Floats:
        """Kendall's tau-b of each prompt, in [-1, 1]. NaN where one score ties all candidates, or fewer than two have
        both scores. Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945)."""
        all_before = self.kept + self.flipped + self.tied_after
        all_after = self.kept + self.flipped + self.tied_before
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.sqrt(all_before.astype(np.float64)) * np.sqrt(all_after.astype(np.float64))
            found: Floats = (self.kept - self.flipped) / scale
        return np.clip(found, -1.0, 1.0)


def count_pairs(a: Floats, b: Floats, offsets: Ints) -> PairCounts:
    """Compare all pairs of candidates of each prompt by both scores.

    Time grows with the number of pairs, memory does not. Infinite scores are compared as numbers are.
    """
    num_prompts = len(offsets) - 1
    counts = np.zeros((5, num_prompts), np.int64)
    size, first, second = np.zeros(num_prompts), np.full(num_prompts, -1), np.full(num_prompts, -1)
    lengths = np.diff(offsets)
    for length in np.unique(lengths[lengths > 1]):
        prompts = np.flatnonzero(lengths == length)
        for left, right in _pairs_of(int(length)):
            step = max(MAX_CELLS // len(left), 1)
            for start in range(0, len(prompts), step):
                some = prompts[start : start + step]
                base = offsets[some][:, None]
                i, j = base + left, base + right
                before, after = _order(a, i, j), _order(b, i, j)
                is_flip = before * after < 0
                counts[0, some] += (before * after > 0).sum(axis=1)
                counts[1, some] += is_flip.sum(axis=1)
                counts[2, some] += ((before == 0) & (after != 0)).sum(axis=1)
                counts[3, some] += ((before != 0) & (after == 0)).sum(axis=1)
                counts[4, some] += ((before == 0) & (after == 0)).sum(axis=1)
                _keep_largest(a, b, i, j, is_flip, before, some, (size, first, second))
    kept, flipped, tied_before, tied_after, tied = counts
    return PairCounts(kept, flipped, tied_before, tied_after, tied, size, first, second)


def _pairs_of(length: int) -> Iterator[tuple[Ints, Ints]]:
    """All pairs of so many candidates, in parts of at most about MAX_CELLS."""
    if length * (length - 1) // 2 <= MAX_CELLS:
        yield np.triu_indices(length, 1)
        return
    for left in range(length - 1):
        right = np.arange(left + 1, length)
        yield np.full(len(right), left), right


def _order(score: Floats, i: Ints, j: Ints) -> NDArray[np.int8]:
    """1 where i scores higher, -1 where j does, 0 for a tie."""
    left, right = score[i], score[j]
    order: NDArray[np.int8] = (left > right).astype(np.int8) - (left < right).astype(np.int8)
    return order


def _keep_largest(
    a: Floats, b: Floats, i: Ints, j: Ints, is_flip: NDArray[Any], before: NDArray[np.int8], some: Ints, into: Any
) -> None:
    """Keep the largest flip of these prompts where it is larger than what is known."""
    size, first, second = into
    flips = np.flatnonzero(is_flip.any(axis=1))
    if not len(flips):
        return
    i, j = i[flips], j[flips]
    with np.errstate(invalid="ignore"):  # pairs of equal infinities are no flips
        margin = np.sqrt(np.abs(a[i] - a[j])) * np.sqrt(np.abs(b[i] - b[j]))
    margin = np.where(is_flip[flips], margin, -1.0)
    best = np.argmax(margin, axis=1)[:, None]
    found = np.take_along_axis(margin, best, 1)[:, 0]
    prefers_i = np.take_along_axis(before[flips], best, 1)[:, 0] > 0
    i, j = (np.take_along_axis(each, best, 1)[:, 0] for each in (i, j))
    better = found > size[some[flips]]
    places = some[flips][better]
    size[places] = found[better]
    first[places] = np.where(prefers_i, i, j)[better]
    second[places] = np.where(prefers_i, j, i)[better]
