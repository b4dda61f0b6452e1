"""What other programs see of a finished output, given its folder or a glob that one would type: the kept rows alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset
import pytest

from connectors.finish import finish
from connectors.ledger import Ledger, Plan
from connectors.storage import Folder
from tests.connectors.inputs import plan, write_files
from tests.connectors.outputs import spec_of, whole, work

KEPT = [row for row in range(23) if row % 5 != 4 and row % 3]


def load_dataset(path: str) -> Any:
    import datasets  # takes a second or two

    return datasets.load_dataset(path, cache_dir=f"{path}/../cache")["train"]["id"]


def duck(query: str) -> list[Any]:
    return [row[0] for row in duckdb.sql(query).fetchall()]


PARQUET: dict[str, Callable[[str], Any]] = {
    "pandas": lambda path: pd.read_parquet(path)["id"],
    "pyarrow": lambda path: pyarrow.dataset.dataset(path).to_table()["id"].to_pylist(),
    "duckdb, the folder": lambda path: duck(f"SELECT id FROM read_parquet('{path}')"),
    "duckdb": lambda path: duck(f"SELECT id FROM '{path}/**/*.parquet'"),
    "polars": lambda path: pl.read_parquet(f"{path}/**/*.parquet")["id"],
    "datasets": load_dataset,
}
JSONL: dict[str, Callable[[str], Any]] = {
    "pyarrow": lambda path: pyarrow.dataset.dataset(path, format="json").to_table(columns=["id"])["id"].to_pylist(),
    "duckdb": lambda path: duck(f"SELECT id FROM '{path}/**/*.jsonl'"),
    "polars": lambda path: pl.scan_ndjson(f"{path}/**/*.jsonl").select("id").collect()["id"],
    "datasets": load_dataset,
}


@pytest.mark.parametrize(
    ("form", "read"),
    [
        *[pytest.param("parquet", read, id=f"parquet, {name}") for name, read in PARQUET.items()],
        *[pytest.param("jsonl", read, id=f"jsonl, {name}") for name, read in JSONL.items()],
    ],
)
def test_readers_of_the_whole_output_see_the_kept_rows_alone(tmp_path: Path, form: str, read: Callable[[str], Any]):
    lines = [b"{broken" if row % 5 == 4 else b'{"id": %d}' % row for row in range(23)]
    dataset = plan(write_files(tmp_path / "in", {"1.jsonl": b"\n".join(lines)}), unit_bytes=100)
    compression = "zstd" if form == "parquet" else None
    spec = spec_of(Folder.open(str(tmp_path / "out")), dataset, format=form, compression=compression)
    ledger, job = Ledger(spec.folder), Plan({"job": "test"}, dataset)
    ledger.begin(job)
    for piece in whole(dataset):
        work(dataset, [piece], spec, "run")
    assert finish(ledger, job, spec, "run")["rows"] == {"data": len(KEPT), "rejected": 7, "dead_letters": 4}
    assert sorted(read(str(tmp_path / "out"))) == KEPT


def test_polars_refuses_a_folder_of_files_of_several_kinds(tmp_path: Path):
    """It looks at every file below a folder: better an error than rows that were rejected."""
    for name in ("data/u1.parquet", "_rejected/u1.pq"):
        (tmp_path / name).parent.mkdir()
        pl.DataFrame({"id": [1]}).write_parquet(tmp_path / name)
    with pytest.raises(pl.exceptions.InvalidOperationError, match="different file extensions"):
        pl.read_parquet(tmp_path)
