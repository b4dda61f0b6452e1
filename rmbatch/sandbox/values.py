"""Reads the values that come out of the sandbox: plain data of built-in types, or an object of which nothing is known.

``harness.encoded`` is the other half. What is read here was written next to a hostile program, so anything that is not
in the form is refused, and nothing is ever imported, called or unpickled.

    decoded(["t", [1, "a"]])         # (1, "a")
    decoded(["o", "m.Point", True])  # Thing("m.Point", True): equal to nothing
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, eq=False)
class Thing:
    """An object that is no plain data; it equals nothing, whatever its own ``__eq__`` would say."""

    kind: str
    truth: bool | None

    def __bool__(self) -> bool:
        return bool(self.truth)


@dataclass(frozen=True)
class Written:
    """A date, time, duration, range or deque, by its type and how it is written."""

    kind: str
    text: str


class UnreadableError(ValueError):
    """What came out is not in the form: the program wrote it, not the harness."""


_MOST_DIGITS = 20_000
"""Digits of a fraction or decimal: a program can choose those that take for ever to read."""
_MOST_COLLISIONS = 10_000_000
"""Pairs of items of one hash in a set or dict: a program can choose items that take for ever to be told apart."""
_WRITTEN = {kind.__name__ for kind in (date, datetime, time, timedelta)} | {"range", "deque"}


def shown(value: Any) -> str:
    """A value as it is written, short."""
    if isinstance(value, Thing):
        return f"an object of type {value.kind[:80]}"
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of over 4,300 digits
        return "a number too long to show"
    except RecursionError:
        return "a value nested too deeply to show"
    return text if len(text) <= 80 else f"{text[:80]}…"


def decoded(item: Any) -> Any:
    """The value that was written down as ``item``. Raises UnreadableError."""
    if item is None or isinstance(item, bool | int | str):
        return item
    try:
        return _decoded(item[0], item[1:])
    except (ValueError, TypeError, IndexError, KeyError, RecursionError, InvalidOperation, ZeroDivisionError) as fault:
        raise UnreadableError from fault


def _decoded(tag: Any, parts: Any) -> Any:
    if tag == "i":
        return int(parts[0], 16)
    if tag == "f":
        return float.fromhex(parts[0])
    if tag == "l":
        return list(map(decoded, parts[0]))
    if tag == "t":
        return tuple(map(decoded, parts[0]))
    if tag in ("D", "F") and max(map(len, parts)) > _MOST_DIGITS:
        raise UnreadableError
    if tag == "s":
        return frozenset(_hashable(parts[0]))
    if tag == "d":
        return dict(zip(_hashable([key for key, _ in parts[0]]), [decoded(value) for _, value in parts[0]]))
    if tag == "b":
        return bytes.fromhex(parts[0])
    if tag == "c":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if tag == "D":
        return Decimal(parts[0])
    if tag == "F":
        return Fraction(int(parts[0], 16), int(parts[1], 16))
    if tag == "x" and parts[0] in _WRITTEN:
        return Written(parts[0], str(parts[1]))
    if tag == "o":
        return Thing(str(parts[0]), parts[1] if parts[1] is None else bool(parts[1]))
    raise UnreadableError


def _hashable(items: Any) -> list[Any]:
    """The values of the items, which can be told apart in a reasonable time."""
    values = list(map(decoded, items))
    alike = Counter(map(hash, values))
    if len(alike) < len(values) and sum(count * count for count in alike.values()) > _MOST_COLLISIONS:
        raise UnreadableError
    return values
