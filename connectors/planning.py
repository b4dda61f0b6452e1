"""Plans an input: how its files are cut into units, and which schema holds all of their rows.

Parquet is planned from footers, and units are runs of row groups. JSONL is read once, in parallel, because nothing but
reading tells how many rows there are, where lines begin and which types their values need; units are byte ranges that
begin at a line. What was found is kept in the plan: a restart reads neither footers nor data.

Adjacent groups (rows of one prompt standing next to each other) are never cut: a border that falls inside a group moves
to the group's end.

    dataset = plan_dataset(list_input(...), options, unit_bytes=64 << 20)
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from connectors import parquet
from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.faults import explained
from connectors.jsonl_scan import MAX_COLUMNS, OddValues, Profile, Source, scan
from connectors.lines import MAX_LINE_BYTES
from connectors.listing import Listing, codec_of
from connectors.schema import unite
from connectors.storage import PARALLEL_REQUESTS, StorageOptions, open_url
from connectors.units import InputFile, Unit

A = TypeVar("A")
B = TypeVar("B")

MapInOrder = Callable[[Callable[[A], B], Sequence[A]], Iterable[B]]
"""Runs a function over items, somewhere, and gives the results in order (lazily, so that a limit can stop early)."""


@dataclass(frozen=True)
class JsonlOptions:
    """How JSONL is read."""

    as_json: Collection[str] = ()
    """Columns to keep as JSON text, whatever their values are."""
    odd_values: OddValues = "json_twin"
    """What becomes of values that are not of the type of nearly all rows."""
    join_keys: Collection[str] = ()
    """Columns whose values are compared with each other."""
    max_line_bytes: int = MAX_LINE_BYTES
    max_columns: int = MAX_COLUMNS


def plan_dataset(
    listing: Listing,
    options: StorageOptions,
    *,
    unit_bytes: int,
    limit: int | None = None,
    group_key: str | None = None,
    jsonl: JsonlOptions | None = None,
    run: MapInOrder[Any, Any] = map,
) -> InputDataset:
    """The planned input. ``limit``: only the first rows. ``group_key``: a column whose equal neighbours stay whole."""
    jsonl = jsonl or JsonlOptions()
    mixed: dict[str, dict[str, Any]] = {}
    if listing.format == "parquet":
        files, units, schema = _plan_parquet(listing.files, options, unit_bytes, group_key)
    else:
        files, units, (schema, mixed) = _plan_jsonl(listing.files, options, unit_bytes, limit, jsonl, group_key, run)
    if group_key is not None and group_key not in schema.names:
        raise UserError(f"input.group.by names column {group_key!r}, the input has {', '.join(schema.names)}")
    units = [unit for unit in units if unit.num_rows]
    if limit is not None:
        units = _first_rows(units, limit)
    numbered = {index: replace(unit, index=index) for index, unit in enumerate(units)}
    return InputDataset(listing.format, schema, dict(enumerate(files)), numbered, options, jsonl.max_line_bytes, mixed)


def _first_rows(units: Sequence[Unit], limit: int) -> list[Unit]:
    kept = []
    for unit in units:
        if limit <= 0:
            break
        kept.append(unit if unit.num_rows <= limit else replace(unit, num_rows=limit))
        limit -= unit.num_rows
    return kept


def _plan_parquet(
    files: Sequence[InputFile], options: StorageOptions, unit_bytes: int, key: str | None
) -> tuple[list[InputFile], list[Unit], pa.Schema]:
    def footer(file: InputFile) -> parquet.Footer:
        with explained(file.uri):
            return parquet.read_footer(*open_url(file.uri, options))

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        footers = list(pool.map(footer, files))
    named = zip((file.uri for file in files), (footer.schema for footer in footers), strict=True)
    schema = _with_partitions(unite(named), files)
    planned, units = [], []
    for index, (file, found) in enumerate(zip(files, footers, strict=True)):
        cut = list(_cut_row_groups(index, found.row_groups, unit_bytes))
        if key is not None and key in found.schema.names:
            cut = _keep_groups_whole(cut, [_parquet_border(file, options, unit, key) for unit in cut])
        units += cut
        planned.append(replace(file, num_rows=sum(rows for rows, _ in found.row_groups)))
    return planned, units, schema


def _cut_row_groups(file: int, row_groups: Sequence[tuple[int, int]], unit_bytes: int) -> Iterator[Unit]:
    first, rows, size = 0, 0, 0
    for group_rows, group_bytes in row_groups:
        if rows and size + group_bytes > unit_bytes:
            yield Unit(0, file, first, rows, size)
            first, rows, size = first + rows, 0, 0
        rows, size = rows + group_rows, size + group_bytes
    yield Unit(0, file, first, rows, size)


_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,17}")
"""As int64 writes it, so that no value changes: 007 stays text."""


def _with_partitions(schema: pa.Schema, files: Sequence[InputFile]) -> pa.Schema:
    values: dict[str, set[str | None]] = {}
    for file in files:
        for name, value in file.partition:
            values.setdefault(name, set()).add(value)
    for name, found in values.items():
        if name not in schema.names:
            whole = all(_WHOLE_NUMBER.fullmatch(value) for value in found if value is not None) and found != {None}
            schema = schema.append(pa.field(name, pa.int64() if whole else pa.string()))
    return schema


@dataclass(frozen=True)
class _Part:
    """A byte range of a JSONL file to scan."""

    file: int
    uri: str
    codec: str
    start: int
    stop: int
    key: str | None
    options: StorageOptions
    max_line_bytes: int
    max_columns: int


def scan_part(part: _Part) -> Profile:
    """What one part of one file holds; runs wherever ``run`` puts it."""
    store, path = open_url(part.uri, part.options)
    source = Source(store, path, part.codec, part.max_line_bytes, part.max_columns)
    with explained(part.uri):
        return scan(source, part.start, part.stop, part.key)


def _plan_jsonl(
    files: Sequence[InputFile],
    options: StorageOptions,
    unit_bytes: int,
    limit: int | None,
    jsonl: JsonlOptions,
    key: str | None,
    run: MapInOrder[_Part, Profile],
) -> tuple[list[InputFile], list[Unit], tuple[pa.Schema, dict[str, dict[str, Any]]]]:
    parts = [part for index, file in enumerate(files) for part in _parts(index, file, options, unit_bytes, key, jsonl)]
    whole = Profile()
    profiles: dict[int, list[tuple[_Part, Profile]]] = {}
    for part, profile in zip(parts, run(scan_part, parts), strict=False):
        whole.merge(profile, jsonl.max_columns)
        profiles.setdefault(part.file, []).append((part, profile))
        if limit is not None and whole.num_rows >= limit:
            break
    planned, units = list(files), []
    for index, found in profiles.items():
        cut = list(_units_of(index, found))
        if key is not None:
            cut = _keep_groups_whole(cut, [_jsonl_border(profile) for _, profile in found])
        units += cut
        planned[index] = replace(files[index], num_rows=sum(unit.num_rows for unit in cut))
    schema = whole.schema(jsonl.as_json, jsonl.odd_values, jsonl.join_keys)
    if not whole.columns:
        raise UserError(f"no line of the input holds a JSON object; the first file is {files[0].uri}")
    return planned, units, schema


def _parts(
    index: int, file: InputFile, options: StorageOptions, unit_bytes: int, key: str | None, jsonl: JsonlOptions
) -> Iterator[_Part]:
    codec = codec_of(file.uri)
    step = file.size if codec else unit_bytes
    for start in range(0, file.size, max(step, 1)):
        stop = min(start + step, file.size)
        yield _Part(index, file.uri, codec, start, stop, key, options, jsonl.max_line_bytes, jsonl.max_columns)


def _units_of(index: int, found: Sequence[tuple[_Part, Profile]]) -> Iterator[Unit]:
    row, line = 0, 0
    for _, profile in found:
        yield Unit(0, index, row, profile.num_rows, profile.stop - profile.start, profile.start, line)
        row, line = row + profile.num_rows, line + profile.num_lines


@dataclass(frozen=True)
class _Border:
    """The group at a unit's beginning: how far it reaches, and the unit's first and last keys."""

    head_key: Any
    tail_key: Any
    rows: int
    num_bytes: int
    lines: int


def _jsonl_border(profile: Profile) -> _Border:
    return _Border(
        profile.head_key,
        profile.tail_key,
        profile.head_rows,
        (profile.head_stop or profile.stop) - profile.start,
        profile.head_lines,
    )


def _parquet_border(file: InputFile, options: StorageOptions, unit: Unit, key: str) -> _Border:
    if unit.num_rows == 0:
        return _Border(None, None, 0, 0, 0)
    store, path = open_url(file.uri, options)
    start, stop = unit.first_row, unit.first_row + unit.num_rows
    keys = pa.chunked_array([
        chunk for table in parquet.read(store, path, start, stop, [key], 1 << 20) for chunk in table[key].chunks
    ])  # fmt: skip
    first, last = keys[0], keys[-1]
    differs = pc.index(pc.fill_null(pc.not_equal(keys, first), True), True).as_py() if first.is_valid else 0
    rows = len(keys) if differs < 0 else differs
    return _Border(first.as_py(), last.as_py(), rows, unit.num_bytes * rows // unit.num_rows, 0)


def _keep_groups_whole(units: Sequence[Unit], borders: Sequence[_Border]) -> list[Unit]:
    """Move each border inside one file that cuts a group to where the group ends."""
    kept: list[Unit] = []
    tail: Any = None
    for unit, border in zip(units, borders, strict=True):
        goes_on = border.head_key is not None and border.head_key == tail
        unreadable = border.head_key is None and border.rows == unit.num_rows  # goes with the row before it
        if kept and border.rows and (goes_on or unreadable):
            previous = kept[-1]
            kept[-1] = replace(
                previous,
                num_rows=previous.num_rows + border.rows,
                num_bytes=previous.num_bytes + border.num_bytes,
            )
            unit = replace(
                unit,
                first_row=unit.first_row + border.rows,
                num_rows=unit.num_rows - border.rows,
                num_bytes=unit.num_bytes - border.num_bytes,
                start_byte=unit.start_byte + border.num_bytes,
                first_line=unit.first_line + border.lines,
            )
        if unit.num_rows:
            kept.append(unit)
            tail = border.tail_key
    return kept
