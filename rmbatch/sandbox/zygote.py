"""The process that stays warm inside the walls: forks one confined process per program and passes on its results.

It reads requests on its standard input and answers on its standard output, one program at a time. It never runs a line
of a program and believes nothing that a program's process writes: it measures, limits, kills and clears up. If it
cannot clear up after a program, it says so and ends; its namespaces and everything in them end with it.
Runs inside the sandbox, so it imports the standard library only. Started by ``pool.py`` as ``python -S -P -c``.
"""

import gc
import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from rmbatch.sandbox import folder, harness, namespaces, walls
from rmbatch.sandbox.processes import (
    address_space_bytes,
    kill_descendants,
    private_bytes,
    tasks_of_descendants,
    tasks_of_user,
)
from rmbatch.sandbox.program_process import ProgramProcess, TooMuchError

TASKS = 32
"""Processes and threads of one program."""
OPEN_FILES = 64
FILE_BYTES = 16 << 20
SHARED_FILE_BYTES = 1 << 20
"""The limit on a disk that others use: TMP_BYTES does not count files that a program has deleted but holds open."""
TMP_BYTES = 32 << 20
TMP_FILES = 1024
GIVE_UP_AFTER = 3
"""After so many tests that end their process (too long, too much), a program's remaining tests are not run."""
TESTS_PER_LOAD = 200
"""After so many tests a program is loaded anew, because its process slows down with each fork."""

_TICK_S = 0.1


@dataclass(frozen=True)
class Setup:
    """The settings with which the zygote starts."""

    level: str
    readable: list[str]
    packages: list[str]
    mounted: dict[str, str]
    folder: str
    """The folder in which a program may write."""
    user: int | None
    """Root only: the user to turn into."""


def main(setup_text: str) -> None:
    """Put up the outer walls, report what holds, serve until the input ends."""
    setup = Setup(**json.loads(setup_text))
    os.umask(0o022)
    try:
        server = _Server(setup)
    except OSError as fault:
        _send(1, {"refused": f"{fault.strerror or fault}"})
        os._exit(1)
    _send(server.replies, {"ready": server.facts})
    server.serve()


def _send(descriptor: int, header: dict[str, Any], *payloads: bytes) -> None:
    text = json.dumps({**header, "sizes": [len(payload) for payload in payloads]}).encode()
    data = memoryview(struct.pack(">I", len(text)) + text + b"".join(payloads))
    while data:
        data = data[os.write(descriptor, data) :]


