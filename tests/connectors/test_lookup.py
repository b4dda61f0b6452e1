"""Rows are found by address, position and value, whatever was kept and however records cut the rows."""

from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import UserError
from connectors.ledger import Ledger
from connectors.lookup import address_of, find_value, locate, read_row, read_values
from connectors.schema import DEAD, KEPT, ORIGIN_ROW, ORIGIN_URI, REJECTED
from connectors.storage import Folder
from connectors.units import Range
from tests.connectors.inputs import read_all
from tests.connectors.outputs import compact, run_to_end, small_input, spec_of


@pytest.mark.parametrize("options", [{}, {"format": "jsonl", "compression": "gzip"}, {"keep_rejected": False}])
@pytest.mark.parametrize("segments", [False, True])
def test_every_row_is_found_by_its_address_and_back(
    tmp_path: Path, options: dict, segments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if segments:
        monkeypatch.setattr("connectors.compaction.SEGMENT_RECORDS", 2)
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, **options)
    run_to_end(dataset, spec)
    ledger = Ledger(spec.folder)
    compact(ledger)
    commits = ledger.commits()
    for row in read_all(dataset).to_pylist():
        address = Range(row["_rmbatch.unit"], row["_rmbatch.row"], row["_rmbatch.row"] + 1)
        place = locate(ledger, commits, address)
        assert place is not None
        if row[DEAD] is not None:
            expected = "dead_letters"
        else:
            expected = "rejected" if row["id"] % 3 == 0 else "data"
        assert place.part == expected
        if place.path is None:
            assert (expected, spec.keep_rejected) == ("rejected", False)
            continue
        found = read_row(spec.folder, place.path, place.index, None if expected == "dead_letters" else spec.schema)
        (values,) = found.to_pylist()
        if expected == "dead_letters":
            assert (values["uri"], values["row"]) == (row[ORIGIN_URI], row[ORIGIN_ROW])
        else:
            assert values["id"] == row["id"]
        assert address_of(ledger, commits, place.path, place.index) == (address, place.record)


def test_an_address_that_no_record_covers_is_not_found(tmp_path: Path) -> None:
    dataset = small_input(tmp_path / "in")
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset)
    run_to_end(dataset, spec)
    ledger = Ledger(spec.folder)
    assert locate(ledger, ledger.commits(), Range(99, 0, 1)) is None
    assert locate(ledger, [], Range(0, 0, 1)) is None
    assert address_of(ledger, ledger.commits(), "data/no", 0) is None


VALUES = st.lists(st.one_of(st.none(), st.text(st.sampled_from('ab"\\\n é'), max_size=3)), min_size=1, max_size=30)


@settings(max_examples=60)
@given(VALUES, st.data(), st.sampled_from([1, 3, 100]))
def test_value_search_equals_a_plain_loop(values: list[str | None], data: st.DataObject, group_rows: int) -> None:
    wanted = data.draw(st.sampled_from([value for value in values if value is not None] or ["x"]))
    expected = [index for index, value in enumerate(values) if value == wanted]
    with TemporaryDirectory() as place:
        table = pa.table({"n": range(len(values)), "id": pa.array(values, pa.string())})
        pq.write_table(table, f"{place}/a.parquet", row_group_size=group_rows)
        lines = [orjson.dumps({"n": n, "id": value}) + b"\n" for n, value in enumerate(values)]
        Path(place, "a.jsonl").write_bytes(b"".join(lines))
        for name in ("a.parquet", "a.jsonl"):
            found = list(find_value(Folder.open(place), name, "id", wanted))
            assert [index for index, _ in found] == expected
            assert [row["n"][0].as_py() for _, row in found] == expected
            assert read_values(Folder.open(place), name, "id", 1000) == [each for each in values if each is not None]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.float64()])
def test_numbers_are_found_by_their_text(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([7, 3, None, 7], kind)
    pq.write_table(pa.table({"id": values}), tmp_path / "a.parquet", row_group_size=2)
    folder, text = Folder.open(str(tmp_path)), "7.0" if pa.types.is_floating(kind) else "7"
    assert [index for index, _ in find_value(folder, "a.parquet", "id", text)] == [0, 3]
    assert not list(find_value(folder, "a.parquet", "id", "seven"))
    assert not list(find_value(folder, "a.parquet", "other", text))


def test_a_row_behind_the_last_one_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has no row 1; rows are counted from 0"):
        read_row(Folder.open(str(tmp_path)), "a.parquet", 1)


def test_outcomes_keep_their_codes() -> None:
    assert (KEPT, REJECTED) == (0, 1)  # records on disk say so
