"""Policies of pairs, against slow and obvious ones."""

import math
import time
from itertools import pairwise
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.exports.pairs import PairRule, Policy, make_pairs

Candidate = tuple[float | None, bool, int, str]
"""Its score, whether it is usable, its rank and its text."""

CANDIDATE = st.tuples(
    st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0, math.inf, -math.inf])),
    st.booleans(),
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from(["a", "b", "cc", "dddd", "eeee", "éé"]),
)
PROMPTS = st.lists(st.lists(CANDIDATE, max_size=6), max_size=5)
RULES = st.builds(
    PairRule,
    pairs=st.sampled_from(get_args(Policy)),
    min_margin=st.sampled_from([0.0, 0.25, 0.5, 2.0]),
    same_length_band=st.sampled_from([None, None, 0.3, 1.0]),
    max_pairs=st.sampled_from([1, 2, 3, 64]),
    above=st.sampled_from([0.5, 1.0]),
    below=st.sampled_from([0.0, 0.25, 0.5]),
    seed=st.integers(0, 3),
)


def fast(prompts: list[list[Candidate]], rule: PairRule, barred: str | None = None) -> list[tuple[int, int]]:
    every = [candidate for prompt in prompts for candidate in prompt]
    offsets = np.concatenate([[0], np.cumsum([len(prompt) for prompt in prompts])]).astype(np.int64)
    found = make_pairs(
        np.array([math.nan if score is None else score for score, *_ in every], np.float64),
        offsets,
        np.array([usable for _, usable, *_ in every], bool),
        rule,
        rank=np.array([rank for *_, rank, _ in every], np.int32),
        response=pa.array([text for *_, text in every], pa.large_string()),
        may_be_chosen=np.array([text != barred for *_, text in every], bool),
    )
    return list(zip(found.chosen.tolist(), found.rejected.tolist()))


def slow(prompts: list[list[Candidate]], rule: PairRule, barred: str | None = None) -> list[tuple[int, int]]:
    pairs, start = [], 0
    for prompt in prompts:
        usable = [place for place, (score, good, *_) in enumerate(prompt) if good and score is not None]
        usable.sort(key=lambda place: (-score_of(prompt, place), prompt[place][2] or math.inf, place))
        for a, b in pick(prompt, usable, rule, barred):
            pairs.append((start + a, start + b))
        start += len(prompt)
    return pairs


def score_of(prompt: list[Candidate], place: int) -> float:
    score = prompt[place][0]
    assert score is not None
    return score


def pick(prompt: list[Candidate], best_first: list[int], rule: PairRule, barred: str | None) -> list[tuple[int, int]]:
    def margin(a: int, b: int) -> float:
        return score_of(prompt, a) - score_of(prompt, b)

    def is_pair(a: int, b: int) -> bool:
        chosen, rejected = prompt[a][3], prompt[b][3]
        band = rule.same_length_band
        fits = band is None or abs(len(rejected) - len(chosen)) <= band * len(chosen)
        apart = math.isfinite(margin(a, b)) and margin(a, b) > 0 and margin(a, b) >= rule.min_margin
        return chosen not in (rejected, barred) and fits and apart

    every = [(a, b) for place, a in enumerate(best_first) for b in best_first[place + 1 :] if is_pair(a, b)]
    best = next((place for place in best_first if prompt[place][3] != barred), None)
    with_best = [pair for pair in every if pair[0] == best]
    if rule.pairs == "best_worst":
        return with_best[-1:]
    if rule.pairs == "below_mean_2sd":
        finite = [score for score in (score_of(prompt, place) for place in best_first) if math.isfinite(score)]
        mean = sum(finite) / max(len(finite), 1)
        target = mean - 2 * math.sqrt(sum((score - mean) ** 2 for score in finite) / max(len(finite), 1))
        worst_first = with_best[::-1]
        return sorted(worst_first, key=lambda pair: abs(score_of(prompt, pair[1]) - target))[:1]
    if rule.pairs == "adjacent":
        return [pair for pair in every if pair in list(pairwise(best_first))]
    if rule.pairs == "random":
        return sorted(with_best, key=lambda pair: xxhash.xxh3_64_intdigest(prompt[pair[1]][3].encode(), rule.seed))[:1]
    if rule.pairs == "threshold":
        assert rule.above is not None
        assert rule.below is not None
        good = {a for a in best_first if score_of(prompt, a) >= rule.above}
        bad = {b for b in best_first if score_of(prompt, b) <= rule.below}
        every = [(a, b) for a, b in every if a in good and b in bad]
    places = {place: number for number, place in enumerate(best_first)}

    def nearness_to_the_ends(pair: tuple[int, int]) -> int:
        return (places[pair[0]] + 1) * (len(best_first) - places[pair[1]])

    largest = sorted(every, key=lambda pair: (-margin(*pair), nearness_to_the_ends(pair), places[pair[0]]))
    return sorted(largest[: rule.max_pairs], key=lambda pair: (places[pair[0]], places[pair[1]]))


