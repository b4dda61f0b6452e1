"""Parquet: values to the last bit, units on row groups, and a damaged byte is an error and not a score."""

import datetime
import math
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.errors import JobError, UserError
from connectors.formats import parquet
from connectors.storage import Folder
from tests.connectors.inputs import plan, read_rows

BIG = 2**53 + 1
MOMENT = datetime.datetime(2026, 11, 24, 1, 2, 3, 456789)
VALUES = {
    "int64": pa.array([BIG, None, -BIG]),
    "uint64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "int8": pa.array([-128, None, 127], pa.int8()),
    "float64": pa.array([0.1 + 0.2, None, -0.0]),
    "float32": pa.array([math.pi, None, math.inf], pa.float32()),
    "text": pa.array(["\u0000\u2028", None, ""]),
    "large_text": pa.array(["x", None, "y"], pa.large_string()),
    "bytes": pa.array([b"\xff\x00", None, b""]),
    "bool": pa.array([True, None, False]),
    "ns": pa.array([1_700_000_000_123_456_789, None, -1], pa.timestamp("ns")),
    "us_zone": pa.array([MOMENT, None, MOMENT], pa.timestamp("us", "Europe/Paris")),
    "date": pa.array([MOMENT.date(), None, MOMENT.date()]),
    "decimal": pa.array([Decimal("0.10"), None, Decimal("-123456789012345678.99")], pa.decimal128(38, 2)),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int64())),
    "struct": pa.array([{"a": {"b": [BIG]}, "c": None}, None, {"a": None, "c": "x"}]),
    "messages": pa.array([[{"role": "user", "content": "q"}], None, []]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "category": pa.array(["a", None, "b"]).dictionary_encode(),
    "all_null": pa.nulls(3),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def written(table: pa.Table, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("name", VALUES)
def test_values_and_types_are_kept_to_the_bit(tmp_path: Path, name: str):
    table = pa.table({name: VALUES[name]})
    read = read_rows(plan(written(table, tmp_path / "in.parquet")))
    assert read.schema.field(name).type == table.schema.field(name).type
    assert read[name].combine_chunks().equals(table[name].combine_chunks())


def test_nan_keeps_being_nan(tmp_path: Path):
    table = pa.table({"a": pa.array([math.nan, None, 1.0])})
    read = read_rows(plan(written(table, tmp_path / "in.parquet")))["a"]
    assert (read.null_count, math.isnan(read[0].as_py())) == (1, True)


def test_a_column_that_only_the_last_file_has_is_there(tmp_path: Path):
    for number in range(12):
        written(pa.table({"a": [number]}), tmp_path / f"{number:02}.parquet")
    written(pa.table({"late": ["x"], "a": [12]}), tmp_path / "12.parquet")
    read = read_rows(plan(tmp_path))
    assert read.column_names == ["a", "late"]
    assert read.to_pylist() == [*({"a": number, "late": None} for number in range(12)), {"a": 12, "late": "x"}]


def test_files_of_different_types_are_united_or_refused(tmp_path: Path):
    narrow = pa.table({"a": pa.array([1, None], pa.int32()), "s": [{"x": 1}, None]})
    wide = pa.table({"a": [BIG, 2], "s": [{"y": "t"}, {"y": None}]})
    written(narrow, tmp_path / "1.parquet")
    written(wide, tmp_path / "2.parquet")
    read = read_rows(plan(tmp_path))
    assert read["a"].to_pylist() == [1, None, BIG, 2]
    assert read["s"].to_pylist() == [{"x": 1, "y": None}, None, {"x": None, "y": "t"}, {"x": None, "y": None}]
    written(pa.table({"a": [0.5]}), tmp_path / "3.parquet")
    with pytest.raises(
        UserError, match=r"'a' is int64 in \S*2\.parquet and double in \S*3\.parquet: no type holds both"
    ):
        plan(tmp_path)


def test_units_are_runs_of_whole_row_groups(tmp_path: Path):
    table = pa.table({"a": np.arange(100), "t": ["x" * 100] * 100})
    written(table, tmp_path / "in.parquet", row_group_size=10, use_dictionary=False, compression="none")
    sizes = [unit.num_rows for unit in plan(tmp_path, unit_bytes=5000).units.values()]
    assert (sum(sizes), {size % 10 for size in sizes}) == (100, {0})
    assert 1 < len(sizes) < 10
    assert [unit.num_rows for unit in plan(tmp_path, unit_bytes=1).units.values()] == [10] * 10
    assert read_rows(plan(tmp_path, unit_bytes=1))["a"].to_pylist() == list(range(100))


def test_empty_files_and_empty_row_groups_hold_no_rows(tmp_path: Path):
    table = pa.table({"a": [1, 2, 3]})
    written(table.slice(0, 0), tmp_path / "1.parquet")
    with pq.ParquetWriter(tmp_path / "2.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 2), table.slice(0, 0), table.slice(2), table.slice(0, 0)):
            writer.write_table(part)
    assert pq.read_metadata(tmp_path / "2.parquet").num_row_groups == 5
    for unit_bytes in (1, 1 << 20):
        assert read_rows(plan(tmp_path, unit_bytes=unit_bytes))["a"].to_pylist() == [1, 2, 3]


def test_reads_only_asked_columns_even_where_a_file_has_none(tmp_path: Path):
    written(pa.table({"a": [1, 2], "a.b": [3, 4], "c": ["x", "y"]}), tmp_path / "1.parquet")
    written(pa.table({"c": ["z"]}), tmp_path / "2.parquet")
    dataset = plan(tmp_path)
    assert read_rows(dataset.project(["a"])).to_pylist() == [{"a": 1}, {"a": 2}, {"a": None}]
    assert read_rows(dataset.project(["a.b", "a"])).to_pylist()[:2] == [{"a.b": 3, "a": 1}, {"a.b": 4, "a": 2}]
    assert read_rows(dataset.project([])).num_rows == 3


def test_a_projection_does_not_touch_the_other_columns(tmp_path: Path):
    """The bytes of the column that is not asked for are damaged; nobody may notice."""
    table = pa.table({"a": np.arange(1000), "b": np.arange(1000) * 7})
    path = written(table, tmp_path / "in.parquet", compression="none", use_dictionary=False, write_page_checksum=True)
    column = pq.read_metadata(path).row_group(0).column(1)
    flip(path, column.data_page_offset + column.total_compressed_size // 2)
    dataset = plan(path)
    assert read_rows(dataset.project(["a"]))["a"].to_pylist() == list(range(1000))
    with pytest.raises(JobError, match=r"in\.parquet cannot be read: .*CRC"):
        read_rows(dataset)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def file_of(*tables: pa.Table, compression: str | None = "zstd", row_group_rows: int | None = None) -> bytes:
    sink = BytesIO()
    writer = parquet.Writer(sink, tables[0].schema, compression, row_group_rows)
    for table in tables:
        writer.add(table)
    writer.finish()
    return sink.getvalue()


def test_what_we_write_carries_page_checksums(tmp_path: Path):
    path = tmp_path / "in.parquet"
    path.write_bytes(file_of(pa.table({"a": np.arange(1000)}), compression=None))
    column = pq.read_metadata(path).row_group(0).column(0)
    flip(path, (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size // 2)
    assert pq.ParquetFile(path).read().num_rows == 1000  # without verification nobody sees it
    with pytest.raises(JobError, match=r"in\.parquet cannot be read: .*CRC"):
        read_rows(plan(path))


@pytest.mark.parametrize(
    "data",
    [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"],
    ids=["empty", "magic", "text", "footer"],
)
def test_what_is_no_parquet_is_named(tmp_path: Path, data: bytes):
    (tmp_path / "in.parquet").write_bytes(data)
    with pytest.raises((UserError, JobError), match=r"in\.parquet (is not a readable Parquet file|cannot be read)"):
        plan(tmp_path)


@pytest.mark.parametrize("whole_bytes", [0, 1 << 30], ids=["streamed", "whole"])
@pytest.mark.parametrize(("start", "stop"), [(0, 100), (0, 1), (37, 38), (9, 11), (25, 95), (50, 50), (99, 100)])
def test_any_range_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int, start: int, stop: int
):
    monkeypatch.setattr(parquet, "WHOLE_ROW_GROUP_BYTES", whole_bytes)
    path = written(pa.table({"a": np.arange(100)}), tmp_path / "in.parquet", row_group_size=30)
    store, name = Folder.open(str(tmp_path)).store, str(path)
    blocks = list(parquet.read(store, name, start, stop, ["a"], 7))
    assert [row for block in blocks for row in block["a"].to_pylist()] == list(range(start, stop))
    assert all(0 < block.num_rows <= 7 for block in blocks)


def test_a_passing_fault_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(pa.table({"a": np.arange(100)}), tmp_path / "in.parquet", row_group_size=10)
    read_group, failures = parquet._read_group, iter(range(100))

    def failing(*args, **kwargs):
        for number, block in enumerate(read_group(*args, **kwargs)):
            if number == 1 and next(failures) % 2 == 0:
                raise OSError("connection reset")
            yield block

    monkeypatch.setattr(parquet, "_read_group", failing)
    blocks = parquet.read(Folder.open(str(tmp_path)).store, str(path), 0, 100, ["a"], 4)
    assert [row for block in blocks for row in block["a"].to_pylist()] == list(range(100))


@pytest.mark.parametrize("rows", [None, 10])
def test_the_writer_gathers_rows_to_row_groups(rows: int | None):
    tables = [pa.table({"a": np.arange(start, min(start + 3, 95))}) for start in range(0, 95, 3)]
    file = pq.ParquetFile(pa.BufferReader(file_of(*tables, row_group_rows=rows)))
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    assert sizes == ([95] if rows is None else [10] * 9 + [5])
    assert file.read()["a"].to_pylist() == list(range(95))


def test_only_values_that_repeat_get_a_dictionary():
    num = 1000
    unique = [f"text {number}" for number in range(num)]
    table = pa.table(
        {
            "source.name": ["web"] * num,
            "text": unique,
            "scores": [[0.0, 1.0]] * num,
            "parts": pa.array([[text, text + "."] for text in unique], pa.large_list(pa.large_string())),
            "message": [{"role": "user", "content.text": text} for text in unique],
            "tags": pa.array([[("k", text)] for text in unique], pa.map_(pa.string(), pa.string())),
            "pair": pa.array([[1, 1]] * num, pa.list_(pa.int8(), 2)),
            "nothing": pa.nulls(num),
        }
    )
    data = file_of(table)
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert {each.path_in_schema for each in columns if not each.has_dictionary_page} == {
        "text",
        "parts.list.element",
        "message.content.text",
        "tags.key_value.value",
    }
    assert pq.read_table(pa.BufferReader(data)).equals(table)


def test_the_same_rows_on_every_store(folder: Folder):
    table = pa.table({"a": [BIG, None, 3], "m": VALUES["messages"]})
    folder.write("in.parquet", file_of(table))
    footer = parquet.read_footer(folder.store, folder.path("in.parquet"))
    assert (footer.schema, [rows for rows, _ in footer.row_groups]) == (table.schema, [3])
    blocks = list(parquet.read(folder.store, folder.path("in.parquet"), 1, 3, None, 10))
    assert pa.concat_tables(blocks).to_pylist() == table.slice(1).to_pylist()
