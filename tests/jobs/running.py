"""Runs jobs in tests as the command line does, and reads back what they wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from connectors.ledger import Ledger
from connectors.storage import Folder, StorageOptions
from jobs.config.sections import parse_job
from jobs.run.rows import Summary, run_job
from jobs.show.display import Display


def run(job: Mapping[str, Any], told: Any = None) -> Summary:
    """Run a job from its mapping on the Ray that is there; ``told``: a file for what it says, else it is silent."""
    with Path("/dev/null").open("w") as nowhere:
        return run_job(parse_job(job, "test"), Display(Console(file=told or nowhere)))


def rows(output: str | Path, part: str = "data", options: StorageOptions | None = None) -> list[dict[str, Any]]:
    """The rows of one part of a finished output, by its manifest."""
    folder = Folder.open(str(output), options)
    manifest = Ledger(folder).manifest()
    assert manifest is not None
    found: list[dict[str, Any]] = []
    for file in manifest["files"]:
        if file["part"] == part:
            data = folder.read(file["path"])
            parquet = file["path"].endswith((".parquet", ".pq"))
            found += read_parquet(data).to_pylist() if parquet else [json.loads(line) for line in data.splitlines()]
    return found


def read_parquet(data: bytes) -> pa.Table:
    """A Parquet file's table."""
    return pq.ParquetFile(pa.BufferReader(data)).read()


def by(key: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in order of a column."""
    return sorted(found, key=lambda row: row[key])
