"""Reads ranges of rows and chosen columns of Parquet files, and writes Parquet files with page checksums.

Planning reads only footers. Page checksums are always written, and always verified where a file has them. So a flipped
byte is an error and never changes a score.

    footer = read_footer(store, path)                           # class Parquet is the format, see base.py
    for table in read(store, path, start=0, stop=5000, columns=None, block_rows=4096): ...
    writer = Writer(sink, schema, compression="zstd", row_group_rows=None)
"""

import random
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from connectors.errors import JobError, UserError
from connectors.faults import is_transient
from connectors.formats.base import FileSpec
from connectors.formats.footers import Footer, FooterFormat
from connectors.storage import Store

WHOLE_ROW_GROUP_BYTES = 128 << 20
"""Row groups up to this size (uncompressed) are decoded at once. Larger ones are streamed."""
MAX_ATTEMPTS = 10
ROW_GROUP_BYTES = 32 << 20
"""The size in memory of the rows of a written row group, unless the job sets a number of rows."""
SAMPLE_ROWS = 2048
"""Rows by which a writer tells whether the values of a column repeat."""


def read_footer(store: Store, path: str) -> Footer:
    """Read a file's footer. Raises UserError if the file is not Parquet, JobError if it cannot be read."""
    try:
        return _read_footer(store, path)
    except OSError as error:
        raise JobError(f"{store.url(path)} cannot be read: {error}") from error


@retry(
    retry=retry_if_exception(is_transient),
    stop=stop_after_attempt(MAX_ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.1, max=10),
    reraise=True,
)
def _read_footer(store: Store, path: str) -> Footer:
    with open_file(store, path) as file:
        metadata = file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        schema = file.schema_arrow.remove_metadata()
        return Footer(schema, [(group.num_rows, group.total_byte_size) for group in groups])


def open_file(store: Store, path: str) -> pq.ParquetFile:
    """Open a file, with its page checksums verified. Raises UserError if it is not Parquet."""
    source, filesystem = store.parquet_source(path)
    try:
        return pq.ParquetFile(source, filesystem=filesystem, pre_buffer=True, page_checksum_verification=True)
    except pa.ArrowInvalid as error:
        raise UserError(f"{store.url(path)} is not a readable Parquet file: {error}") from None


def read(
    store: Store, path: str, start: int, stop: int, columns: Sequence[str] | None, block_rows: int
) -> Iterator[pa.Table]:
    """Read rows ``start`` to ``stop`` in blocks of at most ``block_rows``. Columns that the file lacks are left out.

    After a temporary fault, reading continues from the last block. A wrong checksum counts as temporary, because bytes
    may flip on their way. A fault that stays is a JobError that names the file.
    """
    done, failures = start, 0
    while True:
        try:
            for table in _read(store, path, done, stop, columns, block_rows):
                yield table
                done, failures = done + table.num_rows, 0
            return
        except OSError as error:
            failures += 1
            if failures >= MAX_ATTEMPTS or not is_transient(error):
                raise JobError(f"{store.url(path)} cannot be read: {error}") from error
            time.sleep(random.uniform(0, min(10.0, 0.1 * 2**failures)))


def _read(
    store: Store, path: str, start: int, stop: int, columns: Sequence[str] | None, block_rows: int
) -> Iterator[pa.Table]:
    with open_file(store, path) as file:
        present = None if columns is None else [name for name in file.schema_arrow.names if name in set(columns)]
        first = 0
        for index in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(index)
            last = first + group.num_rows
            if first < stop and last > start:
                skip, keep = max(start - first, 0), min(stop, last) - first
                yield from _read_group(file, index, group.total_byte_size, skip, keep, present, block_rows)
            first = last


def _read_group(
    file: pq.ParquetFile,
    index: int,
    num_bytes: int,
    skip: int,
    stop: int,
    columns: Sequence[str] | None,
    block_rows: int,
) -> Iterator[pa.Table]:
    if num_bytes <= WHOLE_ROW_GROUP_BYTES:
        table = file.read_row_group(index, columns=columns, use_threads=False).slice(skip, stop - skip)
        for begin in range(0, table.num_rows, block_rows):  # slicing a table without columns gives too many rows
            yield table.slice(begin, min(block_rows, table.num_rows - begin))
        return
    position = 0
    for batch in file.iter_batches(block_rows, row_groups=[index], columns=columns, use_threads=False):
        begin, end = max(skip - position, 0), min(stop - position, batch.num_rows)
        if end > begin:
            yield pa.Table.from_batches([batch.slice(begin, end - begin)])
        position += batch.num_rows
        if position >= stop:
            return


