"""A plan holds every row once, cuts no group, and reads as the files do."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.errors import UserError
from tests.connectors.inputs import plan, read_all, read_rows, write_files


def as_jsonl(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_rows(folder: Path, kind: str, files: list[list[dict]]) -> Path:
    for number, rows in enumerate(files):
        if kind == "parquet":
            folder.mkdir(exist_ok=True)
            schema = pa.schema([("k", pa.string()), ("n", pa.int64())])
            table = pa.Table.from_pylist(rows, schema)
            pq.write_table(table, folder / f"{number}.parquet", row_group_size=3)
        else:
            data = as_jsonl(rows)
            write_files(folder, {f"{number}.{kind}": gzip.compress(data) if kind.endswith("gz") else data})
    return folder


FILES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 7)), max_size=4), min_size=1, max_size=3)


@pytest.mark.parametrize("unit_bytes", [1, 20, 40, 60, 90])
def test_a_broken_line_cuts_no_group(tmp_path: Path, unit_bytes: int):
    lines = [b'{"k": "a"}', b"{broken", b'{"k": "a"}', b"broken too", b'{"k": "a"}', b'{"k": "b"}', b"{", b'{"k": "b"}']
    folder = write_files(tmp_path, {"in.jsonl": b"".join(line + b"\n" for line in lines)})
    table = read_all(plan(folder, unit_bytes=unit_bytes, group_key="k"))
    assert table.num_rows == len(lines)
    units = {key: set() for key in "ab"}
    for key, unit in zip(table["k"].to_pylist(), table["_rmbatch.unit"].to_pylist()):
        units.get(key, set()).add(unit)
    assert [len(found) for found in units.values()] == [1, 1]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES, unit_bytes=st.sampled_from([1, 60, 150, 1 << 20]))
def test_no_border_cuts_a_group_and_no_row_is_lost(tmp_path_factory, kind: str, files: list, unit_bytes: int):
    rows = [
        [{"k": f"{key}{number}", "n": n} for number, (key, size) in enumerate(groups) for n in range(size)]
        for groups in files
    ]
    rows[0].append({"k": "end", "n": 0})
    folder = write_rows(tmp_path_factory.mktemp("in"), kind, rows)
    dataset = plan(folder, unit_bytes=unit_bytes, group_key="k")
    assert read_rows(dataset).to_pylist() == [row for part in rows for row in part]
    assert [unit.index for unit in dataset.units.values()] == list(range(len(dataset.units)))
    assert dataset.num_rows == sum(file.num_rows for file in dataset.files.values())
    table = read_all(dataset)
    place = list(
        zip(table["_rmbatch.origin_uri"].to_pylist(), table["k"].to_pylist(), table["_rmbatch.unit"].to_pylist())
    )
    for uri, key, unit in place:
        assert {other for where, also, other in place if (where, also) == (uri, key)} == {unit}
    if unit_bytes == 1 and kind == "jsonl":
        assert len(dataset.units) == sum(1 for groups in files for _ in groups) + 1


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_without_a_key_are_no_group(tmp_path: Path, kind: str):
    folder = write_rows(tmp_path / "in", kind, [[{"k": None, "n": n} for n in range(12)]])
    assert len(plan(folder, unit_bytes=1, group_key="k").units) == (12 if kind == "jsonl" else 4)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("limit", [0, 1, 5, 13, 100])
def test_a_limit_is_the_first_rows(tmp_path: Path, kind: str, limit: int):
    rows = [{"k": f"k{n}", "n": n} for n in range(20)]
    folder = write_rows(tmp_path / "in", kind, [rows[:11], rows[11:]])
    dataset = plan(folder, unit_bytes=40, limit=limit)
    assert dataset.num_rows == min(limit, 20)
    if limit:
        assert read_rows(dataset)["n"].to_pylist() == list(range(20))[:limit]


def test_a_limit_reads_no_more_of_jsonl_than_it_needs(tmp_path: Path):
    folder = write_rows(tmp_path / "in", "jsonl", [[{"n": n} for n in range(1000)]])
    scanned = []

    def run(function, parts):
        for part in parts:
            scanned.append(part)
            yield function(part)

    plan(folder, unit_bytes=1000, limit=10, run=run)
    assert len(scanned) == 1


@pytest.mark.parametrize(
    ("folders", "kind", "values"),
    [
        (["p=1", "p=-20"], pa.int64(), [-20, 1]),
        (["p=007", "p=1"], pa.string(), ["007", "1"]),  # a leading zero would be lost
        (["p=1", "p=x%20y"], pa.string(), ["1", "x y"]),
        (["p=1", "p=__HIVE_DEFAULT_PARTITION__"], pa.int64(), [1, None]),
        (["p=__HIVE_DEFAULT_PARTITION__"], pa.string(), [None]),
        (["p=²", "p=1"], pa.string(), ["1", "²"]),  # a digit to Python, no number
        (["p=99999999999999999999"], pa.string(), ["99999999999999999999"]),
    ],
)
def test_hive_partitions_become_columns(tmp_path: Path, folders: list[str], kind: pa.DataType, values: list):
    for name in folders:
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"a": [1, 2]}), tmp_path / name / "in.parquet")
    dataset = plan(tmp_path)
    assert dataset.schema.field("p").type == kind
    read = read_rows(dataset.project(["p"]))["p"].to_pylist()
    assert sorted(read, key=str) == sorted(values * 2, key=str)


def test_a_column_of_the_file_wins_over_its_path(tmp_path: Path):
    (tmp_path / "p=1").mkdir()
    pq.write_table(pa.table({"p": ["own"]}), tmp_path / "p=1" / "in.parquet")
    assert read_rows(plan(tmp_path)).to_pylist() == [{"p": "own"}]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b'{"a": 1}\n', {"group_key": "b"}, r"input\.group\.by names column 'b', the input has a"),
        (b"nonsense\n[]\n", {}, "no line of the input holds a JSON object"),
        (b"", {}, "no line of the input holds a JSON object"),
    ],
)
def test_an_input_that_cannot_be_planned_says_why(tmp_path: Path, data: bytes, options: dict, message: str):
    write_files(tmp_path, {"in.jsonl": data})
    with pytest.raises(UserError, match=message):
        plan(tmp_path, **options)
