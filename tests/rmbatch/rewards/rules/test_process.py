"""Rewards for steps, as tables."""

from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError


@pytest.mark.parametrize(
    ("response", "steps", "expected"),
    [
        ("one\n\ntwo\n \n\nthree\n", "paragraphs", 3.0),
        ("\n\none", "paragraphs", 1.0),
        ("one\n\ntwo\nthree", "lines", 3.0),
        ("Step 1: a\nStep 2: b\nand Step 3", "numbered", 2.0),
        ("1. a\n2) b\n3.5 c", "numbered", 2.0),
        ("## Step 1\n**step 2**", "numbered", 2.0),
        ("", "paragraphs", 0.0),
        ("", "lines", 0.0),
        (None, "lines", None),
        (["one", "two"], "lines", 2.0),  # a list of steps arrives as lines
    ],
)
def test_step_count(response: Any, steps: str, expected: float | None) -> None:
    assert rmbatch.reward("step_count", steps=steps).evaluate({"response": response}).score == expected


@pytest.mark.parametrize(
    ("scores", "reference", "expected", "code"),
    [
        ([0.9, 0.4, 0.1], 1, 1.0, None),
        ([0.9, 0.4], 0, 0.0, None),
        ([0.9, 0.5], -1, 1.0, None),  # the threshold itself is right
        ([0.9, 0.4], -1, 0.0, None),
        ([], -1, 1.0, None),
        ([1, 0], 1, 1.0, None),
        ([0.9, None], 1, None, "unparsable_steps"),
        ([0.9], None, None, "missing_reference"),
        (None, 0, None, "missing_response_step_scores"),
        ([0.9], "first", None, "unparsable_reference"),
        ([0.4], 0.0, 1.0, None),  # an index that a float column made a float
    ],
)
def test_first_error_match(scores: Any, reference: Any, expected: float | None, code: str | None) -> None:
    given = rmbatch.reward("first_error_match").evaluate({"response_step_scores": scores, "reference": reference})
    assert given.score == expected
    assert (None if given.error is None else given.error.split(":")[0]) == code


def test_step_scores_of_nested_rows_are_the_candidates() -> None:
    table = pa.table(
        {"responses": [["a", "b"]], "response_step_scores": [[[0.1], [0.9]]], "reference": pa.array([0], pa.int64())}
    )
    assert rmbatch.reward("first_error_match").score(table)["score.first_error_match"].to_pylist() == [[1.0, 0.0]]


def test_step_scores_must_be_lists() -> None:
    with pytest.raises(UserError, match="a list of numbers per response is needed"):
        rmbatch.reward("first_error_match").evaluate({"response_step_scores": 0.5, "reference": 1})


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        (r"Step 2 is wrong: \boxed{2}", 2, 1.0),
        (r"\boxed{1}, or rather \boxed{ 2 }", "2", 1.0),
        (r"all right: \boxed{-1}", -1, 1.0),
        (r"\boxed{two}", 2, 0.0),
        ("step 2", 2, 0.0),
        ("", 2, 0.0),
        (r"\boxed{2}", "none", None),
        (r"\boxed{2}", None, None),
        (None, 2, None),
    ],
)
def test_critic_first_error_match(response: str | None, reference: Any, expected: float | None) -> None:
    given = rmbatch.reward("critic_first_error_match").evaluate({"response": response, "reference": reference})
    assert given.score == expected
