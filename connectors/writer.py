"""Writes the rows of one task to data/, _rejected/ and _dead_letters/, and accounts for each of them in the ledger.

A task adds blocks as they come. Files are closed, and a commit record written, when the data file has reached its
target size and at the end; memory holds one file of each part at the most. The hidden columns say where each row came
from and where it goes, and are not written.

    with OutputWriter(spec, run="4f1c") as writer:
        for block in blocks:
            writer.add(block)
"""

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import pyarrow as pa
import xxhash

from connectors.commit import FOLDERS, PARTS, Commit, DataFile, count_outcomes, pack_outcomes
from connectors.errors import JobError
from connectors.faults import explained
from connectors.formats.base import FileSpec, FileWriter, Format, load_format
from connectors.ledger import Ledger
from connectors.schema import DEAD, DEAD_LETTER, KEPT, ORIGIN_ROW, ORIGIN_URI, OUTCOME, REJECTED, ROW, UNIT, conform
from connectors.storage import Folder
from connectors.units import Range, ranges_of

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
"""The input file, the row's ordinal in it, for JSONL its line (from 1) and byte offset, why, and the line's bytes."""


@dataclass(frozen=True)
class OutputSpec:
    """Where and how the output is written; picklable, without secrets."""

    folder: Folder
    schema: pa.Schema
    """Columns of data and rejected."""
    format: str = "parquet"
    """A name in ``FORMATS``."""
    compression: str | None = "zstd"
    """zstd, snappy or gzip; None: not compressed."""
    file_bytes: int = 128 << 20
    """All files of a task are closed when one of them has this size."""
    row_group_rows: int | None = None
    keep_rejected: bool = True
    """False: rejected rows are counted and not written."""
    tally: Callable[[pa.Table], Mapping[str, int]] = field(default=lambda table: {})
    """What to count over the rows that are written, beside where they went."""


class OutputWriter:
    """The files of one write task. Rows are finished when ``flush`` returns, and not before."""

    def __init__(self, spec: OutputSpec, run: str, before_commit: Callable[[], None] = lambda: None) -> None:
        """``before_commit`` raises where another run has taken over: asked before the files and before the record."""
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
        self._rows: Counter[int] = Counter()
        self._ranges: list[Range] = []
        self._outcomes: list[np.ndarray] = []
        self._tally: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        """Take the rows of a block; every row needs OUTCOME, or DEAD that says why it has none."""
        if table.num_rows == 0:
            return
        table = _by_address(table)
        outcomes = _outcomes(table)
        self._ranges += ranges_of(_numpy(table, UNIT), _numpy(table, ROW))
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
        written = dead_letters(rows) if outcome == DEAD_LETTER else conform(self._visible(rows), self._spec.schema)
        self._tally.update(tally_of(part, written, self._spec))
        if outcome == REJECTED and not self._spec.keep_rejected:
            return
        if outcome not in self._writers:
            known, file = format_of(part, self._spec)
            self._writers[outcome] = known.writer(file)
        self._writers[outcome].add(written)

    def _visible(self, rows: pa.Table) -> pa.Table:
        return rows.select([name for name in self._spec.schema.names if name in rows.column_names])

    def flush(self) -> None:
        """Write the files, then the record that makes their rows finished."""
        if self._ranges:
            with explained(self._spec.folder.url):
                self._write_and_commit()

    def _write_and_commit(self) -> None:
        self._before_commit()
        stem = file_stem(self._ranges)
        files = []
        for outcome, writer in self._writers.items():
            part = PARTS[outcome]
            path = file_path(part, stem, self._spec)
            files.append(put_file(self._spec.folder, path, part, self._rows[outcome], writer.finish()))
        try:
            self._before_commit()
        except BaseException:  # a later run may be finished already, and would not look for these files again
            self._spec.folder.delete([file.path for file in files])
            raise
        outcomes = np.concatenate(self._outcomes)
        counts, packed = count_outcomes(outcomes), pack_outcomes(outcomes)
        record = Commit(_joined(self._ranges), files, counts, self._tally, self._run, packed=packed)
        if self._ledger.commit(record):
            self.commits.append(record)
        # Otherwise an earlier attempt has finished these rows. Our files stay until ``finish`` removes what no record
        # names: on a store that ignores conditions, a put of ours that was thought lost may yet land over the other's.
        self._reset()


