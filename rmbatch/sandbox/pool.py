"""Keeps warm sandboxes: starts them when first needed, lends each to one program at a time, ends them with the process.

This module also chooses a sandbox's protection: the strongest that works on this machine, and none weaker than asked
for. The walls are in ``walls.py`` and ``namespaces.py``; ``zygote.py`` runs behind them.

    with lend("auto") as sandbox:
        for outcome in sandbox.run({"form": "call", "program": ..., "tests": [...], "cpu_s": 5, "memory_mb": 512}): ...
"""

import atexit
import json
import logging
import os
import secrets
import select
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from connectors.errors import UserError
from rmbatch.sandbox.folder import remove

Level = Literal["bubblewrap", "namespaces", "landlock", "rlimits"]
"""How a program is confined, strongest first."""
Protection = Literal["auto", "bubblewrap", "namespaces", "landlock", "rlimits"]
"""The weakest level that will do; ``auto``: any but rlimits, which has to be asked for by name."""

LEVELS: tuple[Level, ...] = get_args(Level)
_WEAKEST: Mapping[str, Level] = {"auto": "landlock", **{level: level for level in LEVELS}}

_START_S = 60
_STALLED_S = 60
"""Seconds that a sandbox may be silent beyond the longest time of a test."""
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32")
_START = "import sys; sys.path.insert(0, {root!r}); from rmbatch.sandbox.zygote import main; main(sys.argv[1])"
_log = logging.getLogger("rmbatch.sandbox")


class SandboxError(Exception):
    """The sandbox failed, not the program in it: there is no result."""


class RefusedError(SandboxError):
    """This level does not work on this machine."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one test: how it ended, its encoded value, what it printed."""

    end: str
    status: int | None
    cpu_s: float
    value: bytes
    printed: bytes


