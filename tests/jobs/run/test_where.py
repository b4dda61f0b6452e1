"""Jobs in processes of this machine: the same result as on Ray, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from connectors.errors import JobError, UserError
from jobs.config.sections import RunConfig
from jobs.run.where import ASKED_BYTES, SMALL_BYTES, runs_here
from rmbatch.judges.reward import judge
from rmbatch.reward_models.reward import reward_model
from rmbatch.stages.base import Needs
from tests.jobs.running import by, rows, run

ROOT = Path(__file__).parents[3]
ENGINE = Needs(models={"rm": reward_model("some/model")})
SERVER = Needs(models={"rm": reward_model("m", engine="endpoint", endpoints=["http://host:1"])})
SERVED = Needs(askers={"kind": judge("pointwise", serve="some/model")})
JUDGE = Needs(askers={"kind": judge("pointwise", endpoint="http://host:1", model="m")})

REWARDS = """
import os, signal, time

def length(response: str) -> float:
    return float(len(response))

def deadly(response: str) -> float:
    if response == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return float(len(response))

def slow(response: str) -> float:
    time.sleep(0.05)
    return float(len(response))

def absent(response: str) -> float:
    raise ValueError("no")
"""


def job(folder: Path, function: str, num_rows: int = 40, **settings: Any) -> dict[str, Any]:
    """Rows of one response each, scored by a function of the user's own file."""
    (folder / "rewards.py").write_text(REWARDS)
    lines = [{"id": n, "prompt": f"q{n // 4}", "key": n % 10, "response": "x" * (n % 7)} for n in range(num_rows)]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    base = {"job": "score", "input": {"path": str(folder / "in.jsonl")}, "output": {"path": str(folder / "out")}}
    return base | {"rewards": {"mine": {"reward": f"{folder}/rewards.py:{function}"}}} | settings


@pytest.mark.parametrize(
    ("needs", "num_bytes", "settings", "expected"),
    [
        (Needs(), 1000, {}, True),
        (Needs(), SMALL_BYTES + 1, {}, False),
        (Needs(), SMALL_BYTES + 1, {"on": "here"}, True),
        (Needs(), 1000, {"on": "ray"}, False),
        (Needs(), 1000, {"address": "host:1"}, False),
        (ENGINE, 1000, {}, False),
        (SERVER, 1000, {}, True),  # it runs already
        (JUDGE, 1000, {}, True),
        (JUDGE, ASKED_BYTES + 1, {}, False),
        (SERVED, 1000, {}, False),
    ],
)
def test_small_job_runs_here(
    here: None, needs: Needs, num_bytes: int, settings: dict[str, Any], expected: bool
) -> None:
    assert runs_here(RunConfig(**settings), needs, num_bytes) is expected


def test_job_runs_on_cluster_of_environment(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "host:6379")
    assert not runs_here(RunConfig(), Needs(), 1000)


@pytest.mark.parametrize(
    ("settings", "needs", "message"),
    [
        ({"on": "here"}, ENGINE, "the model 'rm' needs one"),
        ({"on": "here"}, SERVED, "starts no server, and 'kind' wants some/model served; write ray or auto"),
        ({"on": "here", "address": "auto"}, Needs(), "no cluster"),
    ],
)
def test_here_is_refused_for_engine_or_cluster(settings: dict[str, Any], needs: Needs, message: str) -> None:
    with pytest.raises(UserError, match=message):
        runs_here(RunConfig(**settings), needs, 1000)


def test_row_that_kills_worker_becomes_dead_letter(here: None, tmp_path: Path) -> None:
    asked = job(tmp_path, "deadly", num_rows=20)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write(json.dumps({"id": 99, "response": "die"}) + "\n")
    summary = run(asked)
    assert summary.rows == {"data": 20, "rejected": 0, "dead_letters": 1}
    (letter,) = rows(tmp_path / "out", "dead_letters")
    assert letter["code"] == "killed_worker"
    assert [row["score.mine"] for row in by("id", rows(tmp_path / "out"))] == [float(n % 7) for n in range(20)]


def test_raising_reward_stops_job_and_names_row(here: None, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"reward 'mine' raised ValueError: no on row 0 of .*in\.jsonl"):
        run(job(tmp_path, "absent"))


def test_workers_that_cannot_start_stop_job(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "xxhash.py").write_text("raise RuntimeError('no hash today')")
    asked = job(tmp_path, "length")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    with pytest.raises(JobError, match="RuntimeError: no hash today"):
        run(asked)


@pytest.mark.ray
def test_output_is_same_as_on_ray(here: None, local_ray: None, tmp_path: Path) -> None:
    found = {}
    for on in ("here", "ray"):
        folder = tmp_path / on
        folder.mkdir()
        asked = job(
            folder,
            "length",
            num_rows=400,
            job="best_of_n",
            run={"on": on, "unit_mb": 1},
        )
        asked["input"] |= {"group": {"by": "key"}}
        summary = run(asked)
        kept, rejected = (by("id", rows(folder / "out", part)) for part in ("data", "rejected"))
        found[on] = (kept, rejected, summary.rows, summary.tally)
    assert found["here"] == found["ray"]
    assert len(found["here"][0]) == 10


@pytest.mark.ray
def test_job_begun_here_finishes_on_ray(here: None, local_ray: None, tmp_path: Path) -> None:
    asked = job(tmp_path, "length", num_rows=1200, run={"on": "here", "cpus": 2})
    assert run(asked).rows["data"] == 1200
    output = tmp_path / "out/_rmbatch"
    (output / "manifest.json").unlink()
    min((output / "commits").iterdir()).unlink()
    assert run(asked | {"run": {"on": "ray"}}).rows["data"] == 1200
    assert [row["id"] for row in by("id", rows(tmp_path / "out"))] == list(range(1200))


def test_killed_driver_takes_workers_along(here: None, tmp_path: Path) -> None:
    asked = job(tmp_path, "slow", num_rows=300, run={"on": "here", "cpus": 2})
    (tmp_path / "job.json").write_text(json.dumps(asked))
    command = [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.json")]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/_rmbatch/attempts").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(driver.pid).children()
    assert workers
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert run(asked).rows == {"data": 300, "rejected": 0, "dead_letters": 0}
    assert [row["id"] for row in by("id", rows(tmp_path / "out"))] == list(range(300))
