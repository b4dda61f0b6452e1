"""A new kind of job is one class and one line: over rows with stages of its own, and one that is no job over rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console

from connectors.errors import UserError
from connectors.lease import Lease
from connectors.storage import Folder
from jobs.cli import main
from jobs.config.job_types import JOB_TYPES, parse_job
from jobs.config.sections import JobConfig, RewardJob
from jobs.run.input import list_job_input, plan_job_input
from jobs.run.job import JobType, run_job
from jobs.run.rows import RowJob
from jobs.show.display import Display
from rmbatch.stages.base import Fit, Needs, Stage
from tests.jobs.running import by, rows, run

JOB: dict[str, Any] = {"input": {"path": "in.jsonl"}, "output": {"path": "out"}}


@dataclass(frozen=True)
class Adding:
    """A stage that adds a column made of another one."""

    source: str
    target: str
    end: str

    def reads(self) -> Mapping[str, Sequence[str]]:
        return {self.target: [self.source]}

    def columns(self, schema: pa.Schema) -> set[str]:
        return {self.source}

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        return schema.append(pa.field(self.target, pa.string()))

    def needs(self) -> Needs:
        return Needs()

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = pc.binary_join_element_wise(table[self.source], self.end, "")
        return table.append_column(self.target, pc.cast(texts, pa.string()))

    def tally(self, table: pa.Table) -> Mapping[str, int]:
        return {f"made.{self.target}": table.num_rows}

    def flush(self) -> None:
        return None


class ShoutJob(RewardJob):
    """Every text gets louder, twice."""

    job: Literal["shout"]
    rewards: dict[str, Any] = {}  # noqa: RUF012
    sign: str = "!"


class Shout(RowJob[ShoutJob]):
    """Its second stage reads what the first adds."""

    config = ShoutJob

    def fits(self) -> list[Fit]:
        def louder(source: str, target: str) -> Fit:
            def fit(schema: pa.Schema) -> Stage:
                if source not in schema.names:
                    raise UserError(f"shout: no column {source!r}")
                return Adding(source, target, self.job.sign)

            return fit

        return [louder("text", "loud"), louder("loud", "louder")]


class CountJob(JobConfig):
    """How many rows are there?"""

    job: Literal["count"]


@dataclass(frozen=True)
class Number:
    value: int

    def plain(self) -> dict[str, Any]:
        return {"rows": self.value}

    def show(self, console: Console) -> None:
        console.print(f"{self.value} rows")


class Count(JobType[CountJob]):
    """Not a job over rows: one file is its output."""

    config = CountJob

    def identity(self) -> dict[str, Any]:
        return {"job": "count", "input": self.job.input.path}

    @classmethod
    def read_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        text = output.folder("_rmbatch").read_if_exists("count.json")
        return None if text is None else json.loads(text)

    def result(self) -> Number | None:
        text = self.output.read_if_exists("rows.json")
        return None if text is None else Number(json.loads(text))

    def check(self) -> None:
        list_job_input(self.job)

    def work(self, lease: Lease) -> Number:
        self.private.write("count.json", json.dumps(self.identity()).encode())
        found = Number(plan_job_input(self.job, list_job_input(self.job), None).num_rows)
        lease.check()
        self.output.write("rows.json", json.dumps(found.value).encode())
        return found

    def plan(self, gpu: str) -> Number:
        return Number(0)

    @classmethod
    def status(cls, output: Folder) -> Number:
        return Number(json.loads(output.read_if_exists("rows.json") or b"0"))

    def describe_output(self) -> str:
        return "a number"

    def discard(self) -> None:
        self.output.delete(["rows.json"])
        self.private.delete(["count.json"])


@pytest.fixture(autouse=True)
def two_more_kinds(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JOB_TYPES, "shout", f"{__name__}:Shout")
    monkeypatch.setitem(JOB_TYPES, "count", f"{__name__}:Count")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": n, "text": f"a{n}"}) + "\n" for n in range(7)))


def test_row_job_with_own_stages() -> None:
    asked = JOB | {"job": "shout"}
    summary = run(asked)
    assert summary.tally == {"made.loud": 7, "made.louder": 7}
    assert [row["louder"] for row in by("id", rows("out"))] == [f"a{n}!!" for n in range(7)]
    assert run(asked).seconds == 0  # it is finished
    with pytest.raises(UserError, match=r"belongs to another job: sign: '!' -> '\?'"):
        run(asked | {"sign": "?"})


def test_stage_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(UserError, match="shout: no column 'text'"):
        run(JOB | {"job": "shout"})
    assert not (tmp_path / "out").exists()


def test_job_without_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_text(json.dumps(JOB | {"job": "count"}))

    def command(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, *capsys.readouterr()

    assert command("run", "job.json")[:2] == (0, "7 rows\n")
    code, out, said = command("run", "job.json", "--json")
    assert (code, json.loads(out)) == (0, {"rows": 7})
    assert "is finished; nothing to do" in said
    assert command("status", "out")[:2] == (0, "7 rows\n")
    code, _, said = command("run", "job.json", "input.path=other.jsonl")
    assert code == 2
    assert "belongs to another job: input: 'in.jsonl' -> 'other.jsonl'" in said
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n')
    assert command("run", "job.json", "--overwrite", "--yes")[:2] == (0, "1 rows\n")


def test_output_of_another_kind_is_refused(tmp_path: Path) -> None:
    run(JOB | {"job": "shout"})
    with Path("/dev/null").open("w") as nowhere, pytest.raises(UserError, match="another kind of job"):
        run_job(parse_job(JOB | {"job": "count"}, "test"), Display(Console(file=nowhere)))
