"""What a write task does with a block, without Ray: each row once, dead rows left alone, killers narrowed down."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors.attempts import DEATHS_TO_BURY, DEATHS_TO_NARROW, Attempts, Chunk, narrow
from connectors.schema import DEAD, DEAD_TYPE, ROW, UNIT, add_address
from connectors.storage import Folder
from connectors.units import Range
from rmbatch.pipeline.blocks import BlockWork

LETTER = {"code": "invalid_json", "message": "no", "line": 1, "offset": 0, "raw": b"{"}


class KilledError(BaseException):
    """Stands for the death of the process: nothing may run after it, not even the removal of a marker."""


class Shout:
    """A stage that dies at the text ``boom`` and keeps what it has seen."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        return schema.append(pa.field("loud", pa.string()))

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = table["text"].to_pylist()
        self.seen.append(texts)
        if "boom" in texts:
            raise KilledError
        return table.append_column("loud", pa.array([text.upper() for text in texts]))


def block(texts: list[str], keys: list[str] | None = None, unit: int = 0, first_row: int = 0) -> pa.Table:
    table = pa.table({"text": texts, "key": keys or texts})
    return add_address(table, unit, first_row, uri="in.jsonl", first_origin_row=first_row)


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(Folder.open(str(tmp_path / "attempts")), "run1")


def markers(attempts: Attempts) -> int:
    return len(attempts.folder.entries())


def worked_off(table: pa.Table, attempts: Attempts, group: str | None = None) -> tuple[pa.Table, int]:
    """What comes out at last, and how many processes died before it did."""
    for deaths in range(1000):
        try:
            with killing(attempts):
                return BlockWork([Shout()], attempts, group)(table), deaths
        except KilledError:
            continue
    raise AssertionError("it never ends")


class killing:  # noqa: N801 - reads as a statement
    """A death leaves the markers that were there: what ``attempt`` removes on its way out is put back."""

    def __init__(self, attempts: Attempts) -> None:
        self.attempts = attempts
        self.removed: list[str] = []

    def __enter__(self) -> None:
        folder = type(self.attempts.folder)
        self.delete = folder.delete

        def remove(this: Folder, names: Sequence[str]) -> None:
            if not isinstance(sys.exception(), KilledError):
                self.removed.extend(names)

        folder.delete = remove  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        type(self.attempts.folder).delete = self.delete  # type: ignore[method-assign]
        self.attempts.folder.delete(self.removed)


def test_each_row_comes_out_once_and_no_marker_stays(attempts: Attempts) -> None:
    both = pa.concat_tables([block(["a", "b"]), block(["c"], unit=1, first_row=5)]).unify_dictionaries()
    done = BlockWork([Shout()], attempts)(both)
    assert done["loud"].to_pylist() == ["A", "B", "C"]
    assert (done[UNIT].to_pylist(), done[ROW].to_pylist()) == ([0, 0, 1], [0, 1, 5])
    assert markers(attempts) == 0


def test_rows_that_are_dead_already_are_not_worked_on(attempts: Attempts) -> None:
    table = block(["a", "boom", "c"])
    letters = pa.array([None, LETTER, None], DEAD_TYPE)
    table = table.set_column(table.column_names.index(DEAD), pa.field(DEAD, DEAD_TYPE), letters)
    done = BlockWork([Shout()], attempts)(table).sort_by(ROW)
    assert done["loud"].to_pylist() == ["A", None, "C"]
    assert done[DEAD].to_pylist() == [None, LETTER, None]


def test_a_block_of_no_rows(attempts: Attempts) -> None:
    assert BlockWork([Shout()], attempts)(block([])).num_rows == 0


