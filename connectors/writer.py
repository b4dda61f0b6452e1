"""Writes the rows of one task to data/, _rejected/ and _dead_letters/, and commits them to the ledger.

A task adds blocks. When a file reaches the target size, and at the end, the writer closes all files and writes a commit
record. So memory holds at most one file of each part. The hidden columns say where each row came from and where it
goes; they are not written.

    with OutputWriter(spec, run="4f1c") as writer:
        for block in blocks:
            writer.add(block)
"""

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from types import TracebackType

import numpy as np
import pyarrow as pa
import xxhash

from connectors.commit import FOLDERS, PARTS, Commit, DataFile, count_outcomes, pack_outcomes
from connectors.errors import JobError
from connectors.faults import explain_errors
from connectors.formats.base import FileSpec, FileWriter, Format, load_format
from connectors.ledger import Ledger
from connectors.schema import DEAD, DEAD_LETTER, KEPT, ORIGIN_ROW, ORIGIN_URI, OUTCOME, REJECTED, ROW, UNIT, conform
from connectors.storage import Folder
from connectors.units import Range, to_ranges

DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("row", pa.int64()),
        ("line", pa.int64()),
        ("offset", pa.int64()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("raw", pa.binary()),
    ]
)
"""The input file, the row's ordinal in it, the reason, and for JSONL the line's number (from 1), offset and bytes."""


@dataclass(frozen=True)
class OutputSpec:
    """Where and how to write the output. It can be pickled and holds no secrets."""

    folder: Folder
    schema: pa.Schema
    """The columns of kept and rejected rows."""
    format: str = "parquet"
    """A name in ``FORMATS``."""
    compression: str | None = "zstd"
    """zstd, snappy or gzip; None: not compressed."""
    file_bytes: int = 128 << 20
    """When a file of a task reaches this size, all its files are closed."""
    row_group_rows: int | None = None
    keep_rejected: bool = True
    """False: rejected rows are counted but not written."""
    tally: Callable[[pa.Table], Mapping[str, int]] = field(default=lambda table: {})
    """Counts over the rows of a part, in addition to their number."""


class OutputWriter:
    """The files of one task. Rows are finished when ``flush`` has returned."""

    def __init__(self, spec: OutputSpec, run: str, before_commit: Callable[[], None] = lambda: None) -> None:
        """``before_commit`` is called before the files and before the record. It raises if another run took over."""
        self._spec, self._run, self._before_commit = spec, run, before_commit
        self._ledger = Ledger(spec.folder)
        self.commits: list[Commit] = []
        self._reset()

    def __enter__(self) -> "OutputWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()

    def _reset(self) -> None:
        self._writers: dict[int, FileWriter] = {}
        self._sinks: dict[int, BytesIO] = {}
        self._rows: Counter[int] = Counter()
        self._ranges: list[Range] = []
        self._outcomes: list[np.ndarray] = []
        self._tally: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        """Add the rows of a block. Each row needs OUTCOME, or DEAD with the reason why it has none."""
        if table.num_rows == 0:
            return
        table = _sort_by_address(table)
        outcomes = _find_outcomes(table)
        self._ranges += to_ranges(_to_numpy(table, UNIT), _to_numpy(table, ROW))
        self._outcomes.append(outcomes)
        for outcome in (KEPT, REJECTED, DEAD_LETTER):
            mask = outcomes == outcome
            count = int(np.count_nonzero(mask))
            if count == 0:
                continue
            rows = table if count == table.num_rows else table.filter(pa.array(mask))
            self._rows[outcome] += count
            self._add_part(outcome, rows)
        if any(writer.num_bytes >= self._spec.file_bytes for writer in self._writers.values()):
            self.flush()

    def _add_part(self, outcome: int, rows: pa.Table) -> None:
        part = PARTS[outcome]
        written = (
            build_dead_letters(rows)
            if outcome == DEAD_LETTER
            else conform(self._select_output_columns(rows), self._spec.schema)
        )
        self._tally.update(count_tally(part, written, self._spec))
        if outcome == REJECTED and not self._spec.keep_rejected:
            return
        if outcome not in self._writers:
            known, file = choose_format(part, self._spec)
            self._sinks[outcome] = BytesIO()
            self._writers[outcome] = known.writer(file, self._sinks[outcome])
        self._writers[outcome].add(written)

    def _select_output_columns(self, rows: pa.Table) -> pa.Table:
        return rows.select([name for name in self._spec.schema.names if name in rows.column_names])

    def flush(self) -> None:
        """Write the files, then the commit record. From then on the rows are finished."""
        if self._ranges:
            with explain_errors(self._spec.folder.url):
                self._write_and_commit()

    def _write_and_commit(self) -> None:
        self._before_commit()
        stem = file_stem(self._ranges)
        files = []
        for outcome, writer in self._writers.items():
            part = PARTS[outcome]
            path = file_path(part, stem, self._spec)
            writer.finish()
            data = self._sinks[outcome].getbuffer()
            files.append(put_file(self._spec.folder, path, part, self._rows[outcome], data))
        try:
            self._before_commit()
        except BaseException:  # a later run may be finished already; it would not remove these files
            self._spec.folder.delete([file.path for file in files])
            raise
        outcomes = np.concatenate(self._outcomes)
        counts, packed = count_outcomes(outcomes), pack_outcomes(outcomes)
        record = Commit(_join_ranges(self._ranges), files, counts, self._tally, self._run, packed=packed)
        if self._ledger.commit(record):
            self.commits.append(record)
        # Otherwise an earlier attempt has finished these rows. Only ``finish`` removes our files then: on a store that
        # ignores conditional puts, a put of ours that seemed lost may arrive late and replace the other record.
        self._reset()


