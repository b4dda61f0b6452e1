"""Parses many lines of JSONL at once, or says that these lines have to be looked at one by one.

The result for a run of lines is what ``parse`` (jsonl_read.py) gives for each, as columns; where that is not certain
there is none: for a line that is bad or that only Python's own parser reads, for blanks around lines, for a key that
nobody expects, and where a key may occur twice. So whoever reads runs needs the slow way too, and loses only time.

    parser = RunParser(["prompt", "response"])
    for run, columns in split(run, parser, parser.parse):
        columns                 # {"prompt": [...], "response": [...]}; None: look at run.lines() one by one
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from connectors.formats.lines import Run

T = TypeVar("T")

MAX_KEYS = 256
"""Rows with more keys have few lines in a run, and each column has a price for each run."""
FEW_LINES = 16
"""So few lines are not worth another try."""

Columns = Mapping[str, list[Any]]
"""The values of lines by key; None where a line lacks the key or says null."""

_KEY_END = re.compile(rb'(?:(?<!\\)|(?<=\\\\))"[ \t\r]*:')
"""Ends of keys; also of what may be one. A quote behind one backslash is inside of a text."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OPEN, _CLOSE, _COLON, _QUOTE, _BACKSLASH = b'{}:"\\'


class RunParser:
    """Parses runs of lines whose objects have no other keys than ``keys``."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self._decode = _lines_decoder(self.keys, Any, strict=True)
        self._getters = [attrgetter(f"f{place}") for place in range(len(self.keys))]

    @property
    def can_parse(self) -> bool:
        """Whether any lines of objects with these keys could be parsed at once."""
        return self._decode is not None

    def unreadable(self, run: Run) -> list[int]:
        """Places of lines that this parser cannot read even alone."""
        return [place for place, (start, stop) in enumerate(run.borders()) if not self._can_read(run.text[start:stop])]

    def _can_read(self, line: memoryview) -> bool:
        if not line or line[0] != _OPEN:
            return False
        try:
            return len(self._decode(line)) == 1
        except _UNREADABLE:
            return False

    def parse(self, run: Run) -> Columns | None:
        """The values by key; None where some line has to be looked at."""
        if self._decode is None or not is_object_a_line(run):
            return None
        try:
            rows = self._decode(run.text)
        except _UNREADABLE:
            return None
        if len(rows) != run.num_lines:
            return None
        columns, num_keys = {}, 0
        for key, getter in zip(self.keys, self._getters):
            values: list[Any] = list(map(getter, rows))
            kinds = set(map(type, values))
            num_keys += len(values)
            if UnsetType in kinds:
                num_keys -= values.count(UNSET)
                values = [None if value is UNSET else value for value in values]
            if dict in kinds or list in kinds:
                num_keys += _num_nested_keys(values)
            columns[key] = values
        return columns if _has_only(num_keys, run) else None


def split(run: Run, parser: RunParser, parse: Callable[[Run], T | None]) -> Iterator[tuple[Run, T | None]]:
    """The run in parts, each with what it was parsed to, or None where its lines have to be looked at one by one.

    ``parse`` goes by what ``parser`` makes of a run.
    """
    parsed = parse(run) if parser.can_parse else None
    if parsed is not None or not parser.can_parse or run.num_lines <= FEW_LINES:
        yield run, parsed
        return
    unreadable = parser.unreadable(run)
    if len(unreadable) * 4 * FEW_LINES > run.num_lines:
        yield run, None
        return
    cuts = list(chain.from_iterable((place, place + 1) for place in unreadable)) or [run.num_lines // 2]
    for start, stop in pairwise([0, *cuts, run.num_lines]):
        if start < stop:
            yield from split(run.slice(start, stop), parser, parse)


class RawParser:
    """The JSON text of values as lines have it, of runs that a ``RunParser`` has read."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self._decode = _lines_decoder(self.keys, msgspec.Raw, strict=False)

    @property
    def can_parse(self) -> bool:
        """Whether values with these keys can be found."""
        return self._decode is not None

    def parse(self, run: Run) -> dict[str, list[str | None]]:
        """The text of each value by key; None where a line lacks the key or says null."""
        if not self.keys:
            return {}
        assert self._decode is not None
        rows = self._decode(run.text)
        return {key: [_text(getattr(row, f"f{place}")) for row in rows] for place, key in enumerate(self.keys)}


_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def raw_values(text: bytes, values: Mapping[str, Any]) -> dict[str, str]:
    """The JSON text of each value of a line, as the line has it."""
    try:
        raw: dict[str, Any] = _decode_raw(text)
    except msgspec.DecodeError:  # NaN or Infinity somewhere in the line
        return {name: json.dumps(value) for name, value in values.items()}
    return {name: bytes(value).decode() for name, value in raw.items()}


def _text(raw: msgspec.Raw | UnsetType) -> str | None:
    text = b"null" if isinstance(raw, UnsetType) else bytes(raw)
    return None if text == b"null" else text.decode()


def _lines_decoder(keys: Sequence[str], kind: Any, *, strict: bool) -> Any:
    """Decodes lines to objects with the values of ``keys`` as f0, f1 ...; None where that cannot be said."""
    if len(keys) > MAX_KEYS:
        return None
    fields = [(f"f{place}", kind, msgspec.field(default=UNSET, name=key)) for place, key in enumerate(keys)]
    try:
        row = msgspec.defstruct("Row", fields, gc=False, forbid_unknown_fields=strict)
    except ValueError:  # a key with quotes, backslashes or control characters
        return None
    return msgspec.json.Decoder(row).decode_lines


def is_object_a_line(run: Run) -> bool:
    """Whether each line begins with { and ends with }, so that no value goes on in the next line."""
    if run.has_long_line:
        return False
    last = run.starts + run.sizes - 1
    return bool((run.data[run.starts] == _OPEN).all() and (run.data[last] == _CLOSE).all())


def _has_only(num_keys: int, run: Run) -> bool:
    """Whether the lines have no more keys than these, duplicates counted; False also where a text looks like one."""
    found = run.data == _COLON
    if np.count_nonzero(found) == num_keys:
        return True
    colons = _places(found)
    before = run.data[colons - 1]
    if (before <= ord(" ")).any():
        return len(_KEY_END.findall(run.text)) == num_keys
    ends = colons[before == _QUOTE]
    escaped = ends[run.data[ends - 2] == _BACKSLASH]
    return len(ends) - int(np.count_nonzero(run.data[escaped - 3] != _BACKSLASH)) == num_keys


def _places(found: np.ndarray) -> np.ndarray:
    """``np.flatnonzero(found)``, eight at a time, which is three times as fast where few are true."""
    whole = len(found) & ~7
    words = np.flatnonzero(found[:whole].view(np.uint64) != 0)
    inside = np.flatnonzero(found[:whole].reshape(-1, 8)[words])
    places = (words[inside >> 3] << 3) + (inside & 7)
    return np.concatenate((places, np.flatnonzero(found[whole:]) + whole))


def _num_nested_keys(values: Sequence[Any]) -> int:
    """At most as many keys as the values have at all depths; lists count if their first item could have some."""
    kinds = set(map(type, values))
    if dict not in kinds and list not in kinds:
        return 0
    objects = values if kinds == {dict} else [value for value in values if type(value) is dict]
    lists = [value for value in values if type(value) is list and value and type(value[0]) in (dict, list)]
    inner = list(chain(chain.from_iterable(map(dict.values, objects)), chain.from_iterable(lists)))
    return sum(map(len, objects)) + _num_nested_keys(inner)
