"""Exports that a job file asks for: written when the output is finished, once, and refused before any work."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from connectors.storage import Folder, StorageOptions
from tests.jobs.commands import Command, mistake_of, write_jsonl
from tests.servers.s3 import S3Server

ROWS: list[dict[str, Any]] = [
    {
        "uid": f"q{n}",
        "question": f"{n} and {n}?",
        "candidates": [f"It is {2 * n} now", f"It is {2 * n}, so I say", "Surely it is zero, no?", None],
    }
    for n in range(1, 6)
]
JOB = """
job: best_of_n
input: {path: in/}
rewards: {short: {reward: length_penalty, max_length: 12, penalty_rate: 0.1}}
output: {path: out/best/, exports: [sft, {to: dpo, pairs: adjacent}, {to: dpo, name: apart, min_margin: 0.4}]}
"""
FOLDERS = ["best", "best.apart", "best.dpo", "best.sft"]


@pytest.fixture
def job(here: None, tmp_path: Path) -> str:
    write_jsonl(tmp_path / "in/a.jsonl", ROWS)
    (tmp_path / "job.yaml").write_text(JOB)
    return "job.yaml"


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = {path: path for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def exported(place: Path) -> dict[str, bytes]:
    return {name: data for name, (data, _) in files(place).items() if name.startswith("best.") and "/data/" in name}


def test_exports_are_written_once_when_the_job_ends(job: str, rmbatch: Command, tmp_path: Path) -> None:
    ended = rmbatch("run", job, "--json")
    assert ended.code == 0, ended.err
    assert sorted(os.listdir(tmp_path / "out")) == FOLDERS
    told = json.loads(ended.out)["exports"]
    assert {name: made["rows"] for name, made in told.items()} == {"sft": 5, "dpo": 10, "apart": 5}
    before = files(tmp_path / "out")
    again = rmbatch("run", job, "--json")
    assert json.loads(again.out)["exports"] == told
    assert files(tmp_path / "out") == before
    shown = rmbatch("run", job)
    assert "export apart  5 rows in" in shown.out


def test_exports_are_what_the_command_writes(job: str, rmbatch: Command, tmp_path: Path) -> None:
    assert rmbatch("run", job).code == 0
    assert rmbatch("export", "out/best", "--to", "dpo", "--pairs", "adjacent", "--out", "made").code == 0
    for name in ("data/train-00000.parquet",):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "out/best.dpo" / name).read_bytes()
    same = rmbatch("export", "out/best", "--to", "dpo", "--pairs", "adjacent")
    assert "nothing to do" in same.err


def test_exports_can_be_asked_for_later(job: str, rmbatch: Command, tmp_path: Path) -> None:
    assert rmbatch("run", job, "output.exports=[]").code == 0
    assert os.listdir(tmp_path / "out") == ["best"]
    before = files(tmp_path / "out/best")
    assert rmbatch("run", job).code == 0
    assert sorted(os.listdir(tmp_path / "out")) == FOLDERS
    assert files(tmp_path / "out/best") == before


def test_exports_of_a_resumed_run_are_the_same(job: str, rmbatch: Command, tmp_path: Path) -> None:
    """Killed between the manifest and the last export: what is missing is written, what a dead process left goes."""
    assert rmbatch("run", job).code == 0
    whole = exported(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/best.dpo")
    (tmp_path / "out/.best.dpo.partial-dead/data").mkdir(parents=True)
    assert rmbatch("run", job).code == 0
    assert exported(tmp_path / "out") == whole
    assert sorted(os.listdir(tmp_path / "out")) == FOLDERS


def test_overwrite_deletes_the_exports_too(job: str, rmbatch: Command, tmp_path: Path) -> None:
    assert rmbatch("run", job).code == 0
    write_jsonl(tmp_path / "in/a.jsonl", ROWS[:2])
    assert rmbatch("run", job, "--overwrite", "--yes").code == 0
    assert len(exported(tmp_path / "out")) == 3
    assert json.loads((tmp_path / "out/best.sft/export.json").read_bytes())["rows"] == 2


def test_output_is_read_without_its_exports(job: str, rmbatch: Command, tmp_path: Path) -> None:
    assert rmbatch("run", job, "job=score").code == 0
    other = ("job=score", "input.path=out/best", "output.path=out/second", "output.exports=[]")
    again = rmbatch("run", job, *other, "rewards={again: {reward: length_penalty}}", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["rows"]["data"] == 5


def test_plan_names_the_exports(job: str, rmbatch: Command, tmp_path: Path) -> None:
    planned = json.loads(rmbatch("plan", job, "--json").out)
    assert planned["exports"]["dpo"] == f"{tmp_path}/out/best.dpo (pairs adjacent)"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["output.exports=[dpoo]"], "output.exports.0: there is no export called 'dpoo'; did you mean 'dpo'"),
        (["output.exports=[kto]"], "output.exports.0: kto needs two thresholds, above and below"),
        (["output.exports=[{to: dpo, pair: adjacent}]"], "did you mean 'pairs'"),
        (["output.exports=[dpo, dpo]"], "two exports are called 'dpo'; give one of them a name"),
        (["output.exports=[verl]"], "output.exports: verl: verl needs a ground truth"),
        (["output.exports=[edit]"], "output.exports: edit: the rows have no correct.history"),
        (["output.exports=[{to: sft, by: long}]"], "output.exports: sft: by long: there is no such score"),
        (["output.columns=[uid, candidates]"], "no column plays the role 'prompt'"),
        (["job=score", "input.path=flat/"], "output.exports: dpo: it compares the candidates of a prompt"),
        (["input.path=flat/", "input.group={by: uid}", "output.rejected=drop"], "set output.rejected: keep"),
    ],
)
def test_export_that_does_not_fit_is_one_line_before_work(
    command: str, overrides: list[str], told: str, job: str, rmbatch: Command, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "flat/a.jsonl", [{"uid": "a", "question": "1?", "response": text} for text in "ab"])
    assert told in mistake_of(rmbatch(command, job, *overrides))
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_other_things_in_its_place_are_told_before_work(job: str, rmbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "out/best.sft").mkdir(parents=True)
    (tmp_path / "out/best.sft/mine.txt").write_text("mine")
    assert "best.sft holds something already; delete it" in mistake_of(rmbatch("run", job))
    assert os.listdir(tmp_path / "out") == ["best.sft"]


def test_export_without_rows_ends_the_run(job: str, rmbatch: Command, tmp_path: Path) -> None:
    ended = rmbatch("run", job, "output.exports=[{to: dpo, min_margin: 9}]")
    assert ended.code == 1
    assert "is finished, but output.exports: dpo has no row to write: 5 prompts no_pair" in ended.err


def test_select_job_exports_with_the_fingerprints_of_the_scorer(job: str, rmbatch: Command, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert rmbatch("run", job, "job=score", "output.path=out/scored", "output.exports=[reward]").code == 0
    chosen = {"job": "select", "input": {"path": "out/scored"}, "output": {"path": "out/chosen", "exports": ["reward"]}}
    (tmp_path / "select.yaml").write_text(json.dumps(chosen))
    ended = rmbatch("run", "select.yaml")
    assert ended.code == 0, ended.err
    first, second = (
        pq.read_table(tmp_path / f"out/{name}.reward/data")["lineage"].to_pylist() for name in ("scored", "chosen")
    )
    assert len(first) == len(second) == 5
    assert {row["scorer"] for row in first} == {row["scorer"] for row in second} != {"unknown"}
    assert {row["job"] for row in first} != {row["job"] for row in second}
    assert {row["policy"] for row in second} == {"unknown"}  # nobody knows who wrote the candidates


def test_output_in_a_bucket_has_its_exports_there(job: str, s3: S3Server, rmbatch: Command, tmp_path: Path) -> None:
    where = f"s3://bucket/{tmp_path.name}/best"
    places = (f"output.path={where}", f"output.storage={{endpoint: '{s3.endpoint}'}}")
    ended = rmbatch("run", job, *places, "--json")
    assert ended.code == 0, ended.err
    there = Folder.open(f"{where}.dpo", StorageOptions(endpoint=s3.endpoint))
    assert [entry.name for entry in there.entries()] == ["README.md", "data/train-00000.parquet", "export.json"]
    assert rmbatch("run", job, *places, "--json").code == 0
    assert rmbatch("run", job, *places, "--overwrite", "--yes").code == 0
