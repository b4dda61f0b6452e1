"""Rewards for an agent's tool calls in their order: whether its steps are the wanted ones, and whether it loops.

They read the column ``response_messages``, a trajectory: a list of messages (``{role, content, tool_calls}``), the same
as JSON text, or text with ``<tool_call>`` elements (``columns: {response_messages: response}``). A step is what one
message of the assistant calls, or calls with nothing but white space between them. ``tool_calls.py`` compares calls in
any order.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal

import orjson
import pyarrow as pa
from pydantic import Field

from connectors.errors import UserError
from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.format import find_spans
from rmbatch.rewards.rules.texts import RowScore, score_too_long, to_scores
from rmbatch.rewards.rules.tool_calls import read_call

Call = tuple[str | None, str]
"""Name and arguments as canonical JSON; None and the text, where something else stands in place of a call."""
Steps = list[list[Call]]

MAX_WORDS = 20_000_000
"""Words of calls times calls that finding loops of alike calls may compare."""
_OPENING, _CLOSING = "<tool_call>", "</tool_call>"


@reward("tool_call_sequence")
def tool_call_sequence(
    response_messages: pa.Array,
    reference: pa.Array,
    *,
    measure: Literal["jaccard", "recall", "precision"] = "jaccard",
    compare: Literal["name_and_arguments", "name"] = "name_and_arguments",
) -> Scores:
    """How well the steps of tool calls are those of the reference.

    response_messages[n] messages or text, reference[n] text -> score[n] float64 in [0, 1]; the reason counts the calls.
    The reference is JSON: a list of steps, each a list of calls, or a list of calls, one a step; or what
    ``response_messages`` may be. ``jaccard``: different calls that both have, over those that either has, in any order.
    ``recall`` and ``precision``: step by step, the mean over the steps of the reference; a step that is not there is 0.
    With ``compare="name"`` a step is the names that both have over those wanted (recall) or made (precision). With
    arguments and ``recall`` it is 0 where a wanted name is missing, else the mean over the wanted calls of the F1 of
    their arguments (names, and values under their names). Calls of one name: equal ones are paired, then the rest in
    order. No calls in either: 1.0. What stands for a call and is none is a wrong call.
    Null response_messages or reference: null. Null with a code: ``unparsable_reference``, it holds something that is no
    call. UserError for ``precision`` with arguments.
    Source: OpenJudge, ``tool_call_sequence``, https://github.com/agentscope-ai/OpenJudge, which pairs every wanted call
    with the first made of its name, takes an argument's value also under another name, and 1 as "1", and (jaccard) has
    calls differ where their arguments are written in another order.
    """
    if measure == "precision" and compare != "name":
        raise UserError("reward 'tool_call_sequence': measure='precision' counts names only; write compare='name'")

    def score_row(said: Any, gold: str) -> RowScore:
        wanted = _read_steps(gold)
        has_fault = any(name is None for step in wanted for name, _ in step)
        if has_fault or (not wanted and gold.strip() and _decode(gold) is None):
            return None, "unparsable_reference: not a list of steps of {name, arguments}", None
        made = _read_steps(said)
        count = f"{sum(map(len, made))} calls in {len(made)} steps, {sum(map(len, wanted))} in {len(wanted)} wanted"
        if not wanted or not made:
            return float(wanted == made), None, count
        if measure == "jaccard":
            ours, theirs = (
                {_comparison_key(call, compare) for step in steps for call in step} for steps in (made, wanted)
            )
            return len(ours & theirs) / len(ours | theirs), None, count
        shares = [_score_step(step, right, measure, compare) for step, right in zip(made, wanted)]
        return sum(shares) / len(wanted), None, count

    pairs = zip(response_messages.to_pylist(), reference.to_pylist())
    return to_scores([None if None in pair else score_row(*pair) for pair in pairs])


@reward("action_loop")
def action_loop(
    response_messages: pa.Array, *, similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
) -> Scores:
    """1.0 where no tool call is made again, less the share of the pairs of calls that are alike.

    response_messages[n] messages or text -> score[n] float64 in [0, 1]; the reason counts the pairs. Two calls are
    alike where the words of their name and arguments, lower-cased, have ``similarity_threshold`` of their union in
    common; 1.0 means the same words. Fewer than two calls: 1.0.
    Null response_messages: null. Null with a code: ``too_long``, over 20,000,000 words times calls where the threshold
    is below 1.0.
    Source: OpenJudge, ``action_loop_detection``, https://github.com/agentscope-ai/OpenJudge, which counts answered
    calls alone.
    """
    return to_scores(
        None if said is None else _score_loops(said, similarity_threshold) for said in response_messages.to_pylist()
    )


def _score_loops(said: Any, threshold: float) -> RowScore:
    kinds = Counter(_words(call) for step in _read_steps(said) for call in step)
    num_calls = kinds.total()
    num_pairs = num_calls * (num_calls - 1) // 2
    if not num_pairs:
        return 1.0, None, "fewer than two calls"
    num_alike = sum(number * (number - 1) // 2 for number in kinds.values())
    if threshold < 1:
        if (size := sum(map(len, kinds)) * len(kinds)) > MAX_WORDS:
            return score_too_long("words times calls", size, MAX_WORDS)
        listed = list(kinds)
        for place, words in enumerate(listed):
            for other in listed[:place]:
                common = len(words & other)
                if common >= threshold * (len(words) + len(other) - common):
                    num_alike += kinds[words] * kinds[other]
    return 1 - num_alike / num_pairs, None, f"{num_alike} of {num_pairs} pairs of calls are alike"


def _words(call: Call) -> frozenset[str]:
    name, written = call
    if name is not None:
        value = orjson.loads(written)
        if isinstance(value, dict):
            written = ", ".join(f"{key}: {each}" for key, each in value.items())
    return frozenset(f"{name}: {written}".lower().split())


def _comparison_key(call: Call, compare: str) -> Call:
    return (call[0], "") if compare == "name" and call[0] is not None else call


def _score_step(made: list[Call], wanted: list[Call], measure: str, compare: str) -> float:
    """The share of one step that is right."""
    names, right = (Counter(name for name, _ in step) for step in (made, wanted))
    if compare == "name":
        return (names & right).total() / len(wanted if measure == "recall" else made)
    if right - names:
        return 0.0
    left = list((Counter(wanted) - Counter(made)).elements())
    rest: dict[str | None, deque[str]] = defaultdict(deque)
    for name, arguments in (Counter(made) - Counter(wanted)).elements():
        rest[name].append(arguments)
    scores = [_arguments_f1(rest[name].popleft(), arguments) for name, arguments in left]
    return (len(wanted) - len(left) + sum(scores)) / len(wanted)


def _arguments_f1(made: str, wanted: str) -> float:
    """F1 over the names of the arguments and their values."""
    ours, theirs = map(_argument_parts, (made, wanted))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


def _argument_parts(arguments: str) -> set[tuple[str, ...]]:
    value = orjson.loads(arguments)
    if not isinstance(value, dict):
        return {(arguments,)} if value is not None else set()
    return {part for key, each in value.items() for part in ((key,), (key, repr(each)))}


def _read_steps(said: Any) -> Steps:
    """The steps of a trajectory, in order; messages without a call are no steps."""
    value = _decode(said) if isinstance(said, str) else _drop_nulls(said)
    if value is None:
        return _read_text(said)
    listed = value if isinstance(value, list) else [value]
    return [step for item in listed for step in _read_message(item) if step]


def _decode(text: str) -> Any:
    """The list or object that the text is as JSON; None for any other text."""
    if text.lstrip()[:1] in ("[", "{"):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(text)
    return None


def _read_message(item: Any) -> Iterator[list[Call]]:
    """The steps in one message, or in one item of a list of steps or calls."""
    if isinstance(item, list):
        yield [_read_call(value) for value in item]
        return
    message = item.get("message", item) if isinstance(item, dict) else None
    if not isinstance(message, dict) or not ("role" in message or "from" in message):
        yield [_read_call(item)]
        return
    if (message.get("role") or message.get("from")) in ("assistant", "gpt"):
        calls, content = message.get("tool_calls"), message.get("content") or message.get("value")
        if calls:
            yield [_read_call(value) for value in (calls if isinstance(calls, list) else [calls])]
        elif isinstance(content, str):
            yield from _read_text(content)


def _read_text(text: str) -> Steps:
    steps: Steps = []
    end = 0
    for start, close in find_spans(text, _OPENING, _CLOSING):
        try:
            value = orjson.loads(text[start:close])
        except orjson.JSONDecodeError:
            value = text[start:close]
        calls = [_read_call(each) for each in (value if isinstance(value, list) else [value])]
        if steps and not text[end : start - len(_OPENING)].strip():
            steps[-1] += calls
        else:
            steps.append(calls)
        end = close + len(_CLOSING)
    return [step for step in steps if step]


def _read_call(value: Any) -> Call:
    call = read_call(value)
    try:
        return call or (None, str(value))
    except RecursionError:
        return None, "nested too deep"


def _drop_nulls(value: Any) -> Any:
    """The value of an Arrow column without null fields: all structs of a column have the same fields."""
    if isinstance(value, list):
        return [_drop_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    return value
