"""The form that a judge fills in: its reasons, if wanted, and one verdict.

    form = scale(1, 10, whole=True, critique=True)
    form.schema                                      # for servers that hold answers to a JSON schema
    form.instructions("json_schema")                 # for the prompt, whether or not they do
    form.read('{"critique": "…", "score": 7}', "json_schema").value          # 7.0

Values are read strictly (``verdict.py``). A judge quotes what it judges, so no verdict is taken out of other text, and
none that may be such a quotation.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmbatch.chat.thinking import find_thinking_ends
from rmbatch.judges.verdict import (
    Reading,
    partition_tag,
    read_choice,
    read_json_object,
    read_number,
    read_ranking,
    read_tag,
    split_numbers,
    strip_fence,
)

CRITIQUE = "critique"
_ENUM_MOST = 101
"""Whole numbers of a scale that are listed in a schema; more are bounded."""


@dataclass(frozen=True)
class Form:
    """How one verdict is asked for and read."""

    field: str
    """Its name in JSON, and as a tag."""
    says: str
    """What it is, in words for the judge."""
    value: Mapping[str, Any]
    """JSON schema of the verdict alone."""
    parse: Callable[[object], Reading[Any]]
    """A verdict out of a JSON value or text."""
    critique: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the whole answer. The reasons come first, because a judge writes in this order."""
        properties = ({CRITIQUE: {"type": "string"}} if self.critique else {}) | {self.field: dict(self.value)}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def instructions(self, structured: str) -> str:
        """How to answer, in words."""
        if structured == "text":
            reasons = f"Give your reasons in <{CRITIQUE}></{CRITIQUE}>. Then write" if self.critique else "Write"
            end = "nothing after it" if self.critique else "nothing else"
            return f"{reasons} <{self.field}></{self.field}> with {self.says} in it, and {end}."
        reasons = f'"{CRITIQUE}": your reasons, ' if self.critique else ""
        return f'Answer with one JSON object and nothing else: {{{reasons}"{self.field}": {self.says}}}.'

    def read(
        self, text: str, structured: str, *, quotable: str = "", was_thought: bool = False, has_ended: bool = True
    ) -> Reading[Any]:
        """Read the verdict of an answer, or why it has none. An answer may begin with the model's thinking.

        ``quotable``: what the judge was shown of others; a verdict that stands there word for word may be a quotation.
        ``was_thought``: the server has set the thinking apart. ``has_ended``: the answer was not cut off.
        """
        readings = [(start, self._read_answer(text[start:], structured)) for start in find_thinking_ends(text)]
        found = [(start, each.value[0]) for start, each in readings if each.value is not None]
        if not found:
            return Reading(None, readings[-1][1].reason)
        start, value = found[-1]
        if any(other != value for _, other in found):
            return Reading(None, "verdict_ambiguous: where the thinking ends is not clear")
        if quotable and any(
            _contains(end, quotable) for end in self._list_endings(text, start, was_thought, has_ended)
        ):
            return Reading(None, "verdict_ambiguous: it stands in what is judged, and may be a quotation")
        return Reading(value)

    def critique_in(self, text: str, structured: str) -> str:
        """The reasons in an answer whose verdict was read."""
        readings = [self._read_answer(text[start:], structured) for start in find_thinking_ends(text)]
        return next((each.value[1] for each in readings if each.value is not None), "")

    def _read_answer(self, text: str, structured: str) -> Reading[tuple[Any, str]]:
        """Read verdict and reasons from a text that holds nothing else."""
        text = strip_fence(text)
        if structured != "text" or text.startswith("{"):  # some models answer in JSON whatever they are told
            return self._read_json(text)
        before, critique, rest = partition_tag(text, CRITIQUE)
        if before is None or before.strip():
            critique, rest = "", text
        elif critique is None:
            return Reading(None, f"verdict_missing: <{CRITIQUE}> does not end")
        elif partition_tag(rest, CRITIQUE)[0] is not None or f"</{CRITIQUE}>" in rest.lower():
            return Reading(None, f"verdict_ambiguous: <{CRITIQUE}> ends twice")
        found = read_tag(rest, self.field)
        if found.value is None:
            return Reading(None, found.reason)
        return self._parse_verdict(found.value, critique or "")

    def _read_json(self, text: str) -> Reading[tuple[Any, str]]:
        answer = read_json_object(text)
        if answer.value is None:
            return Reading(None, answer.reason)
        names = [CRITIQUE, self.field] if self.critique else [self.field]
        if sorted(answer.value) != sorted(names) or not isinstance(answer.value.get(CRITIQUE, ""), str):
            return Reading(None, f"verdict_malformed: it is not an object of {', '.join(names)}")
        return self._parse_verdict(answer.value[self.field], answer.value.get(CRITIQUE, ""))

    def _parse_verdict(self, said: object, critique: str) -> Reading[tuple[Any, str]]:
        reading = self.parse(said)
        return Reading(None, reading.reason) if reading.reason else Reading((reading.value, critique.strip()))

    def _list_endings(self, text: str, start: int, was_thought: bool, has_ended: bool) -> Iterator[str]:
        """The ends of an answer that must not stand in what is judged: then the verdict may be a quotation."""
        said = text[start:]
        if start:
            yield text[max(text.rfind(mark, 0, start) for mark in "<[") :]
        elif was_thought:
            yield f"</think>{said}"
        if said.lstrip().startswith(("{", "```")) and f'"{self.field}"' in said:
            verdict = said.rfind(f'"{self.field}"')
            before = said.rfind('"', 0, verdict)
        else:
            verdict = said.lower().rfind(f"<{self.field}>")
            before = said.lower().rfind(f"</{CRITIQUE}>")
        if before >= 0:
            yield said[before:]
        if not has_ended:
            yield said[verdict:]


