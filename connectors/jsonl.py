"""Reads JSONL exactly and tolerantly, and writes it: one bad line is one dead letter, never a lost file.

A row is a non-blank line. ``scan`` reads a file once before the job starts and returns what nothing but reading can tell:
how many rows it has, where its units begin and which type each column needs so that no later line surprises it. Types
follow the values: int64, float64, text, lists, structs; a column with values of different kinds is kept as JSON text.
Integers keep all their digits, NaN and Infinity (which Python writes) are read as such, dates stay text. A line that
repeats a key, is not an object or is not JSON becomes a dead letter with its line number and its raw bytes.

    profile = scan(store, path, codec="", start=0, stop=size)
    profile.num_rows, profile.schema()
    for table in read(store, path, codec="", unit=unit, piece=piece, schema=schema, block_rows=4096): ...
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import orjson
import pyarrow as pa

from connectors.errors import UserError
from connectors.schema import (
    DEAD_TYPE,
    add_address,
    is_json,
    json_field,
    widen,
)
from connectors.storage import Store
from connectors.units import Range, Unit

CODECS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
"""Codec by the last suffix of a file's name; anything else is plain."""

CHUNK_BYTES = 8 << 20
BLOCK_BYTES = 16 << 20
"""A block is cut at this many bytes of text, or at its number of rows."""
MAX_STRUCT_FIELDS = 512
"""An object with more different keys than this is a map, not a struct: kept as JSON text."""
EXACT_IN_FLOAT = 2**53

_decode = msgspec.json.Decoder().decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Line(NamedTuple):
    """A non-blank line of a file."""

    number: int
    """Line number in the file, from 1."""
    offset: int
    """Byte offset in the file's (decompressed) text."""
    text: bytes


class BadLineError(Exception):
    """Why a line is not a row: a stable code and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(text: bytes) -> dict[str, Any]:
    """The line's object; raises BadLineError."""
    try:
        value = _decode(text)
    except msgspec.DecodeError as error:
        value = _parse_as_python_writes(text, error)
    except RecursionError:
        raise BadLineError("too_deep", "nested too deeply") from None
    except UnicodeDecodeError as error:
        raise BadLineError("invalid_utf8", str(error)) from None
    if type(value) is not dict:
        raise BadLineError("not_an_object", f"the line holds a JSON {_KINDS.get(type(value), 'value')}, need an object")
    for key in value:
        if text.count(f'"{key}"'.encode()) > 1:
            _check_duplicate_keys(text)
            break
    return value


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _parse_as_python_writes(text: bytes, error: msgspec.DecodeError) -> Any:
    """Python's json writes NaN and Infinity, which are not JSON; anything else that is wrong stays wrong."""
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as invalid:
        raise BadLineError("invalid_utf8", str(invalid)) from None
    if "NaN" in decoded or "Infinity" in decoded:
        try:
            return json.loads(decoded)
        except (json.JSONDecodeError, RecursionError):
            pass
    raise BadLineError("invalid_json", str(error)) from None


def _check_duplicate_keys(text: bytes) -> None:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadLineError("duplicate_key", f"key {twice!r} occurs twice in one object")
        return dict(pairs)

    json.loads(text, object_pairs_hook=build)


class Lines:
    """The non-blank lines from byte ``start`` to ``stop``, both at line borders; a compressed file is read whole.

    Iterating raises BadLineError at the end where a compressed stream is cut off or damaged.
    """

    def __init__(
        self, store: Store, path: str, codec: str, start: int = 0, stop: int | None = None, first_line: int = 0
    ) -> None:
        self._chunks = _iter_chunks(store, path, codec, start, stop)
        self._offset = start
        self.number = first_line
        """Lines seen so far, blank ones included."""

    def __iter__(self) -> Iterator[Line]:
        rest = b""
        for chunk in self._chunks:
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for text in lines:
                self.number += 1
                line = _line(self.number, self._offset, text)
                self._offset += len(text) + 1
                if line is not None:
                    yield line
        if rest:
            self.number += 1
            line = _line(self.number, self._offset, rest)
            if line is not None:
                yield line


