"""Warm sandboxes: replaced when lost, never weaker than asked for, gone with their process."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.sandbox import pool
from rmbatch.sandbox.pool import Level, RefusedError, Sandbox

ASSERTS = ["assert double(2) == 4", "assert double('ab') == 'abab'", "assert double([1]) == [1, 1]"]


def test_the_same_program_gives_the_same_answer() -> None:
    program = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('x')]"
    rm: Any = rmbatch.reward("code_execution")
    reasons = set()
    for _ in range(3):
        reasons.add(rm.evaluate({"response": program, "tests": ["assert f() == 0"]}).reason)
        pool._POOL.close()
    assert len(reasons) == 1


def test_a_sandbox_that_is_killed_is_replaced() -> None:
    rm: Any = rmbatch.reward("code_execution")
    right = {"response": "def double(x): return x * 2", "tests": ASSERTS}
    assert rm.evaluate(right).score == 1.0
    for sandbox in pool._POOL._idle:
        os.killpg(sandbox._process.pid, signal.SIGKILL)
    assert rm.evaluate(right).score == 1.0


def test_without_protection_nothing_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Unprotected(Sandbox):
        def __init__(self, level: Level, packages: bool = False) -> None:
            if level != "rlimits":
                raise RefusedError("not here")
            super().__init__(level, packages)

    monkeypatch.setattr(pool, "Sandbox", Unprotected)
    monkeypatch.setattr(pool, "_POOL", pool._Pool())
    sample = {"response": "def double(x): return x * 2", "tests": ASSERTS}
    for protection in ("auto", "bubblewrap", "landlock"):
        with pytest.raises(UserError, match=r"not here.*protection: rlimits"):
            rmbatch.reward("code_execution", protection=protection).evaluate(sample)
    with caplog.at_level(logging.INFO, "rmbatch.sandbox"):
        named: Any = rmbatch.reward("code_execution", protection="rlimits")
        assert named.evaluate(sample).score == 1.0
    assert "programs run behind rlimits" in caplog.text  # the user is told which protection it is
    pool._POOL.close()


START = """
import os, rmbatch
rm = rmbatch.reward("code_execution")
assert rm.evaluate({"response": "f = abs", "tests": ["assert f(-1) == 1"]}).score == 1.0
from rmbatch.sandbox import pool
print(pool._POOL._idle[0]._process.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_sandboxes_end_with_their_process(end: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", START + end], capture_output=True, text=True, env=environment)
    session = done.stdout.strip()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (left := _of_session(session)):
        time.sleep(0.05)
    assert session.isdigit(), done.stderr
    assert left == []


def _of_session(session: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[3] == session and fields[0] != "Z":
            found.append(pid)
    return found
