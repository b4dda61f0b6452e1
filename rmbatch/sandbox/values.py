"""Reads the values that come out of the sandbox: plain data of built-in types, or an opaque object.

``harness.encode`` writes them, next to a program that may be hostile. So this module refuses anything malformed, and
imports, calls and unpickles nothing.

    decode(["t", [1, "a"]])         # (1, "a")
    decode(["o", "m.Point", True])  # OpaqueObject("m.Point", True): equal to nothing
    write_found([["v", ["t", [1]]]])  # text that is equal for equal values: (1,), [1] and [1.0]
"""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, eq=False)
class OpaqueObject:
    """An object that is no plain data. It equals nothing, whatever its own ``__eq__`` would say."""

    kind: str
    truth: bool | None

    def __bool__(self) -> bool:
        return bool(self.truth)


@dataclass(frozen=True)
class ReprValue:
    """A date, time, duration, range or deque, as its type and its repr."""

    kind: str
    text: str


class UnreadableError(ValueError):
    """What came out is malformed: the program wrote it, not the harness."""


_MOST_DIGITS = 20_000
"""Digits of a fraction or decimal: a program can write numbers that take for ever to read."""
_MOST_COLLISIONS = 10_000_000
"""Pairs of items with one hash in a set or dict: a program can choose items that take for ever to compare."""
_REPR_KINDS = {kind.__name__ for kind in (date, datetime, time, timedelta)} | {"range", "deque"}


def format_value(value: Any) -> str:
    """The value's repr, shortened."""
    if isinstance(value, OpaqueObject):
        return f"an object of type {value.kind[:80]}"
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of over 4,300 digits
        return "a number too long to show"
    except RecursionError:
        return "a value nested too deeply to show"
    return text if len(text) <= 80 else f"{text[:80]}…"


def decode(item: Any) -> Any:
    """The value that ``item`` encodes. Raises UnreadableError."""
    if item is None or isinstance(item, bool | int | str):
        return item
    try:
        return _decode_tagged(item[0], item[1:])
    except (ValueError, TypeError, IndexError, KeyError, RecursionError, InvalidOperation, ZeroDivisionError) as fault:
        raise UnreadableError from fault


def _decode_tagged(tag: Any, parts: Any) -> Any:
    if tag == "i":
        return int(parts[0], 16)
    if tag == "f":
        return float.fromhex(parts[0])
    if tag == "l":
        return list(map(decode, parts[0]))
    if tag == "t":
        return tuple(map(decode, parts[0]))
    if tag in ("D", "F") and max(map(len, parts)) > _MOST_DIGITS:
        raise UnreadableError
    if tag == "s":
        return frozenset(_decode_hashable(parts[0]))
    if tag == "d":
        return dict(zip(_decode_hashable([key for key, _ in parts[0]]), [decode(value) for _, value in parts[0]]))
    if tag == "b":
        return bytes.fromhex(parts[0])
    if tag == "c":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if tag == "D":
        return Decimal(parts[0])
    if tag == "F":
        return Fraction(int(parts[0], 16), int(parts[1], 16))
    if tag == "x" and parts[0] in _REPR_KINDS:
        return ReprValue(parts[0], str(parts[1]))
    if tag == "o":
        return OpaqueObject(str(parts[0]), parts[1] if parts[1] is None else bool(parts[1]))
    raise UnreadableError


def _decode_hashable(items: Any) -> list[Any]:
    """The values of the items. Raises UnreadableError where too many share a hash."""
    values = list(map(decode, items))
    alike = Counter(map(hash, values))
    if len(alike) < len(values) and sum(count * count for count in alike.values()) > _MOST_COLLISIONS:
        raise UnreadableError
    return values


def write_found(found: Any) -> str | None:
    """What a test has found, as text that is equal for equal values, as ``same_value`` compares them.

    ``found``: the list that ``harness.run_steps`` makes. None where a value is no plain data, which equals nothing, or
    is malformed.
    """
    try:
        return json.dumps([_canonical_result(result) for result in found])
    except (ValueError, TypeError, IndexError, RecursionError, OverflowError):
        return None


def _canonical_result(result: Any) -> list[Any]:
    """A value, or the two that are compared; an exception or the number of assertions as it is."""
    return [result[0], *map(_canonical, result[1:3])] if result[0] in ("v", "p") else list(result)


def _canonical(item: Any) -> Any:
    """An encoded value whose numbers are of one kind, sequences of one kind, and whose sets and keys are in order."""
    if item is None or isinstance(item, str):
        return item
    if isinstance(item, int):  # also True, which equals 1
        return ["#", hex(item)]
    tag, content = item[0], item[1]
    if tag == "i":
        return ["#", content]
    if tag == "f":
        number = float.fromhex(content)
        return ["#", hex(int(number)) if number.is_integer() else content]
    if tag in ("l", "t"):
        return ["l", [_canonical(each) for each in content]]
    if tag == "s":
        return ["s", sorted(map(_canonical, content), key=json.dumps)]
    if tag == "d":
        return ["d", sorted(([_canonical(key), _canonical(value)] for key, value in content), key=json.dumps)]
    if tag == "o":
        raise ValueError("no plain data")
    return item
