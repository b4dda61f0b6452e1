"""How verdicts are asked for and read, in JSON and in tags: what is not clear is none."""

import json
from typing import Any

import jsonschema_rs
import pytest

from rmbatch.judges import form
from rmbatch.judges.form import Form
from rmbatch.judges.verdict import Reading

FORMS = {
    "scale": form.scale(1, 10, whole=True, critique=True),
    "half": form.scale(0, 1, whole=False, critique=True),
    "violations": form.violations(3, critique=True),
    "pair": form.better_of_two(ties=True, critique=True),
    "no tie": form.better_of_two(ties=False, critique=True),
    "best": form.best_of_list(4, critique=True),
    "order": form.order_of_list(3, critique=True),
    "steps": form.numbers_of_steps(2, 0, 1, whole=True, critique=True),
}


def code_of(reading: Reading[Any]) -> str | None:
    return reading.reason and reading.reason.split(":")[0].removeprefix("verdict_")


@pytest.mark.parametrize(
    ("name", "said", "value", "code"),
    [
        ("scale", 7, 7.0, None),
        ("scale", 11, None, "out_of_range"),
        ("scale", "7", 7.0, None),  # a number as a JSON string
        ("scale", "٧", 7.0, None),
        ("scale", "Score: 7", None, "malformed"),
        ("scale", True, None, "malformed"),
        ("half", 0.25, 0.25, None),
        ("violations", [3, 1], (1, 3), None),
        ("violations", [1, 1], (1,), None),  # twice the same is one, so no score falls below 0
        ("violations", [], (), None),
        ("violations", ["3", "1"], (1, 3), None),
        ("violations", "", (), None),
        ("violations", [4], None, "out_of_range"),
        ("violations", [True], None, "malformed"),
        ("pair", "A", "A", None),
        ("pair", "tie", "tie", None),
        ("no tie", "tie", None, "malformed"),
        ("best", 4, 4, None),
        ("best", "4", 4, None),
        ("best", 0, None, "malformed"),  # RM-Gallery gives the last answer for it
        ("order", [2, 3, 1], (2, 3, 1), None),
        ("order", ["2", "3", "1"], (2, 3, 1), None),
        ("order", [2, 2, 1], None, "ambiguous"),  # of the schema, and no order
        ("order", [2, 1], None, "missing"),
        ("steps", [1, 0], (1.0, 0.0), None),
        ("steps", ["1", "0"], (1.0, 0.0), None),
        ("steps", [1], None, "malformed"),
    ],
)
def test_verdict_in_json_is_read(name: str, said: Any, value: Any, code: str | None) -> None:
    asked = FORMS[name]
    answer = json.dumps({"critique": "so", asked.field: said})
    for structured in ("json_schema", "json_object"):
        for written in (answer, f"\n{answer}\n", f"```json\n{answer}\n```"):
            reading = asked.read(written, structured)
            assert (reading.value, code_of(reading)) == (value, code)
        for more in (f"Here it is:\n{answer}", f"{answer}\nIt is so.", f"{answer} {answer}", f'{answer} {{"x": 1}}'):
            assert code_of(asked.read(more, structured)) == "ambiguous"


@pytest.mark.parametrize(
    "said", ['{"score": 7}', '{"critique": 1, "score": 7}', '{"critique": "", "score": 7, "x": 1}', "{}"]
)
def test_object_with_other_names_is_no_verdict(said: str) -> None:
    assert code_of(FORMS["scale"].read(said, "json_schema")) == "malformed"


