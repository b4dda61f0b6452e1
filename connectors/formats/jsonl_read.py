"""Reads JSONL. A bad line becomes a dead letter; the rest of the file is read.

Each non-blank line is a row. Integers keep all digits, NaN and Infinity (which Python writes) are accepted, and dates
stay text. A line that repeats a key, is not an object or is not JSON becomes a dead letter, with its line number and
raw bytes. The column types are not found here, but by connectors/formats/jsonl_scan.py when the job is planned.

    for table in read(request, codec=""): ...
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow as pa

from connectors.formats.base import ReadRequest
from connectors.formats.jsonl_runs import extract_raw_values, is_object_a_line
from connectors.formats.jsonl_tables import DOES_NOT_FIT, RunTables
from connectors.formats.lines import BadLineError, Line, Lines
from connectors.formats.shapes import find_odd_places
from connectors.schema import DEAD_TYPE, add_address, find_twins, is_json, is_strict

BLOCK_BYTES = 16 << 20
BLOCK_CELLS = 16 << 20
"""A block ends at this many bytes of text, at this many cells, or at the requested number of rows."""

_decode = msgspec.json.Decoder().decode


def parse_line(line: Line) -> dict[str, Any]:
    """Parse a line to its object. Raises BadLineError."""
    if line.too_long:
        raise BadLineError(
            "line_too_long",
            f"the line has {line.too_long:,} bytes; to read it, set input.max_line_mb to "
            f"{-(-line.too_long >> 20)} or more. Only its beginning is kept here",
        )
    return parse(line.text)


def parse(text: bytes) -> dict[str, Any]:
    """Parse the text of a line to its object. Raises BadLineError."""
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
    num_keys = _count_keys(value)
    if text.count(b":") != num_keys and _count_key_ends(text) != num_keys:
        _check_duplicate_keys(text)
    return value


_KEY_END = re.compile(rb'"[ \t\r]*:')


def _count_key_ends(text: bytes) -> int:
    """Count the keys in the text, with duplicates. Too many are possible: strings that look like a key count too."""
    return len(_KEY_END.findall(text))


def _count_keys(value: dict[str, Any]) -> int:
    """Count the keys at all depths. Too few are possible: a list counts only if its first item may have keys."""
    count = 0
    pending: list[Any] = [value]
    for item in pending:
        if type(item) is dict:
            count += len(item)
            pending += [inner for inner in item.values() if type(inner) is dict or type(inner) is list]
        elif type(item) is list and item and (type(item[0]) is dict or type(item[0]) is list):
            pending += item
    return count


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _parse_as_python_writes(text: bytes, error: msgspec.DecodeError) -> Any:
    """Parse a line with NaN or Infinity, which Python writes though they are not JSON. Other errors stay errors."""
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as invalid:
        raise BadLineError("invalid_utf8", str(invalid)) from None
    if "NaN" in decoded or "Infinity" in decoded:
        try:
            value = json.loads(decoded)
            orjson.dumps(value)  # Python also accepts lone surrogates, and integers that fit no column
        except (ValueError, TypeError, RecursionError):
            pass
        else:
            return value
    raise BadLineError("invalid_json", str(error)) from None


def _check_duplicate_keys(text: bytes) -> None:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise BadLineError("duplicate_key", f"key {twice!r} occurs twice in one object")
        return found

    try:
        json.loads(text, object_pairs_hook=build)
    except RecursionError:
        raise BadLineError("too_deep", "nested too deeply") from None


def read(request: ReadRequest, codec: str) -> Iterator[pa.Table]:
    """Read one range of a unit in blocks, with the columns of the schema and the hidden ones."""
    unit, piece = request.unit, request.piece
    stop = None if codec else unit.start_byte + unit.num_bytes
    first, limit = unit.first_line, request.max_line_bytes
    source = Lines(request.store, request.path, codec, unit.start_byte, stop, first, max_line_bytes=limit)
    tables = RunTables(request.schema, request.keys or request.schema.names)
    blocks = _Blocks(request)
    try:
        for part in source:
            if isinstance(part, Line):
                yield from blocks.add_lines([part])
            elif blocks.row + part.num_lines <= piece.start and is_object_a_line(part):
                blocks.row += part.num_lines
            else:
                for run, table in tables.split(part):
                    yield from blocks.add_lines(run.lines()) if table is None else blocks.add_table(table, run.sizes)
            if blocks.row >= piece.stop:
                break
    except BadLineError as error:
        yield from blocks.add_dead(source.unfinished, error)
    yield from blocks.finish()


class _Blocks:
    """Cuts tables and lines into blocks. Rows outside the range are left out."""

    def __init__(self, request: ReadRequest) -> None:
        self._request = request
        self._max_rows = min(request.block_rows, max(BLOCK_CELLS // max(len(request.schema), 1), 1))
        self.row = 0
        """The number of rows of the unit so far."""
        self._first = request.piece.start
        self._begin()

    def _begin(self) -> None:
        self._parts: list[tuple[pa.Table, pa.Array | None]] = []
        self._block = Block(self._request.schema)
        self._num_rows = self._num_bytes = 0

    def add_lines(self, lines: Iterable[Line]) -> Iterator[pa.Table]:
        """Add lines one by one. Yield the blocks that are now complete."""
        for line in lines:
            if self._is_next_wanted():
                self._block.add(line)
                yield from self._count(1, len(line.text))

    def add_dead(self, line: Line, error: BadLineError) -> Iterator[pa.Table]:
        """Add a line that is not a row."""
        if self._is_next_wanted():
            self._block.add_dead(line, error)
            yield from self._count(1, len(line.text))

    def _is_next_wanted(self) -> bool:
        self.row += 1
        return self._request.piece.start < self.row <= self._request.piece.stop

    def add_table(self, table: pa.Table, sizes: np.ndarray) -> Iterator[pa.Table]:
        """Add a table of rows. ``sizes``: the lengths of their lines."""
        piece = self._request.piece
        first, last = max(piece.start - self.row, 0), min(piece.stop - self.row, table.num_rows)
        self.row += table.num_rows
        while first < last:
            self._finish_lines()
            until = np.cumsum(sizes[first:last])
            full = int(np.searchsorted(until, BLOCK_BYTES - self._num_bytes)) + 1
            num_rows = min(last - first, self._max_rows - self._num_rows, full)
            self._parts.append((table.slice(first, num_rows), None))
            first += num_rows
            yield from self._count(num_rows, int(until[num_rows - 1]))

    def _finish_lines(self) -> None:
        if self._block.num_rows:
            self._parts.append((self._block.table(), self._block.dead_column()))
            self._block = Block(self._request.schema)

    def _count(self, num_rows: int, num_bytes: int) -> Iterator[pa.Table]:
        self._num_rows += num_rows
        self._num_bytes += num_bytes
        if self._num_rows >= self._max_rows or self._num_bytes >= BLOCK_BYTES:
            yield from self.finish()

    def finish(self) -> Iterator[pa.Table]:
        """Yield the rows that are left."""
        if not self._num_rows:
            return
        self._finish_lines()
        unit, uri, first = self._request.unit, self._request.file.uri, self._first
        table = pa.concat_tables([table for table, _ in self._parts]).combine_chunks()
        dead = None
        if any(dead is not None for _, dead in self._parts):
            nulls = [pa.nulls(table.num_rows, DEAD_TYPE) if dead is None else dead for table, dead in self._parts]
            dead = pa.concat_arrays(nulls)
        self._first += self._num_rows
        self._begin()
        yield add_address(table, unit.index, first, uri=uri, first_origin_row=unit.first_row + first, dead=dead)


class Block:
    """Collects lines into one Arrow table."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.twins = find_twins(schema)
        self.strict = [item.name for item in schema if is_strict(item)]
        self.json_columns = [item.name for item in schema if is_json(item) and item.name not in self.twins.values()]
        self.rows: list[dict[str, Any]] = []
        self.lines: list[Line] = []
        self.dead: dict[int, BadLineError] = {}

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def add(self, line: Line) -> None:
        """Add a line."""
        try:
            values = parse_line(line)
            if self.json_columns:
                raw = extract_raw_values(line.text, values)
                for name in self.json_columns:
                    if values.get(name) is not None:
                        values[name] = raw[name]
        except BadLineError as error:
            self.add_dead(line, error)
            return
        self.rows.append(values)
        self.lines.append(line)

    def add_dead(self, line: Line, error: BadLineError) -> None:
        """Add a line that is not a row."""
        self.dead[self.num_rows] = error
        self.rows.append({})
        self.lines.append(line)

    def table(self) -> pa.Table:
        """Make the table. Rows with a value that does not fit its column become dead."""
        self._put_odd_values_aside()
        cells = self._cells()
        return pa.Table.from_arrays([self._column(item, cells) for item in self.schema], schema=self.schema)

    def _put_odd_values_aside(self) -> None:
        """Move odd values to the twin of their column, or make their rows dead letters."""
        for name in [*self.twins, *self.strict]:
            kind = self.schema.field(name).type
            for index in find_odd_places([row.get(name) for row in self.rows], kind):
                row = self.rows[index]
                if name in self.twins:
                    row[self.twins[name]] = extract_raw_values(self.lines[index].text, row)[name]
                    row[name] = None
                else:
                    message = (
                        f"column {name!r} is {kind} in nearly all rows, and this row's value is not; to keep it, set "
                        "input.odd_values: json_twin"
                    )
                    self.dead[index] = BadLineError("odd_value", message)
                    self.rows[index] = {}

    def _cells(self) -> Mapping[str, list[Any]] | None:
        """Collect the values by column, if most cells are empty. None: it is faster to ask each row."""
        num_rows = self.num_rows
        if 4 * sum(map(len, self.rows)) > num_rows * len(self.schema):
            return None
        cells: dict[str, list[Any]] = {}
        for index, row in enumerate(self.rows):
            for name, value in row.items():
                if name not in cells:
                    cells[name] = [None] * num_rows
                cells[name][index] = value
        return cells

    def _column(self, item: pa.Field, cells: Mapping[str, list[Any]] | None) -> pa.Array:
        name = item.name
        if cells is not None and name not in cells:
            return pa.nulls(self.num_rows, item.type)
        try:
            return pa.array([row.get(name) for row in self.rows] if cells is None else cells[name], item.type)
        except DOES_NOT_FIT:
            pass
        for index, row in enumerate(self.rows):  # rare: find the rows that do not fit, only these become dead
            try:
                pa.array([row.get(name)], item.type)
            except DOES_NOT_FIT as error:
                message = (
                    f"column {name!r} does not fit {item.type} ({error}); to keep it, set input.types: {{{name}: json}}"
                )
                self.dead[index] = BadLineError("does_not_fit", message)
                self.rows[index] = {}
        return pa.array([row.get(name) for row in self.rows], item.type)

    def dead_column(self) -> pa.Array:
        """Make the DEAD column: the reason for dead rows, null for the others."""
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
