"""Any crash point and a resume give what one clean run gives; overlaps, damage and loss."""

import contextlib
import dataclasses
import gzip
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.dataset import InputDataset
from connectors.errors import JobError
from connectors.finish import finish, remove_orphans
from connectors.ledger import Ledger, Plan
from connectors.local import LocalStore
from connectors.storage import Folder
from connectors.units import Range
from connectors.writer import OutputSpec
from tests.connectors.crashing_store import KilledError, ignoring_conditions, killed_after
from tests.connectors.inputs import plan, write_files
from tests.connectors.outputs import (
    assert_finished,
    compact,
    read_output,
    run_to_end,
    small_input,
    spec_of,
    whole,
    work,
)

JSONL = {"format": "jsonl", "compression": "gzip"}
UNWRITTEN = {"keep_rejected": False}
Command = Callable[[OutputSpec, object], dict]

ORPHAN = "u000000-0000000000-0badcafe.parquet"
"""As a write task names its files."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder.open(f"memory://crash/{tmp_path.name}")
    yield folder
    folder.remove("")


def one_run(spec: OutputSpec, dataset: InputDataset) -> dict:
    return run_to_end(dataset, spec)


def two_runs(spec: OutputSpec, dataset: InputDataset) -> dict:
    ledger = Ledger(spec.folder)
    if not ledger.commits():
        work_twice(spec, dataset)
    compact(ledger)
    return run_to_end(dataset, spec, "new")


@contextlib.contextmanager
def gathered(folder: Folder, records: int = 2) -> Iterator[None]:
    """Segments of so few records that small outputs have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectors.compaction.SEGMENT_RECORDS", records)
        yield


@contextlib.contextmanager
def gathered_and_ignoring_conditions(folder: Folder) -> Iterator[None]:
    with gathered(folder), ignoring_conditions(folder):
        yield


def work_twice(spec: OutputSpec, dataset: InputDataset) -> None:
    """Two runs work at the same time on all rows, neither sees the other's records, and they cut rows differently."""
    ledger = Ledger(spec.folder)
    if ledger.plan() is None:
        ledger.begin(Plan({"job": "test"}, dataset))
    first, second = whole(dataset)
    work(dataset, [first, replace(second, stop=1)], spec, "old")
    work(dataset, [first, replace(second, stop=1)], spec, "retry")  # the same rows, the same record
    work(dataset, [replace(first, start=1), second], spec, "new")  # has rows of every part that only it covers
    work(dataset, [replace(second, start=2)], spec, "late")


def replace(piece: Range, **ends: int) -> Range:
    return piece._replace(**ends)


@pytest.mark.parametrize(
    ("command", "options", "store"),
    [
        pytest.param(one_run, {"file_bytes": 1}, nullcontext, id="one run"),
        pytest.param(two_runs, {}, nullcontext, id="two runs"),
        pytest.param(two_runs, JSONL, nullcontext, id="two runs, JSONL"),
        pytest.param(two_runs, UNWRITTEN, nullcontext, id="two runs, rejected rows in no file"),
        pytest.param(two_runs, {}, ignoring_conditions, id="two runs, conditions ignored"),
        pytest.param(one_run, {"file_bytes": 1}, gathered, id="one run, segments"),
        pytest.param(two_runs, {}, gathered, id="two runs, segments"),
        pytest.param(two_runs, UNWRITTEN, gathered, id="two runs, segments, rejected rows in no file"),
        pytest.param(two_runs, {}, gathered_and_ignoring_conditions, id="two runs, segments, conditions ignored"),
    ],
)
def test_any_crash_point_and_a_resume_equal_one_clean_run(
    tmp_path: Path, memory: Folder, command: Command, options: dict, store: Callable
):
    dataset = small_input(tmp_path / "in", num_rows=11)
    clean = spec_of(memory.folder("clean"), dataset, **options)
    manifest = run_to_end(dataset, clean)
    expected = read_output(clean)
    assert all(expected[part] for part in manifest["rows"] if part != "rejected")
    with store(memory):
        for number in range(1, 1000):
            spec = spec_of(memory.folder(str(number)), dataset, **options)
            try:
                with killed_after(memory, number):
                    command(spec, dataset)
            except KilledError:
                assert_finished(spec, command(spec, dataset), manifest, expected)
                spec.folder.remove("")
            else:
                assert_finished(spec, Ledger(spec.folder).manifest(), manifest, expected)
                break
    assert number > 15


@pytest.mark.parametrize("records", [1000, 2, 1])
def test_second_crash_while_resolving_overlaps_changes_nothing(tmp_path: Path, memory: Folder, records: int):
    """Killed again and again, each time one change later: it still ends, and ends the same."""
    dataset = small_input(tmp_path / "in", num_rows=11)
    clean = spec_of(memory.folder("clean"), dataset)
    manifest = run_to_end(dataset, clean)
    spec = spec_of(memory.folder("out"), dataset)
    ledger, number = Ledger(spec.folder), 0
    work_twice(spec, dataset)
    while ledger.manifest() is None:
        number += 1
        with gathered(memory, records), suppress(KilledError), killed_after(memory, number):
            two_runs(spec, dataset)
    assert number > 5
    assert_finished(spec, ledger.manifest(), manifest, read_output(clean))


