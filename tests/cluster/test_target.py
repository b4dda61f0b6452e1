"""Targets of submissions: what each keeps, a new one in one class and one line, and real jobs in the background."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster import target as targets
from cluster.background import Background
from cluster.ray_jobs import RayJobs
from cluster.target import Submission, Target, open_target
from connectors.errors import UserError
from jobs.cli import main
from tests.cluster.head import RayHead

JOB = """
job: score
input: {path: in.jsonl}
rewards: {exact: {reward: accuracy}}
output: {path: OUT}
run: {on: here}
"""
SLOW = "import time\n\ndef slow(response):\n    time.sleep(120)\n    return 1.0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a job on a few rows."""
    (tmp_path / "in.jsonl").write_text('{"response": "4", "reference": "4"}\n' * 20)
    (tmp_path / "job.yaml").write_text(JOB.replace("OUT", str(tmp_path / "out")))
    (tmp_path / "mine.py").write_text(SLOW)
    return tmp_path


def wait_for_end(target: Target, name: str, timeout_s: float = 120) -> str:
    deadline = time.monotonic() + timeout_s
    while target.status(name) in ("pending", "running") and time.monotonic() < deadline:
        time.sleep(0.2)
    return target.status(name)


def test_rendering_says_what_would_be_done_and_does_nothing(folder: Path) -> None:
    submission = Submission("job.yaml", ["input.limit=3"], str(folder), {"JUDGE_URL": "http://a b"})
    shell = Background(str(folder / "jobs")).render(submission)
    assert shell.splitlines()[1:] == ["export JUDGE_URL='http://a b'", "python -m jobs run job.yaml input.limit=3"]
    assert not (folder / "jobs").exists()
    sent = yaml.safe_load(RayJobs("http://127.0.0.1:1").render(submission))
    assert sent["entrypoint"] == "python -m jobs run job.yaml input.limit=3"
    assert sent["runtime_env"] == {"working_dir": str(folder), "env_vars": {"JUDGE_URL": "http://a b"}}


def test_a_job_in_the_background_runs_to_its_end(folder: Path) -> None:
    target = Background(str(folder / "jobs"))
    name = target.submit(Submission("job.yaml", folder=str(folder)))
    assert wait_for_end(target, name) == "finished"
    assert "20 scored" in target.logs(name)


def test_a_job_in_the_background_that_fails_says_why(folder: Path) -> None:
    target = Background(str(folder / "jobs"))
    name = target.submit(Submission("job.yaml", ["rewards.exact.reward=acuracy"], str(folder)))
    assert wait_for_end(target, name) == "failed"
    assert "did you mean 'accuracy'" in target.logs(name)


def test_a_job_in_the_background_can_be_stopped(folder: Path) -> None:
    target = Background(str(folder / "jobs"))
    name = target.submit(Submission("job.yaml", ["rewards.exact.reward=mine.py:slow"], str(folder)))
    deadline = time.monotonic() + 60
    while not (folder / "out/_rmbatch/plan.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert target.status(name) == "running"
    target.cancel(name)
    assert target.status(name) == "cancelled"
    assert "interrupted" in target.logs(name)


def test_a_job_that_nobody_submitted_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no job 'nobody' was submitted here"):
        Background(str(tmp_path)).status("nobody")
    with pytest.raises(UserError, match="write one of: local, ray"):
        open_target("moon")


class Notebook:
    """A target of a test: it keeps what it is given."""

    jobs: dict[str, Submission] = {}  # noqa: RUF012

    def __init__(self, address: str | None) -> None:
        self.address = address

    def render(self, submission: Submission) -> str:
        return f"{self.address}: {submission.command_line()}"

    def submit(self, submission: Submission) -> str:
        self.jobs[f"job{len(self.jobs)}"] = submission
        return f"job{len(self.jobs) - 1}"

    def status(self, name: str) -> str:
        return "running"

    def logs(self, name: str) -> str:
        return "hello"

    def cancel(self, name: str) -> None:
        del self.jobs[name]


def test_a_new_target_is_a_class_and_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(targets.TARGETS, "notebook", f"{__name__}:Notebook")
    monkeypatch.chdir(folder)

    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code == 0
        return capsys.readouterr().out.strip()

    place = ["--to", "notebook", "--address", "desk"]
    assert command("submit", "job.yaml", *place, "--show") == "desk: python -m jobs run job.yaml"
    assert command("submit", "job.yaml", "input.limit=2", *place, "--env", "A=1") == "job0"
    assert Notebook.jobs["job0"].environment == {"A": "1"}
    assert command("submitted", "job0", *place) == "running"
    assert command("submitted", "job0", *place, "--logs") == "hello"
    command("submitted", "job0", *place, "--cancel")
    assert not Notebook.jobs


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead(num_cpus=2) as running:
        yield running


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_job_of_a_ray_cluster_runs_to_its_end_on_it(head: RayHead, folder: Path) -> None:
    target = RayJobs(head.dashboard)
    name = target.submit(Submission("job.yaml", ["run.on=auto"], str(folder)))
    assert wait_for_end(target, name) == "finished", target.logs(name)
    assert "20 scored" in target.logs(name)
    with pytest.raises(UserError, match="nobody"):
        target.status("nobody")
