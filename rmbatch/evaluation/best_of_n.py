"""Estimates what picking the best of N candidates is worth, from prompts that have more candidates than N.

The estimate is the mean over all subsets of N candidates, without drawing any: unbiased, and equal to brute force.
Equal scores share the pick, so no place in the row decides. A candidate without a score is never picked before one that
has one, and a pick without any score is worth nothing.

    best_of_n(scores, gold, 8)                   # by prompt: what the pick is worth on average
    pass_at_k(gold, 8)                           # by prompt: the chance that one of 8 is right
    best_of_n_curve(scores, gold, [1, 2, 4, 8])  # means over the prompts

Source: Nakano et al., "WebGPT", arXiv 2112.09332, appendix I, for best-of-N; Chen et al., "Evaluating Large Language
Models Trained on Code", arXiv 2107.03374, for pass@k.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.ragged import Floats, Ragged


def best_of_n(scores: Ragged, gold: Ragged, n: int) -> Floats:
    """What the best of n candidates by score is worth on average over all subsets of n; shape [prompts].

    scores: one number a candidate, NaN for no score. gold: what each candidate is worth, the same lengths; NaN counts
    as 0. NaN for a prompt with fewer than n candidates. Raises ValueError for n below 1 and for other lengths.
    """
    if n < 1:
        raise ValueError(f"best_of_n: n={n}; at least one candidate has to be drawn")
    _check_lengths(scores, gold)
    worth = np.where(np.isnan(scores.values), 0.0, np.nan_to_num(gold.values))
    weight = pick_weights(scores, n)
    return np.where(scores.counts >= n, scores.sum(weight * worth), np.nan)


def best_of_each_n(scores: Ragged, gold: Ragged, sizes: Sequence[int]) -> Floats:
    """``best_of_n`` for each of some n in ascending order; shape [prompts, sizes]."""
    if not sizes or sizes[0] < 1:
        raise ValueError(f"best_of_n: sizes={list(sizes)}; at least one candidate has to be drawn")
    _check_lengths(scores, gold)
    counts = scores.counts
    most, longest = int(sizes[-1]), int(counts.max(initial=0))
    below, up_to = _count_below(scores)
    worth = np.where(np.isnan(scores.values), 0.0, np.nan_to_num(gold.values)) / np.maximum(up_to - below, 1)
    found = np.full((len(counts), len(sizes)), np.nan)
    places = np.full(longest + 1, -1)
    for number, size in enumerate(np.unique(counts)):
        places[size] = number
    inside = np.arange(longest + 1)
    shares = np.stack([_share_of_each(inside, size, most) for size in np.unique(counts)]) if len(counts) else None
    of_candidate = places[np.repeat(counts, counts)]
    for column, n in enumerate(sizes):
        if shares is None:
            break
        share = shares[:, :, n - 1]
        mass = share[of_candidate, up_to] - share[of_candidate, below]
        found[:, column] = np.where(counts >= n, scores.sum(mass * worth), np.nan)
    return found


def _share_of_each(inside: NDArray[np.int64], size: int, most: int) -> Floats:
    """C(inside, n) / C(size, n) for n = 1 ... most; shape [inside, most], 0 for n above size."""
    drawn = np.arange(most)
    factors = np.maximum(inside[:, None] - drawn, 0) / np.maximum(size - drawn, 1)
    shares: Floats = np.where(drawn < size, np.cumprod(factors, axis=1), 0.0)
    return shares


def pick_weights(scores: Ragged, n: int) -> Floats:
    """The chance that each candidate is the pick of a random subset of n; shape [candidates]. 0 where m < n."""
    below, up_to = _count_below(scores)
    size = np.repeat(scores.counts, scores.counts)
    mass = _share_of_subsets(up_to, size, n) - _share_of_subsets(below, size, n)
    weights: Floats = mass / np.maximum(up_to - below, 1)
    return weights


def decided_by_tie(scores: Ragged) -> NDArray[np.bool_]:
    """For each prompt, whether its highest score belongs to several candidates."""
    top = scores.maximum()
    tied = scores.values == np.repeat(top, scores.counts)
    return scores.sum(tied) > 1


def pass_at_k(gold: Ragged, k: int) -> Floats:
    """The chance that at least one of k random candidates is right; shape [prompts], NaN where there are fewer.

    gold: 1 for right; 0 and NaN for wrong.
    """
    size = gold.counts
    wrong = size - gold.sum(np.nan_to_num(gold.values) > 0).astype(np.int64)
    return np.where(size >= k, 1.0 - _share_of_subsets(wrong, size, k), np.nan)


def best_of_n_curve(scores: Ragged, gold: Ragged, sizes: Sequence[int]) -> Floats:
    """The mean of ``best_of_n`` over the prompts that have enough candidates, for each n; NaN where none has."""
    found = []
    for n in sizes:
        worth = best_of_n(scores, gold, n)
        has = ~np.isnan(worth)
        found.append(float(worth[has].mean()) if has.any() else np.nan)
    return np.array(found)


def _count_below(scores: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each candidate, how many of its prompt have a lower score, and how many a lower or equal one."""
    values = np.where(np.isnan(scores.values), -np.inf, scores.values)
    missing = np.isnan(scores.values)
    rows = scores.rows
    order = np.lexsort((values, ~missing, rows))  # without a score first
    same = np.zeros(len(order), dtype=bool)
    if len(order):
        ranked, gone, owner = values[order], missing[order], rows[order]
        same[1:] = (ranked[1:] == ranked[:-1]) & (gone[1:] == gone[:-1]) & (owner[1:] == owner[:-1])
    begins = np.flatnonzero(~same)
    run = np.cumsum(~same) - 1
    ends = np.append(begins[1:], len(order))
    first = scores.offsets[:-1][rows]
    below, up_to = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    below[order] = begins[run] if len(begins) else 0
    up_to[order] = ends[run] if len(begins) else 0
    return below - first, up_to - first


def _share_of_subsets(inside: NDArray[np.int64], size: NDArray[np.int64], n: int) -> Floats:
    """C(inside, n) / C(size, n): the share of the subsets of n that lie inside; 0 where a prompt has fewer than n."""
    share = np.where(size >= n, 1.0, 0.0)
    for drawn in range(n):
        share = share * np.maximum(inside - drawn, 0) / np.maximum(size - drawn, 1)
    return share


def _check_lengths(scores: Ragged, gold: Ragged) -> None:
    if not np.array_equal(scores.offsets, gold.offsets):
        raise ValueError("each candidate needs its score and its gold: the lists have different lengths")
