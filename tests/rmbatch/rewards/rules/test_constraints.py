"""Verifiable instructions, as tables of (instruction, arguments, response, followed)."""

from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards.rules.instructions import CHECKS

AT_LEAST, LESS = "at least", "less than"

INSTRUCTIONS: list[tuple[str, dict[str, Any], str, bool]] = [
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": AT_LEAST}, "A BIG cat", True),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": LESS}, "A BIG cat", False),
    ("change_case:english_capital", {}, "ALL BIG, 1.", True),
    ("change_case:english_capital", {}, "Not big", False),
    ("change_case:english_lowercase", {}, "all small, 1.", True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. Well.", True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "Well. Say it.", False),
    ("combination:two_responses", {}, "one\n******\ntwo", True),
    ("combination:two_responses", {}, "one\n******\none", False),  # they have to differ
    ("combination:two_responses", {}, "one\n******\n******\ntwo", False),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] and [place]", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[[name]", False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Yes.\nP. S. no", True),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Yes.\nP.S. no", False),
    ("detectable_format:constrained_response", {}, "My answer is yes.", True),
    ("detectable_format:constrained_response", {}, "Yes.", False),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', True),
    ("detectable_format:json_format", {}, "{a: 1}", False),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 a Part 2", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b\n**bold**", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b\n* c", False),  # exactly
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "so *this*", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "so * *", False),
    ("detectable_format:title", {}, "<<A title>>\ntext", True),
    ("detectable_format:title", {}, "<<>>", False),
    ("keywords:existence", {"keywords": ["Cat", "c++"]}, "a cat writes C++", True),  # literal: no pattern
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "a cat", False),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", True),  # whole words
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "A Cat!", False),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": AT_LEAST}, "cat, Cat", True),
    ("keywords:letter_frequency", {"letter": "a", "let_frequency": 3, "let_relation": LESS}, "A banana", False),
    ("language:response_language", {"language": "fr"}, "Il fait très beau aujourd'hui, et nous allons au parc.", True),
    ("language:response_language", {"language": "en"}, "Il fait très beau aujourd'hui, et nous allons au parc.", False),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weather"},
        "The sun.\n\n\"Weather, it is.",
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "weather"},
        "The sun.\n\nWeather.",
        False,
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***\n", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** *** b", False),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": LESS}, "Dr. No came. He saw 3.5!", True),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": AT_LEAST}, "是的。不是。", True),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, "one two, three", True),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, "one two, three", False),
    ("punctuation:no_comma", {}, "no comma", True),
    ("punctuation:no_comma", {}, "a, comma", False),
    ("startend:end_checker", {"end_phrase": "the end."}, 'That is "The End."', True),
    ("startend:end_checker", {"end_phrase": "the end."}, "The end. Or not", False),
    ("startend:quotation", {}, ' "quoted" ', True),
    ("startend:quotation", {}, '"', False),
]  # fmt: skip


def ifeval(response: str | None, names: Any, arguments: Any, **knobs: Any) -> Any:
    sample = {"response": response, "instruction_id_list": names, "kwargs": arguments}
    return rmbatch.reward("ifeval", **knobs).evaluate(sample)


@pytest.mark.parametrize(("name", "arguments", "response", "followed"), INSTRUCTIONS)
def test_instruction(name: str, arguments: dict[str, Any], response: str, followed: bool) -> None:
    given = ifeval(response, [name], [{**arguments, "of_another_instruction": None}])
    assert (given.score, given.error) == (float(followed), None)
    assert ifeval("", [name], [arguments]).score == 0.0


def test_every_instruction_is_tried() -> None:
    assert {name for name, *_ in INSTRUCTIONS} == set(CHECKS)


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (["no:such"], [{}]),
        (["keywords:existence"], [{}]),  # its arguments are missing
        (["keywords:existence"], []),
        ([], []),
        (["length_constraints:number_words"], [{"num_words": 1, "relation": "more than"}]),
    ],
)
def test_what_cannot_be_checked_is_null(names: list[str], arguments: list[Any]) -> None:
    assert ifeval("text", names, arguments).error.startswith("bad_instruction: ")


def test_share_or_all() -> None:
    names, arguments = ["punctuation:no_comma", "startend:quotation"], [{}, {}]
    assert ifeval("text", names, arguments).score == 0.5
    assert ifeval("text", names, arguments).reason == "not followed: startend:quotation"
    assert ifeval("text", names, arguments, score="all").score == 0.0
    assert ifeval("text", None, arguments).error.startswith("missing_instruction_id_list")
    assert ifeval(None, names, arguments).error.startswith("missing_response")


@pytest.mark.parametrize(
    ("knobs", "response", "expected"),
    [
        ({"min_words": 2, "max_words": 3}, "one", 0.5),
        ({"max_words": 3}, "", 1.0),  # an empty text is short
        ({"min_words": 1}, "", 0.0),
        ({"max_sentences": 1}, "One. Two.", 0.0),
        ({"min_paragraphs": 2}, "a\n\nb", 1.0),
        ({"max_bullets": 0}, "- a", 0.0),
        ({"keywords": ["cat", "dog"]}, "a Cat", 0.5),
        ({"forbidden_words": ["cat"]}, "a cat", 0.0),
        ({"casing": "upper"}, "ABC 1", 1.0),
        ({"casing": "lower"}, "", 0.0),  # no letter in it
        ({"valid_json": True}, "[1]", 1.0),
        ({"no_comma": True, "starts_with": "a", "ends_with": "z"}, " a to z\n", 1.0),
        ({"min_words": 2, "no_comma": True, "score": "all"}, "a", 0.0),
        ({"max_words": 3}, None, None),
    ],
)
def test_text_constraints(knobs: dict[str, Any], response: str | None, expected: float | None) -> None:
    assert rmbatch.reward("text_constraints", **knobs).evaluate({"response": response}).score == expected


def test_text_constraints_knobs() -> None:
    with pytest.raises(UserError, match="no constraint is set"):
        rmbatch.reward("text_constraints")
    with pytest.raises(UserError, match="min_words=3 is above max_words=2"):
        rmbatch.reward("text_constraints", min_words=3, max_words=2)
