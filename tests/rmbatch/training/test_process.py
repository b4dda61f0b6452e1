"""A command that ends with who wants it, and what it says of its end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from connectors.errors import JobError
from rmbatch.training.process import Running, ask

CHILD = "import subprocess,sys,time,os; p=subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)']); "
CHILD += "open(sys.argv[1],'w').write(f'{os.getpid()} {p.pid}'); time.sleep(60)"


def wait_for(file: Path) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if file.exists() and len(file.read_text().split()) == 2:
            return [int(each) for each in file.read_text().split()]
        time.sleep(0.05)
    raise AssertionError("it has not begun")


def are_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        alive = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.1)
    return False


def test_all_it_has_started_ends_with_the_block(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with Running([sys.executable, "-c", CHILD, str(pids)], os.environ, str(tmp_path / "log")) as running:
        found = wait_for(pids)
        assert running.status() is None
    assert are_gone(found)


def test_all_it_has_started_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    owner = (
        "import os,sys,time\nfrom rmbatch.training.process import Running\n"
        f"with Running([sys.executable,'-c',{CHILD!r},{str(pids)!r}], os.environ, {str(tmp_path / 'log')!r}):\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", owner])
    found = wait_for(pids)
    process.kill()
    process.wait()
    assert are_gone(found)


def test_failure_is_told_by_the_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise ValueError('no such model')"]
    with Running(command, os.environ, str(tmp_path / "log")) as running:
        while running.status() is None:
            time.sleep(0.05)
        said = running.explain_failure()
    assert said.startswith("it ended with status 1; its log says: ValueError: no such model")
    assert str(tmp_path / "log") in said


def test_answer_is_the_last_line_that_it_prints() -> None:
    script = "import sys,json; print('noise'); print(json.dumps({'got': sys.stdin.read()}))"
    assert ask([sys.executable, "-c", script], "hello") == {"got": "hello"}
    with pytest.raises(JobError, match="could not tell its configuration: its log says: ValueError: bad"):
        ask([sys.executable, "-c", "raise ValueError('bad')"], "")
