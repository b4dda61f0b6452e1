"""A retry killed after any change, and the same command again, come to one clean retry; other rows stay as they are."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from connectors.commit import FOLDERS
from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.finish import clean, finish
from connectors.ledger import Ledger
from connectors.retry import apply_retry, stage_retry
from connectors.schema import DEAD, KEPT, OUTCOME, REJECTED
from connectors.storage import Folder
from connectors.units import Range
from connectors.writer import OutputSpec, OutputWriter
from tests.connectors.crashing_store import KilledError, killed_after
from tests.connectors.outputs import assert_finished, compact, read_file, read_output, run_to_end, small_input, spec_of
from tests.connectors.test_finish import gathered, memory

__all__ = ["memory"]

JSONL = {"format": "jsonl", "compression": "gzip"}


def choose(ledger: Ledger, spec: OutputSpec) -> dict[str, np.ndarray]:
    """All dead letters, and every kept row whose id ends in 1 or 2."""
    chosen = {}
    for record in ledger.commits():
        outcomes = ledger.outcomes(record)
        again = outcomes == 2
        for file in record.files:
            if file.part == "data":
                ids = [row["id"] for row in read_file(spec.folder, file.path, spec.schema)]
                again[outcomes == KEPT] = [each % 10 in (1, 2) for each in ids]
        chosen[record.name] = again
    return chosen


def decide_again(table: pa.Table) -> pa.Table:
    """Reject what was kept."""
    ids = np.asarray(table["id"].fill_null(0))
    assert np.isin(ids[np.asarray(table[DEAD].is_null())] % 10, (1, 2)).all()  # no other row is done again
    return table.append_column(OUTCOME, pa.array(np.full(table.num_rows, REJECTED, np.int8)))


def retry(dataset: InputDataset, spec: OutputSpec, run: str) -> dict:
    """What the command does: decide if nothing is under way, apply, work, finish."""
    ledger = Ledger(spec.folder)
    plan = ledger.plan()
    assert plan is not None
    if ledger.manifest() is not None and ledger.read_retry() is None:
        clean(ledger)
        assert stage_retry(ledger, spec, run, choose(ledger, spec))
    apply_retry(ledger)
    for piece in ledger.missing(dataset, ledger.commits()):
        with OutputWriter(spec, run) as writer:
            for table in dataset.read(piece, 3):
                writer.add(decide_again(table))
        compact(ledger)
    return finish(ledger, plan, spec, run)


def seen_by_glob(spec: OutputSpec) -> list[str]:
    """The rows of all parts, as somebody reads them who lists the files."""
    return [row for rows in read_output(spec).values() for row in rows]


@pytest.mark.parametrize(
    ("options", "store"),
    [
        pytest.param({}, nullcontext, id="parquet"),
        pytest.param(JSONL, nullcontext, id="jsonl"),
        pytest.param({"file_bytes": 1}, gathered, id="many records, segments"),
    ],
)
def test_any_crash_point_and_a_resume_equal_one_clean_retry(
    tmp_path: Path, memory: Folder, options: dict, store: Callable
) -> None:
    dataset = small_input(tmp_path / "in", num_rows=23)
    clean_spec = spec_of(memory.folder("clean"), dataset, **options)
    with store(memory):
        before = run_to_end(dataset, clean_spec)
        first = read_output(clean_spec)
        manifest = retry(dataset, clean_spec, "retry")
        expected = read_output(clean_spec)
        assert expected != first
        assert sorted(seen_by_glob(clean_spec)) == sorted(row for rows in first.values() for row in rows)
        assert manifest["rows"]["data"] < before["rows"]["data"]
        for number in range(1, 1000):
            spec = spec_of(memory.folder(str(number)), dataset, **options)
            run_to_end(dataset, spec)
            try:
                with killed_after(memory, number):
                    retry(dataset, spec, "first")
            except KilledError:
                rows = seen_by_glob(spec)
                assert len(set(rows)) == len(rows)  # nobody ever sees a row twice
                if Ledger(spec.folder).manifest() is not None:
                    named = {file["path"] for file in Ledger(spec.folder).manifest()["files"]}
                    assert named <= {e.name for f in FOLDERS.values() for e in spec.folder.entries(f)}
            else:
                break
            done = Ledger(spec.folder).manifest()
            if done is None or done["rows"] == before["rows"]:
                done = retry(dataset, spec, "second")
            else:
                clean(Ledger(spec.folder))
            assert_finished(spec, done, manifest, expected)
            memory.remove(str(number))
        else:
            raise AssertionError("it never ended")
    assert number > 20


def test_rows_that_are_not_retried_stay_byte_for_byte(tmp_path: Path) -> None:
    dataset = small_input(tmp_path / "in", num_rows=23)
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, format="jsonl", compression=None)

    def lines() -> dict[str, set[bytes]]:
        found = {}
        for part, folder in FOLDERS.items():
            texts = [path.read_bytes() for path in (tmp_path / "out" / folder).glob("*json*")]
            found[part] = {line for text in texts for line in text.split(b"\n") if line}
        return found

    run_to_end(dataset, spec)
    before = lines()
    retry(dataset, spec, "retry")
    after = lines()
    assert after["data"] < before["data"]
    assert after["rejected"] > before["rejected"]


def test_dropped_rejected_rows_are_refused(tmp_path: Path) -> None:
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, keep_rejected=False)
    manifest = run_to_end(dataset, spec)
    ledger = Ledger(spec.folder)
    with pytest.raises(UserError, match=r"output\.rejected: drop"):
        stage_retry(ledger, spec, "retry", choose(ledger, spec))
    assert ledger.manifest() == manifest
    assert ledger.read_retry() is None


def test_nothing_chosen_changes_nothing(tmp_path: Path) -> None:
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset)
    manifest = run_to_end(dataset, spec)
    ledger = Ledger(spec.folder)
    none = {record.name: np.zeros(record.num_rows, bool) for record in ledger.commits()}
    assert stage_retry(ledger, spec, "retry", none) == apply_retry(ledger) == 0
    assert ledger.manifest() == manifest


@pytest.mark.parametrize("is_old", [False, True])
def test_what_is_asked_again_outlives_the_decision(tmp_path: Path, is_old: bool) -> None:
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset)
    run_to_end(dataset, spec)
    ledger = Ledger(spec.folder)
    assert ledger.read_retried() is None
    stage_retry(ledger, spec, "retry", choose(ledger, spec), {"code": "verdict_*"})
    if is_old:  # as a version wrote it that asked for nothing again
        decided = ledger.read_retry()
        assert decided is not None
        del decided["ask_again"]
        ledger.private.write("retry.json", orjson.dumps(decided))
    assert ledger.read_retried() is None
    apply_retry(ledger)
    assert ledger.read_retry() is None
    assert ledger.read_retried() == {"run": "retry", "ask_again": None if is_old else {"code": "verdict_*"}}


def test_a_damaged_staged_file_loses_nothing(tmp_path: Path) -> None:
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset)
    run_to_end(dataset, spec)
    ledger = Ledger(spec.folder)
    stage_retry(ledger, spec, "retry", choose(ledger, spec))
    staged = sorted((tmp_path / "out/_rmbatch/retry").rglob("*.staged"))[0]
    content = staged.read_bytes()
    staged.write_bytes(b"damaged")
    with suppress(Exception):
        apply_retry(ledger)
    assert ledger.read_retry() is not None
    staged.write_bytes(content)
    assert apply_retry(ledger) > 0
    missing = ledger.missing(dataset, ledger.commits())
    assert sum(piece.num_rows for piece in missing) > 0
    assert all(isinstance(piece, Range) for piece in missing)
