"""Rewards for tool calls: their form among the tags of reasoning, and whether they are the calls that were wanted.

A call is an object with ``name`` and ``arguments``, also in OpenAI's wrapper ``{type: "function", function: {…}}``.
Calls in their order, over the steps of an agent: ``tool_steps.py``. Format of reasoning without tools: ``format.py``.
"""

import json
from collections import Counter
from contextlib import suppress
from typing import Any, Literal

import orjson
import pyarrow as pa

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.format import find_between
from rmbatch.rewards.rules.texts import Memo, RowScore, map_pairs, map_texts, to_scores

Calls = Counter[tuple[str, str | None]]
"""How often each call is made: its name and its arguments as canonical JSON, None where they do not matter."""

SHORT = 900
"""Texts with fewer characters hold no number too long and no nesting too deep for json, so orjson may read them."""


@reward("reasoning_tool_call_format")
def reasoning_tool_call_format(response: pa.Array) -> Scores:
    """1.0 where the response is ``<think>`` and then either ``<answer>`` or ``<tool_call>`` elements, and no more.

    response[n] text -> score[n] float64 in {0, 1}; the reason says what is wrong. ``<think>`` comes first and once;
    ``<answer>`` follows once and is last, or one or more ``<tool_call>``, each JSON with the keys ``name`` and
    ``arguments``, also inside OpenAI's ``{type: "function", function: {…}}``. White space between them is free, and so
    is text between two tool calls.
    Null response: null. Null with a code: ``malformed_tool_call``, its JSON is a number, a list or a text that passes
    for an object; ``too_deep``, its JSON is nested too deep for Python's parser.
    Source: RM-Gallery, ``reasoning_tool_call_format``, https://github.com/modelscope/RM-Gallery.
    Deviation: a tool call that is a number, or a list or text holding ``name`` and ``arguments``, raises in RM-Gallery;
    here it is null with a code.
    Deviation: a tool call in OpenAI's ``function`` wrapper is one; RM-Gallery gives 0.0.
    """
    return to_scores(map_texts(response, _score_form))


@reward("tool_call_match")
def tool_call_match(
    response: pa.Array,
    reference: pa.Array,
    *,
    measure: Literal["f1", "precision", "recall", "exact"] = "f1",
    compare: Literal["name_and_arguments", "name"] = "name_and_arguments",
) -> Scores:
    """How well the tool calls of the response are those of the reference: F1, precision or recall over calls.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]; the reason counts the calls. Calls are the bodies
    of ``<tool_call>`` elements, or else the whole text as JSON: an object ``{name, arguments}``, one in OpenAI's form
    ``{function: {name, arguments}}``, or a list of these. Arguments are compared as JSON values (keys in any order, 1
    is 1.0), also where they are written as a string. Order does not matter, numbers do: a call made twice counts twice.
    ``exact`` is 1.0 for the same calls and no other. No calls in either: 1.0. A body that is no call is a wrong call.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it holds something that is no call.
    Source: Berkeley Function Calling Leaderboard, https://gorilla.cs.berkeley.edu/leaderboard.html, on JSON calls.
    """
    golds: Memo[str, tuple[Calls, int]] = Memo(lambda gold: _find_calls(gold, compare))

    def score_row(text: str, gold: str) -> RowScore:
        right, num_unread = golds[gold]
        if num_unread or (gold.strip() and not right and gold.strip()[0] not in "[<"):
            return None, "unparsable_reference: not a list of {name, arguments}", None
        made, num_wrong = _find_calls(text, compare)
        num_common = (made & right).total()
        num_made, num_right = made.total() + num_wrong, right.total()
        score = _measure_calls(num_common, num_made, num_right, measure)
        return score, None, f"{num_common} of {num_right} wanted calls among {num_made} made"

    return to_scores(map_pairs(response, reference, score_row))


def _score_form(text: str) -> RowScore:
    if not _has_tag(text, "think"):
        return 0.0, None, "missing <think></think>"
    bodies = find_between(text, "<tool_call>", "</tool_call>")
    has_answer = _has_tag(text, "answer")
    if has_answer == bool(bodies):
        return 0.0, None, f"{'both' if bodies else 'neither'} <answer> and <tool_call>"
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>"))
    rest = text.split("</think>", 1)[1]
    if not once or not text.lstrip().startswith("<think>"):
        return 0.0, None, "<think></think> is not the beginning, once"
    if has_answer:
        once = all(text.count(tag) == 1 for tag in ("<answer>", "</answer>"))
        closed = once and _encloses(rest, "<answer>", "</answer>")
        return (1.0, None, None) if closed else (0.0, None, "<answer></answer> is not the rest, once")
    num_calls = text.count("<tool_call>")
    paired = num_calls == text.count("</tool_call>") and not (num_calls > 1 and _has_doubled_tag(text))
    if not paired or not _encloses(rest, "<tool_call>", "</tool_call>"):
        return 0.0, None, "<tool_call></tool_call> are not the rest, in pairs"
    return next(filter(None, map(_check_call, bodies)), (1.0, None, None))


