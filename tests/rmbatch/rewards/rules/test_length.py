"""Rewards for length in tokens, as tables."""

import math

import pytest

import rmbatch
from connectors.errors import UserError


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0.0), (70, 0.0), (85, -0.5), (100, -1.0), (10_000, -1.0), (None, None)],
)
def test_soft_overlong(tokens: int | None, expected: float | None) -> None:
    assert rmbatch.reward("soft_overlong", limit=100, buffer=30).evaluate({"response_tokens": tokens}).score == expected


def test_soft_overlong_knobs() -> None:
    with pytest.raises(UserError, match="buffer=5 is above limit=4"):
        rmbatch.reward("soft_overlong", limit=4, buffer=5).evaluate({"response_tokens": 1})


@pytest.mark.parametrize(
    ("tokens", "correct", "expected"),
    [
        (0, True, 2.0),
        (50, True, 1.5),
        (25, True, 1 + (1 + math.cos(math.pi / 4)) / 2),
        (0, False, -10.0),
        (50, False, -5.0),
        (100, True, -10.0),  # the limit itself is over
        (500, False, -10.0),
        (0, 0.5, 2.0),  # a score will do for correct
        (0, 0.4, -10.0),
        (None, True, None),
        (500, None, None),
    ],
)
def test_cosine_length(tokens: int | None, correct: float | bool | None, expected: float | None) -> None:
    given = rmbatch.reward("cosine_length", max_tokens=100).evaluate(
        {"response_tokens": tokens, "response_correct": correct}
    )
    assert given.score == (None if expected is None else pytest.approx(expected, abs=1e-12))
