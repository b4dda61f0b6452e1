"""Every hostile program, behind the best protection that works here, and those that try the walls behind each.

Each gets nowhere, and its neighbour passes.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rmbatch.sandbox.cases import Cases, read_cases
from rmbatch.sandbox.pool import Level, RefusedError, Sandbox
from rmbatch.sandbox.runner import Limits, ProgramResult, run_tests_in
from tests.rmbatch.sandbox.greedy import CLINGING, GREEDY
from tests.rmbatch.sandbox.hostile import TESTS, Hostile
from tests.rmbatch.sandbox.intruders import CURIOUS, VIOLENT
from tests.rmbatch.sandbox.liars import LYING

EVERY = [*GREEDY, *CLINGING, *VIOLENT, *CURIOUS, *LYING]
WALLS = [
    *VIOLENT,
    *CURIOUS,
    *(
        hostile
        for hostile in EVERY
        if hostile.name.startswith(("fork bomb in", "memory bomb of", "shared", "a daemon"))
    ),
]
"""The programs that are tried with every protection: they attack the walls, not what is decided outside."""
STRONG: tuple[Level, ...] = ("bubblewrap", "namespaces", "landlock")
LIMITS = Limits(timeout_s=0.2, memory_mb=128)
RIGHT = "import math\ndef answer(x):\n    return math.isqrt(x) + sum(range(50_000)) * 0"
RIGHT_CASES = read_cases(["assert answer(9) == 3"])


@dataclass
class Keeper:
    """Sandboxes of one level that are replaced when they are spent."""

    level: Level
    _kept: dict[str, Sandbox] = field(default_factory=dict)

    def run_tests(self, name: str, program: str, cases: Cases, limits: Limits = LIMITS) -> ProgramResult:
        if name not in self._kept or not self._kept[name].usable:
            self.drop(name)
            self._kept[name] = Sandbox(self.level)
        return run_tests_in(self._kept[name], program, cases, limits)

    def drop(self, name: str) -> None:
        if name in self._kept:
            self._kept.pop(name).stop()

    def close(self) -> None:
        for name in list(self._kept):
            self.drop(name)


@pytest.fixture(scope="module", params=["the best", *STRONG[1:]])
def keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    os.environ["RMBATCH_TEST_SECRET"] = "SECRET"
    refused = []
    for level in STRONG if request.param == "the best" else (request.param,):
        keeper = Keeper(level)
        try:
            keeper.run_tests("hostile", RIGHT, RIGHT_CASES)
            break
        except RefusedError as reason:
            refused.append(f"{level} does not work here: {reason}")
    else:
        pytest.skip("; ".join(refused))
    users = {sandbox.facts["user"] for sandbox in keeper._kept.values()}
    yield keeper
    keeper.close()
    del os.environ["RMBATCH_TEST_SECRET"]
    if os.getuid() == 0:  # then the user is one that nothing else runs as
        assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _owner(pid) in users]


def _owner(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return -1


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, list[object]]]:
    """A port on loopback and an abstract socket, and who came."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0" + "ABSTRACT")
        local.listen()

        def watch(listening: socket.socket) -> None:
            while True:
                try:
                    came.append(listening.accept())
                except OSError:
                    return

        for listening in (tcp, local):
            threading.Thread(target=watch, args=(listening,), daemon=True).start()
        yield tcp.getsockname()[1], came
        for listening in (tcp, local):
            listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("canary")
    folder.parent.chmod(0o755)
    folder.chmod(0o777)
    (folder / "file").write_text("alive")
    (folder / "file").chmod(0o666)
    return folder


@pytest.mark.parametrize(
    ("keeper", "hostile"),
    [
        *(("the best", hostile) for hostile in EVERY),
        *((level, hostile) for level in STRONG[1:] for hostile in WALLS),
    ],
    ids=lambda given: given.name if isinstance(given, Hostile) else given,
    indirect=["keeper"],
)
def test_hostile_program_fails_and_harms_nothing(
    keeper: Keeper, hostile: Hostile, server: tuple[int, list[object]], canary: Path
) -> None:
    port, came = server
    mode = (canary / "file").stat().st_mode
    beside: list[ProgramResult] = []
    neighbour = threading.Thread(
        target=lambda: beside.append(keeper.run_tests("beside", RIGHT, RIGHT_CASES, Limits(timeout_s=5)))
    )
    neighbour.start()
    began = time.monotonic()
    result = keeper.run_tests("hostile", hostile.text(str(canary), port), read_cases(TESTS))
    took_s = time.monotonic() - began
    neighbour.join()

    assert result.passed[0] is False
    assert hostile.passed in (None, result.passed), result.failure
    assert result.failure is not None
    assert result.failure.split(": ")[1] in hostile.kinds, result.failure
    assert took_s < 30
    assert beside[0].share == 1.0, beside[0].failure
    assert keeper.run_tests("hostile", RIGHT, RIGHT_CASES, Limits(timeout_s=5)).share == 1.0  # and who comes next
    assert came == []
    assert [path.name for path in canary.iterdir()] == ["file"]
    assert (canary / "file").read_text() == "alive"
    assert (canary / "file").stat().st_mode == mode


def test_there_are_over_60_hostile_programs() -> None:
    assert len(EVERY) == len({hostile.name for hostile in EVERY}) > 60


ORPHAN = """
import os, threading
from rmbatch.sandbox.cases import read_cases
from rmbatch.sandbox.runner import Limits, run_tests_in
from rmbatch.sandbox.pool import Sandbox
sandbox = Sandbox({level!r})
print(sandbox.facts["user"], flush=True)
threading.Timer(0.5, lambda: os.kill(os.getpid(), 9)).start()
program = "import os, time\\ndef f():\\n    if os.fork() == 0: os.setsid()\\n    time.sleep(100)"
run_tests_in(sandbox, program, read_cases(["assert f() == 1"]), Limits())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root's sandboxes have a user of their own, by which to find them")
@pytest.mark.parametrize("level", [*STRONG, "rlimits"])
def test_program_dies_with_its_parent(level: Level) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    script = ORPHAN.format(level=level)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    if "RefusedError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    user, deadline = int(done.stdout), time.monotonic() + 20
    while (left := [pid for pid in os.listdir("/proc") if pid.isdigit() and _owner(pid) == user]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert left == []
