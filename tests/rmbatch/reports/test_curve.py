"""Best-of-N curves: equal to the estimator prompt by prompt, and the advice that follows from them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.evaluation.best_of_n import best_of_each_n, best_of_n, best_of_n_curve
from rmbatch.reports.candidates import prompt_keys
from rmbatch.reports.curve import Curves
from tests.rmbatch.evaluation import slow
from tests.rmbatch.reports.prompts import Lists, flat, offsets_of, score_lists


def curves(scores: np.ndarray, gold: np.ndarray, offsets: np.ndarray, cut: int | None = None) -> dict:  # type: ignore[type-arg]
    found = Curves(["proxy"], replicates=200)
    for part in [slice(0, cut), slice(cut, None)] if cut else [slice(None)]:
        own = offsets[:-1][part]
        ends = offsets[1:][part]
        if len(own):
            at = slice(own[0], ends[-1])
            begin = np.append(own, ends[-1]) - own[0]
            found.add(prompt_keys(part.start or 0, len(own)), {"proxy": scores[at]}, gold[at], begin)
    return found.plain()


@given(score_lists(names=2), st.integers(1, 7))
def test_each_size_at_once_is_each_size_alone(scores: list[Lists], most: int) -> None:
    own, gold = (slow.ragged(each) for each in scores)
    sizes = range(1, most + 1)
    expected = np.column_stack([best_of_n(own, gold, n) for n in sizes])
    np.testing.assert_allclose(best_of_each_n(own, gold, list(sizes)), expected, atol=1e-12)


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_curve_is_the_estimators_mean(size: int, prompts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = [rng.integers(0, 3, size).astype(float).tolist() for _ in range(prompts)]
    gold = rng.random(size * prompts)
    offsets = offsets_of(lists)
    found = curves(flat(lists), gold, offsets, cut=1)
    golds = [gold[start : start + size].tolist() for start in offsets[:-1]]
    expected = best_of_n_curve(slow.ragged(lists), slow.ragged(golds), range(1, size + 1))
    assert found["sizes"] == list(range(1, size + 1))
    assert [point["mean"] for point in found["choosers"]["proxy"]["points"]] == pytest.approx(
        expected.tolist(), abs=1e-9
    )
    assert found["random"]["mean"] == pytest.approx(gold.mean(), abs=1e-9)


def test_right_n_is_recommended_and_more_is_called_worse() -> None:
    """Of 16 candidates few look best and are worthless: the pick is best at N = 3, by the truth of the same draw."""
    rng = np.random.default_rng(7)
    prompts, size = 4000, 16
    quality = rng.random((prompts, size))
    is_trap = rng.random((prompts, size)) < 0.08
    proxy, gold = np.where(is_trap, 2.0 + quality, quality), np.where(is_trap, 0.0, quality)
    found = curves(proxy.ravel(), gold.ravel(), np.arange(0, prompts * size + 1, size))
    # A pick of n is worth something if none of the n is a trap: then the best quality counts.
    truth = [0.92**n * n / (n + 1) for n in found["sizes"]]
    advice = found["choosers"]["proxy"]
    assert advice["recommended"] == 1 + int(np.argmax(truth)) == 3
    assert advice["more_is_worse"]
    assert advice["loss"]["mean"] == pytest.approx(max(truth) - truth[-1], abs=0.02)
    assert advice["loss"]["low"] < max(truth) - truth[-1] < advice["loss"]["high"]
    assert advice["helps"]


def test_good_score_needs_all_candidates_and_noise_none() -> None:
    rng = np.random.default_rng(3)
    gold = rng.random(500 * 8)
    offsets = np.arange(0, 4001, 8)
    good = curves(gold + rng.normal(0, 0.05, 4000), gold, offsets)["choosers"]["proxy"]
    assert (good["recommended"], good["more_is_worse"], good["helps"]) == (8, False, True)
    noise = curves(rng.random(4000), gold, offsets)["choosers"]["proxy"]
    assert (noise["recommended"], noise["helps"], noise["harms"]) == (1, False, False)


def test_prompts_with_fewer_candidates_do_not_bend_the_curve() -> None:
    """Easy prompts have two candidates and hard ones four: a mean over whoever has enough would fall at N = 3."""
    lists = [[1.0, 2.0]] * 2 + [[1.0, 2.0, 3.0, 4.0]] * 3
    gold = np.array([1.0, 1.0] * 2 + [0.0, 0.0, 0.0, 0.5] * 3)
    found = curves(flat(lists), gold, offsets_of(lists))
    assert (found["prompts"], found["prompts_with_fewer"], found["sizes"]) == (3, 2, [1, 2, 3, 4])
    assert [each["mean"] for each in found["choosers"]["proxy"]["points"]] == [0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_unknown_gold_is_left_out_and_counted(unknown: float) -> None:
    found = curves(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, unknown]), np.array([0, 3]))
    assert (found["without_gold"], found["sizes"]) == (1, [1, 2])
    assert found["choosers"]["proxy"]["points"][1]["mean"] == 1.0


def test_few_prompts_get_no_intervals() -> None:
    found = curves(np.array([1.0, 2.0]), np.array([1.0, 0.0]), np.array([0, 2]))
    advice = found["choosers"]["proxy"]
    assert advice["points"][1] == {"mean": 0.0, "low": None, "high": None}
    assert (advice["more_is_worse"], advice["harms"], advice["helps"]) == (False, False, False)


def test_no_prompts_have_no_curve() -> None:
    assert Curves(["proxy"]).plain()["sizes"] == []
