"""Records gathered into segments while others write, retry, read, remove or have lost their lease."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.commit import Commit, DataFile, count_outcomes, pack_outcomes
from connectors.compaction import Compactor, compact_in_background
from connectors.errors import JobError
from connectors.finish import clean, finish
from connectors.lease import Lease
from connectors.ledger import Ledger, Plan
from connectors.segments import OUTCOMES, RECORDS
from connectors.storage import Folder
from connectors.units import Range
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


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.compaction.SEGMENT_RECORDS", 3)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder.open(f"memory://compaction/{tmp_path.name}")
    yield folder
    folder.remove("")


def record(unit: int, run: str = "run") -> Commit:
    outcomes = (np.arange(5) + unit).astype(np.int8) % 3
    counts = count_outcomes(outcomes)
    files = [DataFile(f"{part}/{run}-{unit}", part, rows, 100, "00") for part, rows in counts.items()]
    return Commit([Range(unit, 0, 5)], files, counts, {"scored.f1": 2}, run, 1.0, pack_outcomes(outcomes))


def commit(ledger: Ledger, *units: int, run: str = "run") -> None:
    for unit in units:
        ledger.commit(record(unit, run))


def runs(ledger: Ledger) -> dict[int, str]:
    """By unit, whose record counts."""
    found = ledger.commits()
    assert len({each.name for each in found}) == len(found)
    return {each.ranges[0].unit: each.run for each in found}


def test_gathered_records_are_read_as_they_were(folder: Folder):
    ledger = Ledger(folder)
    commit(ledger, *range(7))
    before = ledger.commits()
    assert compact(ledger) == 6
    assert ledger.commits() == before
    assert len(ledger.loose_names()) == 1
    for each in ledger.commits():
        assert ledger.outcomes(each).tolist() == [(row + each.ranges[0].unit) % 3 for row in range(5)]


def test_fewer_records_than_a_segment_stay_as_they_are(memory: Folder):
    ledger = Ledger(memory)
    commit(ledger, 0, 1)
    assert compact(ledger) == 0
    assert [entry.name for entry in memory.entries("_rmbatch/segments")] == []


def test_a_ledger_of_many_records_is_read_by_few_requests(memory: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("connectors.compaction.SEGMENT_RECORDS", 100)
    ledger = Ledger(memory)
    commit(ledger, *range(1000))
    compact(ledger)
    fs, asked = memory.store.fs, []  # type: ignore[attr-defined]
    for name in ("cat_file", "find"):
        call = getattr(fs, name)
        monkeypatch.setattr(fs, name, lambda *args, call=call, **kwargs: asked.append(args) or call(*args, **kwargs))
    assert len(ledger.commits()) == 1000
    assert len(asked) == 2 + 10


def test_a_retry_after_its_record_was_gathered_does_not_count(memory: Folder):
    ledger = Ledger(memory)
    commit(ledger, 0, 1, 2)
    driver = Compactor(ledger, 1, lambda: None)
    driver.compact()
    commit(ledger, 1, run="retry")
    assert runs(ledger) == {0: "run", 1: "run", 2: "run"}
    assert driver.compact() == 1
    assert runs(ledger) == {0: "run", 1: "run", 2: "run"}
    assert ledger.loose_names() == []


def test_a_record_gathered_before_it_was_read_back_is_ours(memory: Folder, monkeypatch: pytest.MonkeyPatch):
    """Between the put and the look at what stands there, the driver gathers the record and deletes its file."""
    ledger = Ledger(memory)
    commit(ledger, 0, 1)
    store = memory.store
    read = store.read

    def read_late(path: str, *args: object) -> bytes:
        monkeypatch.setattr(store, "read", read)
        compact(ledger)
        return read(path, *args)

    monkeypatch.setattr(store, "read", read_late)
    assert ledger.commit(record(2))
    commit(ledger, 3, 4)
    monkeypatch.setattr(store, "_put_if_absent", lambda path, data: compact(ledger))  # another's stood there till now
    memory.write(f"_rmbatch/commits/{record(5).name}", record(5, "other").to_json())
    assert not ledger.commit(record(5, "retry"))


def test_reader_misses_no_record_gathered_while_it_reads(memory: Folder, monkeypatch: pytest.MonkeyPatch):
    for moment in ("names", "read_many"):
        ledger = Ledger(memory.folder(moment))
        commit(ledger, *range(6))
        with pytest.MonkeyPatch.context() as patch:
            owner: type = Ledger if moment == "names" else Folder
            name = "loose_names" if moment == "names" else "read_many"
            call: Callable = getattr(owner, name)

            def late(*args: object, patch=patch, owner=owner, name=name, call=call, ledger=ledger) -> object:
                patch.setattr(owner, name, call)
                if name == "read_many":  # deleted after the listings, before the first read
                    compact(ledger)
                    return call(*args)
                found = call(*args)  # deleted after the first listing
                compact(ledger)
                return found

            patch.setattr(owner, name, late)
            assert sorted(runs(ledger)) == list(range(6))
        assert ledger.loose_names() == []


def test_a_reader_finds_the_segment_that_took_anothers_place(memory: Folder, monkeypatch: pytest.MonkeyPatch):
    ledger = Ledger(memory)
    commit(ledger, 0, 1, 2)
    compact(ledger)
    listed = ledger.segments.names()
    ledger.remove({record(1).name})
    answers = iter([listed])
    names = type(ledger.segments).names
    monkeypatch.setattr(type(ledger.segments), "names", lambda self: next(answers, None) or names(self))
    assert sorted(runs(ledger)) == [0, 2]


def test_removing_takes_records_out_of_files_and_segments(memory: Folder):
    ledger = Ledger(memory)
    commit(ledger, *range(7))
    compact(ledger)
    commit(ledger, 1, run="retry")  # would come to light if only the segment's record went
    ledger.remove({record(unit).name for unit in (1, 3, 4, 5, 6)})
    assert runs(ledger) == {0: "run", 2: "run"}
    assert ledger.outcomes(ledger.commits()[1]).tolist() == [2, 0, 1, 2, 0]
    names = [entry.name for entry in memory.entries("_rmbatch/segments")]
    assert len(names) == 2  # a segment without records goes


def test_a_driver_that_lost_its_lease_deletes_nothing(memory: Folder):
    ledger = Ledger(memory)
    commit(ledger, *range(3))
    asked = []

    def check() -> None:
        asked.append(True)
        if len(asked) == 2:  # taken over after the segment was written
            raise JobError("another run has taken over this output")

    with pytest.raises(JobError, match="taken over"):
        Compactor(ledger, 1, check).compact()
    assert len(ledger.loose_names()) == 3
    assert compact(ledger, epoch=2) == 3
    assert len(ledger.segments.names()) == 1
    assert sorted(runs(ledger)) == [0, 1, 2]


def test_of_two_segments_with_one_record_the_later_runs_counts(memory: Folder):
    """The old driver wakes after its last question, with a list of records from before."""
    ledger = Ledger(memory)
    commit(ledger, 0, 1, 2, run="old")
    old = Compactor(ledger, 1, lambda: None)
    found = ledger.read_loose(ledger.loose_names())
    compact(ledger, epoch=2)
    commit(ledger, 0, 1, 2, run="retry")
    old._gather([each.name for each in found])
    assert len(ledger.segments.names()) == 2
    assert set(runs(ledger).values()) == {"old"}


def test_a_damaged_segment_is_named_with_the_cure(folder: Folder):
    ledger = Ledger(folder)
    commit(ledger, 0, 1, 2)
    compact(ledger)
    (name,) = ledger.segments.names()
    text = ledger.segments.folder.read(name + RECORDS)
    for damaged in (text[: len(text) // 2], b"", b"null", text[:-9] + b"\0" * 9):
        ledger.segments.folder.write(name + RECORDS, damaged)
        with pytest.raises(
            JobError, match=rf"segments/{name}.json.zst is damaged .*delete it and run the same command"
        ):
            ledger.commits()
    ledger.segments.folder.write(name + RECORDS, text)
    found = ledger.commits()[0]
    ledger.segments.folder.write(name + OUTCOMES, b"x")
    with pytest.raises(JobError, match=rf"{name}.outcomes.zst is damaged"):
        ledger.outcomes(found)
    ledger.segments.delete(name)
    assert ledger.commits() == []


def test_finish_names_the_segment_of_a_vanished_file(tmp_path: Path, memory: Folder):
    dataset = small_input(tmp_path / "in")
    ledger, spec, job = Ledger(memory), spec_of(memory, dataset), Plan({"job": "test"}, dataset)
    ledger.begin(job)
    for piece in whole(dataset):
        work(dataset, [piece], spec, "one")
    compact(ledger)
    gone = next(each for each in ledger.commits() if each.segment)
    memory.delete([gone.files[0].path])
    with pytest.raises(JobError, match=f"delete {gone.path} and run the same command"):
        finish(ledger, job, spec, "run")
    memory.delete([gone.path])
    assert_finished(spec, manifest := run_to_end(dataset, spec), manifest, read_output(spec))


def test_outcomes_without_a_segment_are_removed_at_the_end(memory: Folder):
    ledger = Ledger(memory)
    commit(ledger, 0, 1, 2)
    compact(ledger)
    ledger.segments.folder.write(f"000001-000002-00{OUTCOMES}", b"x")
    clean(ledger)
    (name,) = ledger.segments.names()
    assert {entry.name for entry in ledger.segments.folder.entries()} == {name + RECORDS, name + OUTCOMES}


def test_a_driver_gathers_while_its_tasks_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("connectors.compaction.EVERY_S", 0.01)
    ledger = Ledger(Folder.open(str(tmp_path)))
    told: list[str] = []
    with Lease.take(ledger.private.folder("lease")) as lease, compact_in_background(ledger, lease, told.append):
        commit(ledger, *range(60))
    assert sorted(runs(ledger)) == list(range(60))
    assert ledger.segments.names()
    assert told == []


def test_a_store_that_fails_the_driver_is_told_once(memory: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("connectors.compaction.EVERY_S", 0.01)
    ledger, told = Ledger(memory), []

    def fail(self: Ledger) -> list[str]:
        calls.append(1)
        raise OSError("down")

    calls: list[int] = []
    monkeypatch.setattr(Ledger, "loose_names", fail)
    with Lease.take(ledger.private.folder("lease")) as lease, compact_in_background(ledger, lease, told.append):
        while len(calls) < 3:
            pass
    assert told == ["warning: commit records could not be gathered: down"]


STEPS = st.one_of(
    st.tuples(st.just("commit"), st.integers(0, 8)),
    st.tuples(st.just("old driver"), st.integers(1, 5)),
    st.tuples(st.just("new driver"), st.integers(1, 5)),
    st.tuples(st.just("another driver"), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_whatever_drivers_and_retries_do_each_record_counts_once(steps: list[tuple[str, int]]):
    """Two drivers that both believe they hold the lease advance step by step, in any order; no record is lost."""
    folder = Folder.open("memory://compaction/steps")
    folder.remove("")
    ledger, written = Ledger(folder), set()
    at_work: dict[str, list] = {"old driver": [], "new driver": []}
    for number, (step, value) in enumerate(steps):
        if step == "commit":
            commit(ledger, value, run=str(number))
            written.add(value)
        elif step == "another driver":
            compact(ledger, epoch=3)
        else:
            _advance(ledger, at_work[step], 1 if step == "old driver" else 2, value)
        assert set(runs(ledger)) == written
    compact(ledger, epoch=3)
    assert set(runs(ledger)) == written
    folder.remove("")


def _advance(ledger: Ledger, left: list[Callable[[], object]], epoch: int, steps: int) -> None:
    """So many steps of a driver's look: list, write a segment, delete its files one by one."""
    for _ in range(steps):
        if left:
            left.pop(0)()
            continue
        names = ledger.loose_names()[:3]
        if len(names) == 3:
            driver = Compactor(ledger, epoch, lambda: None)
            held: list[str] = []
            left.append(lambda driver=driver, names=names, held=held: held.extend(driver._gather(names)))
            left += [lambda at=at, held=held: ledger.delete_loose(held[at : at + 1]) for at in range(3)]
