"""What the ledger writes it reads, on every store; damage is named, and memory does not grow with the rows."""

import gc
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from connectors.commit import Commit, DataFile, count_outcomes, pack_outcomes
from connectors.dataset import InputDataset
from connectors.errors import DeadEndError, JobError, UserError
from connectors.finish import resolve_overlaps
from connectors.ledger import Ledger, Plan
from connectors.schema import DEAD_LETTER, KEPT, REJECTED
from connectors.storage import Folder, StorageOptions
from connectors.units import Range, Unit, total_rows
from connectors.writer import OutputSpec
from tests.connectors.outputs import small_input

OUTCOMES = np.array([KEPT, REJECTED, KEPT, DEAD_LETTER, KEPT], np.int8)


def record(*ranges: Range, outcomes: np.ndarray | None = None, run: str = "run", at: float = 1.0) -> Commit:
    outcomes = np.zeros(total_rows(ranges), np.int8) if outcomes is None else outcomes
    counts = count_outcomes(outcomes)
    files = [DataFile(f"{part}/{run}", part, rows, 100, "00") for part, rows in counts.items() if rows]
    return Commit(list(ranges), files, counts, {"scored.f1": 2}, run, at, pack_outcomes(outcomes))


def test_a_record_comes_back_as_it_was(folder: Folder):
    ledger = Ledger(folder)
    written = record(Range(3, 0, 4), Range(5, 7, 8), outcomes=OUTCOMES)
    assert ledger.commit(written)
    (found,) = ledger.commits()
    assert (found.ranges, found.files, found.tally, found.run) == (
        written.ranges,
        written.files,
        written.tally,
        written.run,
    )
    assert found.rows == {"data": 3, "rejected": 1, "dead_letters": 1}
    assert ledger.outcomes(found).tolist() == OUTCOMES.tolist()


def test_the_first_record_of_the_same_rows_stands(folder: Folder):
    ledger = Ledger(folder)
    assert ledger.commit(record(Range(0, 0, 5), run="first"))
    assert not ledger.commit(record(Range(0, 0, 5), run="second"))
    assert ledger.commit(record(Range(0, 0, 4), run="third"))  # other rows, another name
    assert [found.run for found in ledger.commits()] == ["first", "third"]  # the longer first


def test_missing_is_what_no_record_covers(folder: Folder, tmp_path: Path):
    dataset, ledger = small_input(tmp_path, num_rows=11), Ledger(folder)
    assert ledger.missing(dataset, ledger.commits()) == [Range(0, 0, 5), Range(1, 0, 6)]
    ledger.commit(record(Range(0, 2, 5), Range(1, 0, 1)))
    ledger.commit(record(Range(0, 1, 3)))
    ledger.commit(record(Range(1, 5, 6)))
    assert ledger.missing(dataset, ledger.commits()) == [Range(0, 0, 1), Range(1, 1, 5)]


def test_plan_is_written_once_and_read_with_new_options(folder: Folder, tmp_path: Path):
    ledger, dataset = Ledger(folder), small_input(tmp_path)
    assert ledger.plan() is None
    ledger.begin(Plan({"job": "score"}, dataset, conditional_put=False))
    with pytest.raises(JobError, match="another run"):
        ledger.begin(Plan({"job": "other"}, dataset))
    found = ledger.plan(StorageOptions(region="x"))
    assert found is not None
    assert (found.job, found.conditional_put) == ({"job": "score"}, False)
    assert found.dataset.options.region == "x"
    assert (found.dataset.units, found.dataset.files) == (dataset.units, dataset.files)
    assert found.dataset.schema.equals(dataset.schema, check_metadata=True)


