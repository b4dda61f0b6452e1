"""Speed of the JSONL reader against pyarrow.json, orjson and polars: the same file, one process, one thread each.

``scan`` reads every line for counts, borders and types; ``read`` makes Arrow tables with addresses and puts bad lines
aside; a job does both. The others are given the schema, know no addresses, and stop at the first bad line.

    python -m tests.bench.jsonl_reading --rows 200000 --repeats 5
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "1"  # before polars is imported

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.json

from connectors.dataset import InputDataset
from connectors.listing import list_input
from connectors.planning import plan_dataset
from connectors.storage import StorageOptions
from connectors.units import Range
from rmbatch.pipeline.task import count_block_rows
from tests.bench.inputs import flat_rows, write_flat
from tests.bench.measuring import median, print_table

UNIT_BYTES = 64 << 20


def scan(path: Path) -> InputDataset:
    """Plan the file, in this process."""
    options = StorageOptions()
    return plan_dataset(list_input([str(path)], options, "jsonl"), options, unit_bytes=UNIT_BYTES)


def read(dataset: InputDataset) -> int:
    """All rows of the planned file, in blocks; returns how many."""
    pieces = [Range(unit.index, 0, unit.num_rows) for unit in dataset.units.values()]
    return sum(table.num_rows for piece in pieces for table in dataset.read(piece, count_block_rows(dataset, piece)))


def with_pyarrow(path: Path, schema: pa.Schema) -> int:
    """pyarrow.json with an explicit schema."""
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    blocks = pa.json.ReadOptions(use_threads=False, block_size=16 << 20)
    return int(pa.json.read_json(path, blocks, options).num_rows)


def with_orjson(path: Path, schema: pa.Schema) -> int:
    """orjson line by line, then Table.from_pylist, in blocks of 16,384 rows."""
    total, rows = 0, []
    with path.open("rb") as file:
        for line in file:
            rows.append(orjson.loads(line))
            if len(rows) == 1 << 14:
                total, rows = total + pa.Table.from_pylist(rows, schema).num_rows, []
    return total + pa.Table.from_pylist(rows, schema).num_rows


def with_polars(path: Path, schema: pa.Schema) -> int:
    """polars.read_ndjson with an explicit schema."""
    return pl.read_ndjson(path, schema=pl.DataFrame(schema.empty_table()).schema).height


def main() -> None:
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="10,000 rows, one run")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.repeats = 10_000, 1
    pa.set_cpu_count(1)
    schema = flat_rows(0, 1).schema
    seconds: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], int]) -> None:
        began = time.process_time()
        rows = run()
        seconds.setdefault(name, []).append(time.process_time() - began)
        if rows != given.rows:
            raise SystemExit(f"{name} read {rows} rows of {given.rows}")

    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as folder:
        size = write_flat(Path(folder), given.rows, 1, "jsonl")
        path = next(Path(folder).iterdir())
        for _ in range(given.repeats):
            timed("rmbatch: scan", lambda: scan(path).num_rows)
            timed("rmbatch: read", partial(read, scan(path)))
            timed("pyarrow.json", lambda: with_pyarrow(path, schema))
            timed("orjson + from_pylist", lambda: with_orjson(path, schema))
            timed("polars", lambda: with_polars(path, schema))
    both = [a + b for a, b in zip(seconds["rmbatch: scan"], seconds["rmbatch: read"])]
    seconds = {"rmbatch: scan + read": both, **seconds}
    ours = median(both)
    lines = [[name, size / 1e6 / median(taken), median(taken) / ours] for name, taken in seconds.items()]
    title = f"JSONL: {given.rows:,} rows, {size / 1e6:,.0f} MB, one thread, CPU time, {given.repeats} runs each"
    print_table(title, ["reader", "MB/s", "CPU time / rmbatch's scan + read"], lines)


if __name__ == "__main__":
    main()