def file_stem(ranges: Sequence[Range]) -> str:
    """A name for the files of a commit: by its first row for people, and new each time, so that none is overwritten."""
    return f"u{ranges[0].unit:06d}-{ranges[0].start:010d}-{secrets.token_hex(4)}"


def format_of(part: str, spec: OutputSpec) -> tuple[Format, FileSpec]:
    """How files of a part are written; dead letters are Parquet always, because raw bytes are not text."""
    if part == PARTS[DEAD_LETTER]:
        return load_format("parquet"), FileSpec(DEAD_LETTER_SCHEMA, "zstd")
    return load_format(spec.format), FileSpec(spec.schema, spec.compression, spec.row_group_rows)


def file_path(part: str, stem: str, spec: OutputSpec) -> str:
    """Where a file of a part stands in the output folder.

    Only kept rows have the endings that people write into a glob: DuckDB and polars look into every folder that
    ``out/**/*.parquet`` matches, whatever its name.
    """
    known, file = format_of(part, spec)
    suffix = known.suffixes[0 if part == PARTS[KEPT] else 1]
    codec = next((ending for ending, codec in known.codecs.items() if codec == file.compression), "")
    return f"{FOLDERS[part]}/{stem}{suffix}{codec}"


def tally_of(part: str, written: pa.Table, spec: OutputSpec) -> Mapping[str, int]:
    """What the job counts over written rows: dead letters by code, anything else as the job says."""
    if part == PARTS[DEAD_LETTER]:
        return Counter(f"dead.{code}" for code in written["code"].to_pylist())
    return spec.tally(written)


def put_file(folder: Folder, path: str, part: str, num_rows: int, data: bytes) -> DataFile:
    """Write a file of the output and describe it for the ledger."""
    folder.write(path, data)
    return DataFile(path, part, num_rows, len(data), xxhash.xxh3_128_hexdigest(data))


def dead_letters(rows: pa.Table) -> pa.Table:
    """Dead rows as they are written: see DEAD_LETTER_SCHEMA."""
    dead = rows[DEAD].combine_chunks()
    field = {name: dead.field(index) for index, name in enumerate(dead.type.names)}
    columns = {**field, "uri": rows[ORIGIN_URI].cast(pa.string()), "row": rows[ORIGIN_ROW]}
    return pa.table({name: columns[name] for name in DEAD_LETTER_SCHEMA.names}, schema=DEAD_LETTER_SCHEMA)


def _outcomes(table: pa.Table) -> np.ndarray:
    dead = np.asarray(table[DEAD].is_valid())
    if OUTCOME in table.column_names:
        column = table[OUTCOME].fill_null(-1)
        outcomes = np.where(dead, DEAD_LETTER, np.asarray(column)).astype(np.int8)
    else:
        outcomes = np.where(dead, DEAD_LETTER, KEPT).astype(np.int8)
    if (outcomes < 0).any():
        raise JobError("a stage gave out rows without an outcome; this is a bug in rmbatch")
    return outcomes


def _by_address(table: pa.Table) -> pa.Table:
    """The rows in the order of the input: a stage may have put dead ones last, and each would be a range of its own."""
    units, rows = _numpy(table, UNIT), _numpy(table, ROW)
    step = np.diff(units)
    if ((step > 0) | ((step == 0) & (np.diff(rows) > 0))).all():
        return table
    return table.take(pa.array(np.lexsort((rows, units))))


def _numpy(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name])


def _joined(ranges: list[Range]) -> list[Range]:
    """Ranges that continue each other, as one."""
    joined: list[Range] = []
    for piece in ranges:
        if joined and joined[-1].unit == piece.unit and joined[-1].stop == piece.start:
            joined[-1] = Range(piece.unit, joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    return joined