def test_rows_are_shuffled_once(folder: Folder, tmp_path: Path):
    """A run that was asleep must not change the addresses that the records of a later run speak of."""
    ledger, dataset = Ledger(folder), small_input(tmp_path)
    assert ledger.read_grouped() is None
    ledger.write_grouped(dataset)
    with pytest.raises(JobError, match="another run"):
        ledger.write_grouped(InputDataset("jsonl", dataset.schema, dataset.files, {}))
    found = ledger.read_grouped()
    assert found is not None
    assert found.units == dataset.units


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"null",
        lambda text: b'{"ranges": []}',
        lambda text: text.replace(b"[0,0,5]", b"[0,0,6]"),  # other rows than its name says
        lambda text: text.replace(b'"num_rows":3', b'"num_rows":2'),
        lambda text: text.replace(b'"data":3', b'"data":4'),
        lambda text: b"\x1f\x8b" + text,
    ],
)
def test_a_damaged_record_is_named_with_the_cure(folder: Folder, damage):
    ledger, written = Ledger(folder), record(Range(0, 0, 5), outcomes=OUTCOMES)
    ledger.commit(record(Range(1, 0, 5)))
    text = damage(written.to_json())
    assert text != written.to_json()
    folder.write(f"_rmbatch/commits/{written.name}", text)
    with pytest.raises(JobError, match=rf"commits/{written.name} is damaged .*delete it and run the same command"):
        ledger.commits()


@pytest.mark.parametrize("packed", ["", "AAAA", pack_outcomes(OUTCOMES[:4]), pack_outcomes(OUTCOMES[::-1] * 0)])
def test_outcomes_that_do_not_fit_their_record_are_named(tmp_path: Path, packed: str):
    ledger, written = Ledger(Folder.open(str(tmp_path))), record(Range(0, 0, 5), outcomes=OUTCOMES)
    data = orjson.loads(written.to_json())
    ledger.private.write(f"commits/{written.name}", orjson.dumps(data | {"outcomes": packed}))
    with pytest.raises(JobError, match=rf"{written.name} is damaged"):
        ledger.outcomes(ledger.commits()[0])


READERS = {"plan": Ledger.plan, "grouped": Ledger.read_grouped, "manifest": Ledger.manifest}


@pytest.mark.parametrize("name", READERS)
def test_other_damaged_files_are_named(tmp_path: Path, name: str):
    ledger = Ledger(Folder.open(str(tmp_path)))
    ledger.private.write(f"{name}.json", b'{"version": 1, "job"')
    with pytest.raises(JobError, match=rf"{name}.json is damaged"):
        READERS[name](ledger)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", ["[]", "{}", '"text"', "null", "3", '{"version": 2, "files": [3]}'])
def test_other_files_of_the_wrong_shape_are_named(tmp_path: Path, name: str, text: str):
    ledger = Ledger(Folder.open(str(tmp_path)))
    ledger.private.write(f"{name}.json", text.encode())
    with pytest.raises(DeadEndError, match=rf"{name}.json is damaged \(it h\S+ no [^)]*\); start with a new output"):
        READERS[name](ledger)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("job", []),
        ("planned_rows", "8"),
        ("rows", None),
        ("tally", [1]),
        ("files", {"path": "data/a"}),
        ("files", ["data/a"]),
        ("files", [{"path": "data/a", "part": "data"}]),
    ],
)
def test_a_manifest_with_a_value_of_the_wrong_kind_is_named(tmp_path: Path, key: str, value: object):
    ledger = Ledger(Folder.open(str(tmp_path)))
    manifest = {"job": {}, "planned_rows": 0, "rows": {}, "tally": {}, "files": []}
    ledger.private.write("manifest.json", orjson.dumps(manifest))
    assert ledger.manifest() == manifest
    ledger.private.write("manifest.json", orjson.dumps(manifest | {key: value}))
    with pytest.raises(DeadEndError, match=r"manifest.json is damaged \(it"):
        ledger.progress()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("job", "score"),
        ("created", "today"),
        ("conditional_put", None),
        ("dataset", []),
        ("dataset", {}),
        ("dataset", {"format": "jsonl", "schema": "x", "files": [3], "units": []}),
        ("dataset", {"format": "jsonl", "schema": "x", "files": [], "units": [[1]]}),
    ],
)
def test_a_plan_with_a_value_of_the_wrong_kind_is_named(tmp_path: Path, key: str, value: object):
    ledger, written = Ledger(Folder.open(str(tmp_path))), Plan({}, small_input(tmp_path / "in"))
    ledger.private.write("plan.json", orjson.dumps(orjson.loads(written.to_json()) | {key: value}))
    with pytest.raises(DeadEndError, match=r"plan.json is damaged \(.*\); start with a new output path$"):
        ledger.plan()


