"""How sure figures are: bootstrap weights, McNemar, Holm, detectable differences."""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbatch.evaluation.statistics import (
    adjust_holm,
    bootstrap_p,
    bootstrap_weights,
    detectable_difference,
    interval,
    mcnemar,
    standard_error,
)

SLOW = settings(deadline=None, max_examples=50)
KEYS = np.arange(5000, dtype=np.uint64)


def test_weights_are_poisson_counts() -> None:
    weights = bootstrap_weights(KEYS, 400, seed=0)
    assert weights.shape == (401, 5000)
    assert (weights[0] == 1).all()
    drawn = weights[1:]
    shares = [(drawn == count).mean() for count in range(4)]
    assert shares == pytest.approx([math.exp(-1) / math.factorial(count) for count in range(4)], abs=2e-3)
    assert np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] == pytest.approx(0, abs=0.15)  # rows are independent


def test_rows_of_a_prompt_share_their_weights() -> None:
    weights = bootstrap_weights(np.array([7, 9, 7], dtype=np.uint64), 50, seed=3)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] != weights[:, 1]).any()


def test_weights_do_not_depend_on_the_block() -> None:
    whole = bootstrap_weights(KEYS[:100], 30, seed=1)
    parts = [bootstrap_weights(KEYS[start : min(start + 7, 100)], 30, seed=1) for start in range(0, 100, 7)]
    assert (np.concatenate(parts, axis=1) == whole).all()
    assert (bootstrap_weights(KEYS[:100], 30, seed=2) != whole).any()


def test_standard_error_of_a_mean_is_the_textbook_one() -> None:
    values = (np.arange(2000) % 10 < 3) * 1.0
    weights = bootstrap_weights(KEYS[:2000], 1000, seed=0)
    means = (weights @ values) / weights.sum(axis=1)
    assert standard_error(means[1:]) == pytest.approx(math.sqrt(0.3 * 0.7 / 2000), rel=0.1)
    low, high = interval(means[1:])
    assert low < 0.3 < high


@SLOW
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    total = only_first + only_second
    tail = sum(comb(total, k) for k in range(min(only_first, only_second) + 1))
    exact = min(Fraction(1), 2 * Fraction(tail, 2**total)) if total else Fraction(1)
    assert mcnemar(only_first, only_second) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # never falls below a smaller p's
        ([0.5, 0.6], [1.0, 1.0]),
        ([math.nan, 0.02], [math.nan, 0.02]),
        ([], []),
    ],
)
def test_holm(p: list[float], adjusted: list[float]) -> None:
    assert adjust_holm(np.array(p, dtype=float)) == pytest.approx(adjusted, nan_ok=True)


def test_bootstrap_p_counts_the_rarer_side() -> None:
    assert bootstrap_p(np.array([1.0] * 98 + [-1.0])) == pytest.approx(2 * 2 / 100)
    assert bootstrap_p(np.zeros(50)) == 1.0
    assert math.isnan(bootstrap_p(np.array([math.nan])))


def test_detectable_difference_has_the_textbook_factor() -> None:
    assert detectable_difference(0.01) == pytest.approx(0.01 * 2.8016, rel=1e-4)
