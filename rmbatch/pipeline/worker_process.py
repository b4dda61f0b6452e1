"""Worker processes, seen from their driver. ``worker.py`` runs in them.

Each is a plain ``python -m``. Multiprocessing would import the caller's main module again. This module loads only the
standard library, so a command can start a worker first and load the rest meanwhile.

    with start_early_worker():
        worker = take_worker()
        worker.send(orders)
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rmbatch.pipeline.worker import FAILED

if TYPE_CHECKING:
    from connectors.units import Range

END_S = 30.0
"""The time that a worker may take to end: it still reads a batch that has ended."""
_early: "list[Worker]" = []


@contextmanager
def start_early_worker() -> Iterator[None]:
    """Start a worker for the first call of ``take_worker``. End it if nobody takes it."""
    _early.append(Worker())
    try:
        yield
    finally:
        end_early_workers()


def end_early_workers() -> None:
    """End the early workers that nobody has taken."""
    while _early:
        _early.pop().kill()


def take_worker() -> "Worker":
    """Take the early worker, or start a new one."""
    return _early.pop() if _early else Worker()


class Worker:
    """A worker process and the pipe to it."""

    def __init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.pieces: Sequence[Range] = ()
        """The ranges that it processes now."""
        self.is_ready = False
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rmbatch.pipeline.worker", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},  # as many workers as CPUs share them
            start_new_session=True,
        )
        theirs.close()

    def assign(self, pieces: "Sequence[Range]") -> None:
        """Send it ranges to process."""
        self.pieces = pieces
        self.send(pieces)

    def wait(self) -> None:
        """Wait until it has closed its clients and ended, or has taken too long. Raises its error."""
        with suppress(EOFError, OSError, subprocess.TimeoutExpired):
            if self.pipe.poll(END_S):
                what, value = self.pipe.recv()
                if what == FAILED:
                    raise value
            self._process.wait(END_S)

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        self.pipe.close()
        self._log.close()

    def describe_end(self) -> str:
        """Describe how it ended: its last line of output and its exit status."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or ["it printed nothing"]
        return f"{lines[-1]} (exit status {self._process.wait()})"

    def send(self, what: Any) -> None:
        """Send it orders, an answer, or None, which ends it."""
        with suppress(OSError):  # it is dead; the next read of its pipe will show that
            self.pipe.send(what)