class Sandbox:
    """One zygote behind its walls. One program at a time."""

    def __init__(self, level: Level, packages: bool = False) -> None:
        self.level, self.packages = level, packages
        self.owner = os.getpid()
        self.usable = False
        shares_files = level in ("landlock", "rlimits")
        self._folder = tempfile.mkdtemp(prefix="rmbatch-sandbox-") if shares_files else None
        command = _build_command(level, packages, self._folder or "/tmp")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(),
            start_new_session=True,
        )
        try:
            header, _ = self._receive(_START_S)
        except SandboxError:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            self.stop()
            raise RefusedError(lines[-1] if lines else "it did not start") from None
        if "ready" not in header:
            self.stop()
            raise RefusedError(header.get("refused", "it did not start"))
        self.facts: dict[str, Any] = header["ready"]
        self.usable = True

    def run(self, request: Mapping[str, Any]) -> Iterator[Outcome]:
        """The outcome of each test of a request, in order. Raises SandboxError where the sandbox fails."""
        self.usable = False  # until the last outcome is read
        longest_s = 2 * (8 * request["cpu_s"] + 4) + _STALLED_S  # loading and a test, as slowly as a program can
        payload = json.dumps(request).encode()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(struct.pack(">I", len(payload)) + payload)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SandboxError("it was gone") from None
        while True:
            header, payloads = self._receive(longest_s)
            if header.get("done"):
                self.usable = not header["dirty"]
                return
            status, cpu_s = header.get("status"), header.get("cpu_s", 0.0)
            yield Outcome(header["end"], status, cpu_s, payloads[0], payloads[1])

    def stop(self) -> None:
        """End the sandbox and everything in it, if this process started it."""
        self.usable = False
        if self.owner != os.getpid():
            return  # a fork inherits its parent's sandboxes and must leave them alone
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()  # the end of its input ends it
        try:
            # Without namespaces it has to clear up after itself.
            process.wait(15 if self.level in ("landlock", "rlimits") else 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._errors.close()
        if self._folder is not None:
            remove(self._folder)

    def _receive(self, timeout_s: float) -> tuple[dict[str, Any], list[bytes]]:
        deadline = time.monotonic() + timeout_s
        stream = self._process.stdout
        assert stream is not None
        header = json.loads(_read_exactly(stream, struct.unpack(">I", _read_exactly(stream, 4, deadline))[0], deadline))
        return header, [_read_exactly(stream, size, deadline) for size in header["sizes"]]


def _read_exactly(stream: IO[bytes], size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise SandboxError("it did not answer in time")
        more = os.read(stream.fileno(), size - len(data))
        if not more:
            raise SandboxError("it died")
        data += more
    return bytes(data)


def _build_command(level: Level, packages: bool, folder: str) -> list[str]:
    home = Path(__file__).parents[2]
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")] if packages else []
    readable = list(dict.fromkeys([sys.base_prefix, sys.base_exec_prefix, *_SYSTEM]))
    # Where there is a file system of its own, under another name: an environment in /tmp would lie under the empty one.
    mounted = {path: f"/packages/{index}" for index, path in enumerate(dict.fromkeys(libraries))}
    seen = list(mounted if level in ("landlock", "rlimits") else mounted.values())
    setup = {
        "level": level,
        "readable": [*readable, *seen],
        "packages": seen,
        "mounted": mounted,
        "folder": folder,
        "user": _choose_user() if os.geteuid() == 0 else None,
    }
    python = os.path.realpath(sys.executable)
    if level != "bubblewrap":
        return [python, "-S", "-s", "-P", "-B", "-c", _START.format(root=str(home)), json.dumps(setup)]
    found = shutil.which("bwrap")
    if found is None:
        raise RefusedError("bwrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)")
    start = [python, "-S", "-s", "-P", "-B", "-c", _START.format(root="/rmbatch"), json.dumps(setup)]
    return [found, *_bubblewrap_options(readable, mounted, home), "--", *start]


def _bubblewrap_options(readable: list[str], mounted: Mapping[str, str], home: Path) -> list[str]:
    """bwrap's options: own namespaces, a file system with what Python needs, the zygote as process 1."""
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--as-pid-1", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    above = {str(parent) for path in readable for parent in Path(path).parents if not os.path.islink(parent)}
    for parent in sorted(above - {"/"}):  # it would make them for its own user only
        options += ["--perms", "0755", "--dir", parent]
    for path in readable:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            options += ["--ro-bind", path, path]
    if mounted:
        options += ["--perms", "0755", "--dir", "/packages"]
    for path, inside in mounted.items():
        options += ["--ro-bind", path, inside]
    code = home / "rmbatch"
    options += ["--ro-bind", str(code / "__init__.py"), "/rmbatch/rmbatch/__init__.py"]
    options += ["--ro-bind", str(code / "sandbox"), "/rmbatch/rmbatch/sandbox"]
    options += ["--perms", "1777", "--size", str(32 << 20), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    if os.geteuid() == 0:
        options += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return options


def _environment() -> dict[str, str]:
    """An environment without ours; the hash seed is fixed, so that a program gives the same result each time."""
    fixed = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "PYTHONHASHSEED": "0", "TZ": "UTC"}
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # What Python itself may need; some packages (cv2) add folders of their own to it when they are imported.
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    libraries = ":".join(folder for folder in folders if folder and "site-packages" not in folder)
    return fixed | single | ({"LD_LIBRARY_PATH": libraries} if libraries else {})


def _choose_user() -> int:
    """A user id that nobody else has: limits count its processes alone, and all of them can be killed at once."""
    user = 2_000_000_000 + secrets.randbelow(100_000_000)
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return user if any(first <= user < first + count for first, _, count in ranges) else 65534


class _Pool:
    """The idle sandboxes of this process, and the level that was found to work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._idle: list[Sandbox] = []
        self._refused: dict[Level, str] = {}
        self._works: set[Level] = set()
        """Levels that have started before: a later failure concerns one sandbox and is no reason for a weaker level."""

    def take(self, protection: Protection, packages: bool) -> Sandbox:
        weakest = LEVELS.index(_WEAKEST[protection])
        with self._lock:
            if self._owner != os.getpid():
                self._owner, self._idle = os.getpid(), []
            for level in LEVELS[: weakest + 1]:
                if level in self._refused:
                    continue
                for sandbox in self._idle:
                    if (sandbox.level, sandbox.packages) == (level, packages):
                        self._idle.remove(sandbox)
                        return sandbox
                try:
                    sandbox = Sandbox(level, packages)
                except RefusedError as reason:
                    if level in self._works:
                        raise SandboxError(f"it did not start again: {reason}") from None
                    self._refused[level] = str(reason)
                    continue
                self._log_level(sandbox)
                return sandbox
        why = "; ".join(f"{level}: {self._refused[level]}" for level in LEVELS[: weakest + 1])
        raise UserError(
            f"code is not run without protection, and none that will do (protection: {protection}) works here: {why}. "
            "Install bubblewrap, or accept limits alone by name, protection: rlimits; docs/sandbox.md says what that is"
        )

    def give_back(self, sandbox: Sandbox) -> None:
        if not sandbox.usable or sandbox.owner != os.getpid():
            sandbox.stop()
            return
        with self._lock:
            self._idle.append(sandbox)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for sandbox in idle:
            sandbox.stop()

    def _log_level(self, sandbox: Sandbox) -> None:
        if sandbox.level in self._works:
            return
        self._works.add(sandbox.level)
        weak = sandbox.level in ("landlock", "rlimits")
        missing = "".join(f"; {level}: {reason}" for level, reason in self._refused.items())
        _log.log(logging.WARNING if weak else logging.INFO, "programs run behind %s%s", sandbox.level, missing)


_POOL = _Pool()
atexit.register(_POOL.close)


@contextmanager
def lend(protection: Protection, packages: bool = False) -> Iterator[Sandbox]:
    """A warm sandbox for one program. Raises UserError where nothing as strong as ``protection`` works."""
    sandbox = _POOL.take(protection, packages)
    try:
        yield sandbox
    finally:
        _POOL.give_back(sandbox)
