"""A planned input: any part of it reads as the whole does, and what has changed since is told."""

import gzip
import io
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.dataset import InputDataset, describe_changes
from connectors.errors import JobError
from connectors.listing import list_input
from connectors.planning import plan_dataset
from connectors.schema import ORIGIN_ROW, ORIGIN_URI, ROW, UNIT
from connectors.storage import Folder, StorageOptions, same_object
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
            part: InputDataset = pickle.loads(pickle.dumps(dataset.select_ranges([piece])))
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


def test_shrinking_file_is_an_error_and_no_end_of_file(tmp_path: Path):
    dataset = jsonl_and_parquet(tmp_path)[0]
    path = tmp_path / "jsonl" / "2.jsonl"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(JobError, match=r"2.jsonl has changed \(437 bytes when planned, 387 now\); restore it"):
        read_all(dataset)


def replace_by_rename(folder: Folder, name: str, data: bytes) -> None:
    """As writers do that care: a new file under the old name; local readers keep the old one open."""
    folder.write(name, data)


def overwrite(folder: Folder, name: str, data: bytes) -> None:
    """In place, as ``cp`` does."""
    if folder.url.startswith("/"):
        Path(folder.path(name)).write_bytes(data)
    else:
        folder.write(name, data)


def content(name: str, value: int) -> bytes:
    """200 rows that all hold one digit: a file of the same size whatever the digit."""
    if name.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.table({"a": [value] * 200}), sink, row_group_size=20, compression="none")
        return sink.getvalue()
    lines = b'{"a": %d, "b": "%s"}\n' % (value, b"x" * 10) * 200
    return gzip.compress(lines, mtime=0) if name.endswith(".gz") else lines


@pytest.mark.parametrize("name", ["1.jsonl", "1.jsonl.gz", "1.parquet"])
@pytest.mark.parametrize("change", [replace_by_rename, overwrite])
@pytest.mark.parametrize("begun", [False, True], ids=["before it is opened", "while it is read"])
def test_no_row_of_a_file_that_was_replaced_is_handed_out(
    folder: Folder, name: str, change: Callable, begun: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("connectors.formats.lines.CHUNK_BYTES", 64)
    folder.write(name, content(name, 1))
    listing = list_input([folder.url], folder.options)
    dataset = plan_dataset(listing, folder.options, unit_bytes=1 << 20)
    (unit,) = dataset.units.values()
    tables = dataset.read(Range(0, 0, unit.num_rows), block_rows=20)
    seen = [next(tables)] if begun else []
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    change(folder, name, content(name, 2))
    with pytest.raises(JobError, match=rf"{name} has changed"):
        seen += tables
    assert {row["a"] for table in seen for row in table.to_pylist()} <= {1}
    (line,) = describe_changes(dataset, list_input([folder.url], folder.options).files)
    assert "has changed" in line


def test_file_replaced_and_put_back_between_looks_is_not_read(s3, monkeypatch: pytest.MonkeyPatch):
    """S3 is asked for the planned etag, so that there is no moment in which another object could be read."""
    folder = Folder.open("s3://bucket/if-match", StorageOptions(endpoint=s3.endpoint))
    folder.write("1.jsonl", content("1.jsonl", 1))
    dataset = plan_dataset(list_input([folder.url], folder.options), folder.options, unit_bytes=1 << 20)
    folder.write("1.jsonl", content("1.jsonl", 2))
    monkeypatch.setattr("connectors.dataset._is_same", lambda *_: True)  # looks see nothing
    with pytest.raises(JobError, match="has changed while it was read"):
        read_all(dataset)


@pytest.mark.parametrize(
    ("planned", "found", "same"),
    [
        ("9-55-a1@boot.1", "9-55-a1@boot.1", True),
        ("9-55-a1@boot.1", "9-55-a2@boot.1", False),  # renamed over it, with the old times
        ("9-55-a1@boot.1", "9-55-a2@other.1", True),  # another machine of the cluster: inodes differ, times do not
        ("9-55-a1@boot.1", "9-55-a2@boot.2", True),  # the same, mounted once more
        ("9-55-a1@boot.1", "9-56-a1@other.1", False),
        ("d41d8", "d41d9", False),
        ("", "anything", True),
        ("None", "anything", True),  # a store that tells nothing
    ],
)
def test_which_etags_are_of_one_object(planned: str, found: str, same: bool):
    assert same_object(planned, found) is same


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
    found = describe_changes(dataset, list_input([str(folder)], StorageOptions()).files)
    assert [line.removeprefix(f"{folder}/").removeprefix(f"file://{folder}/") for line in found] == lines
