"""What a judge fills in: reasons, where they are wanted, and one verdict; how it is asked for, and how it is read.

    form = scale(1, 10, whole=True, critique=True)
    form.schema                                      # for servers that hold answers to a JSON schema
    form.instructions("json_schema")                 # for the prompt, whether or not they do
    form.read('{"critique": "…", "score": 7}', "json_schema").value          # 7.0

Values are read strictly (``verdict.py``): what is not clear is none.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmbatch.judges.verdict import Reading, choice, json_object, number, ranking, tagged

CRITIQUE = "critique"
_LIST = re.compile(r"\[?\s*([0-9]+(?:\s*[,;]\s*[0-9]+)*)\s*\]?")
_NUMBERS = re.compile(r"\[?\s*(-?[0-9.]+(?:\s*[,;]\s*-?[0-9.]+)*)\s*\]?")
_CRITIQUE = re.compile(rf"<{CRITIQUE}>.*?(?:</{CRITIQUE}>|\Z)", re.DOTALL | re.IGNORECASE)
_ENUM_MOST = 101
"""Whole numbers of a scale that are listed in a schema; more are bounded."""


@dataclass(frozen=True)
class Form:
    """One verdict, and how it is written."""

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
        """JSON schema of the whole answer, in the order in which it is to be written: reasons first."""
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

    def read(self, text: str, structured: str) -> Reading[Any]:
        """The verdict in an answer, or why there is none."""
        if structured != "text":
            answer = json_object(text, self.schema)
            return self.parse(answer.value[self.field]) if answer.value is not None else Reading(None, answer.reason)
        stated = _CRITIQUE.sub("", text)  # what is quoted in reasons is no verdict, nor what reasons that never end say
        found = tagged(stated, self.field)
        if found.value is not None:
            return self.parse(found.value)
        answer = json_object(stated)  # some models answer in JSON whatever they are told
        if f"<{self.field}>" not in stated and answer.value is not None and self.field in answer.value:
            return self.parse(answer.value[self.field])
        return Reading(None, found.reason)

    def critique_in(self, text: str, structured: str) -> str:
        """The reasons in an answer whose verdict was read; all of it where they are not set apart."""
        if not self.critique:
            return ""
        if structured == "text":
            return tagged(text, CRITIQUE).value or text.strip()
        answer = json_object(text, self.schema).value
        return str(answer[CRITIQUE]).strip() if answer else text.strip()


def scale(low: float, high: float, *, whole: bool, critique: bool) -> Form:
    """A number from low (worst) to high (best)."""
    kind = "a whole number" if whole else "a number"
    says = f"{kind} from {low:g} (worst) to {high:g} (best)"
    return Form(
        "score", says, _number_schema(low, high, whole), lambda said: number(said, low, high, whole=whole), critique
    )


def violations(num_principles: int, *, critique: bool) -> Form:
    """Which principles are violated: their numbers, from 1."""
    value = {"type": "array", "items": {"type": "integer", "enum": list(range(1, num_principles + 1))}}
    says = "the numbers of the principles that are violated, separated by commas, as a list; an empty list if none is"

    def parse(said: object) -> Reading[tuple[int, ...]]:
        if isinstance(said, str):
            text = said.strip().strip(".").lower()
            if text in ("none", "[]"):
                return Reading(())
            match = _LIST.fullmatch(text)
            if match is None:
                return Reading(None, f"verdict_malformed: {said[:80]!r} is no list of principles")
            said = [int(each) for each in re.findall("[0-9]+", match[1])]
        if not isinstance(said, list) or not all(type(each) is int for each in said):
            return Reading(None, f"verdict_malformed: {str(said)[:80]!r} is no list of principles")
        wrong = [each for each in said if not 1 <= each <= num_principles]
        if wrong:
            return Reading(None, f"verdict_out_of_range: there are {num_principles} principles, and no {wrong[0]}")
        return Reading(tuple(sorted(set(said))))

    return Form("violated", says, value, parse, critique)


def better_of_two(*, ties: bool, critique: bool) -> Form:
    """A, B or, if allowed, tie."""
    labels = {"A": "A", "B": "B"} | ({"tie": "tie"} if ties else {})
    known = labels | ({"C": "tie"} if ties else {})
    says = '"A", "B" or "tie"' if ties else '"A" or "B"'
    return Form("better", says, {"type": "string", "enum": list(labels)}, lambda said: choice(said, known), critique)


def best_of_list(num_responses: int, *, critique: bool) -> Form:
    """The number of the best response, from 1."""

    labels = {str(each): each for each in range(1, num_responses + 1)}

    def parse(said: object) -> Reading[int]:
        if isinstance(said, str):
            return choice(said, labels)
        reading = number(said, 1, num_responses, whole=True)
        return Reading(None, reading.reason) if reading.value is None else Reading(int(reading.value))

    value = _number_schema(1, num_responses, True)
    return Form("best", "the number of the best response", value, parse, critique)


def order_of_list(num_responses: int, *, critique: bool) -> Form:
    """The numbers of all responses, the best first."""
    labels = [str(each) for each in range(1, num_responses + 1)]

    def parse(said: object) -> Reading[tuple[int, ...]]:
        reading = ranking(said, labels)
        return Reading(None, reading.reason) if reading.value is None else Reading(tuple(map(int, reading.value)))

    value = _list_schema({"type": "integer", "enum": list(range(1, num_responses + 1))}, num_responses)
    says = f"the numbers of all {num_responses} responses, the best first, as a list separated by commas"
    return Form("ranking", says, value, parse, critique)


def numbers_of_steps(num_steps: int, low: float, high: float, *, whole: bool, critique: bool) -> Form:
    """A number for each step."""
    kind = "a whole number" if whole else "a number"
    says = f"a list of {num_steps} entries, for each step {kind} from {low:g} (wrong) to {high:g} (right)"

    def parse(said: object) -> Reading[tuple[float, ...]]:
        if isinstance(said, str):
            match = _NUMBERS.fullmatch(said.strip())
            if match is None:
                return Reading(None, f"verdict_malformed: {said[:80]!r} is no list of numbers")
            said = re.split(r"\s*[,;]\s*", match[1])
        if not isinstance(said, Sequence) or len(said) != num_steps:
            return Reading(None, f"verdict_malformed: a number for each of {num_steps} steps is needed")
        readings = [number(each, low, high, whole=whole) for each in said]
        wrong = next((each.reason for each in readings if each.value is None), None)
        return Reading(None, wrong) if wrong else Reading(tuple(each.value for each in readings))  # type: ignore[misc]

    return Form("steps", says, _list_schema(_number_schema(low, high, whole), num_steps), parse, critique)


def _number_schema(low: float, high: float, whole: bool) -> dict[str, Any]:
    if whole and high - low < _ENUM_MOST:
        return {"type": "integer", "enum": list(range(math.ceil(low), math.floor(high) + 1))}
    return {"type": "integer" if whole else "number", "minimum": low, "maximum": high}


def _list_schema(items: Mapping[str, Any], length: int) -> dict[str, Any]:
    return {"type": "array", "items": dict(items), "minItems": length, "maxItems": length}
