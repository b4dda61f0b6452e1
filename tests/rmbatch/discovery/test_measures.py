"""Shares, differences and their intervals, against published values and at the edges."""

import pytest

from rmbatch.discovery.measures import compare_results, count_results, estimate_share
from rmbatch.discovery.trial import CaseResult

RIGHT, WRONG, TIE = CaseResult("right"), CaseResult("wrong"), CaseResult("tie")
NULL = CaseResult(None, "verdict_missing: no JSON object")


@pytest.mark.parametrize(
    ("hits", "num_rows", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, "Two-sided confidence intervals for the single proportion"
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_intervals(hits: int, num_rows: int, low: float, high: float) -> None:
    found = estimate_share(hits, num_rows)
    assert found is not None
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)
    assert found.value == hits / num_rows


def test_a_share_of_nothing_is_none() -> None:
    assert estimate_share(0, 0) is None
    nothing = count_results([])
    assert (nothing.accuracy, nothing.coverage, nothing.precision) == (None, None, None)


def test_nulls_are_neither_right_nor_wrong() -> None:
    found = count_results([RIGHT, RIGHT, WRONG, TIE, NULL, CaseResult(None, "endpoint_refused: 400"), NULL])
    assert (found.right, found.wrong, found.ties) == (2, 1, 1)
    assert found.nulls == {"endpoint_refused": 1, "verdict_missing": 2}
    assert found.accuracy is not None
    assert found.coverage is not None
    assert found.precision is not None
    assert (found.accuracy.value, found.accuracy.num_rows) == (2 / 4, 4)
    assert (found.coverage.value, found.coverage.num_rows) == (3 / 7, 7)
    assert (found.precision.value, found.precision.num_rows) == (2 / 3, 3)


def pairs(both: int, gained: int, lost: int, none: int) -> tuple[list[CaseResult], list[CaseResult]]:
    first = [RIGHT] * (both + gained) + [WRONG] * lost + [TIE] * none
    second = [RIGHT] * both + [WRONG] * gained + [RIGHT] * lost + [TIE] * none
    return first, second


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, "… based on paired data", table III, method 10
        ((54, 0, 0, 0), -0.0664, 0.0664),  # no row differs, and yet the interval is not nothing
    ],
)
def test_newcombe_intervals(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    found = compare_results(*pairs(*counts))
    assert found is not None
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-4)
    assert (found.num_gained, found.num_lost, found.num_rows) == (counts[1], counts[2], sum(counts))


@pytest.mark.parametrize("counts", [(5, 3, 1, 2), (0, 9, 0, 0), (0, 0, 9, 0), (0, 0, 0, 9), (3, 0, 0, 3)])
def test_a_difference_turns_round(counts: tuple[int, int, int, int]) -> None:
    first, second = pairs(*counts)
    found, turned = compare_results(first, second), compare_results(second, first)
    assert found is not None
    assert turned is not None
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_only_rows_with_both_verdicts_are_compared() -> None:
    found = compare_results([RIGHT, RIGHT, NULL, NULL], [WRONG, NULL, RIGHT, NULL])
    assert found is not None
    assert (found.value, found.num_rows) == (1.0, 1)
    assert compare_results([NULL], [RIGHT]) is None
    assert compare_results([], []) is None
