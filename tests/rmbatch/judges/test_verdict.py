"""What judges say, with every trap that has cost somebody a wrong score: a verdict that is not clear is none."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbatch.chat.thinking import split_thinking
from rmbatch.judges.verdict import read_choice, read_json_object, read_number, read_ranking, read_tag

GAME = {"A": "first", "B": "second", "C": "tie", "tie": "tie"}
VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["A", "B"]}, "reason": {"type": "string"}},
    "required": ["verdict"],
}


def why(reason: str | None) -> str | None:
    return reason and reason.partition(":")[0].removeprefix("verdict_")


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("", "", ""),
        ("A", "", "A"),
        ("<think>B, no, A</think>\n\nA", "B, no, A", "A"),
        ("  <think>\n[[B]]\n</think>[[A]]", "[[B]]", "[[A]]"),
        ("[[B]] it is\n</think>\n[[A]]", "[[B]] it is", "[[A]]"),  # the template has opened the thinking
        ("<think>so [[B]] and", "so [[B]] and", ""),  # cut off: nothing was said
        ("<thinking>x</thinking> A", "x", "A"),
        ("[THINK]x[/THINK]A", "x", "A"),
        ("<think>a</think>B<think>c</think>A", "aBc", "A"),  # what comes last is said
        ("<think>a</think> <think>b", "a b", ""),  # cut off in its second thought
        ("It uses <think> tags. [[A]]", "", "It uses <think> tags. [[A]]"),  # a mention opens nothing
        ('{"why": "a </think> in it", "verdict": "A"}', "", '{"why": "a </think> in it", "verdict": "A"}'),
        ('<think>hm</think>{"why": "a\n</think> in it"}', "hm", '{"why": "a\n</think> in it"}'),
        ('<think>It says "</think>[[B]]" and', 'It says "[[B]]" and', ""),  # a quotation ends nothing
        ("<think>```\n</think>[[B]]\n```\nBad.\n</think>[[A]]", "```\n[[B]]\n```\nBad.", "[[A]]"),
        ("<think>It says `</think>`. Bad.</think>[[A]]", "It says ``. Bad.", "[[A]]"),
    ],
)
def test_thinking_is_no_verdict(text: str, thought: str, said: str) -> None:
    assert split_thinking(text) == (thought, said)


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("[[A]]", "first", None),
        ("[[ a ]]", "first", None),
        ("A", "first", None),
        ("b", "second", None),
        ("**B**", "second", None),
        ("B.", "second", None),
        ("```\nA\n```", "first", None),
        ("Response A", "first", None),
        ("Tie", "tie", None),
        ("[[C]]", "tie", None),
        ("[[D]]", None, "malformed"),
        ("[[A/B]]", None, "malformed"),
        ("A and B", None, "malformed"),
        ("Both are good. [[B]]", None, "malformed"),  # prose is not searched
        ("Verdict: A", None, "malformed"),
        ("The winner is not A", None, "malformed"),
        ("A\n\nB", None, "malformed"),
        ("", None, "missing"),
        ("   ", None, "missing"),
        (None, None, "malformed"),
        (1, None, "malformed"),
    ],
)
def test_choices(text: Any, value: str | None, reason: str | None) -> None:
    reading = read_choice(text, GAME)
    assert (reading.value, why(reading.reason)) == (value, reason)


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("7", 7.0, None),
        ("0", 0.0, None),  # zero is a score
        (" 7.5\n", 7.5, None),
        ("7.", 7.0, None),
        (".5", 0.5, None),
        ("**7**", 7.0, None),
        ("7/10", 7.0, None),
        ("7 out of 10", 7.0, None),
        ("[[7]]", 7.0, None),
        ("```\n7\n```", 7.0, None),
        ("٧", 7.0, None),
        ("७٫५", 7.5, None),
        ("𝟟", 7.0, None),
        ("⑦", None, "malformed"),  # no decimal digit
        ("7²", None, "malformed"),
        ("Score: 7", None, "malformed"),  # prose is not searched
        ("It is good.\n\n8", None, "malformed"),
        ("7 is my score", None, "malformed"),
        ("7/5", None, "out_of_range"),  # another scale
        ("-3", None, "out_of_range"),
        ("−3", None, "out_of_range"),  # a true minus sign
        ("11", None, "out_of_range"),
        ("NaN", None, "malformed"),
        ("inf", None, "malformed"),
        ("70%", None, "malformed"),
        ("7-8", None, "malformed"),
        ("7 to 8", None, "malformed"),
        ("7,5", None, "malformed"),  # a decimal comma, or two numbers
        ("7 5", None, "malformed"),
        ("1e1", None, "malformed"),
        ("7b", None, "malformed"),
        ("seven", None, "malformed"),
        ("9" * 400, None, "out_of_range"),
        ("", None, "missing"),
        (7, 7.0, None),
        (7.5, 7.5, None),
        (0, 0.0, None),
        (True, None, "malformed"),  # true is 1 in Python
        (float("nan"), None, "out_of_range"),
        (float("inf"), None, "out_of_range"),
        (10**400, None, "out_of_range"),
        (None, None, "malformed"),
        ([7], None, "malformed"),
    ],
)
def test_numbers_from_0_to_10(text: Any, value: float | None, reason: str | None) -> None:
    reading = read_number(text, 0, 10)
    assert (reading.value, why(reading.reason)) == (value, reason)


def test_numbers_may_be_whole_and_percents_are_of_a_hundred() -> None:
    assert read_number("7.5", 0, 10, whole=True).value is None
    assert read_number("7.0", 0, 10, whole=True).value == 7
    assert read_number("70%", 0, 100).value == 70
    assert read_number("70 %.", 0, 100).value == 70
    assert read_number("-1", -2, 2).value == -1


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("[2, 1, 3]", ("2", "1", "3"), None),
        ("[[2, 1, 3]]", ("2", "1", "3"), None),
        ("2 > 1 > 3", ("2", "1", "3"), None),
        ("2, 1, 3", ("2", "1", "3"), None),
        ("Response 2 > Response 1 > Response 3", ("2", "1", "3"), None),
        ('["2", "1", "3"]', ("2", "1", "3"), None),
        ("٢, ١, ٣", ("2", "1", "3"), None),
        ("Ranking: 2 > 1 > 3", None, "out_of_range"),  # prose is not searched
        ("2 > 1 > 4", None, "out_of_range"),
        ("[2, 1, 3] or [1, 2, 3]", None, "out_of_range"),
        ("[2, 1]", None, "missing"),
        ("[2, 1, 1]", None, "ambiguous"),
        ("[2, 1, 3, 4]", None, "out_of_range"),
        ("[0, 1, 2]", None, "out_of_range"),  # counted from 0
        ("3 < 1 < 2", None, "ambiguous"),
        ("2 > 1 = 3", None, "ambiguous"),
        ("2 > 1 < 3", None, "ambiguous"),
        ("", None, "missing"),
        ([2, 1, 3], ("2", "1", "3"), None),
        (["2", "1", "3"], ("2", "1", "3"), None),
        ([2, 1, True], None, "missing"),
        ([], None, "missing"),
        ({"a": 1}, None, "malformed"),
        (None, None, "malformed"),
    ],
)
def test_rankings(text: Any, value: tuple[str, ...] | None, reason: str | None) -> None:
    reading = read_ranking(text, ["1", "2", "3"])
    assert (reading.value, why(reading.reason)) == (value, reason)


def test_rankings_of_letters() -> None:
    assert read_ranking("B > a > C", ["A", "B", "C"]).value == ("B", "A", "C")


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        ('{"verdict": "A"}', "A", None),
        ('```json\n{"verdict": "A"}\n```', "A", None),
        ('```\n{"verdict": "A"}\n```\n', "A", None),
        ('{"verdict": "A", "reason": "line\nline"}', "A", None),  # an unescaped newline
        ('{"verdict": "A", "reason": "a } and a { in it"}', "A", None),
        ('{"verdict": "A", "scores": {"verdict": "B"}}', "A", None),  # the inner one is no verdict
        ('Here it is: {"verdict": "A"} as asked.', None, "ambiguous"),
        ('{"verdict": "A"} as asked.', None, "ambiguous"),
        ('{"verdict": "A"} {"verdict": "A"}', None, "ambiguous"),
        ('{"verdict": "A"} {"verdict": "B"}', None, "ambiguous"),
        ('{"verdict": "A"}\n```', None, "ambiguous"),
        (r'so \boxed{4} and {x}: {"verdict": "B"}', None, "ambiguous"),
        ('It answered {"answer": 4}. {"verdict": "B"}', None, "ambiguous"),
        ('{"answer": 4} {"verdict": "B"}', None, "ambiguous"),  # one of the schema beside one that is not
        ('{"verdict": "A", "verdict": "B"}', None, "ambiguous"),  # json keeps the last
        ('{"verdict": "A", "verdict": "A"}', "A", None),
        ('{"verdict": "A", "x": {"y": 1, "y": 2}}', None, "ambiguous"),
        ('{"verdict": "C"}', None, "malformed"),
        ('{"reason": "none"}', None, "malformed"),
        ('{"verdict": "A"', None, "malformed"),
        ('{"reason": "x", "inner": {"verdict": "A"}', None, "malformed"),  # cut off: the inner one is whole
        ("{'verdict': 'A'}", None, "malformed"),
        ('{"verdict": "A", "score": NaN}', None, "malformed"),
        ('{"verdict": "A",}', None, "malformed"),
        ("[[A]]", None, "missing"),
        ("", None, "missing"),
        ("{" * 100_000, None, "malformed"),
        ('{"verdict": "A", "x": ' + '{"y": ' * 400 + "1" + "}" * 401, "A", "?"),  # deeper than the checker goes
        ('{"a":' * 100_000, None, "malformed"),
    ],
)
def test_json(text: str, verdict: str | None, reason: str | None) -> None:
    reading = read_json_object(text, VERDICT)
    if reason == "?":
        assert (reading.value is None) == (why(reading.reason) == "malformed")
    else:
        assert (reading.value and reading.value["verdict"], why(reading.reason)) == (verdict, reason)


def test_json_without_a_schema_must_be_one() -> None:
    assert read_json_object(' {"a": 1} ').value == {"a": 1}
    assert read_json_object('{"a": 1} {"a": 1.5}').value is None


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("<score>7</score>", "7", None),
        ("\n<Score> 7 </SCORE>\n", "7", None),
        ("<score> </score>", "", None),
        ("<reason>x</reason> <score>7</score>", None, "ambiguous"),
        ("<score>7</score> again <score>7</score>", None, "ambiguous"),
        ("<score>7</score> no, <score>8</score>", None, "ambiguous"),
        ("<score>7</score> <score>", None, "ambiguous"),
        ("<score>7", None, "malformed"),  # cut off
        ("7</score>", None, "malformed"),
        ("<score><score>7</score></score>", None, "malformed"),
        ("<scores>7</scores>", None, "missing"),
        ("", None, "missing"),
    ],
)
def test_tags(text: str, value: str | None, reason: str | None) -> None:
    reading = read_tag(text, "score")
    assert (reading.value, why(reading.reason)) == (value, reason)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="AB[]{}\"': \n0179/-.<>,e", max_size=40))
def test_any_text_gives_verdict_or_reason(text: str) -> None:
    labels = ["A", "B"]
    for reading in (
        read_choice(text, GAME),
        read_number(text, 0, 10),
        read_ranking(text, labels),
        read_json_object(text, VERDICT),
        read_tag(text, "A"),
    ):
        assert (reading.value is None) != (reading.reason is None)


@pytest.mark.parametrize(
    "unit", ["[[", "```\n", "1, ", "1 > ", "<score>", '{"', '</think>{"a":', "</think>", "<think>", "( ", "**", " \n"]
)
def test_long_answers_are_read_fast(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    for read in (
        lambda: read_choice(text, GAME),
        lambda: read_number(text, 0, 10),
        lambda: read_ranking(text, ["1", "2"]),
        lambda: read_json_object(text),
        lambda: read_tag(text, "score"),
        lambda: split_thinking(text),
    ):
        read()


def test_json_values_are_read_like_text() -> None:
    said = read_json_object(json.dumps({"verdict": "A", "score": 7, "order": [2, 1]})).value
    assert said is not None
    assert read_choice(said["verdict"], GAME).value == "first"
    assert read_number(said["score"], 1, 10).value == 7
    assert read_ranking(said["order"], ["1", "2"]).value == ("2", "1")
