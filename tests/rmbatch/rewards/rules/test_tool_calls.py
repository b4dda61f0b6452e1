"""Tool calls against those that were wanted, as tables; their form is in test_upstream.py."""

from typing import Any

import pytest

import rmbatch

ONE, TWO = '{"name": "f", "arguments": {"a": 1, "b": [2]}}', '{"name": "g", "arguments": {}}'
BOTH = f"[{ONE}, {TWO}]"


def called(*bodies: str) -> str:
    return "<think>t</think>" + "".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


@pytest.mark.parametrize(
    ("response", "reference", "knobs", "expected"),
    [
        (called(ONE), ONE, {}, 1.0),
        (called(TWO, ONE), BOTH, {}, 1.0),  # in any order
        (called(ONE), BOTH, {}, 2 / 3),
        (called(ONE), BOTH, {"measure": "precision"}, 1.0),
        (called(ONE), BOTH, {"measure": "recall"}, 0.5),
        (called(ONE), BOTH, {"measure": "exact"}, 0.0),
        (called(ONE, ONE), ONE, {"measure": "precision"}, 0.5),  # twice counts twice
        (called('{"name": "f", "arguments": {"b": [2.0], "a": 1}}'), ONE, {}, 1.0),  # as JSON values
        (called('{"name": "f", "arguments": "{\\"a\\": 1, \\"b\\": [2]}"}'), ONE, {}, 1.0),  # written as a string
        (called('{"name": "f", "arguments": {"a": true, "b": [2]}}'), ONE, {}, 0.0),
        (called('{"name": "f", "arguments": {}}'), ONE, {"compare": "name"}, 1.0),
        (called("{"), ONE, {}, 0.0),
        (called("4", ONE), ONE, {"measure": "precision"}, 0.5),  # no call is a wrong call
        (BOTH, BOTH, {}, 1.0),  # the whole text
        (f'[{{"type": "function", "function": {ONE}}}]', ONE, {}, 1.0),  # as OpenAI has it
        (called(ONE), called(ONE), {}, 1.0),
        ("It is sunny.", ONE, {}, 0.0),
        ("It is sunny.", "[]", {}, 1.0),  # no call wanted, none made
        ("It is sunny.", "", {"measure": "exact"}, 1.0),
        (called(ONE), "[]", {}, 0.0),
        ("", ONE, {}, 0.0),
        (called(ONE), "sunny", {}, None),
        (called(ONE), '{"no": "call"}', {}, None),
        (called(ONE), None, {}, None),
        (None, ONE, {}, None),
    ],
)
def test_tool_call_match(
    response: str | None, reference: str | None, knobs: dict[str, Any], expected: float | None
) -> None:
    given = rmbatch.reward("tool_call_match", **knobs).evaluate({"response": response, "reference": reference})
    assert given.score == (None if expected is None else pytest.approx(expected, abs=1e-12))