def planned(folder: Folder, dataset: InputDataset, **options: object) -> tuple[Ledger, OutputSpec, Plan]:
    ledger, job = Ledger(folder), Plan({"job": "test"}, dataset)
    ledger.begin(job)
    return ledger, spec_of(folder, dataset, **options), job


def test_finish_on_every_store(folder: Folder, tmp_path: Path):
    dataset = small_input(tmp_path / "in")
    ledger, spec, job = planned(folder, dataset)
    folder.write("_rmbatch/attempts/u000001/marker", b"")
    folder.write("_rmbatch/grouped/rows.parquet", b"x")
    work(dataset, whole(dataset), spec, "old", block_rows=5)
    work(dataset, [Range(piece.unit, 1, piece.stop) for piece in whole(dataset)], spec, "new")
    folder.write(f"data/{ORPHAN}", b"x")
    manifest = finish(ledger, job, spec, "new")
    ids = [row for row in range(23) if row % 5 != 4]
    assert manifest["rows"] == {
        "data": sum(1 for row in ids if row % 3),
        "rejected": sum(1 for row in ids if not row % 3),
        "dead_letters": 4,
    }
    assert_finished(spec, manifest, manifest, read_output(spec))
    assert manifest["tally"] == {"dead.invalid_json": 4, "ids": sum(ids), "rows": len(ids)}
    assert ledger.missing(dataset, ledger.commits()) == []
    assert not folder.entries("_rmbatch/attempts") + folder.entries("_rmbatch/grouped")


def test_rows_that_no_record_covers_stop_the_finish(tmp_path: Path, memory: Folder):
    dataset = small_input(tmp_path / "in")
    ledger, spec, job = planned(memory, dataset)
    work(dataset, whole(dataset)[1:], spec, "run")
    memory.write(f"data/{ORPHAN}", b"x")
    with pytest.raises(JobError, match=f"{dataset.units[0].num_rows} rows are not finished"):
        finish(ledger, job, spec, "run")
    assert memory.exists(f"data/{ORPHAN}")  # it may be what a live task is about to commit
    assert ledger.manifest() is None


def overlapping(tmp_path: Path, memory: Folder, **options: object) -> tuple[Ledger, OutputSpec, Plan]:
    dataset = small_input(tmp_path / "in", num_rows=11)
    spec = spec_of(memory, dataset, **options)
    work_twice(spec, dataset)
    return Ledger(memory), spec, Plan({"job": "test"}, dataset)


def flip(folder: Folder, path: str, at: int = -20) -> None:
    data = bytearray(folder.read(path))
    data[at] ^= 1
    folder.write(path, bytes(data))


@pytest.mark.parametrize("part", ["data", "_dead_letters"])
@pytest.mark.parametrize("options", [{}, JSONL])
def test_a_flipped_byte_in_a_file_that_must_be_cut_is_found(tmp_path: Path, memory: Folder, part: str, options: dict):
    ledger, spec, job = overlapping(tmp_path, memory, **options)
    for entry in memory.entries(part):
        flip(memory, entry.name)
    before = [record.name for record in ledger.commits()]
    with pytest.raises(JobError, match=rf"{part}/u\S+ is damaged: its checksum"):
        finish(ledger, job, spec, "run")
    assert set(before) <= {record.name for record in ledger.commits()}


def test_a_file_that_vanished_is_named_with_the_record_to_delete(tmp_path: Path, memory: Folder):
    dataset = small_input(tmp_path / "in")
    ledger, spec, job = planned(memory, dataset)
    for piece in whole(dataset):
        work(dataset, [piece], spec, "one")
    record = ledger.commits()[0]
    memory.delete([record.files[0].path])
    memory.write(f"data/{ORPHAN}", b"x")
    with pytest.raises(JobError, match=rf"{record.files[0].path}; .* delete _rmbatch/commits/{record.name}"):
        finish(ledger, job, spec, "run")
    assert memory.exists(f"data/{ORPHAN}")  # perhaps what somebody looks for
    memory.delete([f"_rmbatch/commits/{record.name}"])
    assert run_to_end(dataset, spec)["planned_rows"] == dataset.num_rows


def test_record_without_files_gives_way_to_others_of_its_rows(tmp_path: Path, memory: Folder):
    """A task of a dead run, asleep while the next run took its files for orphans, then wrote its record."""
    dataset = small_input(tmp_path / "in")
    ledger, spec, job = planned(memory, dataset)
    work(dataset, whole(dataset), spec, "late")  # has the most rows, so it would be kept
    late = ledger.commits()[0]
    memory.delete([file.path for file in late.files])
    for piece in whole(dataset):
        work(dataset, [piece], spec, "new")
    manifest = finish(ledger, job, spec, "new")
    assert manifest["runs"] == ["new"]
    assert manifest["tally"]["rows"] == 19
    assert_finished(spec, manifest, manifest, read_output(spec))


