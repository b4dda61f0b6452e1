"""The base of formats whose files have a footer: plans from footers, reads by row groups.

Such a format implements how to read a footer and how to read rows, as ``connectors/formats/parquet.py`` does.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from connectors.borders import Border, keep_groups_whole
from connectors.faults import explain_errors
from connectors.formats.base import Planned, PlanRequest, ReadRequest
from connectors.schema import add_address, conform, unite
from connectors.storage import PARALLEL_REQUESTS, StorageOptions, Store, open_url
from connectors.units import InputFile, Unit


class Footer(NamedTuple):
    """The footer of a file."""

    schema: pa.Schema
    row_groups: list[tuple[int, int]]
    """The rows and uncompressed bytes of each row group."""


class FooterFormat(ABC):
    """A format with footers. The keys of hive partitions become columns."""

    codecs: Mapping[str, str] = {}
    is_scanned = False

    @abstractmethod
    def read_footer(self, store: Store, path: str) -> Footer:
        """Read a footer. Raises UserError if the file is not of this format, JobError if it cannot be read."""

    @abstractmethod
    def read_rows(
        self, store: Store, path: str, start: int, stop: int, columns: Sequence[str] | None, block_rows: int
    ) -> Iterator[pa.Table]:
        """Read rows ``start`` to ``stop`` in blocks of at most ``block_rows``, without columns that the file lacks."""

    def plan(self, files: Sequence[InputFile], request: PlanRequest) -> Planned:
        """See ``Format.plan``."""

        def footer(file: InputFile) -> Footer:
            with explain_errors(file.uri):
                return self.read_footer(*open_url(file.uri, request.options))

        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            footers = list(pool.map(footer, files))
        named = zip((file.uri for file in files), (footer.schema for footer in footers), strict=True)
        schema = _add_partition_columns(unite(named), files)
        planned, units, key = [], [], request.group_key
        for index, (file, found) in enumerate(zip(files, footers, strict=True)):
            cut = list(_cut_row_groups(index, found.row_groups, request.unit_bytes))
            if key is not None and key in found.schema.names:
                cut = keep_groups_whole(cut, [self._border(file, request.options, unit, key) for unit in cut])
            units += cut
            planned.append(replace(file, num_rows=sum(rows for rows, _ in found.row_groups)))
        return Planned(planned, units, schema, {})

    def _border(self, file: InputFile, options: StorageOptions, unit: Unit, key: str) -> Border:
        if unit.num_rows == 0:
            return Border(None, None, 0, 0, 0)
        store, path = open_url(file.uri, options)
        start, stop = unit.first_row, unit.first_row + unit.num_rows
        keys = pa.chunked_array([
            chunk for table in self.read_rows(store, path, start, stop, [key], 1 << 20) for chunk in table[key].chunks
        ])  # fmt: skip
        first, last = keys[0], keys[-1]
        differs = pc.index(pc.fill_null(pc.not_equal(keys, first), True), True).as_py() if first.is_valid else 0
        rows = len(keys) if differs < 0 else differs
        return Border(first.as_py(), last.as_py(), rows, unit.num_bytes * rows // unit.num_rows, 0)

    def read(self, request: ReadRequest) -> Iterator[pa.Table]:
        """See ``Format.read``."""
        file, unit, piece, schema = request.file, request.unit, request.piece, request.schema
        row, origin = piece.start, unit.first_row + piece.start
        stop = unit.first_row + piece.stop
        for table in self.read_rows(request.store, request.path, origin, stop, schema.names, request.block_rows):
            rows = conform(_add_partition_values(table, file, schema), schema)
            yield add_address(rows, unit.index, row, uri=file.uri, first_origin_row=origin)
            row, origin = row + table.num_rows, origin + table.num_rows


def _cut_row_groups(file: int, row_groups: Sequence[tuple[int, int]], unit_bytes: int) -> Iterator[Unit]:
    first, rows, size = 0, 0, 0
    for group_rows, group_bytes in row_groups:
        if rows and size + group_bytes > unit_bytes:
            yield Unit(0, file, first, rows, size)
            first, rows, size = first + rows, 0, 0
        rows, size = rows + group_rows, size + group_bytes
    yield Unit(0, file, first, rows, size)


_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,17}")
"""The form in which int64 is printed, so no value changes: 007 stays text."""


def _add_partition_columns(schema: pa.Schema, files: Sequence[InputFile]) -> pa.Schema:
    values: dict[str, set[str | None]] = {}
    for file in files:
        for name, value in file.partition:
            values.setdefault(name, set()).add(value)
    for name, found in values.items():
        if name not in schema.names:
            whole = all(_WHOLE_NUMBER.fullmatch(value) for value in found if value is not None) and found != {None}
            schema = schema.append(pa.field(name, pa.int64() if whole else pa.string()))
    return schema


def _add_partition_values(table: pa.Table, file: InputFile, schema: pa.Schema) -> pa.Table:
    for name, value in file.partition:
        if name in schema.names and name not in table.column_names:
            kind = schema.field(name).type
            table = table.append_column(name, pa.repeat(pa.scalar(value).cast(kind), table.num_rows))
    return table
