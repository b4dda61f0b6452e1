"""Parses many lines of JSONL at once, or says that the lines must be parsed one by one.

The result for a run is the same as ``parse`` (jsonl_read.py) gives for each line, but as columns. Where this is not
certain, there is no result: for bad lines, lines that only Python's own parser reads, blanks around lines, unknown
keys, and keys that may occur twice. The caller then parses these lines one by one, which is slower.

    parser = RunParser(["prompt", "response"])
    for run, columns in split_run(run, parser, parser.parse):
        columns                 # {"prompt": [...], "response": [...]}; None: parse run.lines() one by one
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
"""Lines with more keys are parsed one by one: a run has few of them, and each column costs time in each run."""
FEW_LINES = 16
"""A run of so few lines is not split again."""

Columns = Mapping[str, list[Any]]
"""The values of lines, by key. None: the line lacks the key or has null."""

_KEY_END = re.compile(rb'(?:(?<!\\)|(?<=\\\\))"[ \t\r]*:')
"""Matches the ends of keys, and of texts that look like one. A quote after a single backslash is inside a text."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OPEN, _CLOSE, _COLON, _QUOTE, _BACKSLASH = b'{}:"\\'


class RunParser:
    """Parses runs of lines whose objects have no other keys than ``keys``."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self._decode = _build_lines_decoder(self.keys, Any, strict=True)
        self._getters = [attrgetter(f"f{place}") for place in range(len(self.keys))]

    @property
    def can_parse(self) -> bool:
        """Whether lines with these keys can be parsed many at once."""
        return self._decode is not None

    def unreadable(self, run: Run) -> list[int]:
        """Find the places of lines that this parser cannot read even alone."""
        return [place for place, (start, stop) in enumerate(run.borders()) if not self._can_read(run.text[start:stop])]

    def _can_read(self, line: memoryview) -> bool:
        if not line or line[0] != _OPEN:
            return False
        try:
            return len(self._decode(line)) == 1
        except _UNREADABLE:
            return False

    def parse(self, run: Run) -> Columns | None:
        """Parse a run to values by key. None: parse its lines one by one."""
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
                num_keys += _count_nested_keys(values)
            columns[key] = values
        return columns if _has_no_other_keys(num_keys, run) else None


def split_run(run: Run, parser: RunParser, parse: Callable[[Run], T | None]) -> Iterator[tuple[Run, T | None]]:
    """Split a run into parts, each with its parsed result. None: parse the lines of this part one by one.

    ``parse`` is the function to call; it uses ``parser``.
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
            yield from split_run(run.slice(start, stop), parser, parse)


class RawParser:
    """Gets the JSON text of values, exactly as the lines have it, from runs that a ``RunParser`` has read."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self._decode = _build_lines_decoder(self.keys, msgspec.Raw, strict=False)

    @property
    def can_parse(self) -> bool:
        """Whether values with these keys can be read."""
        return self._decode is not None

    def parse(self, run: Run) -> dict[str, list[str | None]]:
        """Get the text of each value, by key. None: the line lacks the key or has null."""
        if not self.keys:
            return {}
        assert self._decode is not None
        rows = self._decode(run.text)
        return {key: [_decode_text(getattr(row, f"f{place}")) for row in rows] for place, key in enumerate(self.keys)}


_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def extract_raw_values(text: bytes, values: Mapping[str, Any]) -> dict[str, str]:
    """Get the JSON text of each value of a line, exactly as the line has it."""
    try:
        raw: dict[str, Any] = _decode_raw(text)
    except msgspec.DecodeError:  # NaN or Infinity somewhere in the line
        return {name: json.dumps(value) for name, value in values.items()}
    return {name: bytes(value).decode() for name, value in raw.items()}


def _decode_text(raw: msgspec.Raw | UnsetType) -> str | None:
    text = b"null" if isinstance(raw, UnsetType) else bytes(raw)
    return None if text == b"null" else text.decode()


def _build_lines_decoder(keys: Sequence[str], kind: Any, *, strict: bool) -> Any:
    """Build a decoder of lines to objects with the values of ``keys`` as f0, f1 ... None: the keys do not allow it."""
    if len(keys) > MAX_KEYS:
        return None
    fields = [(f"f{place}", kind, msgspec.field(default=UNSET, name=key)) for place, key in enumerate(keys)]
    try:
        row = msgspec.defstruct("Row", fields, gc=False, forbid_unknown_fields=strict)
    except ValueError:  # a key with quotes, backslashes or control characters
        return None
    return msgspec.json.Decoder(row).decode_lines


def is_object_a_line(run: Run) -> bool:
    """Whether each line begins with { and ends with }, so that no value continues in the next line."""
    if run.has_long_line:
        return False
    last = run.starts + run.sizes - 1
    return bool((run.data[run.starts] == _OPEN).all() and (run.data[last] == _CLOSE).all())


def _has_no_other_keys(num_keys: int, run: Run) -> bool:
    """Whether the lines have only these keys. Duplicates count, and so do texts that look like a key."""
    found = run.data == _COLON
    if np.count_nonzero(found) == num_keys:
        return True
    colons = _find_true(found)
    before = run.data[colons - 1]
    if (before <= ord(" ")).any():
        return len(_KEY_END.findall(run.text)) == num_keys
    ends = colons[before == _QUOTE]
    escaped = ends[run.data[ends - 2] == _BACKSLASH]
    return len(ends) - int(np.count_nonzero(run.data[escaped - 3] != _BACKSLASH)) == num_keys


def _find_true(found: np.ndarray) -> np.ndarray:
    """Compute ``np.flatnonzero(found)`` eight at a time: three times as fast if few are true."""
    whole = len(found) & ~7
    words = np.flatnonzero(found[:whole].view(np.uint64) != 0)
    inside = np.flatnonzero(found[:whole].reshape(-1, 8)[words])
    places = (words[inside >> 3] << 3) + (inside & 7)
    return np.concatenate((places, np.flatnonzero(found[whole:]) + whole))


def _count_nested_keys(values: Sequence[Any]) -> int:
    """Count the keys at all depths. Too few are possible: a list counts if its first item may have keys."""
    kinds = set(map(type, values))
    if dict not in kinds and list not in kinds:
        return 0
    objects = values if kinds == {dict} else [value for value in values if type(value) is dict]
    lists = [value for value in values if type(value) is list and value and type(value[0]) in (dict, list)]
    inner = list(chain(chain.from_iterable(map(dict.values, objects)), chain.from_iterable(lists)))
    return sum(map(len, objects)) + _count_nested_keys(inner)
