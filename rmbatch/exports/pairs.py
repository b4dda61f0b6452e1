"""Pairs of candidates of one prompt, a better and a worse one, by a policy that has a name.

    pairs = make_pairs(score, offsets, usable, PairRule(pairs="best_worst"), rank=rank, response=response)
    pairs.chosen, pairs.rejected       # places of candidates, aligned

Of each pair the chosen one may be chosen at all, and has the higher score, by at least ``min_margin``. Equal scores and
equal texts are never a pair. Memory grows with candidates and with ``max_pairs``, not with the square of the candidates
of a prompt.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from rmbatch.settings.base import Finite, Settings

Policy = Literal["best_worst", "below_mean_2sd", "adjacent", "random", "threshold", "all_above_margin"]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Test = Callable[[Ints, Ints], Bools]
"""Of pairs of ranks, which may be pairs."""

MANY = ("threshold", "all_above_margin")
"""The policies that may take every two candidates of a prompt."""
CHUNK_PAIRS = 4_000_000
"""About how many pairs are looked at together."""


class PairRule(Settings):
    """Which candidates of a prompt become pairs."""

    pairs: Policy = "best_worst"
    """best_worst: the best candidate and the worst one, one pair a prompt.
    below_mean_2sd: the best one, and of those that are worse the one whose score is nearest to two standard deviations
    below the mean of the prompt's scores; one pair a prompt.
    random: the best one, and one of those that are worse, drawn by a seeded hash of their texts; one pair a prompt.
    adjacent: of the candidates from best to worst, each and the next.
    threshold: each candidate at or above ``above`` with each at or below ``below``, up to ``max_pairs``.
    all_above_margin: each two candidates that are ``min_margin`` or more apart, up to ``max_pairs``.
    """
    min_margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """By how much the chosen score exceeds the rejected one at least, in the score's own unit."""
    same_length_band: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The rejected response is shorter or longer than the chosen one by at most this share of the chosen one's code
    points: 0.3 is from 0.7 to 1.3 times as long. None: of any length."""
    max_pairs: Annotated[int, Field(ge=1)] = 64
    """The most pairs of a prompt by ``threshold`` and ``all_above_margin``: those with the largest margins."""
    above: Finite | None = None
    """The lowest score that counts as good, itself included. None: nothing asks for it."""
    below: Finite | None = None
    """The highest score that counts as bad, itself included."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of ``random``."""


@dataclass(frozen=True)
class Pairs:
    """Places of candidates; ``chosen[i]`` and ``rejected[i]`` belong to one prompt. Ordered by prompt, and in it from
    the best chosen one to the worst, then from the best rejected one to the worst."""

    chosen: Ints
    rejected: Ints


def make_pairs(
    score: NDArray[np.float64],
    offsets: Ints,
    usable: Bools,
    rule: PairRule,
    *,
    response: pa.Array,
    rank: NDArray[np.int32] | None = None,
    may_be_chosen: Bools | None = None,
) -> Pairs:
    """The pairs of all prompts.

    score[n], usable[n], offsets[prompts + 1]: prompt i has the candidates offsets[i]:offsets[i + 1]. A candidate
    that is not usable, or whose score is NaN, is in no pair. ``response[n]``: large_string. ``rank[n]``: of equal
    scores the lower one comes first, 0 comes last, and then the first candidate. ``may_be_chosen[n]``: the best
    candidate is the best of these, and all others can only be rejected ones. Raises ValueError where ``threshold`` has
    no thresholds.
    """
    every = np.ones(len(score), bool)
    ranked = _Ranked.make(score, offsets, usable, rank, every if may_be_chosen is None else may_be_chosen)
    may_pair = _make_test(ranked, response, rule)
    if rule.pairs in MANY:
        left, right = _largest_margins(ranked, rule, may_pair)
    elif rule.pairs == "adjacent":
        left = np.flatnonzero(ranked.every < ranked.last)
        left = left[may_pair(left, left + 1)]
        right = left + 1
    else:
        best = ranked.find_best()
        right = np.flatnonzero(ranked.every > best)
        right = right[may_pair(best[right], right)]
        right = right[_choose_rejected(ranked, right, response, rule)]
        left = best[right]
    return Pairs(ranked.place[left], ranked.place[right])


