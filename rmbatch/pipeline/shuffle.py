"""Puts scattered rows of one prompt next to each other: one hash shuffle, written beside the output.

The result is a dataset of its own. Its files hold whole groups in order of their keys, and rows keep their origin. The
job then scores and resumes it like any other input. The shuffle is all or nothing: after a crash before its last write
(``_rmbatch/grouped.json``) it begins again. These are its steps; the executor moves the rows between them.

    blocks = (assign_buckets(block, "prompt_id", num_buckets) for block in blocks)
    buckets = [write_bucket(bucket, "prompt_id", folder) for bucket in ...]
    grouped = build_dataset(dataset, buckets, folder)
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.errors import JobError
from connectors.formats import parquet
from connectors.formats.base import FileSpec
from connectors.schema import DEAD, DEAD_TYPE, HIDDEN, ORIGIN_ROW, ORIGIN_URI, ROW, UNIT
from connectors.storage import Folder
from connectors.units import InputFile, Unit

BUCKET = HIDDEN + "bucket"
BUCKET_BYTES = 64 << 20
"""Input bytes in one bucket. A worker holds one bucket at a time."""
MAX_BUCKETS = 20_000
MAX_PARTITIONS = 200
"""The most partitions of a shuffle through Ray Data."""


def count_buckets(dataset: InputDataset) -> int:
    """Choose the number of buckets."""
    return min(max(1, dataset.num_bytes // BUCKET_BYTES), MAX_BUCKETS)


def assign_buckets(table: pa.Table, key: str, num_buckets: int) -> pa.Table:
    """Add a column with the bucket of each row."""
    table = _decode_key(table, key)
    return table.append_column(BUCKET, pa.array(choose_buckets(table, key, num_buckets)))


def _decode_key(table: pa.Table, key: str) -> pa.Table:
    """Decode a dictionary column, because the same code means another value in each file."""
    kind = table.schema.field(key).type
    if not pa.types.is_dictionary(kind):
        return table
    index = table.column_names.index(key)
    return table.set_column(index, key, table[key].cast(kind.value_type))


def choose_buckets(table: pa.Table, key: str, num_buckets: int) -> np.ndarray:
    """Choose the bucket of each row by its key. Rows without a key are spread evenly, because each is its own group."""
    keys = table[key].combine_chunks()
    hashed = pl.Series(pl.from_arrow(keys)).hash(seed=0).to_numpy()
    spread = np.asarray(table[ROW]).astype(np.uint64)
    return (np.where(np.asarray(keys.is_valid()), hashed, spread) % np.uint64(num_buckets)).astype(np.int64)


def write_bucket(table: pa.Table, key: str, folder: Folder) -> dict[str, Any]:
    """Write the rows of one bucket, sorted by key and then by address. Return its entry for ``build_dataset``."""
    table = table.sort_by([(key, "ascending"), (UNIT, "ascending"), (ROW, "ascending")])
    digest = digest_addresses(np.asarray(table[UNIT]), np.asarray(table[ROW]))
    uri_index = table.column_names.index(ORIGIN_URI)
    table = table.set_column(uri_index, ORIGIN_URI, table[ORIGIN_URI].cast(pa.string()))
    table = table.drop_columns([UNIT, ROW, BUCKET])
    data = parquet.write(table, FileSpec(table.schema, "zstd"))
    name = f"{secrets.token_hex(8)}.parquet"
    folder.write(name, data)
    return {"name": name, "num_rows": table.num_rows, "num_bytes": len(data), "digest": digest}


def digest_addresses(units: np.ndarray, rows: np.ndarray) -> str:
    """Sum hashes of the rows' addresses (mod 2**64, in hex). A row that is lost or doubled changes the sum."""
    mixed = (units.astype(np.uint64) << np.uint64(40)) ^ rows.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return f"{int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64)):016x}"


def check_complete(dataset: InputDataset, buckets: Sequence[Mapping[str, Any]]) -> None:
    """Raises JobError unless the buckets hold every planned row exactly once."""
    num_rows = sum(bucket["num_rows"] for bucket in buckets)
    found = sum(int(bucket["digest"], 16) for bucket in buckets) % 2**64
    expected = 0
    for unit in dataset.units.values():
        rows = np.arange(unit.num_rows, dtype=np.int64)
        expected += int(digest_addresses(np.full(unit.num_rows, unit.index), rows), 16)
    if num_rows != dataset.num_rows or found != expected % 2**64:
        raise JobError(f"the shuffle gave {num_rows} rows for {dataset.num_rows}; run the same command again")


def build_dataset(dataset: InputDataset, buckets: Sequence[Mapping[str, Any]], folder: Folder) -> InputDataset:
    """Make a dataset of the written buckets. Raises JobError if a row is lost or doubled."""
    check_complete(dataset, buckets)
    ordered = sorted(buckets, key=lambda bucket: str(bucket["name"]))
    files, units = {}, {}
    for index, bucket in enumerate(ordered):
        rows, size = int(bucket["num_rows"]), int(bucket["num_bytes"])
        files[index] = InputFile(f"{folder.url}/{bucket['name']}", size, "", rows)
        units[index] = Unit(index, index, 0, rows, size)
    origin = [pa.field(ORIGIN_URI, pa.string()), pa.field(ORIGIN_ROW, pa.int64()), pa.field(DEAD, DEAD_TYPE)]
    schema = pa.schema([*dataset.schema, *origin])
    return InputDataset("parquet", schema, files, units, folder.options)
