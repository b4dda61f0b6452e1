"""Distributions: what numpy says of all values at once, whatever the blocks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.reports.distribution import BARS, MOST_BINS, MOST_VALUES, Distribution

VALUES = st.one_of(
    st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf), st.integers(0, 2).map(float), st.floats(-1e-9, 1e-9)
)


def distribution(blocks: list[list[float]]) -> Distribution:
    found = Distribution()
    for block in blocks:
        found.add(np.array(block, np.float64))
    return found


@given(st.lists(st.lists(VALUES, max_size=90), max_size=5))
def test_moments_are_those_of_all_values(blocks: list[list[float]]) -> None:
    found = distribution(blocks)
    every = np.array([value for block in blocks for value in block])
    finite = every[np.isfinite(every)] if len(every) else every
    assert (found.nulls, found.count) == (int(np.isnan(every).sum()), len(finite))
    assert found.infinite == len(every) - found.nulls - found.count
    assert int(found.counts.sum()) == len(finite)
    if len(finite):
        assert (found.low, found.high) == (finite.min(), finite.max())
        assert found.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-9)
    if len(finite) > 1:
        assert found.deviation == pytest.approx(finite.std(ddof=1), rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(1, 7))
def test_blocks_and_their_order_change_nothing(values: list[float], size: int) -> None:
    blocks = [values[start : start + size] for start in range(0, len(values), size)]
    one, other = distribution(blocks), distribution(blocks[::-1])
    assert one.width == other.width
    assert one.values.tolist() == other.values.tolist()
    assert one.counts.tolist() == other.counts.tolist()


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=600), st.sampled_from([0.05, 0.5, 0.95]))
def test_quantile_is_numpys_within_a_bin(values: list[float], share: float) -> None:
    found = distribution([values])
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert found.quantile(share) == pytest.approx(exact, abs=found.width or 1e-12)


def test_few_values_stay_exact_and_many_become_bins() -> None:
    few = distribution([[0.0, 1.0, 1.0, math.nan]])
    assert few.plain()["bars"] == [[0.0, 0.0, 1], [1.0, 1.0, 2]]
    assert few.plain()["nulls"] == 1
    many = distribution([np.linspace(-1, 1, MOST_VALUES + 1).tolist(), [1e6]])
    assert many.width is not None
    assert len(many.values) <= MOST_BINS
    bars = many.plain()["bars"]
    assert len(bars) <= BARS
    assert sum(count for *_, count in bars) == MOST_VALUES + 2


def test_nothing_has_no_figures() -> None:
    plain = Distribution().plain()
    assert (plain["count"], plain["mean"], plain["min"], plain["bars"]) == (0, None, None, [])