@dataclass(frozen=True)
class _Ranked:
    """The candidates that may be in pairs: prompt by prompt, each from best to worst."""

    place: Ints
    """Where the candidate stands."""
    score: NDArray[np.float64]
    prompt: Ints
    first: Ints
    """Where the candidates of the same prompt begin."""
    last: Ints
    """Where they end: the last of them."""
    may_be_chosen: Bools

    @classmethod
    def make(
        cls,
        score: NDArray[np.float64],
        offsets: Ints,
        usable: Bools,
        rank: NDArray[np.int32] | None,
        may_be_chosen: Bools,
    ) -> "_Ranked":
        prompt = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        place = np.flatnonzero(usable & ~np.isnan(score))
        order_of = np.zeros(len(score), np.int64) if rank is None else np.where(rank > 0, rank, np.iinfo(np.int32).max)
        place = place[np.lexsort((order_of[place], -score[place], prompt[place]))]  # stable
        owner = prompt[place]
        counts = np.bincount(owner, minlength=len(offsets) - 1)
        ends = np.cumsum(counts)
        return cls(place, score[place], owner, (ends - counts)[owner], ends[owner] - 1, may_be_chosen[place])

    @property
    def every(self) -> Ints:
        return np.arange(len(self.place))

    def find_best(self) -> Ints:
        """Of each candidate's prompt the best that may be chosen; behind all candidates where there is none."""
        best = np.full(int(self.prompt.max(initial=-1)) + 1, len(self.place))
        np.minimum.at(best, self.prompt[self.may_be_chosen], self.every[self.may_be_chosen])
        found: Ints = best[self.prompt]
        return found


def _make_test(ranked: _Ranked, response: pa.Array, rule: PairRule) -> Test:
    """Whether the score, the length and the text of a better and a worse candidate let them be a pair."""
    width = np.asarray(pc.fill_null(pc.binary_length(response), 0))[ranked.place]
    length = None
    if rule.same_length_band is not None:
        length = np.asarray(pc.fill_null(pc.utf8_length(response), 0))[ranked.place].astype(np.float64)

    def may_pair(left: Ints, right: Ints) -> Bools:
        margin = _margins(ranked, left, right)
        good: Bools = np.isfinite(margin) & (margin > 0) & (margin >= rule.min_margin) & ranked.may_be_chosen[left]
        if length is not None and rule.same_length_band is not None:
            good &= np.abs(length[right] - length[left]) <= rule.same_length_band * length[left]
        alike = np.flatnonzero(good & (width[left] == width[right]))  # a judge may give equal texts different scores
        texts = (response.take(pa.array(ranked.place[places[alike]])) for places in (left, right))
        good[alike] = np.asarray(pc.fill_null(pc.not_equal(*texts), False))
        return good

    return may_pair


def _margins(ranked: _Ranked, left: Ints, right: Ints) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf - inf
        margins: NDArray[np.float64] = ranked.score[left] - ranked.score[right]
    return margins


def _choose_rejected(ranked: _Ranked, right: Ints, response: pa.Array, rule: PairRule) -> Ints:
    """Of each prompt the index in ``right`` of the one candidate that the best is paired with."""
    keys: tuple[NDArray[np.generic], ...]
    if rule.pairs == "random":
        texts: list[str | None] = response.take(pa.array(ranked.place[right])).to_pylist()
        digests = (xxhash.xxh3_64_intdigest((text or "").encode(), rule.seed) for text in texts)
        keys = (np.fromiter(digests, np.uint64, count=len(right)),)
    elif rule.pairs == "below_mean_2sd":
        keys = (-right, np.abs(ranked.score[right] - _two_below_mean(ranked)[right]))
    else:
        keys = (-right,)
    owner = ranked.prompt[right]
    order = np.lexsort((*keys, owner))
    starts = np.ones(len(order), bool)
    starts[1:] = owner[order][1:] != owner[order][:-1]
    found: Ints = order[starts]
    return found


def _two_below_mean(ranked: _Ranked) -> NDArray[np.float64]:
    """The mean of the prompt's finite scores less two of their standard deviations (of the population), by candidate.

    Source: "Finding the Sweet Spot", arXiv 2502.16825: with many candidates, a rejected one at this place of the
    distribution trains better than the worst.
    """
    finite = np.isfinite(ranked.score)
    value, size = np.where(finite, ranked.score, 0.0), int(ranked.prompt.max(initial=-1)) + 1
    count = np.maximum(np.bincount(ranked.prompt[finite], minlength=size), 1)
    mean = np.bincount(ranked.prompt, value, size) / count
    from_mean = np.where(finite, value - mean[ranked.prompt], 0.0)
    deviation = np.sqrt(np.bincount(ranked.prompt, from_mean**2, size) / count)
    found: NDArray[np.float64] = (mean - 2 * deviation)[ranked.prompt]
    return found