def file_stem(ranges: Sequence[Range]) -> str:
    """Make the name of a commit's files. It shows the first row, and is new each time, so no file is overwritten."""
    return f"u{ranges[0].unit:06d}-{ranges[0].start:010d}-{secrets.token_hex(4)}"


def choose_format(part: str, spec: OutputSpec) -> tuple[Format, FileSpec]:
    """Choose the format for a part's files. Dead letters are always Parquet, because raw bytes are not text."""
    if part == PARTS[DEAD_LETTER]:
        return load_format("parquet"), FileSpec(DEAD_LETTER_SCHEMA, "zstd")
    return load_format(spec.format), FileSpec(spec.schema, spec.compression, spec.row_group_rows)


def file_path(part: str, stem: str, spec: OutputSpec) -> str:
    """The path of a file, relative to the output folder.

    Only files of kept rows have the usual endings. Given ``out/**/*.parquet``, DuckDB and polars also read folders
    whose names begin with "_".
    """
    known, file = choose_format(part, spec)
    suffix = known.suffixes[0 if part == PARTS[KEPT] else 1]
    codec = next((ending for ending, codec in known.codecs.items() if codec == file.compression), "")
    return f"{FOLDERS[part]}/{stem}{suffix}{codec}"


def count_tally(part: str, written: pa.Table, spec: OutputSpec) -> Mapping[str, int]:
    """Count over the rows of a part: dead letters by code, other rows as the job says."""
    if part == PARTS[DEAD_LETTER]:
        return Counter(f"dead.{code}" for code in written["code"].to_pylist())
    return spec.tally(written)


def put_file(folder: Folder, path: str, part: str, num_rows: int, data: bytes | memoryview) -> DataFile:
    """Write a file of the output. Return its description for the ledger."""
    folder.write(path, data)
    return DataFile(path, part, num_rows, len(data), xxhash.xxh3_128_hexdigest(data))


def build_dead_letters(rows: pa.Table) -> pa.Table:
    """Build the table to write for dead rows, see DEAD_LETTER_SCHEMA."""
    dead = rows[DEAD].combine_chunks()
    field = {name: dead.field(index) for index, name in enumerate(dead.type.names)}
    columns = {**field, "uri": rows[ORIGIN_URI].cast(pa.string()), "row": rows[ORIGIN_ROW]}
    return pa.table({name: columns[name] for name in DEAD_LETTER_SCHEMA.names}, schema=DEAD_LETTER_SCHEMA)


def _find_outcomes(table: pa.Table) -> np.ndarray:
    dead = np.asarray(table[DEAD].is_valid())
    if OUTCOME in table.column_names:
        column = table[OUTCOME].fill_null(-1)
        outcomes = np.where(dead, DEAD_LETTER, np.asarray(column)).astype(np.int8)
    else:
        outcomes = np.where(dead, DEAD_LETTER, KEPT).astype(np.int8)
    if (outcomes < 0).any():
        raise JobError("a stage gave out rows without an outcome; this is a bug in rmbatch")
    return outcomes


def _sort_by_address(table: pa.Table) -> pa.Table:
    """Sort the rows as in the input. A stage may put dead rows last, and each of them would become a range."""
    units, rows = _to_numpy(table, UNIT), _to_numpy(table, ROW)
    step = np.diff(units)
    if ((step > 0) | ((step == 0) & (np.diff(rows) > 0))).all():
        return table
    return table.take(pa.array(np.lexsort((rows, units))))


def _to_numpy(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name])


def _join_ranges(ranges: list[Range]) -> list[Range]:
    """Join ranges that continue each other."""
    joined: list[Range] = []
    for piece in ranges:
        if joined and joined[-1].unit == piece.unit and joined[-1].stop == piece.start:
            joined[-1] = Range(piece.unit, joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    return joined