def _has_tag(text: str, tag: str) -> bool:
    start = text.find(f"<{tag}>")
    return start >= 0 and text.find(f"</{tag}>", start + len(tag) + 2) >= 0


def _encloses(text: str, opening: str, closing: str) -> bool:
    text = text.strip()
    return len(text) >= len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)


def _has_doubled_tag(text: str) -> bool:
    """Whether an opening or a closing tag follows its like with nothing but white space between them."""
    for tag in ("<tool_call>", "</tool_call>"):
        pieces = text.split(tag)[1:-1]
        if any(not piece or piece.isspace() for piece in pieces):
            return True
    return False


def _check_call(body: str) -> RowScore | None:
    try:
        call = _load_json(body)
    except json.JSONDecodeError:
        return 0.0, None, "a tool call is no JSON"
    except RecursionError:
        return None, "too_deep: a tool call is nested too deep to be parsed", None
    except ValueError:  # a number of over 4,300 digits
        return None, "malformed_tool_call: its JSON holds a number too long to be read", None
    if isinstance(call, dict):
        call = unwrap(call)
        return None if "name" in call and "arguments" in call else (0.0, None, "a tool call has no name or arguments")
    if isinstance(call, list | str) and not ("name" in call and "arguments" in call):
        return 0.0, None, "a tool call has no name or arguments"
    return None, f"malformed_tool_call: a tool call is a {type(call).__name__}, not an object", None


def _load_json(body: str) -> Any:
    """As ``json.loads``, with the same errors."""
    if len(body) < SHORT:
        with suppress(orjson.JSONDecodeError):  # NaN, a lone surrogate: json takes them, and so does RM-Gallery
            return orjson.loads(body)
    return json.loads(body.strip())


def _find_calls(text: str, compare: str) -> tuple[Calls, int]:
    """The calls of a text, and the number of other things in place of a call."""
    bodies = find_between(text, "<tool_call>", "</tool_call>")
    found: list[Any] = []
    num_wrong = 0
    for body in bodies or ([text] if text.strip()[:1] in ("[", "{") else []):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            num_wrong += 1
            continue
        found += value if isinstance(value, list) else [value]
    calls = [_call_key(value, compare) for value in found]
    return Counter(call for call in calls if call), num_wrong + calls.count(None)


def _call_key(value: Any, compare: str) -> tuple[str, str | None] | None:
    """One call in canonical form; None for anything else."""
    call = read_call(value)
    return (call[0], None) if call and compare == "name" else call


def read_call(value: Any) -> tuple[str, str] | None:
    """Name and arguments (JSON, keys sorted, 1.0 as 1) of one call, with or without a wrapper; None for no call.

    Arguments that are written as a string are read as JSON.
    """
    call = unwrap(value) if isinstance(value, dict) else {}
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str):
        return None
    if isinstance(arguments, str):
        with suppress(orjson.JSONDecodeError):  # a text, then
            arguments = orjson.loads(arguments)
    try:
        return name, orjson.dumps(_normalise_numbers(arguments), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONEncodeError, RecursionError):  # nested over some hundred levels: no tool takes that
        return None


def unwrap(call: dict[str, Any]) -> dict[str, Any]:
    """The object with ``name`` and ``arguments`` inside ``{tool_call: …}`` and ``{type: "function", function: …}``."""
    for key in ("tool_call", "function"):
        inner = call.get(key)
        call = inner if isinstance(inner, dict) else call
    return call


def _normalise_numbers(value: Any) -> Any:
    """The value with 1.0 as 1, because JSON does not tell them apart."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [_normalise_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _normalise_numbers(item) for key, item in value.items()}
    return value


def _measure_calls(num_common: int, num_made: int, num_right: int, measure: str) -> float:
    if measure == "exact":
        return float(num_common == num_made == num_right)
    if not num_made and not num_right:
        return 1.0
    precision = num_common / num_made if num_made else 0.0
    recall = num_common / num_right if num_right else 0.0
    if measure == "f1":
        return 2 * precision * recall / (precision + recall) if num_common else 0.0
    return precision if measure == "precision" else recall