class _Server:
    def __init__(self, setup: Setup) -> None:
        if setup.level == "namespaces":
            namespaces.enter(setup.readable, setup.mounted, TMP_BYTES)
        self.owns_processes = os.getpid() == 1
        self.as_user = None if self.owns_processes else setup.user
        self.proc = namespaces.hide_proc() if self.owns_processes else None
        if self.owns_processes and setup.user is not None:
            walls.become(setup.user, keep_reading=False)
        self.requests, self.replies = os.dup(0), os.dup(1)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        if self.owns_processes:
            walls.drop_capabilities()
            walls.end_with_parent()
        else:
            walls.adopt_orphans()
        walls.hide_memory()
        os.chdir(setup.folder)
        os.environ["TMPDIR"] = setup.folder
        if self.as_user is not None:
            os.chown(setup.folder, self.as_user, self.as_user)
        self.folder_mode = os.stat(setup.folder).st_mode
        self.setup = setup
        self.ruleset = self._build_ruleset()
        self.filter = walls.seccomp_filter(self.owns_processes) if self._wants_filter() else None
        sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix)] + setup.packages
        self.names = harness.prelude_names()
        self.base_bytes = address_space_bytes()
        self.own_private_bytes = 0 if self.proc is None else private_bytes(self.proc, "1")
        self.tasks = TASKS + (0 if self.owns_processes or self.as_user is not None else tasks_of_user(os.getuid()))
        for name in [name for name in sys.modules if name.startswith("rmbatch")]:
            del sys.modules[name]
        gc.collect()
        gc.freeze()
        self.facts = self._check_walls()
        os.dup2(null, 2)
        os.close(null)

    def _wants_filter(self) -> bool:
        if self.setup.level == "rlimits":
            return False
        if not walls.has_seccomp():
            raise OSError(0, "no seccomp filter for this kind of machine")
        return True

    def _build_ruleset(self) -> int | None:
        level = self.setup.level
        if level == "rlimits":
            return None
        if not walls.landlock_version():
            if level == "landlock":
                raise OSError(0, "the kernel has no landlock")
            return None
        devices = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]
        return walls.landlock_ruleset([*self.setup.readable, *devices, "/etc/ld.so.cache"], [self.setup.folder])

    def _check_walls(self) -> dict[str, Any]:
        """Try the walls from a confined process, and return the facts; raises OSError where a wall does not hold."""
        results, results_w = os.pipe()
        child = self._fork(results_w, None, None, None, {"cpu_s": 5, "memory_mb": 64})
        if child == 0:
            _try_walls(self.setup.level, 3)
        os.close(results_w)
        with os.fdopen(results, "rb") as stream:
            said = stream.read().decode()
        os.waitpid(child, 0)
        self._clear()
        if said != "ok":
            raise OSError(0, f"the walls do not hold: {said or 'the first process died'}")
        return {
            "level": self.setup.level,
            "landlock": walls.landlock_version() if self.ruleset is not None else 0,
            "seccomp": self.filter is not None,
            "own_processes": self.owns_processes,
            "counts_alone": self.owns_processes or self.as_user not in (None, 65534),
            "watches_memory": self.proc is not None,
            "user": self.setup.user if self.setup.user is not None else os.getuid(),
        }

    def serve(self) -> None:
        while True:
            request = self._read_request()
            dirty = False
            try:
                for outcome, value, printed in self._run_tests(request):
                    _send(self.replies, outcome, value, printed)
            finally:
                dirty = not self._clear()
            _send(self.replies, {"done": True, "dirty": dirty})
            if dirty:
                self._leave()

    def _read_request(self) -> dict[str, Any]:
        def exactly(size: int) -> bytes:
            parts = []
            while size:
                data = os.read(self.requests, min(size, 1 << 20))
                if not data:
                    self._leave()
                parts.append(data)
                size -= len(data)
            return b"".join(parts)

        request: dict[str, Any] = json.loads(exactly(struct.unpack(">I", exactly(4))[0]))
        return request

    def _run_tests(self, request: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes, bytes]]:
        """One outcome per test, in order."""
        tests, failed = request["tests"], 0
        run: ProgramProcess | None = None
        for place, test in enumerate(tests):
            if failed >= GIVE_UP_AFTER:
                yield {"end": "not_run"}, b"", b""
                continue
            if run is None or place % TESTS_PER_LOAD == 0 or request["form"] == "stdin":
                self._end_process(run)
                run = self._start_process(request, test)
                outcome: tuple[dict[str, Any], bytes, bytes] | None = None
                if request["form"] != "stdin":
                    outcome = self._wait_for(run, b"L")
                    if outcome[0]["end"] == "loaded":
                        outcome = None
                    else:  # it does not even load: no test will fare better
                        self._end_process(run)
                        for _ in tests[place:]:
                            yield outcome
                        return
            if request["form"] != "stdin":
                run.send_test(json.dumps(test).encode())
            outcome = self._wait_for(run, b"E")
            if outcome[0]["end"] not in ("ended", "no_process", "processes"):
                failed += 1
                self._end_process(run)
                run = None
            yield outcome
        self._end_process(run)

    def _start_process(self, request: dict[str, Any], test: dict[str, Any]) -> ProgramProcess:
        is_stdin = request["form"] == "stdin"
        results, results_w = os.pipe()
        requests_r, requests = os.pipe()
        output, output_w = os.pipe() if is_stdin else (None, None)
        given = _make_memory_file(test["input"]) if is_stdin else None
        pid = self._fork(results_w, requests_r, given, output_w, request)
        if pid == 0:
            # From here on, inside the walls. What is left of this process is the harness and the program.
            names = self.names
            program, form, cpu_s = request["program"], request["form"], request["cpu_s"]
            del self, request, test
            harness.write_frame(3, b"C", None)
            if form == "stdin":
                harness.run_stdin(program, names, 3, cpu_s)
            harness.serve_tests(program, form, names, 4, 3, cpu_s)
        for descriptor in (results_w, requests_r, output_w, given):
            if descriptor is not None:
                os.close(descriptor)
        for descriptor in (results, output):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
        return ProgramProcess(pid, requests, results, output, request)

    def _fork(
        self, results: int, requests: int | None, stdin: int | None, stdout: int | None, request: dict[str, Any]
    ) -> int:
        """A child behind all walls: descriptor 3 takes results, 4 gives requests, 0 and 1 are the test's or nothing."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            kept = [os.dup2(source, 60 + place) for place, source in enumerate((results, requests or 0, stdin or 0))]
            os.dup2(stdout if stdout is not None else 1, 1)
            ruleset = None if self.ruleset is None else os.dup2(self.ruleset, 63)
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)
            os.dup2(kept[2], 0)
            os.closerange(5, 63)
            os.closerange(64, 1024)
            cpu_s = int(request["cpu_s"]) + 1
            file_bytes = FILE_BYTES if self.owns_processes else SHARED_FILE_BYTES
            limits = walls.ProcessLimits(cpu_s, request["memory_mb"] << 20, file_bytes, OPEN_FILES, self.tasks)
            walls.set_limits(limits, self.base_bytes)
            if self.as_user is not None:
                keeps = not _open_to_all(sys.base_prefix)
                walls.become(self.as_user, keep_reading=keeps)
            if not self.owns_processes:
                walls.end_with_parent()
            walls.no_new_privileges()
            if ruleset is not None:
                walls.landlock_restrict(ruleset)
                os.close(ruleset)
            if self.filter is not None:
                walls.seccomp_restrict(self.filter)
        except BaseException:
            os._exit(99)
        return 0

    def _wait_for(self, run: ProgramProcess, until: bytes) -> tuple[dict[str, Any], bytes, bytes]:
        """The outcome of one test (``until`` E) or of loading (L): how it ended, its value, what it printed."""
        value, looked = b"", time.monotonic()
        while True:
            readable = [fd for fd in (run.results, run.output, run.pidfd) if fd is not None and fd not in run.closed]
            ready, _, _ = select.select([*readable, self.requests], [], [], _TICK_S)
            if self.requests in ready and not os.read(self.requests, 1):
                self._leave()  # nobody is there to answer
            gone = run.pidfd in ready
            run.drain()
            try:
                while (frame := run.next_frame()) is not None:
                    kind, payload = frame
                    if kind == b"C":
                        run.confined = True
                    elif kind == b"V":
                        value = payload
                    elif kind == b"S":
                        run.clock.pid = int(json.loads(payload)["pid"])
                    elif kind == b"F":
                        return {"end": "no_process" if self._others_have_processes() else "processes"}, b"", b""
                    elif kind == until:
                        said = json.loads(payload)
                        if until == b"L":
                            return {"end": "loaded" if said["error"] is None else "not_loaded"}, payload, b""
                        status, cpu_s = int(said["status"]) & 0xFFFF, float(said["cpu_s"])
                        return {"end": "ended", "status": status, "cpu_s": cpu_s}, value, b""
            except TooMuchError:
                return {"end": "output"}, b"", b""
            except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
                return {"end": "garbage"}, b"", b""
            if run.is_over_limit():
                return {"end": "output"}, b"", b""
            if gone:
                return self._reap(run, value)
            if time.monotonic() > looked + _TICK_S:
                looked = time.monotonic()
                if self.proc is not None and self._memory_of_programs() > run.memory_bytes:
                    return {"end": "memory"}, b"", b""
                if not self.owns_processes and not folder.is_within(self.setup.folder, TMP_BYTES, TMP_FILES):
                    return {"end": "files"}, b"", b""
            if run.clock.expired():
                return {"end": "wall"}, b"", b""

    def _reap(self, run: ProgramProcess, value: bytes) -> tuple[dict[str, Any], bytes, bytes]:
        """The outcome of a process that has ended by itself; a standard-input test ends so."""
        _, status, usage = os.wait4(run.pid, 0)
        run.ended = True
        cpu_s = usage.ru_utime + usage.ru_stime
        end = "unconfined" if not run.confined else "ended" if run.output is not None else "died"
        return {"end": end, "status": status, "cpu_s": cpu_s}, value, bytes(run.printed)

    def _end_process(self, run: ProgramProcess | None) -> None:
        if run is None:
            return
        if not run.ended:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(run.pid, signal.SIGKILL)
                os.waitpid(run.pid, 0)
        run.close()
        self._kill_rest()

    def _others_have_processes(self) -> bool:
        """Whether a program has no process left because other processes of its user use up the limit."""
        if self.facts["counts_alone"]:
            return False
        user = self.as_user if self.as_user is not None else os.getuid()
        return tasks_of_user(user) >= self.tasks - 1 and tasks_of_descendants() < TASKS

    def _memory_of_programs(self) -> int:
        """Bytes that the program's processes hold, without what each has from the zygote."""
        assert self.proc is not None
        pids = [name for name in os.listdir(self.proc) if name.isdigit() and name != "1"]
        return sum(max(0, private_bytes(self.proc, pid) - self.own_private_bytes) for pid in pids)

    def _clear(self) -> bool:
        """Kill what is left of a program; whether no process and no file remains."""
        return self._kill_rest() and folder.is_pristine(self.setup.folder, self.folder_mode)

    def _leave(self) -> NoReturn:
        """End, and leave nothing behind: without namespaces the kernel does not see to it."""
        if not self.owns_processes:
            self._kill_rest()
            folder.remove(self.setup.folder)
        os._exit(0)

    def _kill_rest(self) -> bool:
        """Kill every process but this one; False where some are still there after a while."""
        deadline = time.monotonic() + 10
        while True:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return True
            if time.monotonic() > deadline:
                return False
            self._kill_all()
            time.sleep(0.001)

    def _kill_all(self) -> None:
        if self.owns_processes:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # as process 1: all others of the namespace
        elif self.as_user is not None:
            killer = os.fork()
            if killer == 0:
                os.setresuid(self.as_user, self.as_user, self.as_user)
                os.kill(-1, signal.SIGKILL)  # all processes of this user, which only programs have
                os._exit(0)
            os.waitpid(killer, 0)
        else:
            kill_descendants()


def _try_walls(level: str, results: int) -> None:
    """Try what must not work; write what did work, or ``ok``."""
    import socket

    wrong = []
    attempts: dict[str, Callable[[], object]] = {
        "the network can be reached": socket.socket,
        "other programs can be started": lambda: os.execv("/bin/true", ["true"]),
        "files of the system can be read": lambda: open("/etc/passwd").close(),
    }
    for name, attempt in attempts.items() if level != "rlimits" else ():
        with suppress(OSError):
            attempt()
            wrong.append(name)
    try:
        import colorsys as colorsys
    except (ImportError, OSError):
        wrong.append("Python's own library cannot be read")
    os.write(results, (", ".join(wrong) or "ok").encode())
    os._exit(0)


def _make_memory_file(text: str) -> int:
    file = os.memfd_create("stdin")
    with open(file, "wb", closefd=False) as stream:
        stream.write(text.encode(errors="surrogatepass"))
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _open_to_all(path: str) -> bool:
    """Whether every user can read what is under a path."""
    while True:
        if os.stat(path).st_mode & 0o5 != 0o5:
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)