def test_cutting_writes_no_name_twice_and_no_empty_file(tmp_path: Path, memory: Folder):
    dataset = small_input(tmp_path / "in", num_rows=11)
    ledger, spec, job = planned(memory, dataset)
    first, second = whole(dataset)
    work(dataset, [first, replace(second, stop=5)], spec, "one")
    work(dataset, [second], spec, "two")  # only its last row is its own, and that is kept
    before = {entry.name for entry in memory.entries("data")}
    manifest = finish(ledger, job, spec, "end")
    (cut,) = {entry.name for entry in memory.entries("data")} - before
    assert [(file["path"], file["num_rows"]) for file in manifest["files"][-1:]] == [(cut, 1)]
    assert_finished(spec, manifest, manifest, read_output(spec))


def test_uncuttable_records_stay_whole_and_others_are_cut(tmp_path: Path, memory: Folder):
    """Rejected rows that no file keeps were counted as one sum: nothing tells the share of a part of them."""
    dataset = small_input(tmp_path / "in")
    ledger, spec, job = planned(memory, dataset)
    unwritten = dataclasses.replace(spec, keep_rejected=False)
    work(dataset, whole(dataset), spec, "keeps")  # comes first, covers all, has all its files
    work(dataset, [Range(0, 1, 4)], unwritten, "drops")
    manifest = finish(ledger, job, spec, "end")
    assert manifest["runs"] == ["drops", "end"]
    assert manifest["tally"]["ids"] == sum(row for row in range(23) if row % 5 != 4)
    assert sum(manifest["rows"].values()) == 23
    assert manifest["rows"]["rejected"] == 1 + sum(
        file["num_rows"] for file in manifest["files"] if file["part"] == "rejected"
    )


def test_jsonl_lines_survive_cutting_as_they_are(tmp_path: Path, memory: Folder):
    """A timestamp or a decimal read back from JSON would be text, which its own column cannot hold."""
    at = pa.array([datetime(2026, 11, 24, hour) for hour in range(6)], pa.timestamp("us"))
    table = pa.table({"id": range(6), "at": at, "price": pa.array([Decimal("0.10")] * 6, pa.decimal128(10, 2))})
    pq.write_table(table, tmp_path / "in.parquet")
    dataset = plan(tmp_path / "in.parquet")
    clean = spec_of(memory.folder("clean"), dataset, **JSONL)
    ledger, spec, job = planned(memory.folder("out"), dataset, **JSONL)
    run_to_end(dataset, clean)
    work(dataset, [Range(0, 0, 4)], spec, "one")
    work(dataset, [Range(0, 2, 6)], spec, "two")
    finish(ledger, job, spec, "end")

    def lines(spec: OutputSpec) -> list[bytes]:
        files = [gzip.decompress(spec.folder.read(entry.name)) for entry in spec.folder.entries("data")]
        return sorted(line for text in files for line in text.splitlines())

    assert lines(spec) == lines(clean)
    assert lines(spec)[0] == b'{"id":1,"at":"2026-11-24T01:00:00","price":"0.10"}'


def test_orphans_and_the_leavings_of_killed_writers_are_removed(tmp_path: Path):
    folder = Folder.open(str(tmp_path))
    write_files(tmp_path, {"data/.a.00ff.tmp": b"half", f"data/{ORPHAN}": b"x", f"_dead_letters/{ORPHAN}": b"x"})
    write_files(tmp_path, {"_rmbatch/usage/.a.json.00ff.tmp": b"half"})
    remove_orphans(folder, [])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_of_others_in_the_folder_of_an_output_stay(tmp_path: Path):
    write_files(tmp_path, {"data/train.jsonl": b"{}", "data/notes.parquet": b"x", f"data/{ORPHAN}": b"x"})
    folder = Folder.open(str(tmp_path))
    remove_orphans(folder, [])
    assert [entry.name for entry in folder.entries()] == ["data/notes.parquet", "data/train.jsonl"]
    write_files(tmp_path, {"_rmbatch/plan.json": b"{}", f"data/{ORPHAN}": b"x"})
    Ledger(folder).discard()
    assert [entry.name for entry in folder.entries()] == ["data/notes.parquet", "data/train.jsonl"]


def test_discarding_removes_records_before_their_shuffle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(
        tmp_path,
        {f"_rmbatch/{name}": b"{}" for name in ("grouped.json", "grouped/a.parquet", "commits/a.json", "plan.json")},
    )
    folder, gone = Folder.open(str(tmp_path)), []
    monkeypatch.setattr(LocalStore, "remove_folder", lambda self, path: gone.append(path.rsplit("/", 1)[-1]))
    monkeypatch.setattr(LocalStore, "delete", lambda self, paths: None)
    Ledger(folder).discard()
    assert gone == ["commits", "grouped.json", "grouped"]


def test_an_input_without_rows_is_finished_too(tmp_path: Path, memory: Folder):
    write_files(tmp_path, {"in/1.jsonl": b'{"id": 1}\n'})
    dataset = plan(tmp_path / "in", limit=0)
    assert run_to_end(dataset, spec_of(memory, dataset))["rows"] == {}
