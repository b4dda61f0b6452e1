"""Another format is one class and one line in the table: Arrow files, which only this test knows, read and written."""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pytest

from connectors.finish import finish
from connectors.formats.base import FORMATS, FileSpec, find_format, load_format
from connectors.formats.footers import Footer, FooterFormat
from connectors.ledger import Ledger, Plan
from connectors.listing import includes, list_input
from connectors.schema import KEPT, visible_columns
from connectors.storage import Folder, StorageOptions, Store
from connectors.units import Range
from connectors.writer import PARTS, file_path
from jobs.config.job_types import parse_job
from tests.connectors.inputs import plan, read_rows, write_files
from tests.connectors.outputs import run_to_end, spec_of, work


class ArrowFile(FooterFormat):
    """Arrow's file format; a record batch is a group of rows."""

    suffixes = (".arrow", ".ipc")
    compressions = ("none",)

    def read_footer(self, store: Store, path: str) -> Footer:
        with pa.ipc.open_file(pa.BufferReader(store.open(path).read())) as file:
            batches = [file.get_batch(index) for index in range(file.num_record_batches)]
            return Footer(file.schema, [(batch.num_rows, batch.nbytes) for batch in batches])

    def read_rows(
        self, store: Store, path: str, start: int, stop: int, columns: Sequence[str] | None, block_rows: int
    ) -> Iterator[pa.Table]:
        with pa.ipc.open_file(pa.BufferReader(store.open(path).read())) as file:
            table = file.read_all().slice(start, stop - start)
            table = table.select([name for name in table.column_names if columns is None or name in columns])
        for first in range(0, table.num_rows, block_rows):
            yield table.slice(first, block_rows)

    def writer(self, spec: FileSpec, sink: BinaryIO) -> "ArrowWriter":
        return ArrowWriter(sink, spec.schema)

    def read_back(self, data: bytes, name: str, schema: pa.Schema) -> pa.Table:
        return pa.ipc.open_file(pa.BufferReader(data)).read_all()

    def cut(self, data: bytes, name: str, keep: np.ndarray, spec: FileSpec) -> bytes:
        sink = BytesIO()
        writer = self.writer(spec, sink)
        writer.add(self.read_back(data, name, spec.schema).filter(pa.array(keep)))
        writer.finish()
        return sink.getvalue()


class ArrowWriter:
    def __init__(self, sink: BinaryIO, schema: pa.Schema) -> None:
        self._sink = sink
        self._writer = pa.ipc.new_file(sink, schema)

    @property
    def num_bytes(self) -> int:
        return self._sink.tell()

    def add(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def finish(self) -> None:
        self._writer.close()


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "arrow", f"{__name__}:ArrowFile")


ROWS = [{"id": row, "text": f"number {row}"} for row in range(40)]


def test_another_format_plans_reads_and_writes_rows(tmp_path: Path):
    lines = [json.dumps(row).encode() for row in ROWS] + [b"{broken"]
    write_files(tmp_path / "in", {"a.jsonl": b"\n".join(lines)})
    source = plan(tmp_path / "in", unit_bytes=300)
    output = Folder.open(str(tmp_path / "out"), StorageOptions())
    manifest = run_to_end(source, spec_of(output, source, format="arrow", compression=None))
    assert manifest["rows"] == {"data": 26, "rejected": 14, "dead_letters": 1}
    assert {Path(file["path"]).suffix for file in manifest["files"]} == {".arrow", ".ipc", ".pq"}

    written = plan(tmp_path / "out", unit_bytes=1)
    assert (written.format, written.is_scanned, len(written.units)) == ("arrow", False, 14)
    assert read_rows(written).to_pylist() == [row for row in ROWS if row["id"] % 3]
    columns = written.project(["text"])
    (table,) = columns.read(Range(0, 1, 2), block_rows=10)
    assert visible_columns(table).to_pylist() == [{"text": "number 2"}]


def test_overlapping_files_of_another_format_are_cut(tmp_path: Path):
    write_files(tmp_path, {"in.jsonl": b"\n".join(json.dumps(row).encode() for row in ROWS)})
    source = plan(tmp_path / "in.jsonl")
    spec = spec_of(Folder.open(str(tmp_path / "out"), StorageOptions()), source, format="arrow", compression=None)
    ledger, planned = Ledger(spec.folder), Plan({"job": "test"}, source, True)
    ledger.begin(planned)
    work(source, [Range(0, 0, 25)], spec, "a")
    work(source, [Range(0, 15, 40)], spec, "b")
    manifest = finish(ledger, planned, spec, "c")
    assert manifest["tally"] == {"rows": 40, "ids": sum(range(40))}
    assert sorted(read_rows(plan(tmp_path / "out"))["id"].to_pylist()) == [row for row in range(40) if row % 3]


def test_listings_and_job_files_know_another_format(tmp_path: Path):
    assert find_format("in/A.IPC") == "arrow"
    write_files(tmp_path, {"in/a.arrow": b"", "in/b.csv": b""})
    listing = list_input([str(tmp_path / "in")], StorageOptions())
    assert (listing.format, len(listing.files), len(listing.skipped)) == ("arrow", 1, 1)
    assert includes(f"{tmp_path}/out/**/*.arrow", str(tmp_path / "out"), StorageOptions())
    job = {"job": "score", "input": {"path": "in", "format": "arrow"}, "rewards": {"a": {"reward": "f1_score"}}}
    assert parse_job({**job, "output": {"path": "out", "format": "arrow"}}, "job.yaml").output.format == "arrow"


@pytest.mark.parametrize("name", list(FORMATS))
def test_file_names_tell_kept_rows_and_their_format(name: str, tmp_path: Path):
    known, folder = load_format(name), Folder.open(str(tmp_path), StorageOptions())
    for codec in known.compressions:
        spec = spec_of(folder, plan_of_one(tmp_path), format=name, compression=None if codec == "none" else codec)
        paths = {part: file_path(outcome, "stem", spec) for part, outcome in PARTS.items()}
        assert find_format(paths[KEPT]) == name
        assert all(find_format(path) for path in paths.values())
        assert not any(known.suffixes[0] in path for part, path in paths.items() if part != KEPT)


def plan_of_one(folder: Path):
    return plan(write_files(folder / "one", {"a.jsonl": b'{"id": 1}'}))
