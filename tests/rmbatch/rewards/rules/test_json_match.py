"""JSON, as tables of (response, reference, expected)."""

import sys
from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError

SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
)
ANY = {"strict_order": False, "ignore_extra_keys": True}
DEEP = "[" * 300 + "]" * 300


def result(name: str, response: str | None, reference: str | None = None, **knobs: Any) -> Any:
    return rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference})


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('{"a": 1}', 1.0),
        ("4", 1.0),
        (' "a" \n', 1.0),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', 1.0),
        ('```\n{"a": 1}\n```', 1.0),
        ("```json\n1\n```\nand\n```json\n{\n```", 0.0),  # the last block
        ('Here: {"a": 1}', 0.0),
        ("{'a': 1}", 0.0),
        ('{"a": 1,}', 0.0),
        ("NaN", 0.0),
        ("", 0.0),
        ("[" * 100_000, None),
        (None, None),
    ],
)
def test_json_valid(response: str | None, expected: float | None) -> None:
    given = result("json_valid", response)
    assert given.score == expected
    assert (given.reason is not None) == (expected == 0.0)


@pytest.mark.parametrize(
    ("response", "reference", "knobs", "expected"),
    [
        ('{"a": 1, "b": [1, 2]}', '{"b": [1.0, 2], "a": 1}', {}, 1.0),  # keys have no order, 1 is 1.0
        ("[1, 2]", "[2, 1]", {}, 0.0),
        ("[1, 2]", "[2, 1]", {"strict_order": False}, 1.0),
        ("[1, 1, 2]", "[2, 2, 1]", {"strict_order": False}, 0.0),  # as often
        ('[{"a": [1, 2]}, 3]', '[3, {"a": [2, 1]}]', {"strict_order": False}, 1.0),
        ('{"a": 1, "b": 2}', '{"a": 1}', {}, 0.0),
        ('{"a": 1, "b": 2}', '{"a": 1}', {"ignore_extra_keys": True}, 1.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', {"ignore_extra_keys": True}, 0.0),
        # The greedy choice is wrong: {"a": 1} would take what only {"a": 1, "b": 2} can have.
        ('[{"a": 1, "b": 2}, {"a": 1}]', '[{"a": 1}, {"a": 1, "b": 2}]', ANY, 1.0),
        ('[{"a": 1, "b": 2}, {"a": 1, "c": 3}, {"a": 1}]', '[{"a": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 3}]', ANY, 1.0),
        ('[{"a": 1, "b": 2}, {"a": 2}]', '[{"a": 1}, {"a": 1, "b": 2}]', ANY, 0.0),
        ("18446744073709551617", "18446744073709551616", {}, 0.0),  # beyond 64 bits
        ("18446744073709551617", "18446744073709551617", {}, 1.0),
        ("true", "1", {}, 0.0),
        ("null", "false", {}, 0.0),
        ('"1"', "1", {}, 0.0),
        ("no", "1", {}, 0.0),
        ("", "1", {}, 0.0),
        ("1", "no", {}, None),
        ("1", None, {}, None),
        (DEEP, DEEP, {}, None),
        (DEEP, "1", {}, 0.0),
    ],
)
def test_json_match(response: str, reference: str | None, knobs: dict[str, Any], expected: float | None) -> None:
    assert result("json_match", response, reference, **knobs).score == expected


def test_json_match_says_where() -> None:
    assert result("json_match", '{"a": [1, {"b": 2}]}', '{"a": [1, {"b": 3}]}').reason == "differs at $.a[1].b"


def test_lists_in_any_order_are_bounded() -> None:
    one, other = str(list(range(5_000))), str(list(range(5_000))[::-1])
    assert result("json_match", one, other, strict_order=False).error.startswith("too_long: ")


@pytest.mark.parametrize(
    ("response", "reference", "expected", "code"),
    [
        ('{"a": 1}', SCHEMA, 1.0, None),
        ('```json\n{"a": 1}\n```', SCHEMA, 1.0, None),
        ('{"a": "1"}', SCHEMA, 0.0, None),
        ('{"a": 1, "b": 2}', SCHEMA, 0.0, None),
        ("{}", SCHEMA, 0.0, None),
        ("no", SCHEMA, 0.0, None),
        ("", SCHEMA, 0.0, None),
        ("1", "{}", 1.0, None),
        ("1", "{", None, "unparsable_reference"),
        ("1", '{"type": "no such type"}', None, "unparsable_reference"),
        ("1", '{"$ref": "http://127.0.0.1:9/schema"}', None, "unparsable_reference"),  # nothing is fetched
        ("1", '{"$ref": "file:///etc/passwd"}', None, "unparsable_reference"),
        (DEEP, "{}", None, "too_deep"),
        ("1", None, None, "missing_reference"),
    ],
)
def test_json_schema_match(response: str, reference: str | None, expected: float | None, code: str | None) -> None:
    given = result("json_schema_match", response, reference)
    assert given.score == expected
    assert (None if given.error is None else given.error.split(":")[0]) == code


def test_without_its_library_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(UserError, match=r"pip install 'rmbatch\[rules\]'"):
        rmbatch.reward("json_schema_match")