def scale(low: float, high: float, *, whole: bool, critique: bool) -> Form:
    """A number from low (worst) to high (best)."""
    kind = "a whole number" if whole else "a number"
    says = f"{kind} from {low:g} (worst) to {high:g} (best)"
    return Form(
        "score",
        says,
        _number_schema(low, high, whole),
        lambda said: read_number(said, low, high, whole=whole),
        critique,
    )


def violations(num_principles: int, *, critique: bool) -> Form:
    """Which principles are violated: their numbers, from 1."""
    value = {"type": "array", "items": {"type": "integer", "enum": list(range(1, num_principles + 1))}}
    says = "the numbers of the principles that are violated, separated by commas, as a list; an empty list if none is"

    def parse(said: object) -> Reading[tuple[int, ...]]:
        if isinstance(said, str):
            said = [] if said.strip().strip(".").lower() == "none" else split_numbers(said)
        if not isinstance(said, list):
            return Reading(None, f"verdict_malformed: {str(said)[:80]!r} is no list of principles")
        readings = [read_number(each, 1, num_principles, whole=True) for each in said]
        wrong = next((each.reason for each in readings if each.value is None), None)
        return Reading(None, wrong) if wrong else Reading(tuple(sorted({int(each.value or 0) for each in readings})))

    return Form("violated", says, value, parse, critique)


def better_of_two(*, ties: bool, critique: bool) -> Form:
    """A, B or, if allowed, tie."""
    labels = {"A": "A", "B": "B"} | ({"tie": "tie"} if ties else {})
    known = labels | ({"C": "tie"} if ties else {})
    says = '"A", "B" or "tie"' if ties else '"A" or "B"'
    return Form(
        "better", says, {"type": "string", "enum": list(labels)}, lambda said: read_choice(said, known), critique
    )


def best_of_list(num_responses: int, *, critique: bool) -> Form:
    """The number of the best response, from 1."""

    labels = {str(each): each for each in range(1, num_responses + 1)}

    def parse(said: object) -> Reading[int]:
        return read_choice(str(said) if type(said) is int else said, labels)

    value = _number_schema(1, num_responses, True)
    return Form("best", "the number of the best response", value, parse, critique)


def order_of_list(num_responses: int, *, critique: bool) -> Form:
    """The numbers of all responses, the best first."""
    labels = [str(each) for each in range(1, num_responses + 1)]

    def parse(said: object) -> Reading[tuple[int, ...]]:
        reading = read_ranking(said, labels)
        return Reading(None, reading.reason) if reading.value is None else Reading(tuple(map(int, reading.value)))

    value = _list_schema({"type": "integer", "enum": list(range(1, num_responses + 1))}, num_responses)
    says = f"the numbers of all {num_responses} responses, the best first, as a list separated by commas"
    return Form("ranking", says, value, parse, critique)


def numbers_of_steps(num_steps: int, low: float, high: float, *, whole: bool, critique: bool) -> Form:
    """A number for each step."""
    kind = "a whole number" if whole else "a number"
    says = f"a list of {num_steps} entries, for each step {kind} from {low:g} (wrong) to {high:g} (right)"

    def parse(said: object) -> Reading[tuple[float, ...]]:
        said = split_numbers(said) if isinstance(said, str) else said
        if not isinstance(said, Sequence) or len(said) != num_steps:
            return Reading(None, f"verdict_malformed: a number for each of {num_steps} steps is needed")
        readings = [read_number(each, low, high, whole=whole) for each in said]
        wrong = next((each.reason for each in readings if each.value is None), None)
        return Reading(None, wrong) if wrong else Reading(tuple(each.value for each in readings))  # type: ignore[misc]

    return Form("steps", says, _list_schema(_number_schema(low, high, whole), num_steps), parse, critique)


def _contains(part: str, text: str) -> bool:
    """Whether a text contains a part; white space, escapes and capitals do not count."""
    return _squash(part) in _squash(text)


def _squash(text: str) -> str:
    return "".join(text.replace("\\", "").split()).casefold()


def _number_schema(low: float, high: float, whole: bool) -> dict[str, Any]:
    if whole and high - low < _ENUM_MOST:
        return {"type": "integer", "enum": list(range(math.ceil(low), math.floor(high) + 1))}
    return {"type": "integer" if whole else "number", "minimum": low, "maximum": high}


def _list_schema(items: Mapping[str, Any], length: int) -> dict[str, Any]:
    return {"type": "array", "items": dict(items), "minItems": length, "maxItems": length}
