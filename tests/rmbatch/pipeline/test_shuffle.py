"""The shuffle's own arithmetic, without Ray: buckets by key alone, and a sum that notices any lost or doubled row."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.dataset import InputDataset
from connectors.errors import JobError
from connectors.schema import ORIGIN_ROW, ROW, UNIT, add_address
from connectors.storage import Folder
from connectors.units import Unit
from rmbatch.pipeline.shuffle import BUCKET, _decode_key, check_complete, choose_buckets, write_bucket

KEYS = ["b", "a", None, "b", "c", "a", None, "a"]


def rows() -> pa.Table:
    table = pa.table({"key": KEYS, "text": [f"t{number}" for number in range(len(KEYS))]})
    table = add_address(table, 0, 0, uri="in.parquet", first_origin_row=100)
    return table.append_column(BUCKET, pa.array(np.zeros(len(KEYS), np.int64)))


def dataset(num_rows: int = len(KEYS)) -> InputDataset:
    return InputDataset("parquet", pa.schema([]), {}, {0: Unit(0, 0, 0, num_rows, 1)})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_bucket_depends_on_the_key_alone(kind: pa.DataType) -> None:
    keys = pa.array(["x", "y", "x", "z", "y"] * 40).cast(kind)
    table = add_address(pa.table({"key": keys}), 3, 17, uri="a", first_origin_row=0)
    buckets = choose_buckets(table, "key", 7)
    assert ((buckets >= 0) & (buckets < 7)).all()
    for value in "xyz":
        assert len({b for b, key in zip(buckets, keys.to_pylist(), strict=True) if key == value}) == 1


def test_rows_without_a_key_are_spread() -> None:
    table = add_address(pa.table({"key": pa.nulls(1000, pa.string())}), 0, 0, uri="a", first_origin_row=0)
    counts = np.bincount(choose_buckets(table, "key", 10), minlength=10)
    assert counts.min() > 50


def test_written_bucket_holds_whole_groups_and_origins(tmp_path: Path) -> None:
    folder = Folder.open(str(tmp_path))
    bucket = write_bucket(rows(), "key", folder)
    written = pq.read_table(tmp_path / bucket["name"])
    assert written["key"].to_pylist() == ["a", "a", "a", "b", "b", "c", None, None]
    assert written["text"].to_pylist() == ["t1", "t5", "t7", "t0", "t3", "t4", "t2", "t6"]  # by address within a key
    assert written[ORIGIN_ROW].to_pylist() == [101, 105, 107, 100, 103, 104, 102, 106]
    assert not {UNIT, ROW, BUCKET} & set(written.column_names)
    check_complete(dataset(), [bucket])


def test_a_lost_or_doubled_row_is_noticed(tmp_path: Path) -> None:
    folder, table = Folder.open(str(tmp_path)), rows()
    doubled = pa.concat_tables([table.slice(1), table.slice(2, 1)])  # the count is right, a row is not
    for wrong in (table.slice(1), pa.concat_tables([table, table.slice(0, 1)]), doubled):
        with pytest.raises(JobError, match="run the same command again"):
            check_complete(dataset(), [write_bucket(wrong, "key", folder)])


def test_a_key_in_a_dictionary_is_its_value_in_every_file() -> None:
    tables = [pa.table({"key": pa.array(keys).dictionary_encode()}) for keys in (["x", "y"], ["y", "x"])]
    plain = [_decode_key(table, "key") for table in tables]
    assert [table["key"].type for table in plain] == [pa.string()] * 2
    assert [table["key"].to_pylist() for table in plain] == [["x", "y"], ["y", "x"]]
