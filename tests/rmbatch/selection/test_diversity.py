"""Candidates that differ are picked as a slow reference picks them, with sets of words."""

from itertools import accumulate
from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rmbatch.selection.choose import Choice, ChoiceRule, choose

Prompt = list[tuple[float | None, str | None]]


def choose_prompts(prompts: list[Prompt], rule: ChoiceRule) -> Choice:
    flat = [each for prompt in prompts for each in prompt]
    offsets = np.array([0, *accumulate(map(len, prompts))], np.int64)
    texts = pa.array([text for _, text in flat], pa.string())
    return choose(pa.array([score for score, _ in flat], pa.float64()), offsets, rule, texts)


def outcomes(chosen: Choice) -> list[Any]:
    pairs = zip(chosen.rank.to_pylist(), chosen.reason.to_pylist(), strict=True)
    return [reason if rank is None else rank for rank, reason in pairs]


def grams(text: str | None) -> set[tuple[str, ...]]:
    if text is None:
        return set()
    words = " ".join(text.lower().split()).split(" ")
    return {tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1))}


def slow_pick(prompt: Prompt, keep: int, weight: float) -> list[Any]:
    result: list[Any] = ["no_score" if score is None else "outranked" for score, _ in prompt]
    scores = {i: score for i, (score, _) in enumerate(prompt) if score is not None}
    finite = [score for score in scores.values() if abs(score) < inf]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def relevance(score: float) -> float:
        if abs(score) == inf:
            return float(score > 0)
        return (score - low) / (high - low) if high > low else 1.0

    def overlap(one: str | None, other: str | None) -> float:
        both = grams(one) | grams(other)
        return len(grams(one) & grams(other)) / len(both) if both else 0.0

    left, picked = sorted(scores, key=lambda i: (-scores[i], i)), []
    while left and len(picked) < keep:
        marginal = {
            i: (1 - weight) * relevance(scores[i])
            - weight * max((overlap(prompt[i][1], prompt[k][1]) for k in picked), default=0.0)
            for i in left
        }
        best = max(left, key=lambda i: marginal[i])  # the first of equals
        left.remove(best)
        picked.append(best)
        result[best] = len(picked)
    return result


some_texts = st.none() | st.lists(st.sampled_from(["a", "B", "b", "c"]), max_size=7).map(" ".join)
prompt_lists = st.lists(
    st.lists(st.tuples(st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0, inf, -inf]), some_texts), max_size=6),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(prompt_lists, st.integers(1, 4), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_equals_the_slow_reference(prompts: list[Prompt], keep: int, weight: float) -> None:
    rule = ChoiceRule(keep=keep, diversity=weight, ties="first")
    expected = [outcome for prompt in prompts for outcome in slow_pick(prompt, keep, weight)]
    assert outcomes(choose_prompts(prompts, rule)) == expected


def test_second_pick_is_another_solution_not_a_copy_of_the_best() -> None:
    prompt: Prompt = [
        (1.0, "add two and two to get four"),
        (0.9, "add two and two to get 4"),
        (0.5, "count on"),
        (0, ""),
    ]
    best = outcomes(choose_prompts([prompt], ChoiceRule(keep=2)))
    assert best == [1, 2, "outranked", "outranked"]
    assert outcomes(choose_prompts([prompt], ChoiceRule(keep=2, diversity=0.6)))[:3] == [1, "outranked", 2]


def test_filters_come_first_and_ties_are_told() -> None:
    prompt: Prompt = [(1.0, "a"), (1.0, "b"), (0.2, "c"), (None, "d")]
    chosen = choose_prompts([prompt], ChoiceRule(keep=1, diversity=0.5, min_score=0.5, ties="first"))
    assert outcomes(chosen) == [1, "outranked", "below_min_score", "no_score"]
    assert chosen.tied.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "written", [{"keep": None, "min_score": 0.5}, {"min_margin": 0.1}, {"ties": "all"}, {"ties": "abstain"}]
)
def test_rules_that_diversity_cannot_keep_are_refused(written: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="diversity"):
        ChoiceRule(diversity=0.5, **written)


@settings(max_examples=300)
@given(prompt_lists, st.sampled_from([0.2, 0.5, 1.0]))
def test_near_duplicates_are_found_as_by_a_slow_reference(prompts: list[Prompt], at: float) -> None:
    expected: list[Any] = []
    for prompt in prompts:
        result: list[Any] = ["no_score"] * len(prompt)
        kept: list[int] = []
        for i in sorted(
            (i for i, (score, _) in enumerate(prompt) if score is not None), key=lambda i: (-prompt[i][0], i)
        ):  # type: ignore[operator]
            same = [k for k in kept if is_near(prompt[i][1], prompt[k][1], at)]
            result[i] = "duplicate" if same else len(kept) + 1
            kept += [] if same else [i]
        expected += result
    assert (
        outcomes(choose_prompts(prompts, ChoiceRule(keep=6, duplicates="near", near_at=at, ties="first"))) == expected
    )


def is_near(one: str | None, other: str | None, at: float) -> bool:
    both = grams(one) | grams(other)
    return bool(both) and len(grams(one) & grams(other)) / len(both) >= at
