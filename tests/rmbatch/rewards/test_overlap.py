"""What OpenJudge has beside RM-Gallery, as tables of (rule, response, reference, knobs, expected)."""

from typing import Any

import pytest

import rmbatch

CAT = "The cat sat on the mat"


@pytest.mark.parametrize(
    ("name", "response", "reference", "knobs", "expected"),
    [
        ("contains_all", CAT, None, {"substrings": ["cat", "mat"]}, 1.0),
        ("contains_all", CAT, None, {"substrings": ["cat", "dog", "mat"]}, 2 / 3),
        ("contains_all", CAT, None, {"substrings": ["CAT"]}, 0.0),
        ("contains_all", CAT, None, {"substrings": ["CAT"], "ignore_case": True}, 1.0),
        ("contains_all", "", None, {"substrings": ["a"]}, 0.0),
        ("contains_all", None, None, {"substrings": ["a"]}, None),
        ("contains_any", CAT, None, {"substrings": ["dog", "cat"]}, 1.0),
        ("contains_any", CAT, None, {"substrings": ["dog", "bird"]}, 0.0),
        ("contains_any", None, None, {"substrings": ["a"]}, None),
        ("contains", "cat", CAT, {}, 0.0),
        ("contains", "cat", CAT, {"either_way": True}, 1.0),
        ("contains", "", CAT, {"either_way": True}, 0.0),  # an empty text stands in every text
        ("word_overlap", "the dog sat on the rug", "the cat sat on the mat", {}, 3 / 5),
        ("word_overlap", "a", "...", {}, None),
        ("word_overlap", "", "a", {}, 0.0),
        ("char_overlap", "helo", "hello", {}, 1.0),
        ("char_overlap", "", "a", {}, 0.0),
        ("char_overlap", "a", "", {}, None),
        ("rouge3", CAT, CAT, {}, 1.0),
        ("rouge3", "a b c x", "a b c d", {}, 0.5),
        ("rouge4", "a b c d x", "a b c d e", {}, 0.5),
        ("rouge5", CAT, CAT, {}, 1.0),
        ("rouge5", "a b c d", "a b c d", {}, 0.0),  # too short for five words
    ],
)
def test_overlap(
    name: str, response: str | None, reference: str | None, knobs: dict[str, Any], expected: float | None
) -> None:
    given = rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference})
    assert given.score == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_contains_takes_a_reference_of_megabytes() -> None:
    long = "ab " * 1_000_000  # compiled as a pattern, it stopped the batch
    assert rmbatch.reward("contains").evaluate({"response": f"x{long}y", "reference": long}).score == 1.0
