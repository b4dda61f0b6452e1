"""Rewards for responses that are to be JSON: valid, equal to a reference, of the form a schema asks for.

The JSON is the last fenced block of the response (three backticks, bare or followed by ``json``), else the whole text.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pyarrow as pa

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import (
    Memo,
    RowScore,
    map_different_pairs,
    map_pairs,
    map_texts,
    score_too_long,
    to_scores,
)
from rmbatch.settings.extras import require

MAX_DEPTH = 250
"""Levels of nesting that are compared or validated."""
MAX_STEPS = 2_000_000
"""Comparisons of two values that lists in any order may take; some seconds."""

Load = Callable[[str], tuple[Any, str | None]]
"""From a text to its JSON value, or what is wrong with it."""
_LONG_NUMBER = re.compile(r"[0-9]{19}")
_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:json|JSON|Json)?[ \t]*$", re.MULTILINE)


@reward("json_valid")
def json_valid(response: pa.Array) -> Scores:
    """1.0 where the response is JSON (RFC 8259), or its last fenced block is, else 0.0.

    response[n] text -> score[n] float64 in {0, 1}; the reason says what is wrong, and where. NaN, comments and
    trailing commas are not JSON; an empty text is not.
    Null response: null. Null with a code: ``too_deep``, over 1,024 levels, which are not parsed.
    Source: orjson, https://github.com/ijl/orjson.
    """
    return to_scores(map_texts(response, lambda text: _parse_response(text)[1] or (1.0, None, None)))


@reward("json_match")
def json_match(
    response: pa.Array, reference: pa.Array, *, strict_order: bool = True, ignore_extra_keys: bool = False
) -> Scores:
    """1.0 where the response is the same JSON value as the reference, else 0.0.

    response[n] text, reference[n] text (JSON) -> score[n] float64 in {0, 1}; the reason names the first place that
    differs. Keys have no order; 1 and 1.0 are equal, 1 and true are not;
    integers of any size are exact. ``strict_order=False``: lists are equal in any
    order. ``ignore_extra_keys``: objects of the response may have keys that the reference has not.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it is no JSON; ``too_deep``, over 250
    levels; ``too_long``, lists that take over 2,000,000 comparisons in any order.
    Source: OpenJudge, ``json_match``, https://github.com/agentscope-ai/OpenJudge.
    """
    golds = Memo(_load_exactly)

    def score_row(text: str, gold: str) -> RowScore:
        right, fault = golds[gold]
        if fault is not None:
            return None, f"unparsable_reference: {fault}", None
        value, failed = _parse_response(text, _load_exactly)
        if failed:
            return failed
        try:
            place = _Comparison(strict_order, ignore_extra_keys).find_difference(value, right)
        except _TooDeepError:
            return None, f"too_deep: nested over {MAX_DEPTH} levels", None
        except _TooManyError as many:
            return score_too_long("comparisons of items in any order", many.args[0], MAX_STEPS)
        return (1.0, None, None) if place is None else (0.0, None, f"differs at {place[:200]}")

    return to_scores(map_pairs(response, reference, score_row))


@reward("json_schema_match")
class JsonSchemaMatch:
    """1.0 where the response is JSON that the reference, a JSON schema, allows, else 0.0.

    response[n] text, reference[n] text (a schema each) -> score[n] float64 in {0, 1}; the reason says what is not
    allowed. The draft is the one that ``$schema`` names, else 2020-12. Patterns take linear time; a ``$ref`` to another
    document is not fetched.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it is no JSON or no schema;
    ``too_deep``, over 250 levels. UserError where jsonschema-rs is not installed.
    Source: JSON Schema, https://json-schema.org, by jsonschema-rs, https://github.com/Stranger6667/jsonschema.
    """

    def __init__(self) -> None:
        require("rules", "json_schema_match", "jsonschema_rs")
        import jsonschema_rs

        self._library = jsonschema_rs

    def __call__(self, response: pa.Array, reference: pa.Array) -> Scores:
        schemas = Memo(self._validator)

        def score_row(text: str, gold: str) -> RowScore:
            validator, fault = schemas[gold]
            if fault is not None:
                return None, f"unparsable_reference: {fault}", None
            value, failed = _parse_response(text)
            if failed:
                return failed
            if _is_deep(value):
                return None, f"too_deep: nested over {MAX_DEPTH} levels", None
            fault = next(validator.iter_errors(value), None)
            return (1.0, None, None) if fault is None else (0.0, None, fault.message[:200])

        return to_scores(map_different_pairs(response, reference, score_row))

    def _validator(self, gold: str) -> tuple[Any, str | None]:
        schema, fault = _load(gold)
        if fault is not None:
            return None, fault
        if _is_deep(schema):
            return None, f"nested over {MAX_DEPTH} levels"
        try:
            linear = self._library.RegexOptions()
            return self._library.validator_for(schema, pattern_options=linear, offline=True), None
        except (ValueError, self._library.ReferencingError) as invalid:  # ValidationError is a ValueError
            return None, str(invalid).splitlines()[0][:200]


class _TooDeepError(Exception):
    """Nested over MAX_DEPTH levels."""


class _TooManyError(Exception):
    """Too many items to compare in any order."""


def _find_fenced(text: str) -> str:
    """The text between the last two fences, or the whole text."""
    fences = list(_FENCE.finditer(text)) if "```" in text else []
    return text[fences[-2].end() : fences[-1].start()] if len(fences) > 1 else text


def _load(text: str) -> tuple[Any, str | None]:
    try:
        return orjson.loads(text), None
    except orjson.JSONDecodeError as fault:
        return None, str(fault)


def _load_exactly(text: str) -> tuple[Any, str | None]:
    """As ``_load``, with integers beyond 64 bits as they are, which orjson reads as floats."""
    value, fault = _load(text)
    if fault is None and _LONG_NUMBER.search(text):
        with suppress(RecursionError):  # deeper than what is compared
            value = json.loads(text)
    return value, fault


def _parse_response(text: str, load: Load = _load) -> tuple[Any, RowScore | None]:
    """The JSON value of a response, or the score of one that has none."""
    value, fault = load(_find_fenced(text))
    if fault is None:
        return value, None
    if fault.startswith("depth limit"):
        return None, (None, f"too_deep: {fault}", None)
    return None, (0.0, None, f"no JSON: {fault}")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


class _Comparison:
    """Compares values with references; raises _TooDeepError or _TooManyError."""

    def __init__(self, strict_order: bool, ignore_extra_keys: bool) -> None:
        self._strict, self._extra = strict_order, ignore_extra_keys
        self._steps = 0

    def find_difference(self, value: Any, gold: Any, place: str = "$", depth: int = MAX_DEPTH) -> str | None:
        """Where the value first differs from the reference, or None."""
        if not depth:
            raise _TooDeepError
        self._steps += not self._strict
        if self._steps > MAX_STEPS:
            raise _TooManyError(self._steps)
        if isinstance(value, dict) and isinstance(gold, dict):
            missing = next((key for key in gold if key not in value), None)
            more = None if self._extra else next((key for key in value if key not in gold), None)
            if missing is not None or more is not None:
                return f"{place}.{missing if missing is not None else more}"
            places = (
                self.find_difference(value[key], right, f"{place}.{key[:40]}", depth - 1) for key, right in gold.items()
            )
            return next(filter(None, places), None)
        if isinstance(value, list) and isinstance(gold, list):
            if len(value) != len(gold):
                return place
            if not self._strict:
                return None if self._same_items(value, gold, depth) else place
            items = (
                self.find_difference(one, right, f"{place}[{index}]", depth - 1)
                for index, (one, right) in enumerate(zip(value, gold))
            )
            return next(filter(None, items), None)
        same = value == gold and isinstance(value, bool) == isinstance(gold, bool)
        return None if same else place

    def _same_items(self, value: list[Any], gold: list[Any], depth: int) -> bool:
        """Whether each item of the reference finds one of its own, in any order: a perfect matching."""
        holder: dict[int, int] = {}  # by item of the response: the item of the reference that has it
        fits: dict[tuple[int, int], bool] = {}

        def fit(place: int, item: int) -> bool:
            if (place, item) not in fits:
                fits[place, item] = self.find_difference(value[item], gold[place], "", depth - 1) is None
            return fits[place, item]

        for place in range(len(gold)):
            free = (item for item in range(len(value)) if item not in holder and fit(place, item))
            found = next(free, None)
            if found is not None:
                holder[found] = place
            # Where equal items are interchangeable, the first that fits is as good as any.
            elif not self._extra or not self._make_room(place, holder, fit, len(value)):
                return False
        return True

    def _make_room(self, place: int, holder: dict[int, int], fit: Callable[[int, int], bool], num_items: int) -> bool:
        """Give ``place`` an item, by moving others along an augmenting path (Kuhn); False where there is none."""
        reached_from: dict[int, int] = {}
        waiting = [place]
        for mover in waiting:
            for item in range(num_items):
                self._steps += 1
                if self._steps > MAX_STEPS:
                    raise _TooManyError(self._steps)
                if item in reached_from or not fit(mover, item):
                    continue
                reached_from[item] = mover
                if item in holder:
                    waiting.append(holder[item])
                    continue
                while True:  # hand the items along, back to ``place``
                    taker = reached_from[item]
                    given_up = next((one for one, has in holder.items() if has == taker), None)
                    holder[item] = taker
                    if given_up is None:
                        return True
                    item = given_up
        return False
