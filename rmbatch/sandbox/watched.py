"""One process of a program, as the zygote sees it: its pipes, what it says in frames, and whether its time is up.

What it says is bytes until it proves to be in the form: the program can write to these pipes as well as the harness.
Runs inside the sandbox, so it imports the standard library only.

    run = Watched(pid, requests, results, output, {"cpu_s": 5, "memory_mb": 512})
    run.drain()
    kind, payload = run.frame()
"""

import os
import select
import struct
import time
from contextlib import suppress
from typing import Any

REPLY_BYTES = 4 << 20
"""What a test may print, and what its value may take when written down."""

_PROGRESS = 0.05
"""Share of a core that a process uses which computes, even on a machine with twenty others to the core."""


class TooMuchError(Exception):
    """A value that is longer than ``REPLY_BYTES`` when written down."""


class Clock:
    """When a test has had its time. What computes is limited by its processor time; this is for what does not.

    Past ``base`` seconds only a process that goes on computing is waited for, up to four times that: on a busy machine
    a right answer takes long. A process that sleeps has no such excuse.
    """

    def __init__(self, cpu_s: float, pid: int) -> None:
        self.began, self.base, self.pid = time.monotonic(), 2 * cpu_s + 1, pid

    def expired(self) -> bool:
        elapsed = time.monotonic() - self.began
        if elapsed < self.base:
            return False
        return elapsed > 4 * self.base or cpu_seconds(self.pid) < _PROGRESS * elapsed


def cpu_seconds(pid: int) -> float:
    """Processor seconds of a process; 0 for one that is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) makes of a pid
    except (OSError, OverflowError):
        return 0.0


class Watched:
    """One process of a program, and what it says."""

    def __init__(self, pid: int, requests: int, results: int, output: int | None, request: dict[str, Any]) -> None:
        cpu_s = request["cpu_s"]
        self.memory_bytes = request["memory_mb"] << 20
        self.closed: set[int] = set()
        """Descriptors that nobody writes to any more."""
        self.pid, self.requests, self.results, self.output = pid, requests, results, output
        self.pidfd = os.pidfd_open(pid)
        self.clock = Clock(cpu_s, pid)
        self.cpu_s = cpu_s
        self.printed = bytearray()
        self._said = bytearray()
        self.ended = False
        self.confined = False
        """Whether it got behind its walls, which it says before it runs anything of the program."""

    def close(self) -> None:
        for descriptor in (self.requests, self.results, self.output, self.pidfd):
            if descriptor is not None:
                os.close(descriptor)

    def ask(self, test: bytes) -> None:
        self.clock = Clock(self.cpu_s, self.pid)
        data = memoryview(struct.pack(">I", len(test)) + test)
        with suppress(BrokenPipeError):
            while data and select.select([self.pidfd], [self.requests], [], 30)[1]:
                data = data[os.write(self.requests, data[:4096]) :]

    def drain(self) -> None:
        """Take what is there to be read."""
        for descriptor, into in ((self.results, self._said), (self.output, self.printed)):
            if descriptor is None:
                continue
            while len(into) <= REPLY_BYTES:
                try:
                    data = os.read(descriptor, 1 << 16)
                except BlockingIOError:
                    break
                if not data:
                    self.closed.add(descriptor)
                    break
                into += data

    def frame(self) -> tuple[bytes, bytes] | None:
        """The next frame, if it is there; raises ValueError for what is none, TooMuchError."""
        if len(self._said) < 5:
            return None
        kind, size = bytes(self._said[:1]), struct.unpack(">I", self._said[1:5])[0]
        if kind not in b"CLSVEF":
            raise ValueError
        if size > REPLY_BYTES:
            raise TooMuchError
        if len(self._said) < 5 + size:
            return None
        payload = bytes(self._said[5 : 5 + size])
        del self._said[: 5 + size]
        return kind, payload

    def too_much(self) -> bool:
        return len(self.printed) > REPLY_BYTES or len(self._said) > REPLY_BYTES
