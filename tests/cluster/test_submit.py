"""The job that runs on a laptop runs unchanged on a cluster that is there already: by its address, or as a Ray job."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.head import RAY, RayHead
from tests.jobs.running import rows
from tests.servers.s3 import REPOSITORY, free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

RUN = ["-m", "jobs", "run", "jobs/examples/demo.yaml"]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead(num_cpus=2) as running:
        yield running


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """The demo's job on a few rows of our own."""
    path = tmp_path / "in.jsonl"
    rows = [
        {"uid": str(n), "messages": f"{n}+1", "candidates": ["7", str(n + 1)], "answer": f"{n + 1}"} for n in range(50)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"input.path={path}", f"output.path={tmp_path / 'out'}"]


def kept(tmp_path: Path) -> list[str]:
    return [row["select.response"] for row in sorted(rows(tmp_path / "out"), key=lambda row: int(row["uid"]))]


def submit(head: RayHead, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The repository and a job in it, handed to the cluster."""
    command = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", "python"]
    return subprocess.run(
        [*command, *RUN, *arguments], cwd=REPOSITORY, env=head.environment(), capture_output=True, text=True
    )


def test_submitted_job_refuses_an_output_that_ray_would_delete(head: RayHead, overrides: list[str]) -> None:
    ended = submit(head, overrides[0], "output.path=out/here")
    assert ended.returncode == 1
    assert "error: output.path: 'out/here' is relative, and this job runs in Ray's copy" in ended.stdout + ended.stderr


def test_a_job_is_submitted_with_its_working_folder(head: RayHead, overrides: list[str], tmp_path: Path) -> None:
    ended = submit(head, *overrides)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "succeeded" in ended.stdout
    assert "kept 50" in ended.stdout  # the result table is in the job's log
    assert kept(tmp_path) == [str(n + 1) for n in range(50)]


@pytest.mark.parametrize("by", ["RAY_ADDRESS", "run.address"])
def test_a_job_attaches_to_the_cluster_it_is_told(head: RayHead, overrides: list[str], tmp_path: Path, by: str) -> None:
    environment = head.environment()
    if by == "RAY_ADDRESS":
        environment[by] = head.address
    else:
        overrides.append(f"{by}={head.address}")
    ended = subprocess.run(
        [sys.executable, *RUN, *overrides], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert kept(tmp_path) == [str(n + 1) for n in range(50)]
    assert head.popen is not None
    assert head.popen.poll() is None  # the cluster was there before, and stays
    jobs = subprocess.run(
        [RAY, "list", "jobs", "--address", head.dashboard], env=head.environment(), capture_output=True, text=True
    )
    assert "DRIVER" in jobs.stdout  # the job ran there, and not on a Ray of its own


def test_a_cluster_that_is_not_there_is_one_line(overrides: list[str]) -> None:
    command = [sys.executable, *RUN, *overrides, f"run.address=127.0.0.1:{free_port()}"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: no Ray cluster listens at '127.0.0.1:")
