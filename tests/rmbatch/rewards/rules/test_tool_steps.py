"""Tool calls in their steps, and calls made again, as tables; OpenJudge's own cases are among them."""

import json
import time
from typing import Any

import pyarrow as pa
import pytest

import rmbatch

SEARCH, OTHER = {"name": "search", "arguments": {"query": "test"}}, {"name": "calculate", "arguments": {"value": 42}}
BARE, EXTRA = {"name": "search", "arguments": {}}, {"name": "extra", "arguments": {}}
ONE_TWO, TWO_ONE = ({"name": "f", "arguments": {"a": a, "b": 3 - a}} for a in (1, 2))
LOOSE = {"compare": "name"}
RECALL, NAMES = {"measure": "recall"}, {"measure": "recall", "compare": "name"}
PRECISION = {"measure": "precision", "compare": "name"}


def messages(*steps: list[dict[str, Any]], wrapped: bool = True) -> list[dict[str, Any]]:
    """A trajectory as OpenAI has it: each step one message of the assistant, then the answers of the tools."""
    said: list[dict[str, Any]] = [{"role": "user", "content": "Go."}]
    for step in steps:
        calls = [{**call, "arguments": json.dumps(call["arguments"])} for call in step]
        if wrapped:
            calls = [{"type": "function", "function": call} for call in calls]
        said += [{"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "content": "done"}]
    return said


def text(*steps: list[dict[str, Any]]) -> str:
    parts = ("\n".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in step) for step in steps)
    return "<think>t</think>" + "<tool_response>r</tool_response>".join(parts)


@pytest.mark.parametrize(
    ("made", "wanted", "knobs", "expected"),
    [
        (messages([SEARCH]), [[SEARCH]], {}, 1.0),
        (messages([SEARCH]), [[OTHER]], {}, 0.0),
        (messages([{**SEARCH, "arguments": {"query": "x"}}]), [[SEARCH]], LOOSE, 1.0),  # the name alone
        (messages([SEARCH], [OTHER]), [[OTHER], [SEARCH]], {}, 1.0),  # in any order
        (messages([SEARCH], [OTHER]), [[OTHER], [SEARCH]], RECALL, 0.0),  # step by step
        (messages([BARE]), [[BARE, {"name": "calculate", "arguments": {}}]], NAMES, 0.5),
        (messages([BARE, EXTRA]), [[BARE]], PRECISION, 0.5),
        (messages([BARE, EXTRA]), [[BARE]], NAMES, 1.0),
        (messages([BARE]), [[BARE], [BARE]], NAMES, 0.5),  # the second step is not there
        (messages([{"name": "search", "arguments": {"query": "x"}}]), [[SEARCH]], RECALL, 0.5),
        (messages([ONE_TWO]), [[TWO_ONE]], RECALL, 0.5),  # a value under another name is another
        (messages([{"name": "f", "arguments": {"a": 1}}]), [[{"name": "f", "arguments": {"a": "1"}}]], RECALL, 0.5),
        (
            messages([{**SEARCH, "arguments": {"query": "x"}}, SEARCH]),
            [[SEARCH]],
            RECALL,
            1.0,
        ),  # the equal one is paired
        (messages([SEARCH, BARE]), [[BARE, SEARCH]], RECALL, 1.0),
        (messages([SEARCH], wrapped=False), [[SEARCH]], {}, 1.0),
        (
            [{"message": messages([SEARCH])[1]}],
            [[{"tool_call": {"function": SEARCH}}]],
            {},
            1.0,
        ),  # OpenJudge's wrappers
        (json.dumps(messages([SEARCH], [OTHER])), [SEARCH, OTHER], RECALL, 1.0),  # a call a step
        (text([SEARCH], [OTHER]), [[SEARCH], [OTHER]], RECALL, 1.0),
        (text([SEARCH, OTHER]), [[SEARCH], [OTHER]], RECALL, 0.5),  # both in the first step
        (text([SEARCH, OTHER]), text([SEARCH, OTHER]), RECALL, 1.0),
        ([{"role": "assistant", "content": text([SEARCH])}], [[SEARCH]], {}, 1.0),
        ("<tool_call>{</tool_call>", [[SEARCH]], NAMES, 0.0),
        (text([SEARCH]) + "<tool_call>{</tool_call>", [[SEARCH]], {}, 0.5),  # no call is a wrong call
        ("It is [sunny].", [], {}, 1.0),  # no call wanted, none made
        ("[sunny]", [], {}, 1.0),
        (text([SEARCH]), [], {}, 0.0),
        ([], [[SEARCH]], {}, 0.0),
        ("", [[SEARCH]], {}, 0.0),
        ("", "", {}, 1.0),
        (text([SEARCH]), "sunny", {}, None),
        (text([SEARCH]), [{"no": "call"}], {}, None),
        (text([SEARCH]), None, {}, None),
        (None, [[SEARCH]], {}, None),
    ],
)
def test_tool_call_sequence(made: Any, wanted: Any, knobs: dict[str, Any], expected: float | None) -> None:
    reference = wanted if wanted is None or isinstance(wanted, str) else json.dumps(wanted)
    given = rmbatch.reward("tool_call_sequence", **knobs).evaluate({"response_messages": made, "reference": reference})
    assert given.score == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_precision_with_arguments_is_refused() -> None:
    row = {"response_messages": "", "reference": ""}
    with pytest.raises(rmbatch.UserError, match="write compare='name'"):
        rmbatch.reward("tool_call_sequence", measure="precision").evaluate(row)


def test_fields_of_other_rows_are_no_arguments() -> None:
    rows = [[{"role": "assistant", "tool_calls": [{"function": call}]}] for call in (SEARCH, OTHER)]
    table = pa.table({"response_messages": pa.array(rows), "reference": [json.dumps([SEARCH]), json.dumps([OTHER])]})
    assert rmbatch.reward("tool_call_sequence").score(table)["score.tool_call_sequence"].to_pylist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("made", "knobs", "expected"),
    [
        (messages([SEARCH], [SEARCH]), {}, 0.0),
        (messages([SEARCH], [OTHER]), {}, 1.0),
        (messages([SEARCH], [OTHER], [SEARCH]), {}, 2 / 3),  # one pair of three
        (text([SEARCH, SEARCH], [SEARCH]), {}, 0.0),
        (messages([{"name": "f", "arguments": {"q": "A b"}}], [{"name": "f", "arguments": {"q": "b a"}}]), {}, 0.0),
        (messages([SEARCH], [{**SEARCH, "arguments": {"query": "x"}}]), {}, 1.0),
        (messages([SEARCH], [{**SEARCH, "arguments": {"query": "x"}}]), {"similarity_threshold": 0.5}, 0.0),
        (messages([SEARCH], [{**SEARCH, "arguments": {"query": "x"}}]), {"similarity_threshold": 0.51}, 1.0),
        ("<tool_call>{</tool_call> again <tool_call>{</tool_call>", {}, 0.0),
        (messages([SEARCH]), {}, 1.0),
        ([], {}, 1.0),
        ("", {}, 1.0),
        (None, {}, None),
    ],
)
def test_action_loop(made: Any, knobs: dict[str, Any], expected: float | None) -> None:
    given = rmbatch.reward("action_loop", **knobs).evaluate({"response_messages": made})
    assert given.score == (None if expected is None else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize("name", ["tool_call_sequence", "action_loop"])
def test_empty_batch(name: str) -> None:
    table = pa.table({"response_messages": pa.array([], pa.string()), "reference": pa.array([], pa.string())})
    assert rmbatch.reward(name).score(table)[f"score.{name}"].to_pylist() == []


def test_many_calls_are_too_long_below_threshold_one() -> None:
    said = text([{"name": f"f{number}", "arguments": {}} for number in range(5_000)])
    began = time.monotonic()
    assert rmbatch.reward("action_loop").evaluate({"response_messages": said}).score == 1.0
    below = rmbatch.reward("action_loop", similarity_threshold=0.9).evaluate({"response_messages": said})
    assert below.error.split(":")[0] == "too_long"
    assert rmbatch.reward("action_loop").evaluate({"response_messages": "<tool_call>" * 200_000}).score == 1.0
    assert time.monotonic() - began < 5


def test_a_long_step_takes_linear_time() -> None:
    made, wanted = ([{"name": f"f{n}", "arguments": {"a": side}} for n in range(10_000)] for side in (1, 2))
    began = time.monotonic()
    row = {"response_messages": text(made), "reference": json.dumps([wanted])}
    assert rmbatch.reward("tool_call_sequence", **RECALL).evaluate(row).score == 0.5
    assert time.monotonic() - began < 5