def _line(number: int, offset: int, text: bytes) -> Line | None:
    if offset == 0:
        if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError("a JSONL input file is UTF-16 text; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
        text = text.removeprefix(b"\xef\xbb\xbf")
    text = text.strip(b" \t\r")
    return Line(number, offset, text) if text else None


def _iter_chunks(store: Store, path: str, codec: str, start: int, stop: int | None) -> Iterator[bytes]:
    if not codec:
        size = stop if stop is not None else _size(store, path)
        for begin in range(start, size, CHUNK_BYTES):
            yield store.read(path, begin, min(begin + CHUNK_BYTES, size))
        return
    with store.open(path) as file:
        stream = gzip.GzipFile(fileobj=file) if codec == "gzip" else pa.CompressedInputStream(file, codec)
        # Small reads: what a damaged stream still yields before the damage is kept.
        read = stream.read1 if codec == "gzip" else stream.read
        while True:
            try:
                chunk = read(64 << 10)
            except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
                raise BadLineError("damaged_file", f"the {codec} stream is cut off or damaged: {error}") from None
            if not chunk:
                return
            yield chunk


def _size(store: Store, path: str) -> int:
    found = store.stat(path)
    if found is None:
        raise FileNotFoundError(store.url(path))
    return found[1]


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


def _fits_parquet(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return 0 < kind.num_fields <= MAX_STRUCT_FIELDS and all(_fits_parquet(item.type) for item in kind)
    if pa.types.is_list(kind):
        return _fits_parquet(kind.value_type)
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
                _follow_groups(profile, line, row and row.get(key))
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


def _follow_groups(profile: Profile, line: Line, key: Any) -> None:
    if profile.num_rows == 0:
        profile.head_key = key
    in_head = profile.head_rows == profile.num_rows and key is not None and key == profile.head_key
    if in_head:
        profile.head_rows += 1
    elif profile.head_stop == 0:
        profile.head_stop, profile.head_lines = line.offset, line.number - 1
    profile.tail_key = key


def _line_borders(store: Store, path: str, start: int, stop: int) -> tuple[int, int]:
    """The first line start at or after each of the two bytes."""
    return _next_line(store, path, start), _next_line(store, path, stop)


def _next_line(store: Store, path: str, position: int) -> int:
    size = _size(store, path)
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


def read(
    store: Store, path: str, codec: str, unit: Unit, piece: Range, schema: pa.Schema, block_rows: int, *, uri: str
) -> Iterator[pa.Table]:
    """The rows of one range of a unit, in blocks: the columns of ``schema`` and the hidden ones."""
    stop = None if codec else unit.start_byte + unit.num_bytes
    lines = iter(Lines(store, path, codec, unit.start_byte, stop, unit.first_line))
    builder = _Block(schema)
    for row in range(piece.stop):
        try:
            line = next(lines, None)
        except BadLineError as error:
            line = None
            if row >= piece.start:
                builder.add_dead(row, Line(0, 0, b""), error)
            continue
        if line is None:
            break
        if row < piece.start:
            continue
        builder.add(row, line)
        if builder.num_rows >= block_rows or builder.num_bytes >= BLOCK_BYTES:
            yield builder.finish(unit, uri)
            builder = _Block(schema)
    if builder.num_rows:
        yield builder.finish(unit, uri)


class _Block:
    """Rows on their way to one Arrow table."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.json_columns = [item.name for item in schema if is_json(item)]
        self.rows: list[dict[str, Any]] = []
        self.lines: list[Line] = []
        self.dead: dict[int, BadLineError] = {}
        self.first_row: int | None = None
        self.num_bytes = 0

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def add(self, row: int, line: Line) -> None:
        try:
            values = parse(line.text)
            if self.json_columns:
                self._keep_json_text(values, line.text)
        except BadLineError as error:
            self.add_dead(row, line, error)
            return
        self._append(row, values, line)

    def add_dead(self, row: int, line: Line, error: BadLineError) -> None:
        self.dead[self.num_rows] = error
        self._append(row, {}, line)

    def _append(self, row: int, values: dict[str, Any], line: Line) -> None:
        if self.first_row is None:
            self.first_row = row
        self.rows.append(values)
        self.lines.append(line)
        self.num_bytes += len(line.text)

    def _keep_json_text(self, values: dict[str, Any], text: bytes) -> None:
        try:
            raw: Mapping[str, Any] = _decode_raw(text)
        except msgspec.DecodeError:  # NaN or Infinity somewhere in the line
            raw = {name: json.dumps(value).encode() for name, value in values.items()}
        for name in self.json_columns:
            if values.get(name) is not None:
                values[name] = bytes(raw[name]).decode()

    def table(self) -> pa.Table:
        return pa.Table.from_arrays([self._column(item) for item in self.schema], schema=self.schema)

    def finish(self, unit: Unit, uri: str) -> pa.Table:
        table, first = self.table(), self.first_row or 0
        origin = unit.first_row + first
        return add_address(table, unit.index, first, uri=uri, first_origin_row=origin, dead=self._dead_column())

    def _column(self, item: pa.Field) -> pa.Array:
        name = item.name
        try:
            return pa.array([row.get(name) for row in self.rows], item.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
        for index, row in enumerate(self.rows):  # rare: find the rows that do not fit, and let only those go
            try:
                pa.array([row.get(name)], item.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                message = (
                    f"column {name!r} does not fit {item.type} ({error}); to keep it, set input.types: {{{name}: json}}"
                )
                self.dead[index] = BadLineError("does_not_fit", message)
                self.rows[index] = {}
        return pa.array([row.get(name) for row in self.rows], item.type)

    def _dead_column(self) -> pa.Array:
        if not self.dead:
            return pa.nulls(self.num_rows, DEAD_TYPE)
        letters: list[dict[str, Any] | None] = [None] * self.num_rows
        for index, error in self.dead.items():
            line = self.lines[index]
            letters[index] = {
                "code": error.code,
                "message": str(error),
                "line": line.number,
                "offset": line.offset,
                "raw": line.text,
            }
        return pa.array(letters, DEAD_TYPE)


def table_of(data: bytes, codec: str, schema: pa.Schema) -> pa.Table:
    """The rows of a whole JSONL file that ``write`` wrote."""
    if codec:
        data = (
            gzip.decompress(data) if codec == "gzip" else pa.CompressedInputStream(pa.BufferReader(data), codec).read()
        )
    block = _Block(schema)
    for row, text in enumerate(data.split(b"\n")[:-1]):
        block.add(row, Line(row + 1, 0, text))
    return block.table()


def write(table: pa.Table) -> bytes:
    """The table as JSONL text: floats with all their digits, columns of JSON text as the JSON they hold."""
    json_columns = [item.name for item in table.schema if is_json(item)]
    out = bytearray()
    for row in table.to_pylist():
        for name in json_columns:
            if row[name] is not None:
                row[name] = orjson.Fragment(row[name])
        out += _encode(row)
        out += b"\n"
    return bytes(out)


def _encode(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=_encode_other)
    except TypeError:  # an integer beyond 64 bits, or a key that is not text
        plain = {
            name: json.loads(value.contents) if isinstance(value, orjson.Fragment) else value
            for name, value in row.items()
        }
        return json.dumps(plain, default=_encode_other, ensure_ascii=False).encode()


def _encode_other(value: Any) -> Any:
    if isinstance(value, bytes):
        raise UserError(
            "a binary column cannot be written as JSONL; write Parquet, or leave it out with output.columns"
        )
    return str(value)