def test_the_plan_of_another_version_is_refused(tmp_path: Path):
    ledger = Ledger(Folder.open(str(tmp_path)))
    ledger.private.write("plan.json", b'{"version": 0}')
    with pytest.raises(UserError, match="another version"):
        ledger.plan()


def test_progress_counts_each_row_once(folder: Folder, tmp_path: Path):
    ledger, dataset = Ledger(folder), small_input(tmp_path, num_rows=11)
    assert ledger.progress() is None
    ledger.begin(Plan({}, dataset))
    ledger.commit(record(Range(0, 0, 5), outcomes=OUTCOMES, at=10.0))
    ledger.commit(record(Range(0, 4, 5), Range(1, 0, 2), at=20.0))
    progress = ledger.progress()
    assert progress is not None
    assert (progress.planned_rows, progress.finished_rows) == (11, 7)
    assert progress.finished == Counter({"data": 6, "rejected": 1, "dead_letters": 1, "scored.f1": 4})
    assert (progress.num_files, progress.num_bytes, progress.manifest) == (4, 400, None)
    assert progress.commit_times == {10.0: 5, 20.0: 3}


def test_progress_of_a_finished_output_is_its_manifest(folder: Folder):
    ledger = Ledger(folder)
    rows, files = (
        {"data": 6, "rejected": 1, "dead_letters": 1},
        [
            {"path": "data/a", "part": "data", "num_bytes": 10},
            {"path": "_rejected/a", "part": "rejected", "num_bytes": 5},
        ],
    )
    manifest = {"job": {}, "planned_rows": 8, "rows": rows, "tally": {"scored.f1": 4}, "files": files}
    ledger.private.write("manifest.json", orjson.dumps(manifest))
    progress = ledger.progress()
    assert progress is not None
    assert (progress.finished_rows, progress.num_bytes, progress.finished["scored.f1"]) == (8, 15, 4)


def test_status_passes_over_a_record_that_vanishes(tmp_path: Path, monkeypatch):
    ledger = Ledger(Folder.open(str(tmp_path)))
    for unit in range(3):
        ledger.commit(record(Range(unit, 0, 5)))
    listed = ledger.private.entries("commits")
    ledger.private.delete([listed[1].name])
    monkeypatch.setattr(Folder, "entries", lambda self, prefix="": listed)
    assert [found.ranges[0].unit for found in ledger.commits()] == [0, 2]


def test_memory_of_records_does_not_grow_with_their_rows(tmp_path: Path):
    def peak(rows: int) -> int:
        ledger = Ledger(Folder.open(str(tmp_path / str(rows))))
        outcomes = np.random.default_rng(0).integers(0, 2, rows).astype(np.int8)  # does not compress below 1 bit a row
        for unit in range(200):
            ledger.commit(record(Range(unit, 0, rows), outcomes=outcomes))
        tracemalloc.start()
        found = ledger.commits()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(commit.num_rows for commit in found) == 200 * rows
        return held

    assert peak(50_000) < 1.2 * peak(1_000)


def test_time_grows_with_the_records_and_not_with_their_square(tmp_path: Path):
    ledger = Ledger(Folder.open(str(tmp_path)))

    def seconds(num: int) -> float:
        dataset = InputDataset("jsonl", pa.schema([]), {}, {0: Unit(0, 0, 0, 2 * num, 1), 1: Unit(1, 0, 0, num, 1)})
        commits = [record(Range(0, 2 * part, 2 * part + 1)) for part in range(num)]  # gaps that nothing closes
        commits += [record(Range(1, part, part + 1)) for part in reversed(range(num))]
        gc.collect()  # else a collection of what earlier tests have left may fall into the time below
        began = time.thread_time()
        assert total_rows(ledger.missing(dataset, commits)) == num
        assert len(resolve_overlaps(ledger, commits, OutputSpec(ledger.output, dataset.schema), "run")) == 2 * num
        return time.thread_time() - began

    assert min(seconds(8_000) for _ in range(3)) < 10 * max(seconds(2_000) for _ in range(3))
