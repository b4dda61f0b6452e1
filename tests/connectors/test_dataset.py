"""A planned input: any part of it reads as the whole does, and what has changed since is told."""

import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.dataset import InputDataset, changed_files
from connectors.listing import list_input
from connectors.schema import ORIGIN_ROW, ORIGIN_URI, ROW, UNIT
from connectors.storage import StorageOptions
from connectors.units import Range
from tests.connectors.inputs import plan, read_all, write_files


def jsonl_and_parquet(tmp_path: Path) -> list[InputDataset]:
    lines = b"".join(b'{"a": %d}\n\n' % row for row in range(40))
    write_files(tmp_path / "jsonl", {"1.jsonl": lines, "2.jsonl": b"broken\n" + lines})
    write_files(tmp_path / "parquet" / "p=1", {})
    (tmp_path / "parquet" / "p=1").mkdir(parents=True)
    pq.write_table(pa.table({"a": range(80)}), tmp_path / "parquet" / "p=1" / "1.parquet", row_group_size=9)
    return [plan(tmp_path / "jsonl", unit_bytes=100), plan(tmp_path / "parquet", unit_bytes=100)]


def test_a_part_that_travels_reads_as_the_whole_does(tmp_path: Path):
    for dataset in jsonl_and_parquet(tmp_path):
        whole = read_all(dataset)
        unit = dataset.units[1]
        for start, stop in ((0, unit.num_rows), (2, 5), (unit.num_rows - 1, unit.num_rows)):
            piece = Range(1, start, stop)
            part: InputDataset = pickle.loads(pickle.dumps(dataset.only([piece])))
            assert (len(part.units), len(part.files)) == (1, 1)
            found = pa.concat_tables(part.read(piece, block_rows=2)).unify_dictionaries()
            first = dataset.units[0].num_rows + start
            assert found.to_pylist() == whole.slice(first, stop - start).to_pylist()
            assert (found[UNIT].to_pylist(), found[ROW].to_pylist()) == ([1] * (stop - start), [*range(start, stop)])


def test_a_row_tells_where_it_came_from(tmp_path: Path):
    for dataset in jsonl_and_parquet(tmp_path):
        table = read_all(dataset)
        origins = list(zip(table[ORIGIN_URI].to_pylist(), table[ORIGIN_ROW].to_pylist()))
        expected = [(file.uri, row) for file in dataset.files.values() for row in range(file.num_rows)]
        assert origins == expected


def test_a_plan_comes_back_from_json(tmp_path: Path):
    for dataset in jsonl_and_parquet(tmp_path):
        options = StorageOptions(region="today")
        found = InputDataset.from_json(pickle.loads(pickle.dumps(dataset.to_json())), options)
        assert found == replace(dataset, options=options)
        assert found.num_bytes == sum(file.size for file in dataset.files.values())


def test_a_file_that_shrinks_under_a_job_is_an_error_and_no_end_of_file(tmp_path: Path):
    dataset = jsonl_and_parquet(tmp_path)[0]
    path = tmp_path / "jsonl" / "2.jsonl"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(OSError, match="was the file changed"):
        read_all(dataset)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda folder: None, []),
        (lambda folder: (folder / "1.jsonl").unlink(), ["1.jsonl is gone"]),
        (
            lambda folder: (folder / "1.jsonl").write_bytes(b'{"a": 1}\n'),
            ["1.jsonl has changed (430 bytes when planned, 9 now)"],
        ),
        (lambda folder: (folder / "3.jsonl").write_bytes(b"{}"), ["3.jsonl is new"]),
    ],
)
def test_what_changed_since_the_plan_is_told(tmp_path: Path, change, lines: list[str]):
    dataset, folder = jsonl_and_parquet(tmp_path)[0], tmp_path / "jsonl"
    change(folder)
    found = changed_files(dataset, list_input([str(folder)], StorageOptions()).files)
    assert [line.removeprefix(f"{folder}/").removeprefix(f"file://{folder}/") for line in found] == lines
