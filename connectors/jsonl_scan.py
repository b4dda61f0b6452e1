"""Finds out what nothing but reading a JSONL input can tell, once, before the job starts: rows, line borders, types.

Types follow the values: int64, float64, text, lists, structs; a column with values of different kinds is kept as JSON
text, so that no later line surprises the reader (connectors/jsonl.py). Parts of one input are scanned anywhere and
merged.

    profile = scan(store, path, codec="", start=0, stop=size)
    profile.num_rows, profile.schema()
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from connectors.jsonl import BLOCK_BYTES, BadLineError, Line, Lines, parse, size_of
from connectors.schema import json_field, widen
from connectors.storage import Store

MAX_STRUCT_FIELDS = 512
"""An object with more different keys than this is a map, not a struct: kept as JSON text."""
MAX_DEPTH = 50
"""Parquet readers refuse schemas nested deeper than about 100 levels, and a list takes two: kept as JSON text."""
EXACT_IN_FLOAT = 2**53


@dataclass
class Profile:
    """What a part of a file holds; parts of one input merge into one schema."""

    num_rows: int = 0
    num_bad: int = 0
    start: int = 0
    stop: int = 0
    num_lines: int = 0
    """Lines that end inside the part, blank ones included."""
    columns: dict[str, pa.DataType | None] = field(default_factory=dict)
    """Type by column; None is a column of mixed kinds."""
    inexact: set[str] = field(default_factory=set)
    """Columns with integers that float64 cannot hold."""
    head_key: Any = None
    head_rows: int = 0
    head_stop: int = 0
    head_lines: int = 0
    tail_key: Any = None

    def merge(self, other: "Profile") -> None:
        """Take in another part's columns and counts."""
        self.num_rows += other.num_rows
        self.num_bad += other.num_bad
        self.inexact |= other.inexact
        for name, kind in other.columns.items():
            self.columns[name] = _unite(self.columns[name], kind) if name in self.columns else kind

    def schema(self, as_json: Iterable[str] = ()) -> pa.Schema:
        """The planned schema; columns of mixed kinds, and those in ``as_json``, hold JSON text."""
        chosen, fields = set(as_json), []
        for name, kind in self.columns.items():
            mixed = kind is None or (pa.types.is_float64(kind) and name in self.inexact)
            if mixed or name in chosen or not _fits_parquet(kind):
                fields.append(json_field(name))
            else:
                fields.append(pa.field(name, kind))
        return pa.schema(fields)


def _unite(left: pa.DataType | None, right: pa.DataType | None) -> pa.DataType | None:
    if left is None or right is None:
        return None
    try:
        return widen(left, right)
    except TypeError:
        return _unite_numbers(left, right)


def _unite_numbers(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """JSON has one kind of number: whole numbers and fractions meet in float64, at any depth."""
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (left, right)]
    if all(numbers):
        return pa.float64()
    if pa.types.is_list(left) and pa.types.is_list(right):
        item = _unite(left.value_type, right.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        fields = {item.name: item.type for item in left}
        for item in right:
            kind = _unite(fields[item.name], item.type) if item.name in fields else item.type
            if kind is None:
                return None
            fields[item.name] = kind
        return pa.struct(list(fields.items()))
    return None


def _fits_parquet(kind: pa.DataType, depth: int = 0) -> bool:
    if pa.types.is_struct(kind):
        within = 0 < kind.num_fields <= MAX_STRUCT_FIELDS and depth < MAX_DEPTH
        return within and all(_fits_parquet(item.type, depth + 1) for item in kind)
    if pa.types.is_list(kind):
        return depth < MAX_DEPTH and _fits_parquet(kind.value_type, depth + 1)
    return True


def scan(store: Store, path: str, codec: str, start: int, stop: int, key: str | None = None) -> Profile:
    """Read the lines that begin in bytes ``start`` to ``stop`` of the file: counts, exact borders and column types.

    ``key`` names a group column: the profile then also tells where its first group ends and which key it ends with.
    """
    profile = Profile()
    if codec:
        profile.stop = stop
    else:
        profile.start, profile.stop = _line_borders(store, path, start, stop)
    lines = Lines(store, path, codec, profile.start, None if codec else profile.stop)
    rows: list[dict[str, Any]] = []
    size = 0
    try:
        for line in lines:
            row = _try_parse(line.text)
            if row is None:
                profile.num_bad += 1
            else:
                rows.append(row)
                size += len(line.text)
            if key is not None:
                _follow_groups(profile, line, row, key)
            profile.num_rows += 1
            if size >= BLOCK_BYTES:
                _add_types(profile, rows)
                rows, size = [], 0
    except BadLineError:  # the file is damaged from here on: one more row, which will be a dead letter
        profile.num_rows += 1
        profile.num_bad += 1
    _add_types(profile, rows)
    profile.num_lines = lines.number
    return profile


def _try_parse(text: bytes) -> dict[str, Any] | None:
    try:
        return parse(text)
    except BadLineError:
        return None


def _follow_groups(profile: Profile, line: Line, row: dict[str, Any] | None, name: str) -> None:
    """Take in the row's key; a line that is no row belongs to the rows around it, see ``connectors/groups.py``."""
    at_head = profile.head_rows == profile.num_rows
    if row is None:
        profile.head_rows += at_head
        return
    key = row.get(name)
    if at_head and profile.head_key is None:
        profile.head_key = key
    if at_head and key is not None and key == profile.head_key:
        profile.head_rows += 1
    elif profile.head_stop == 0:
        profile.head_stop, profile.head_lines = line.offset, line.number - 1
    profile.tail_key = key


def _line_borders(store: Store, path: str, start: int, stop: int) -> tuple[int, int]:
    """The first line start at or after each of the two bytes."""
    return _next_line(store, path, start), _next_line(store, path, stop)


def _next_line(store: Store, path: str, position: int) -> int:
    size = size_of(store, path)
    if position == 0 or position >= size:
        return min(position, size)
    at = position - 1
    while at < size:
        chunk = store.read(path, at, min(at + (1 << 16), size))
        newline = chunk.find(b"\n")
        if newline >= 0:
            return at + newline + 1
        at += len(chunk)
    return size


def _add_types(profile: Profile, rows: list[dict[str, Any]]) -> None:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    part = Profile()
    for name in names:
        values = [row.get(name) for row in rows]
        kind = _infer(values)
        part.columns[name] = kind
        if kind is not None and _has_inexact_integers(kind, values):
            part.inexact.add(name)
    profile.merge(part)


def _infer(values: list[Any]) -> pa.DataType | None:
    """The Arrow type that holds all values exactly, or None where there is none."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) > 1 and kinds != {int, float}:
        return None
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None
    except OverflowError:
        return _wide_integers(values)


def _wide_integers(values: list[Any]) -> pa.DataType | None:
    try:
        return pa.array(values, pa.uint64()).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None


def _has_inexact_integers(kind: pa.DataType, values: list[Any]) -> bool:
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return False
    return any(type(value) is int and not -EXACT_IN_FLOAT <= value <= EXACT_IN_FLOAT for value in values)