def _largest_margins(ranked: _Ranked, rule: PairRule, may_pair: Test) -> tuple[Ints, Ints]:
    """Of each prompt up to ``max_pairs`` pairs, those with the largest margins.

    Of n candidates from best to worst, the pair of those at i and j (from 0) has no larger margin than any of the
    (i + 1)(n - j) pairs of one up to i with one from j on. So pairs with a small product are looked at first, and more
    of them only where one that was not looked at could still be among the largest. Of equal margins the smaller product
    comes first, then the better chosen one.
    """
    stops, starts = ranked.last, ranked.first + 1
    if rule.pairs == "threshold":
        if rule.above is None or rule.below is None:
            raise ValueError("pairs: threshold needs above and below")
        good, bad = (
            np.concatenate([[0], np.cumsum(mask)]) for mask in (ranked.score >= rule.above, ranked.score <= rule.below)
        )
        stops = ranked.first + good[ranked.last + 1] - good[ranked.first]
        starts = ranked.last + 1 - (bad[ranked.last + 1] - bad[ranked.first])
    open_, budget = np.unique(ranked.first), rule.max_pairs
    found: list[tuple[Ints, Ints]] = []
    while len(open_):
        still_open = [open_[:0]]
        for heads in _cut(open_, budget, ranked.last[open_] - open_ + 1):
            left, right, rest = _small_products(heads, stops[heads], starts[heads], ranked.last[heads], budget)
            good_pairs = may_pair(left, right)
            left, right = left[good_pairs], right[good_pairs]
            margin = _margins(ranked, left, right)
            head = ranked.first[left]
            product = (left - head + 1) * (ranked.last[left] + 1 - right)
            order = np.lexsort((left, product, -margin, head))
            left, right, head, margin = left[order], right[order], head[order], margin[order]
            number = np.arange(len(head)) - np.searchsorted(head, head)
            kept = number < rule.max_pairs
            lowest = np.full(len(heads), -np.inf)
            is_full = number == rule.max_pairs - 1
            lowest[np.searchsorted(heads, head[is_full])] = margin[is_full]
            could_be = _largest_rest(ranked, rest, len(heads))
            is_open = (could_be > np.maximum(lowest, 0)) & (could_be >= rule.min_margin)
            still_open.append(heads[is_open])
            kept &= ~is_open[np.searchsorted(heads, head)]
            found.append((left[kept], right[kept]))
        open_, budget = np.concatenate(still_open), 4 * budget
    left, right = (np.concatenate([pair[side] for pair in found] or [open_[:0]]) for side in (0, 1))
    order = np.lexsort((right, left))
    return left[order], right[order]


def _cut(heads: Ints, budget: int, counts: Ints) -> Iterator[Ints]:
    """The prompts, in parts that have about ``CHUNK_PAIRS`` pairs each to look at."""
    most = np.minimum(counts * counts // 2, budget * (1 + np.log2(np.maximum(counts, 1)))).astype(np.int64)
    yield from (part for part in np.split(heads, np.flatnonzero(np.diff(np.cumsum(most) // CHUNK_PAIRS)) + 1))


def _small_products(
    heads: Ints, stops: Ints, starts: Ints, lasts: Ints, budget: int
) -> tuple[Ints, Ints, tuple[Ints, Ints, Ints]]:
    """The pairs of the prompts that begin at ``heads`` whose product is at most ``budget``.

    The chosen one stands before ``stops``, the rejected one at ``starts`` or later. Also, of each chosen one that has
    further pairs: the number of its prompt, itself, and the rejected one of the largest margin among these.
    """
    num_left = np.maximum(stops - heads, 0)
    prompt = np.repeat(np.arange(len(heads)), num_left)
    inside = np.arange(len(prompt)) - np.repeat(np.cumsum(num_left) - num_left, num_left)
    left = heads[prompt] + inside
    num_all = np.maximum(lasts[prompt] + 1 - np.maximum(starts[prompt], left + 1), 0)
    num = np.minimum(num_all, budget // (inside + 1))
    pairs_left = np.repeat(left, num)
    number = np.arange(len(pairs_left)) - np.repeat(np.cumsum(num) - num, num)
    more = np.flatnonzero(num < num_all)
    return (
        pairs_left,
        np.repeat(lasts[prompt], num) - number,
        (prompt[more], left[more], (lasts[prompt] - num)[more]),
    )


def _largest_rest(ranked: _Ranked, rest: tuple[Ints, Ints, Ints], num_prompts: int) -> NDArray[np.float64]:
    """By prompt the largest margin that a pair which was not looked at can have; -inf where there is none."""
    prompt, left, right = rest
    largest = np.full(num_prompts, -np.inf)
    margin = _margins(ranked, left, right)
    np.maximum.at(largest, prompt, np.where(np.isnan(margin), np.inf, margin))
    return largest