@given(PROMPTS, RULES, st.sampled_from([None, "a", "cc"]))
def test_policies_equal_slow_ones(prompts: list[list[Candidate]], rule: PairRule, barred: str | None) -> None:
    assert fast(prompts, rule, barred) == slow(prompts, rule, barred)


@given(st.lists(st.lists(CANDIDATE, min_size=1, max_size=5), min_size=1, max_size=4), RULES)
def test_pairs_do_not_depend_on_other_prompts(prompts: list[list[Candidate]], rule: PairRule) -> None:
    alone = fast(prompts[-1:], rule)
    start = sum(map(len, prompts[:-1]))
    together = [(a - start, b - start) for a, b in fast(prompts, rule) if a >= start]
    assert together == alone


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("best_worst", [(1, 2)]),
        ("adjacent", [(1, 0), (3, 2)]),  # 0 and 3 are equal, so they are no pair
        ("all_above_margin", [(1, 0), (1, 3), (1, 2), (0, 2), (3, 2)]),
        ("threshold", [(1, 2)]),
        ("below_mean_2sd", [(1, 2)]),
    ],
)
def test_policy_by_hand(policy: Policy, expected: list[tuple[int, int]]) -> None:
    prompt: list[Candidate] = [(0.5, True, 0, "a"), (1.0, True, 1, "b"), (0.0, True, 0, "c"), (0.5, True, 0, "d")]
    assert fast([prompt], PairRule(pairs=policy, above=1.0, below=0.0)) == expected


@pytest.mark.parametrize("policy", get_args(Policy))
def test_nothing_gives_nothing(policy: Policy) -> None:
    rule = PairRule(pairs=policy, above=1.0, below=0.0)
    assert fast([], rule) == []
    assert fast([[], [(None, True, 0, "a")]], rule) == []


@given(st.lists(CANDIDATE, min_size=12, max_size=40), RULES, st.sampled_from([None, "a"]))
def test_policies_equal_slow_ones_for_many_candidates(
    prompt: list[Candidate], rule: PairRule, barred: str | None
) -> None:
    assert fast([prompt, prompt[:9]], rule, barred) == slow([prompt, prompt[:9]], rule, barred)


def test_rejected_lies_two_deviations_below_the_mean() -> None:
    """Of scores with mean 0 and deviation 1 in 2,001 steps, it is the one at -2 and not the worst, at -3.46."""
    scores = np.linspace(-math.sqrt(12) / 2, math.sqrt(12) / 2, 2001)
    scores[0] = -5.0
    prompt: list[Candidate] = [(float(score), True, 0, str(score)) for score in scores]
    ((chosen, rejected),) = fast([prompt], PairRule(pairs="below_mean_2sd"))
    target = scores.mean() - 2 * scores.std()
    assert chosen == 2000
    assert rejected == np.abs(scores - target).argmin() != 0


@pytest.mark.parametrize("policy", ["all_above_margin", "threshold"])
def test_largest_margins_of_many_candidates_are_found_fast(policy: Policy) -> None:
    """Half a million pairs a prompt, of which 64 are taken: making all of them takes more than 3 s."""
    prompts, size = 100, 1000
    score = np.random.default_rng(0).normal(size=prompts * size)
    offsets = np.arange(0, prompts * size + 1, size)
    response = pa.array([str(number) for number in range(len(score))], pa.large_string())
    began = time.process_time()
    found = make_pairs(
        score,
        offsets,
        np.ones(len(score), bool),
        PairRule(pairs=policy, above=0.0, below=-0.1),
        response=response,
    )
    assert time.process_time() - began < 3
    assert len(found.chosen) == 64 * prompts
    left, right = np.meshgrid(score[:size], score[:size], indexing="ij")
    assert np.allclose(
        np.sort(score[found.chosen[:64]] - score[found.rejected[:64]]), np.sort((left - right).ravel())[-64:]
    )
