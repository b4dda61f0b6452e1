"""One process of a program, as the zygote sees it: its pipes, the frames it writes, and whether its time is up.

The program can write to these pipes as well as the harness, so every frame is checked before it is used.
Runs inside the sandbox, so it imports the standard library only.

    run = ProgramProcess(pid, requests, results, output, {"cpu_s": 5, "memory_mb": 512})
    run.drain()
    kind, payload = run.next_frame()
"""

import os
import select
import struct
import time
from contextlib import suppress
from typing import Any

REPLY_BYTES = 4 << 20
"""Bytes that a test may print, and that its encoded value may take."""

_PROGRESS = 0.05
"""Share of a core that a computing process gets, even with twenty others on each core."""


class TooMuchError(Exception):
    """An encoded value that is longer than ``REPLY_BYTES``."""


class Clock:
    """Tells when a test has had its time. Processor time limits a process that computes; this limits one that waits.

    After ``base`` seconds only a process that still computes gets more time, up to four times ``base``: on a busy
    machine a right answer takes long. A process that sleeps gets no more time.
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


class ProgramProcess:
    """One process of a program, and what it writes."""

    def __init__(self, pid: int, requests: int, results: int, output: int | None, request: dict[str, Any]) -> None:
        cpu_s = request["cpu_s"]
        self.memory_bytes = request["memory_mb"] << 20
        self.closed: set[int] = set()
        """Descriptors at their end: no process writes to them any more."""
        self.pid, self.requests, self.results, self.output = pid, requests, results, output
        self.pidfd = os.pidfd_open(pid)
        self.clock = Clock(cpu_s, pid)
        self.cpu_s = cpu_s
        self.printed = bytearray()
        self._frames = bytearray()
        self.ended = False
        self.confined = False
        """Whether it is behind its walls. It reports that before it runs anything of the program."""

    def close(self) -> None:
        for descriptor in (self.requests, self.results, self.output, self.pidfd):
            if descriptor is not None:
                os.close(descriptor)

    def send_test(self, test: bytes) -> None:
        self.clock = Clock(self.cpu_s, self.pid)
        data = memoryview(struct.pack(">I", len(test)) + test)
        with suppress(BrokenPipeError):
            while data and select.select([self.pidfd], [self.requests], [], 30)[1]:
                data = data[os.write(self.requests, data[:4096]) :]

    def drain(self) -> None:
        """Read what the process has written so far."""
        for descriptor, into in ((self.results, self._frames), (self.output, self.printed)):
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

    def next_frame(self) -> tuple[bytes, bytes] | None:
        """The next frame, None where it is not complete. Raises ValueError for what is no frame, and TooMuchError."""
        if len(self._frames) < 5:
            return None
        kind, size = bytes(self._frames[:1]), struct.unpack(">I", self._frames[1:5])[0]
        if kind not in b"CLSVEF":
            raise ValueError
        if size > REPLY_BYTES:
            raise TooMuchError
        if len(self._frames) < 5 + size:
            return None
        payload = bytes(self._frames[5 : 5 + size])
        del self._frames[: 5 + size]
        return kind, payload

    def is_over_limit(self) -> bool:
        return len(self.printed) > REPLY_BYTES or len(self._frames) > REPLY_BYTES
