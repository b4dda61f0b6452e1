"""A Ray that does not start or does not let us in is one line, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.local import attached
from connectors.errors import JobError
from tests.cluster.head import RayHead
from tests.servers.s3 import REPOSITORY

BUSY = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``ray.init`` does, try by try: an exception, or None for a start."""
    tries: list[Any] = []

    def init(**_: Any) -> None:
        fault = tries.pop(0)
        if fault:
            raise fault

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tries


def test_start_is_tried_once_more(starts: list[Any]) -> None:
    starts += [Exception(BUSY), None]
    with attached():
        pass
    assert not starts


@pytest.mark.parametrize("fault", [Exception(BUSY), RuntimeError("Traceback\n  Failed to start raylet.")])
def test_failed_start_is_one_line_with_a_cure(starts: list[Any], fault: Exception) -> None:
    starts += [fault, fault]
    with (
        pytest.raises(JobError, match=r"Ray did not start on this machine, in 2 tries: .* run\.cpus=1") as stopped,
        attached(),
    ):
        pass
    assert "Traceback" not in str(stopped.value)


def job(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A job of one row on Ray, in a process of its own."""
    (folder / "in.jsonl").write_text('{"response": "4", "answer": "4"}\n')
    (folder / "job.yaml").write_text(
        "job: score\ninput: {path: in.jsonl}\nrewards: {exact: accuracy}\noutput: {path: out}\nrun: {on: ray}\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "jobs", "run", "job.yaml"],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_real_ray_that_cannot_start(tmp_path: Path) -> None:
    ended = job(tmp_path, RAY_TMPDIR=str(tmp_path / ("long" * 25)))  # a Unix socket's path has at most 107 characters
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-2].startswith("stopped: Ray did not start on this machine, in 2 tries: ")
    assert not (tmp_path / "out").exists()


class LockedHead(RayHead):
    """A cluster that asks for a token."""

    token = "a" * 32

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_cluster_with_a_token_says_what_to_set(tmp_path: Path) -> None:
    with LockedHead(num_cpus=1) as head:
        inside = {"RAY_ADDRESS": head.address, "HOME": str(tmp_path)}
        for wrong in ({}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 32}):
            ended = job(tmp_path, **inside, **wrong)
            assert ended.returncode == 2
            last = ended.stderr.splitlines()[-1]
            assert last.startswith(f"error: the Ray cluster at '{head.address}'")
            assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in last
            assert not (tmp_path / "out").exists()
        assert job(tmp_path, **inside, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=head.token).returncode == 0