@pytest.mark.parametrize("killer", [0, 1, 500, 999])
def test_a_row_that_kills_is_found_and_only_it_is_lost(attempts: Attempts, killer: int) -> None:
    texts = [f"t{number}" for number in range(1000)]
    texts[killer] = "boom"
    done, deaths = worked_off(block(texts), attempts)
    rows = done.sort_by(ROW)
    expected = [None if text == "boom" else text.upper() for text in texts]
    assert rows["loud"].to_pylist() == expected
    (letter,) = rows[DEAD].drop_null().to_pylist()
    assert letter["code"] == "killed_worker"
    assert b"boom" in letter["raw"]
    assert deaths <= 3 * DEATHS_TO_NARROW + DEATHS_TO_BURY  # 1000 rows, 32 chunks a level: not one death per row


def scattered(texts: list[str]) -> pa.Table:
    """A block of rows of which none stands next to another."""
    return pa.concat_tables([block([text], first_row=2 * n) for n, text in enumerate(texts)]).unify_dictionaries()


def test_scattered_rows_are_processed_together(attempts: Attempts) -> None:
    stage = Shout()
    done = BlockWork([stage], attempts)(scattered(["a", "b", "c"]))
    assert stage.seen == [["a", "b", "c"]]
    assert done[ROW].to_pylist() == [0, 2, 4]
    assert markers(attempts) == 0


def test_a_scattered_row_that_kills_is_found_and_only_it_is_lost(attempts: Attempts) -> None:
    done, deaths = worked_off(scattered(["a", "boom", "c", "d"]), attempts)
    assert done.sort_by(ROW)["loud"].to_pylist() == ["A", None, "C", "D"]
    assert deaths == DEATHS_TO_BURY


def test_scattered_groups_of_one_key_stay_apart(attempts: Attempts) -> None:
    parts = [block(["a", "b"], keys=["x", "x"]), block(["c", "d"], keys=["x", "x"], first_row=5)]
    stage = Shout()
    BlockWork([stage], attempts, "key")(pa.concat_tables(parts).unify_dictionaries())
    assert stage.seen == [["a", "b"], ["c", "d"]]


def test_a_group_that_kills_is_lost_as_a_whole(attempts: Attempts) -> None:
    texts = ["a", "b", "boom", "c", "d", "e"]
    done, _ = worked_off(block(texts, keys=list("xxyyzz")), attempts, group="key")
    rows = done.sort_by(ROW)
    assert rows["loud"].to_pylist() == ["A", "B", None, None, "D", "E"]
    assert np.asarray(rows[DEAD].is_valid()).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("group", [None, "key"])
def test_healthy_rows_survive_kills_of_the_whole_job(tmp_path: Path, group: str | None) -> None:
    """A slow block, or one slow group, is under way at each kill; the next command is a run of its own."""
    folder, table = Folder.open(str(tmp_path)), block(["a", "b", "c", "d"], keys=["x"] * 4)
    for number in range(12):
        attempts = Attempts(folder, f"run{number}")
        (chunk,) = _chunks(table, attempts, group)
        attempts.mark(chunk.rows)  # and dies
    assert len(folder.entries()) == 12
    done = BlockWork([Shout()], Attempts(folder, "last"), group)(table)
    assert done["loud"].to_pylist() == ["A", "B", "C", "D"]
    assert done[DEAD].null_count == 4


def _chunks(table: pa.Table, attempts: Attempts, group: str | None) -> list[Chunk]:
    rows = Range(0, 0, table.num_rows)
    return narrow(rows, attempts.deaths(rows), range(table.num_rows) if group is None else [0])


def test_a_killer_is_buried_though_its_driver_is_killed_too(tmp_path: Path) -> None:
    """What a run has found out about a block, the next run knows; three deaths of the row are seen by one run."""
    folder, table = Folder.open(str(tmp_path)), block([f"t{number}" for number in range(99)] + ["boom"])
    deaths = 0
    for number in range(100):
        attempts = Attempts(folder, f"run{number}")
        for _ in range(DEATHS_TO_BURY + 1):  # then its driver dies
            try:
                with killing(attempts):
                    done = BlockWork([Shout()], attempts)(table)
            except KilledError:
                deaths += 1
                continue
            assert done[DEAD].null_count == 99
            assert deaths <= 4 * DEATHS_TO_BURY
            return
    raise AssertionError("it never ends")
