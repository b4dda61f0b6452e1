"""What a job is known by: that outputs which older versions have planned are still this job's."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.config.file import read_job_file
from jobs.config.identity import differences, job_identity
from jobs.config.job_types import parse_job
from jobs.config.principles import PrinciplesJob

EXAMPLES = "jobs/examples"
ENVIRONMENT = {**os.environ, "JUDGE_URL": "http://host:8000", "WRITER_URL": "http://writer:8000"}
PLANNED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "planned.json").read_text())
"""By example: ``job`` of the plan, as commit 79a67b9 wrote it."""
NEWER = {
    "correct",
    "correct_sums",
    "distill",
    "distill_select",
    "evaluate",
    "evaluate_trained",
    "generate",
    "pairs",
    "score_trained",
    "select",
    "train_rm",
}
"""Examples of what no older version had."""


def example(name: str) -> dict[str, Any]:
    path = f"{EXAMPLES}/{name}.yaml"
    data = read_job_file(path, [], ENVIRONMENT)
    if name == "principles":
        job = parse_job(data, path)
        assert isinstance(job, PrinciplesJob)
        return job.identity()
    return job_identity(parse_job(data, path))


@pytest.mark.parametrize("name", PLANNED)
def test_example_planned_by_an_older_version_is_the_same_job(name: str) -> None:
    """A changed template or library file of principles is only a warning, so of files just the names are compared."""
    planned, now = dict(PLANNED[name]), example(name)
    assert planned.pop("reward_files", {}).keys() == now.pop("reward_files", {}).keys()
    assert differences(planned, now) == []


def test_every_example_job_is_compared() -> None:
    assert set(PLANNED) | NEWER == {path.stem for path in Path(EXAMPLES).glob("*.yaml")}


JUDGE = {"judge": "pointwise", "principles": "math", "endpoint": "http://host:8000", "model": "m"}


def test_identity_leaves_out_settings_that_change_no_score() -> None:
    def of(**changes: Any) -> dict[str, Any]:
        inner = {"gate": {"require": "accuracy", "then": JUDGE | changes}}
        rewards = {"x": {"route": {"by": "source", "to": {"a": {"sum": {"parts": {"j": inner}, "weights": {"j": 1}}}}}}}
        job = {"job": "score", "input": {"path": "in"}, "output": {"path": "out"}, "rewards": rewards}
        return job_identity(parse_job(job, "JOB"))

    assert differences(of(), of(in_flight=3, cache="kept/", price={"input": 1, "output": 1})) == []
    assert differences(of(), of(temperature=0.5)) == [
        "rewards.x.route.to.a.sum.parts.j.gate.then.temperature: 0.0 -> 0.5"
    ]
    assert set(of()["reward_files"]) == {f"the {what} of x.a.j.then" for what in ("template", "principles", "service")}


def test_other_service_is_a_changed_file() -> None:
    def of(endpoint: str) -> dict[str, Any]:
        rewards = {"x": JUDGE | {"endpoint": endpoint}}
        job = {"job": "score", "input": {"path": "in"}, "output": {"path": "out"}, "rewards": rewards}
        return job_identity(parse_job(job, "JOB"))

    lines = differences(of("http://host:8000"), of("http://other:8000"))
    assert lines == ["reward_files.the service of x: 'host:8000' -> 'other:8000'"]
