"""Every row that is added is in one file, counted in one record, in the order of the input."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.errors import JobError, UserError
from connectors.ledger import Ledger
from connectors.schema import DEAD, OUTCOME, REJECTED, add_address, is_json
from connectors.storage import Folder
from connectors.units import Range
from connectors.writer import DEAD_LETTER_SCHEMA, OutputSpec, OutputWriter
from tests.connectors.inputs import plan, read_all, read_rows
from tests.connectors.outputs import decide, read_file, small_input, spec_of, whole, work


def test_every_row_goes_to_one_part_on_every_store(folder: Folder, tmp_path: Path):
    dataset = small_input(tmp_path / "in", num_rows=11)
    spec = spec_of(folder, dataset)
    work(dataset, whole(dataset), spec, "run")
    (record,) = Ledger(folder).commits()
    assert record.ranges == [Range(0, 0, 5), Range(1, 0, 6)]  # dead rows came last in their block, and are no gaps
    files = {file.part: read_file(folder, file.path, spec.schema) for file in record.files}
    assert [row["id"] for row in files["data"]] == [1, 2, 5, 7, 8, 10]
    assert [row["id"] for row in files["rejected"]] == [0, 3, 6]
    assert [(row["row"], row["line"], row["code"], row["raw"]) for row in files["dead_letters"]] == [
        (4, 5, "invalid_json", b"{broken 4"),
        (4, 5, "invalid_json", b"{broken 9"),
    ]
    assert files["dead_letters"][1]["uri"].endswith("2.jsonl")
    assert record.rows == {part: len(rows) for part, rows in files.items()}
    assert record.tally == {"rows": 9, "ids": 42, "dead.invalid_json": 2}
    assert Ledger(folder).outcomes(record).tolist() == [1, 0, 0, 1, 2, 0, 1, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ({}, ".parquet"),
        ({"compression": None}, ".parquet"),
        ({"format": "jsonl", "compression": "zstd"}, ".jsonl.zst"),
        ({"format": "jsonl", "compression": "gzip"}, ".jsonl.gz"),
        ({"format": "jsonl", "compression": None}, ".jsonl"),
    ],
)
def test_what_is_written_is_an_input_again(tmp_path: Path, options: dict, suffix: str):
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, **options)
    work(dataset, whole(dataset), spec, "run")
    names = [entry.name for entry in spec.folder.entries("data")]
    assert all(name.endswith(suffix) for name in names)
    again = plan(tmp_path / "out" / "data")
    table = read_rows(dataset)
    expected = [row for row in table.to_pylist() if row["id"] is not None and row["id"] % 3]
    assert read_rows(again).to_pylist() == expected
    assert [is_json(field) for field in again.schema] == [False, True]


def test_files_are_closed_at_their_size_and_row_groups_at_theirs(tmp_path: Path):
    dataset = small_input(tmp_path / "in", num_rows=200)
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, file_bytes=1, row_group_rows=2)
    work(dataset, whole(dataset), spec, "run", block_rows=10)
    records = Ledger(spec.folder).commits()
    assert len(records) == sum(-(-unit.num_rows // 10) for unit in dataset.units.values())
    assert len({file.path for record in records for file in record.files}) == sum(len(r.files) for r in records)
    for path in (tmp_path / "out" / "data").iterdir():
        metadata = pq.read_metadata(path)
        assert all(metadata.row_group(index).num_rows <= 2 for index in range(metadata.num_row_groups))


def test_rejected_rows_that_are_not_kept_are_counted(tmp_path: Path):
    dataset = small_input(tmp_path / "in", num_rows=11)
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, keep_rejected=False)
    work(dataset, whole(dataset), spec, "run")
    (record,) = Ledger(spec.folder).commits()
    assert record.rows == {"data": 6, "rejected": 3, "dead_letters": 2}
    assert record.tally == {"rows": 9, "ids": 42, "dead.invalid_json": 2}
    assert not record.has_all_files
    assert not spec.folder.entries("_rejected")


def test_retry_of_the_same_rows_leaves_their_record(folder: Folder, tmp_path: Path):
    dataset = small_input(tmp_path / "in", num_rows=11)
    spec = spec_of(folder, dataset)
    for run in ("first", "second"):
        work(dataset, whole(dataset), spec, run)
    (record,) = Ledger(folder).commits()
    assert record.run == "first"
    assert {file.path for file in record.files} < {entry.name for entry in folder.entries()}


@pytest.mark.parametrize("answers", [[False], [True, False]], ids=["before the files", "before the record"])
def test_a_task_whose_run_is_over_leaves_nothing(folder: Folder, tmp_path: Path, answers: list[bool]):
    dataset = small_input(tmp_path / "in")
    remaining = iter(answers)

    def still_ours() -> None:
        if not next(remaining):
            raise JobError("another run has taken over")

    with pytest.raises(JobError, match="taken over"):
        work(dataset, whole(dataset), spec_of(folder, dataset), "late", before_commit=still_ours)
    assert folder.entries() == []


def test_an_error_on_the_way_commits_nothing(tmp_path: Path):
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset)
    beyond = Range(99, 0, 1)
    with pytest.raises(KeyError):
        work(dataset, [*whole(dataset), beyond], spec, "run")
    assert spec.folder.entries() == []


def test_nothing_added_is_nothing_written(tmp_path: Path):
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset)
    with OutputWriter(spec, "run") as writer:
        writer.add(decide(read_all(dataset)).slice(0, 0))
    assert (writer.commits, spec.folder.entries()) == ([], [])


def test_a_row_without_an_outcome_stops_the_job(tmp_path: Path):
    dataset = small_input(tmp_path / "in")
    table = decide(read_all(dataset))
    outcomes = pa.array([None] + [REJECTED] * (table.num_rows - 1), pa.int8())
    table = table.set_column(table.column_names.index(OUTCOME), OUTCOME, outcomes)
    with pytest.raises(JobError, match="without an outcome"):
        OutputWriter(spec_of(Folder.open(str(tmp_path / "out")), dataset), "run").add(table)


def test_columns_are_ordered_and_absent_ones_are_null(tmp_path: Path):
    rows = pa.table({"b": [1, 2], "extra": ["x", "y"], "a": pa.array([1, None], pa.int8())})
    table = add_address(rows, 0, 0, uri="x", first_origin_row=0)
    schema = pa.schema([("a", pa.int64()), ("late", pa.string()), ("b", pa.int64())])
    spec = OutputSpec(Folder.open(str(tmp_path)), schema)
    with OutputWriter(spec, "run") as writer:
        writer.add(table)
    (path,) = (tmp_path / "data").iterdir()
    found = pq.read_table(path)
    assert found.schema.equals(schema)
    assert found.to_pylist() == [{"a": 1, "late": None, "b": 1}, {"a": None, "late": None, "b": 2}]


def test_bytes_cannot_be_jsonl_and_the_message_says_what_to_do(tmp_path: Path):
    table = add_address(pa.table({"a": [b"x"]}), 0, 0, uri="x", first_origin_row=0)
    writer = OutputWriter(OutputSpec(Folder.open(str(tmp_path)), pa.schema([("a", pa.binary())]), "jsonl"), "run")
    with pytest.raises(UserError, match=r"write Parquet, or leave it out with output\.columns"):
        writer.add(table)


def test_a_dead_letter_file_is_the_same_for_both_formats(tmp_path: Path):
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, format="jsonl", compression="gzip")
    work(dataset, whole(dataset), spec, "run")
    (path,) = (tmp_path / "out" / "_dead_letters").iterdir()
    assert pq.read_schema(path).equals(DEAD_LETTER_SCHEMA)
    dead = int(np.count_nonzero(read_all(dataset)[DEAD].is_valid()))
    assert Counter(pq.read_table(path)["code"].to_pylist()) == {"invalid_json": dead}
    text = gzip.decompress(next((tmp_path / "out" / "data").iterdir()).read_bytes())
    assert b'"m":[1,\r 2]' not in text.splitlines()[0]  # row 1 holds text
    assert text.endswith(b"\n")


def test_rejected_rows_close_a_task_s_files_at_their_size_too(tmp_path: Path):
    folder = Folder.open(str(tmp_path))
    spec = OutputSpec(folder, pa.schema([("text", pa.string())]), format="jsonl", compression=None, file_bytes=1000)
    with OutputWriter(spec, "run") as writer:
        for first in range(0, 50, 10):
            block = add_address(pa.table({"text": ["x" * 100] * 10}), 0, first, uri="a", first_origin_row=first)
            writer.add(block.append_column(OUTCOME, pa.array(np.full(10, REJECTED, np.int8))))
    assert [entry.size < 2000 for entry in folder.entries("_rejected")] == [True] * 5
