"""Finds single rows in the files of an output: by a value in a column, by position, and by their address.

Files hold no addresses, but commit records do: the rows of a record's file of one part are the record's rows that had
this outcome, in the order of the record's ranges.

    for index, row in find_value(folder, "data/u000000-….parquet", "id", "q17"): ...   # a table of one row
    place = locate(ledger, ledger.commits(), Range(0, 17, 18))                          # part, file and row in it
    address_of(ledger, ledger.commits(), "data/u000000-….parquet", 3)                   # Range(0, 17, 18)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from connectors.commit import OUTCOMES, PARTS, Commit
from connectors.errors import UserError
from connectors.formats import parquet
from connectors.formats.base import find_codec, find_format
from connectors.formats.jsonl import decompress, parse_table
from connectors.formats.lines import CODECS
from connectors.ledger import Ledger
from connectors.storage import Folder
from connectors.units import Range, total_rows

BLOCK_ROWS = 65_536
MAX_ROWS = 1 << 62


@dataclass(frozen=True)
class Place:
    """Where the output has a row."""

    part: str
    """data, rejected or dead_letters."""
    path: str | None
    """Of the file, relative to the output folder. None: the job does not write rows of this part."""
    index: int
    """The row's number in the file, from 0."""
    record: Commit


def locate(ledger: Ledger, commits: Iterable[Commit], address: Range) -> Place | None:
    """Find the place of the first row of a range. None: no record covers it."""
    for record in commits:
        before = 0
        for piece in record.ranges:
            if piece.unit == address.unit and piece.start <= address.start < piece.stop:
                position = before + address.start - piece.start
                outcomes = ledger.outcomes(record)
                part = PARTS[int(outcomes[position])]
                index = int(np.count_nonzero(outcomes[:position] == outcomes[position]))
                path = next((file.path for file in record.files if file.part == part), None)
                return Place(part, path, index, record)
            before += piece.num_rows
    return None


def address_of(ledger: Ledger, commits: Iterable[Commit], path: str, index: int) -> tuple[Range, Commit] | None:
    """Find the address of a row of a file, as a range of one row, and its record. None: no record names the file."""
    for record in commits:
        for file in record.files:
            if file.path == path:
                positions = np.flatnonzero(ledger.outcomes(record) == OUTCOMES[file.part])
                return _nth_row(record.ranges, int(positions[index])), record
    return None


def _nth_row(ranges: Sequence[Range], position: int) -> Range:
    for piece in ranges:
        if position < piece.num_rows:
            return Range(piece.unit, piece.start + position, piece.start + position + 1)
        position -= piece.num_rows
    raise IndexError(f"the record has {total_rows(ranges)} rows")


def find_value(
    folder: Folder, path: str, column: str, value: str, schema: pa.Schema | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Find the rows of a file whose ``column`` is ``value`` as text: their numbers in the file, and tables of one row.

    Parquet: row groups whose statistics exclude the value are not read, and of the others only the column until a row
    matches. JSONL: only lines that hold the text are parsed. ``schema``: of JSONL's rows; None: as their values say.
    """
    if _is_parquet(path):
        yield from _find_in_parquet(folder, path, column, value)
        return
    needle = orjson.dumps(value)[1:-1] or b'""'
    for index, line in _lines_with(_read_text(folder, path), needle):
        if as_text(orjson.loads(line).get(column)) == value:
            yield index, _parse_line(line, schema)


def read_row(folder: Folder, path: str, index: int, schema: pa.Schema | None = None) -> pa.Table:
    """Read one row of a file as a table. Raises UserError where the file has no such row."""
    if _is_parquet(path):
        tables = list(parquet.read(folder.store, folder.path(path), index, index + 1, None, 1))
        if tables:
            return tables[0]
    else:
        lines = _read_text(folder, path).split(b"\n")[:-1]
        if index < len(lines):
            return _parse_line(lines[index], schema)
    raise UserError(f"{folder.url}/{path} has no row {index}; rows are counted from 0")


def read_letters(folder: Folder, path: str) -> list[pa.Table]:
    """Read a file of dead letters."""
    return list(parquet.read(folder.store, folder.path(path), 0, MAX_ROWS, None, BLOCK_ROWS))


def read_values(folder: Folder, path: str, column: str, limit: int) -> list[str]:
    """The first values of a column as text, at most ``limit`` of them; nulls are left out."""
    if _is_parquet(path):
        found: list[str] = []
        for table in parquet.read(folder.store, folder.path(path), 0, limit, [column], limit):
            if column in table.column_names:
                found += [text for text in map(as_text, table[column].to_pylist()) if text is not None]
        return found
    lines = _read_text(folder, path).split(b"\n", limit)[:limit]
    values = (as_text(orjson.loads(line).get(column)) for line in lines if line)
    return [value for value in values if value is not None]


def read_columns(folder: Folder, path: str, columns: Sequence[str], schema: pa.Schema | None) -> Iterator[pa.Table]:
    """Read columns of a file, in blocks. ``schema``: of JSONL's rows."""
    if _is_parquet(path):
        yield from parquet.read(folder.store, folder.path(path), 0, MAX_ROWS, columns, BLOCK_ROWS)
        return
    assert schema is not None
    yield parse_table(_read_text(folder, path), pa.schema([schema.field(name) for name in columns]))


def as_text(value: object) -> str | None:
    """A value as a person would name it: text as it is, anything else as JSON. None: null."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, default=str).decode()


def _is_parquet(path: str) -> bool:
    return find_format(path) == "parquet"


def _find_in_parquet(folder: Folder, path: str, column: str, value: str) -> Iterator[tuple[int, pa.Table]]:
    first = 0
    with parquet.open_file(folder.store, folder.path(path)) as file:
        if column not in file.schema_arrow.names:
            return
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            if _may_hold(group, column, value):
                values = file.read_row_group(number, columns=[column])[column].combine_chunks()
                places = _places_of(values, value)
                if len(places):
                    table = file.read_row_group(number)
                    yield from ((first + int(place), table.slice(int(place), 1)) for place in places)
            first += group.num_rows


def _places_of(values: pa.Array, value: str) -> np.ndarray:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.flatnonzero(np.asarray(pc.fill_null(pc.equal(values, value), False)))
    return np.flatnonzero([as_text(each) == value for each in values.to_pylist()])


def _may_hold(group: Any, column: str, value: str) -> bool:
    """Whether the statistics of a row group allow the value. True where there are none."""
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema == column and chunk.is_stats_set and chunk.statistics.has_min_max:
            low, high = chunk.statistics.min, chunk.statistics.max
            if isinstance(low, str):
                return bool(low <= value <= high)
            if type(low) is int:
                return value.lstrip("-").isdecimal() and low <= int(value) <= high
    return True


def _read_text(folder: Folder, path: str) -> bytes:
    return decompress(folder.read(path), find_codec(path, CODECS))


def _lines_with(text: bytes, needle: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of the lines that hold the bytes."""
    number = position = 0
    while (found := text.find(needle, position)) >= 0:
        start = text.rfind(b"\n", 0, found) + 1
        end = text.find(b"\n", found)
        number += text.count(b"\n", position, start)
        end = len(text) if end < 0 else end
        yield number, text[start:end]
        position = end


def _parse_line(line: bytes, schema: pa.Schema | None) -> pa.Table:
    if schema is None:
        return pa.Table.from_pylist([orjson.loads(line)])
    return parse_table(line + b"\n", schema)