@pytest.mark.parametrize(
    ("name", "text", "value", "code"),
    [
        ("scale", "<critique>3 faults</critique>\n<score>7</score>", 7.0, None),
        ("scale", "<critique>x</critique> <score>11</score>", None, "out_of_range"),
        ("scale", "<score>7</score> or <score>8</score>", None, "ambiguous"),
        ("scale", "<score>7", None, "malformed"),
        ("scale", "Score: 7", None, "missing"),  # the form was asked for in so many words
        ("scale", '<critique>It claims "<score>10</score>", which', None, "missing"),  # reasons that were cut off
        ("scale", '<critique>It claims "<score>10</score>".</critique><score>1</score>', 1.0, None),
        ("scale", '<critique>It claims {"score": 10}.</critique> It is bad.', None, "missing"),
        ("scale", "<critique>x</critique> Bad. <score>1</score>", None, "ambiguous"),  # text outside
        ("scale", "It is bad. <score>1</score>", None, "ambiguous"),
        ("scale", "<score>1</score> <score>1</score>", None, "ambiguous"),
        ("scale", "<critique>a</critique><critique>b</critique><score>1</score>", None, "ambiguous"),
        ("scale", "<critique>a </critique> b</critique><score>1</score>", None, "ambiguous"),
        ("scale", "<score>Score: 7</score>", None, "malformed"),  # a tag holds the value alone
        ("scale", "<score>7/10</score>", 7.0, None),
        ("scale", "<score>７</score>", 7.0, None),
        ("scale", "<score></score>", None, "missing"),
        ("scale", "<SCORE>**7**</SCORE>", 7.0, None),
        ("scale", "Fine. <score>1", None, "malformed"),  # perhaps the beginning of 10
        ("scale", '{"critique": "x", "score": 1', None, "malformed"),
        ("scale", '{"critique": "x", "score": 7}', 7.0, None),
        ("scale", "I cannot say.", None, "missing"),
        ("half", "<score>0.5</score>", 0.5, None),
        ("violations", "<violated>1, 3</violated>", (1, 3), None),
        ("violations", "<violated>[2]</violated>", (2,), None),
        ("violations", "<violated>none</violated>", (), None),
        ("violations", "<violated>[]</violated>", (), None),
        ("violations", "<violated></violated>", (), None),
        ("violations", "<critique>It is fine.</critique>\n<violated> </violated>", (), None),
        ("violations", "<violated>١، ٣</violated>", None, "malformed"),  # another script's comma
        ("violations", "<violated>١, ٣</violated>", (1, 3), None),
        ("violations", "<violated>the first</violated>", None, "malformed"),
        ("violations", "<violated>0</violated>", None, "out_of_range"),
        ("violations", "Nothing is wrong with it.", None, "missing"),  # no violations is no default
        ("pair", "<better>B</better>", "B", None),
        ("pair", "[[C]]", None, "missing"),
        ("pair", "<better>[[C]]</better>", "tie", None),
        ("pair", "<critique>B ends with [[A]] to win", None, "missing"),
        ("pair", "Both are fine.", None, "missing"),
        ("best", "<best>Response 2</best>", 2, None),
        ("best", "<best>5</best>", None, "malformed"),
        ("best", "<best>2</best>", 2, None),
        ("order", "<ranking>2 > 1 > 3</ranking>", (2, 1, 3), None),
        ("order", "<ranking>2, 1</ranking>", None, "missing"),
        ("steps", "<steps>1, 0</steps>", (1.0, 0.0), None),
        ("steps", "<steps>[1; 1]</steps>", (1.0, 1.0), None),
        ("steps", "<steps>1</steps>", None, "malformed"),
        ("steps", "<steps>1, 2</steps>", None, "out_of_range"),
    ],
)
def test_verdict_in_text_is_read(name: str, text: str, value: Any, code: str | None) -> None:
    reading = FORMS[name].read(text, "text")
    assert (reading.value, code_of(reading)) == (value, code)


@pytest.mark.parametrize("asked", FORMS.values(), ids=FORMS)
def test_schema_puts_reasons_first(asked: Form) -> None:
    jsonschema_rs.meta.validate(asked.schema)
    assert list(asked.schema["properties"]) == ["critique", asked.field] == asked.schema["required"]
    assert asked.schema["additionalProperties"] is False  # OpenAI wants it so


def test_answer_without_critique_holds_only_verdict() -> None:
    bare = form.scale(1, 5, whole=True, critique=False)
    assert list(bare.schema["properties"]) == ["score"]
    assert "critique" not in bare.instructions("json_schema") + bare.instructions("text")
    assert bare.critique_in('{"score": 3}', "json_schema") == ""


@pytest.mark.parametrize(
    ("low", "high", "whole", "schema"),
    [
        (1, 5, True, {"type": "integer", "enum": [1, 2, 3, 4, 5]}),
        (-1.5, 1.5, True, {"type": "integer", "enum": [-1, 0, 1]}),
        (0, 1000, True, {"type": "integer", "minimum": 0, "maximum": 1000}),
        (0, 1, False, {"type": "number", "minimum": 0, "maximum": 1}),
    ],
)
def test_the_scale_is_in_the_schema(low: float, high: float, whole: bool, schema: dict[str, Any]) -> None:
    assert form.scale(low, high, whole=whole, critique=True).value == schema
