"""Agreement of rewards, and of rewards with length: pair by pair, told again in plain loops."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from rmbatch.reports.agreement import Agreement
from rmbatch.reports.length_bias import FEWEST_PAIRS, describe_length
from tests.rmbatch.reports.prompts import Lists, flat, offsets_of, score_lists


@given(score_lists(names=2))
def test_pairs_are_counted_as_a_loop_would(scores: list[Lists]) -> None:
    first, second = scores
    found = Agreement(["a", "b"])
    found.add(np.stack([flat(first), flat(second)]), offsets_of(first))
    alike = ordered = scored = 0
    for one, other in zip(first, second):
        for i, j in combinations(range(len(one)), 2):
            four = one[i], one[j], other[i], other[j]
            if None in four:
                continue
            scored += 1
            a, b = np.sign(one[j] - one[i]), np.sign(other[j] - other[i])  # type: ignore[operator]
            ordered += bool(a and b)
            alike += bool(a and a == b)
    (line,) = found.plain()
    assert (line["pairs"], line["ordered"]) == (scored, ordered)
    assert line["agreement"] == (pytest.approx(alike / ordered) if ordered else None)


@given(score_lists(names=2))
def test_same_pick_is_the_chance_of_two_fair_draws(scores: list[Lists]) -> None:
    first, second = scores
    found = Agreement(["a", "b"])
    found.add(np.stack([flat(first), flat(second)]), offsets_of(first))
    chances = []
    for one, other in zip(first, second):
        tops = [
            {place for place, value in enumerate(each) if value is not None and value == max(_known(each))}
            for each in (one, other)
        ]
        if len(one) > 1 and all(tops):
            chances.append(len(tops[0] & tops[1]) / (len(tops[0]) * len(tops[1])))
    (line,) = found.plain()
    assert line["prompts"] == len(chances)
    assert line["same_pick"] == (pytest.approx(np.mean(chances)) if chances else None)


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def test_infinite_scores_are_equal_to_each_other_and_below_none() -> None:
    found = Agreement(["a", "b"])
    found.add(np.array([[np.inf, np.inf, 0.0], [1.0, 2.0, 0.0]]), np.array([0, 3]))
    (line,) = found.plain()
    assert (line["pairs"], line["ordered"], line["agreement"]) == (3, 2, 1.0)


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (lambda length, rng: -length, "alone"),
        (lambda length, rng: np.floor(length / 40), "alone"),  # coarse, but it still knows nothing else
        (lambda length, rng: length + rng.normal(0, 30, len(length)), "mostly"),
        (lambda length, rng: rng.random(len(length)), "little"),
        (lambda length, rng: np.full(len(length), 1.0), "unknown"),
    ],
)
def test_score_that_is_length_is_called_that(score: object, verdict: str) -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(10, 200, 400).astype(np.float64)
    found = Agreement(["proxy", "length"])
    found.add(np.stack([score(length, rng), length]), np.arange(0, 401, 8))  # type: ignore[operator]
    (line,) = describe_length(found, "length")
    assert line["verdict"] == verdict


def test_few_pairs_give_no_verdict_about_length() -> None:
    found = Agreement(["proxy", "length"])
    found.add(np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([0, 2]))
    (line,) = describe_length(found, "length")
    assert line["ordered"] < FEWEST_PAIRS
    assert (line["longer"], line["verdict"]) == (1.0, "unknown")
