"""String matches, patterns and choices, as tables of (response, reference, expected)."""

from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError


def result(name: str, response: str | None, reference: str | None = None, **knobs: Any) -> Any:
    return rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference})


@pytest.mark.parametrize(
    ("name", "response", "reference", "knobs", "expected"),
    [
        ("exact_match", "a  b\n", " a b", {}, 1.0),
        ("exact_match", "A b.", "a b", {}, 0.0),
        ("exact_match", "A b.", "a b", {"ignore_case": True, "ignore_punctuation": True}, 1.0),
        ("exact_match", "", "", {}, 1.0),
        ("exact_match", "$5", "5", {"ignore_punctuation": True}, 1.0),  # symbols too
        ("contains", "it is Paris.", "Paris", {}, 1.0),
        ("contains", "it is paris.", "Paris", {}, 0.0),
        ("contains", "it is paris.", "Paris", {"ignore_case": True}, 1.0),
        ("contains", "a.c", "a.c ", {}, 1.0),  # no pattern; white space at its ends aside
        ("contains", "abc", "a.c", {}, 0.0),
        ("contains", "", "a", {}, 0.0),
        ("contains", "a", "", {}, None),  # every text contains nothing
        ("starts_with", " yes, it is", "yes", {}, 1.0),
        ("starts_with", "oh yes", "yes", {}, 0.0),
        ("ends_with", "it is 4\n", "4", {}, 1.0),
        ("ends_with", "4.", "4", {}, 0.0),
        ("ends_with", None, "4", {}, None),
        ("starts_with", "4", None, {}, None),
        ("regex_match", "call 555-1234", r"\d{3}-\d{4}", {}, 1.0),
        ("regex_match", "none", r"\d", {}, 0.0),
        ("regex_match", "x", "(", {}, None),
        ("regex_match", "x", r"(?=x)", {}, None),  # look-ahead takes more than linear time
        ("pattern_match", "as an AI", None, {"pattern": "(?i)as an ai"}, 1.0),
        ("pattern_match", "as an AI", None, {"pattern": "AI", "forbid": True}, 0.0),
        ("pattern_match", None, None, {"pattern": "AI", "forbid": True}, None),
    ],
)
def test_match(
    name: str, response: str | None, reference: str | None, knobs: dict[str, Any], expected: float | None
) -> None:
    assert result(name, response, reference, **knobs).score == expected


@pytest.mark.parametrize(
    ("name", "response", "reference", "code"),
    [
        ("contains", "a", "", "empty_reference"),
        ("starts_with", "a", " ", "empty_reference"),
        ("regex_match", "a", "(", "bad_pattern"),
        ("regex_match", "a", "a" * 5000, "bad_pattern"),
        ("multiple_choice", "A", "none", "unparsable_reference"),
        ("multiple_choice", "A", None, "missing_reference"),
    ],
)
def test_codes(name: str, response: str, reference: str | None, code: str) -> None:
    assert result(name, response, reference).error.split(":")[0] == code


def test_invalid_pattern_is_refused() -> None:
    with pytest.raises(UserError, match=r"pattern='\(' is no regular expression"):
        rmbatch.reward("pattern_match", pattern="(")
    with pytest.raises(UserError, match="look-around"):
        rmbatch.reward("pattern_match", pattern=r"(?=a)")


@pytest.mark.parametrize(
    ("response", "chosen"),
    [
        (r"so \boxed{B}", "B"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{A}, no, \boxed{B}", "B"),  # the last one
        ("The answer is (B), not (C).", "B"),
        ("answer is A. Wait. The answer is D", "D"),
        ("**Answer:** B", "B"),
        ("the correct answer is: B) 42", "B"),
        ("答案是B", "B"),
        ("B. Paris", "B"),
        ("(D)", "D"),
        ("D", "D"),
        ("I think it is (C)", "C"),
        ("Let me see.\n\nD", "D"),
        ("A man walks in", None),  # a word, not a choice
        ("the answer is A's", None),
        ("the answer is Apple", None),
        ("b", None),  # only capital letters
        ("", None),
    ],
)
def test_multiple_choice(response: str, chosen: str | None) -> None:
    given = result("multiple_choice", response, chosen or "A")
    assert given.reason == (f"chose {chosen}" if chosen else "no choice found")
    assert given.score == (1.0 if chosen else 0.0)


@pytest.mark.parametrize("reference", ["B", "(B)", "B. Paris", " B)"])
def test_the_reference_may_be_written_out(reference: str) -> None:
    assert result("multiple_choice", "B", reference).score == 1.0
    assert result("multiple_choice", "C", reference).score == 0.0


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
    ],
)
def test_contains(
    name: str, response: str | None, reference: str | None, knobs: dict[str, Any], expected: float | None
) -> None:
    given = rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference})
    assert given.score == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_contains_takes_a_reference_of_megabytes() -> None:
    long = "ab " * 1_000_000  # compiled as a pattern, it stopped the batch
    assert rmbatch.reward("contains").evaluate({"response": f"x{long}y", "reference": long}).score == 1.0
