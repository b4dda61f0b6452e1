"""Best-of-N estimates: equal to brute force over all subsets, on random scores with ties and nulls."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbatch.evaluation.best_of_n import best_of_n, best_of_n_curve, decided_by_tie, pass_at_k, pick_weights
from tests.rmbatch.evaluation import slow

SLOW = settings(deadline=None, max_examples=50)
SCORES = st.lists(st.one_of(st.none(), st.integers(0, 3).map(float)), min_size=1, max_size=7)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    scores = draw(st.lists(SCORES, min_size=1, max_size=4))
    gold = [draw(st.lists(st.floats(-2, 2), min_size=len(each), max_size=len(each))) for each in scores]
    return scores, gold


@SLOW
@given(prompts(), st.integers(1, 8))
def test_estimate_equals_brute_force(given_prompts: tuple[list[Any], list[Any]], n: int) -> None:
    scores, gold = given_prompts
    found = best_of_n(slow.ragged(scores), slow.ragged(gold), n)
    for value, own, worth in zip(found, scores, gold):
        if len(own) < n:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(slow.best_of_n(own, worth, n), abs=1e-12)


@SLOW
@given(prompts(), st.integers(1, 8))
def test_weights_of_a_prompt_sum_to_one(given_prompts: tuple[list[Any], list[Any]], n: int) -> None:
    scores = slow.ragged(given_prompts[0])
    total = scores.sum(pick_weights(scores, n))
    assert total == pytest.approx(np.where(scores.counts >= n, 1.0, 0.0))


@SLOW
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=4), st.integers(1, 7))
def test_pass_at_k_is_best_of_n_with_an_oracle(right: list[list[bool]], k: int) -> None:
    gold = slow.ragged(right)
    np.testing.assert_allclose(pass_at_k(gold, k), best_of_n(gold, gold, k), atol=1e-12)


def test_curve_averages_prompts_that_are_large_enough() -> None:
    scores, gold = slow.ragged([[1, 2], [1]]), slow.ragged([[0, 1], [1]])
    assert best_of_n_curve(scores, gold, [1, 2, 3]).tolist()[:2] == [0.75, 1.0]
    assert math.isnan(best_of_n_curve(scores, gold, [3])[0])


def test_tie_for_the_first_place_is_seen() -> None:
    assert decided_by_tie(slow.ragged([[1, 1], [1, 2], [None, 1], []])).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("scores", "gold"), [([[1.0]], [[1.0, 2.0]]), ([[1.0], [2.0]], [[1.0]])])
def test_other_lengths_are_refused(scores: list[Any], gold: list[Any]) -> None:
    with pytest.raises(ValueError, match="different lengths"):
        best_of_n(slow.ragged(scores), slow.ragged(gold), 1)


def test_no_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        best_of_n(slow.ragged([[1.0]]), slow.ragged([[1.0]]), 0)
