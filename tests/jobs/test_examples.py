"""Every example job runs from a clone as it is: its data stands beside it, nothing outside the repository is read."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
import yaml
from rich.console import Console

from jobs.config.file import read_job_file
from jobs.config.job_types import parse_job
from jobs.examples import arithmetic, problems
from jobs.run.job import run_job
from jobs.run.rows import Summary
from jobs.show.display import Display
from rmbatch.endpoints.connections import close_all
from tests.editing import Told, editor_server
from tests.jobs.running import rows
from tests.judging import Seen, judge_server
from tests.rmbatch.discovery.scripted import written
from tests.servers.s3 import REPOSITORY

EXAMPLES = REPOSITORY / "jobs/examples"
OWN_TESTS = {
    "correct.yaml",
    "correct_sums.yaml",
    "distill.yaml",
    "distill_select.yaml",
    "generate.yaml",
    "judges.yaml",
    "principles.yaml",
    "reward_model.yaml",
    "evaluate_trained.yaml",
    "score_trained.yaml",
    "train_rm.yaml",
}
"""Those that ask a server or load a model."""


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds what a clone holds, where jobs may write."""
    (tmp_path / "jobs").symlink_to(REPOSITORY / "jobs")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    close_all()


def prefers_the_longer(seen: Seen) -> dict[str, Any]:
    a, b = len(seen.fenced("response-A")), len(seen.fenced("response-B"))
    return {"better": "A" if a > b else "B" if b > a else "tie"}


def run_example(name: str, *overrides: str) -> Summary:
    file = f"jobs/examples/{name}"
    with Path("/dev/null").open("w") as nowhere:
        return run_job(parse_job(read_job_file(file, overrides, os.environ), file), Display(Console(file=nowhere)))


def test_data_equals_output_of_its_script(tmp_path: Path) -> None:
    problems.main(str(tmp_path / "made"))
    made = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    assert made == {file.name: file.read_bytes() for file in (EXAMPLES / "data").iterdir()}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_examples_over_rules_run_as_they_are(clone: Path) -> None:
    arithmetic.main("out/demo/candidates.jsonl")
    names = [
        file.name for file in sorted(EXAMPLES.glob("*.yaml"), key=lambda file: (file.name != "demo.yaml", file.name))
    ]
    for name in names:  # the demo first: others go on from what it made, select from best_of_n
        if name not in OWN_TESTS:
            summary = run_example(name)
            assert summary.rows["data"] > 0, name
    best = rows("out/best_of_n")
    assert len(best) == 150
    assert {row["select.score"] for row in best} == {1.0}  # of each two solutions one is right


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_judges_example_runs(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server(prefers_the_longer) as server:
        monkeypatch.setenv("JUDGE_URL", server.url)
        summary = run_example("judges.yaml")
    assert summary.rows["data"] > 50
    assert summary.tally["scored.better"] > 200


def test_correct_example_runs(clone: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (EXAMPLES / "data/problems.jsonl").read_text().splitlines()
    answers = {row["question"]: row["answer"] for row in map(orjson.loads, lines)}

    def solve(told: Told) -> str:
        answer = next(answers[question] for question in answers if question in told.prompt)
        return rf"So it comes to \boxed{{{answer}}}." if told.seed % 2 else rf"It may be \boxed{{{told.seed}}}."

    with editor_server(solve) as server:
        monkeypatch.setenv("JUDGE_URL", server.url)
        summary = run_example("correct.yaml")
    written = rows("out/correct")
    assert len(written) == 150
    before, after = (sum(row[f"correct.{name}"] or 0 for row in written) for name in ("score_before", "score"))
    assert before < 100 < 130 < after
    assert summary.tally["correct.outcome.untouched"] == before
    assert {row["correct.control"] for row in written} == {True, False}


def test_principles_example_runs(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    principle = "The answer shows the steps that lead to it."

    def says(seen: Seen) -> Any:
        if seen.body["model"] == "qwen3-235b-a22b":  # the writer
            return orjson.dumps(written(principle)).decode()
        knows = principle in seen.text.partition("What stands between the tags")[0]
        return prefers_the_longer(seen) if knows else {"better": "tie"}

    with judge_server(says) as server, Path("/dev/null").open("w") as nowhere:
        monkeypatch.setenv("JUDGE_URL", server.url)
        monkeypatch.setenv("WRITER_URL", server.url)
        file = "jobs/examples/principles.yaml"
        job = parse_job(read_job_file(file, [], os.environ), file)
        report = run_job(job, Display(Console(file=nowhere))).plain()
    assert report["rows"]["usable"] > 140  # some problems come twice
    assert [each["text"] for each in report["worth"]["principles"]] == [principle]


@pytest.mark.ray
@pytest.mark.served
@pytest.mark.usefixtures("local_ray")
@pytest.mark.timeout(600)
def test_reward_model_example_runs_with_tiny_model(clone: Path) -> None:
    pytest.importorskip("torch")
    from tests.tiny_models import make_model

    model = "rewards.right_and_good.gate.then."
    here = {"model": make_model(clone / "model", "scalar"), "engine": "transformers", "gpus": 0, "max_length": 512}
    overrides = [f"{model}{key}={value}" for key, value in here.items()]
    summary = run_example("reward_model.yaml", *overrides, f"{model}replicas=1")
    assert summary.rows["data"] == 150
    assert summary.tally["scored.right_and_good.then"] > 150  # the right solutions


def test_example_begins_with_its_command() -> None:
    for file in EXAMPLES.glob("*.yaml"):
        text = file.read_text()
        assert f"jobs/examples/{file.name}" in text.splitlines()[0]
        assert "../" not in text
        assert yaml.safe_load(text)["job"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_demo_table_fits_eighty_columns() -> None:
    arithmetic.main("out/demo/candidates.jsonl")
    run_example("demo.yaml", "input.limit=200")
    lines = str(duckdb.sql(Path("jobs/examples/demo.sql").read_text())).splitlines()
    assert len(lines) > 6
    assert max(map(len, lines)) <= 80