class Writer:
    """Writes a Parquet file. ``num_bytes`` is its approximate size so far."""

    def __init__(self, sink: BinaryIO, schema: pa.Schema, compression: str | None, row_group_rows: int | None) -> None:
        self._sink, self._schema, self._compression = sink, schema, compression or "none"
        self._row_group_rows = row_group_rows
        self._set_pending(None)
        self._writer: pq.ParquetWriter | None = None

    @property
    def num_bytes(self) -> int:
        return self._sink.tell() + self._pending_bytes // 4  # an estimate: pending rows will shrink

    def add(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._pending_bytes += table.nbytes
        if self._row_group_rows:
            while self._pending_rows >= self._row_group_rows:
                gathered = pa.concat_tables(self._pending)
                self._write(gathered.slice(0, self._row_group_rows))
                self._set_pending(gathered.slice(self._row_group_rows))
        elif self._pending_bytes >= ROW_GROUP_BYTES:
            self._write(pa.concat_tables(self._pending))
            self._set_pending(None)

    def _set_pending(self, rest: pa.Table | None) -> None:
        self._pending = [] if rest is None else [rest]
        self._pending_rows = 0 if rest is None else rest.num_rows
        self._pending_bytes = 0 if rest is None else rest.nbytes

    def _write(self, table: pa.Table) -> None:
        self._writer = self._writer or self._open(_find_repeating(table))
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def _open(self, repeating: list[str]) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            self._sink, self._schema, compression=self._compression, write_page_checksum=True, use_dictionary=repeating
        )

    def finish(self) -> None:
        if self._pending_rows:
            self._write(pa.concat_tables(self._pending))
        (self._writer or self._open([])).close()


def write(table: pa.Table, spec: FileSpec) -> bytes:
    """Write the table as a Parquet file."""
    sink = BytesIO()
    writer = Writer(sink, spec.schema, spec.compression, spec.row_group_rows)
    writer.add(table)
    writer.finish()
    return sink.getvalue()


def _find_repeating(table: pa.Table) -> list[str]:
    """The leaf columns, by their paths in the file, that are worth a dictionary.

    Parquet gives up a dictionary that gets too large, but only after it was built: a fifth of the time of writing.
    """
    sample = table.slice(0, SAMPLE_ROWS)
    leaves = [leaf for name in table.column_names for leaf in _leaves(name, sample[name].combine_chunks())]
    return [path for path, values in leaves if _repeats(values)]


def _leaves(path: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """The path of each leaf column in the file, and its values."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    kind = values.type
    if pa.types.is_struct(kind):
        for field, part in zip(kind, values.flatten(), strict=True):
            yield from _leaves(f"{path}.{field.name}", part)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", values.keys)
        yield from _leaves(f"{path}.key_value.value", values.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", values.flatten())
    else:
        yield path, values


def _repeats(values: pa.Array) -> bool:
    """Whether at least half of the values are ones that came before."""
    try:
        return 2 * int(pc.count_distinct(values).as_py()) <= len(values)
    except pa.ArrowNotImplementedError:
        return True


class Parquet(FooterFormat):
    """The Parquet format. Implements ``Format`` of connectors/formats/base.py."""

    suffixes = (".parquet", ".pq", ".parq")
    compressions = ("zstd", "snappy", "gzip", "none")

    def read_footer(self, store: Store, path: str) -> Footer:
        """See ``read_footer``."""
        return read_footer(store, path)

    def read_rows(
        self, store: Store, path: str, start: int, stop: int, columns: Sequence[str] | None, block_rows: int
    ) -> Iterator[pa.Table]:
        """See ``read``."""
        return read(store, path, start, stop, columns, block_rows)

    def writer(self, spec: FileSpec, sink: BinaryIO) -> Writer:
        """See ``Format.writer``."""
        return Writer(sink, spec.schema, spec.compression, spec.row_group_rows)

    def read_back(self, data: bytes, name: str, schema: pa.Schema) -> pa.Table:
        """See ``Format.read_back``. Parquet keeps all columns."""
        return pq.read_table(pa.BufferReader(data))

    def cut(self, data: bytes, name: str, keep: np.ndarray, spec: FileSpec) -> bytes:
        """See ``Format.cut``."""
        return write(pq.read_table(pa.BufferReader(data)).filter(pa.array(keep)), spec)
