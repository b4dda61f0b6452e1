"""Exports that are killed at random moments: the same command again gives the same files, and nothing else stays."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.storage import Folder, StorageOptions
from tests.bench.exports import write_output
from tests.servers.s3 import REPOSITORY, S3Server

PROMPTS = 8_000
LONGEST_S = 0.5
"""After its first file appears, an export lives for up to so long before it is killed."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("killed") / "out"
    write_output(place, PROMPTS, words=40)
    return place


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "import sys; from jobs.cli import main; main(sys.argv[1:])", *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_while_it_writes(arguments: list[str], has_begun: Callable[[], bool], wait_s: float) -> bool:
    """Kill the command some time after it has begun to write. Return whether it was still alive."""
    process = start(*arguments)
    while not has_begun() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(wait_s)
    is_alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return is_alive


def files(folder: Folder) -> dict[str, bytes]:
    return {entry.name: folder.read(entry.name) for entry in folder.entries()}


@pytest.fixture(params=[3, pytest.param(20, marks=pytest.mark.chaos)], ids=["few", "many"])
def num_kills(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.mark.timeout(600)
def test_killed_export_on_a_disk_is_made_again(output: Path, num_kills: int, seed: int, tmp_path: Path) -> None:
    command = ["export", str(output), "--to", "dpo", "--pairs", "all_above_margin", "--out"]
    assert start(*command, str(tmp_path / "clean/made")).wait() == 0
    chance, place, hits = random.Random(seed), tmp_path / "killed", 0
    place.mkdir()
    for _ in range(num_kills):
        before = {*os.listdir(place)}
        hits += kill_while_it_writes(
            [*command, str(place / "made")],
            lambda before=before: bool({*os.listdir(place)} - before),  # type: ignore[misc]
            chance.uniform(0, LONGEST_S),
        )
        assert len(os.listdir(place)) <= 1  # what the one before has left is gone
    assert hits >= num_kills // 2
    assert start(*command, str(place / "made")).wait() == 0
    assert os.listdir(place) == ["made"]
    assert files(Folder.open(str(place / "made"))) == files(Folder.open(str(tmp_path / "clean/made")))


@pytest.mark.timeout(600)
def test_killed_export_in_a_bucket_is_made_again(
    output: Path, num_kills: int, seed: int, s3: S3Server, tmp_path: Path
) -> None:
    options = StorageOptions(endpoint=s3.endpoint)
    there, clean = (Folder.open(f"s3://bucket/{tmp_path.name}/{name}", options) for name in ("made", "clean/made"))
    command = ["export", str(output), "--to", "reward", "--endpoint", s3.endpoint, "--out"]
    assert start(*command, clean.url).wait() == 0
    chance = random.Random(seed)
    for _ in range(num_kills):
        kill_while_it_writes([*command, there.url], lambda: bool(there.entries()), chance.uniform(0, LONGEST_S))
    assert start(*command, there.url).wait() == 0
    assert files(there) == files(clean)
