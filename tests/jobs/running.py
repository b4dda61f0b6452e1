"""Runs jobs in tests as the command line does, and reads back what they wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from connectors.ledger import Ledger
from connectors.storage import Folder, StorageOptions
from jobs.config.job_types import job_type, parse_job
from jobs.config.sections import JobConfig, RewardJob
from jobs.run.job import run_job, run_job_file
from jobs.run.prepare import Prepared, prepare
from jobs.run.rows import RowJob, Summary
from jobs.show.display import Display
from jobs.show.plan import JobPlan
from tests.jobs.commands import write_jsonl


def run(job: Mapping[str, Any], told: Any = None) -> Summary:
    """Run a job from its mapping on the Ray that is there; ``told``: a file for what it says, else it is silent."""
    with Path("/dev/null").open("w") as nowhere:
        summary: Summary = run_job(parse_job(job, "test"), Display(Console(file=told or nowhere)))
    return summary


def run_in_shapes(
    place: Path, job: str, nested: Sequence[Mapping[str, Any]], flat: Sequence[Mapping[str, Any]], group: str
) -> dict[str, str]:
    """The outputs of a job in YAML over nested rows, over flat rows, and over nested rows as JSONL; without a Ray."""
    write_jsonl(place / "nested/a.jsonl", nested)
    write_jsonl(place / "flat/a.jsonl", flat)
    (place / "job.yaml").write_text(job)
    more = {"nested": [], "flat": [f"input.group.by={group}"], "jsonl": ["output.format=jsonl"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.run.where._is_attached", lambda: False)
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, settings in more.items():
            source = "flat" if name == "flat" else "nested"
            places = [f"input.path={place / source}", f"output.path={place / 'out' / name}"]
            run_job_file(str(place / "job.yaml"), *places, *settings)
    return {name: str(place / "out" / name) for name in more}


def fit_job(job: JobConfig, schema: pa.Schema) -> Prepared:
    """A job over rows, fit_job to the columns of its input."""
    assert isinstance(job, RewardJob)
    with Path("/dev/null").open("w") as nowhere:
        kind = job_type(job.job)(job, Display(Console(file=nowhere)))
    assert isinstance(kind, RowJob)
    return prepare(job, kind.fits(), schema)


def make_plan(job: JobConfig) -> JobPlan:
    """What a job over rows would do."""
    with Path("/dev/null").open("w") as nowhere:
        plan = job_type(job.job)(job, Display(Console(file=nowhere))).plan("H100")
    assert isinstance(plan, JobPlan)
    return plan


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
