"""Worker processes as their driver sees them (``worker.py`` is what runs in them).

Each is a plain ``python -m``, not multiprocessing: that would import the caller's main module again. This module loads
nothing but the standard library, so that a command may start a worker first and load the rest meanwhile.

    with early_worker():
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
"""What a worker may take to end: a batch that has ended is still read."""
_early: "list[Worker]" = []


@contextmanager
def early_worker() -> Iterator[None]:
    """A worker is on its way for the first who takes one; it is ended if nobody does."""
    _early.append(Worker())
    try:
        yield
    finally:
        end_early_workers()


def end_early_workers() -> None:
    """End the workers that nobody will take."""
    while _early:
        _early.pop().kill()


def take_worker() -> "Worker":
    """A worker that nobody has."""
    return _early.pop() if _early else Worker()


class Worker:
    """A worker process and the pipe to it."""

    def __init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.pieces: Sequence[Range] = ()
        """What it works on."""
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

    def give(self, pieces: "Sequence[Range]") -> None:
        """Have these ranges worked off."""
        self.pieces = pieces
        self.send(pieces)

    def wait(self) -> None:
        """Until it has closed its clients and ended, or has taken too long. Raises what it raises."""
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

    def last_words(self) -> str:
        """The last line that it wrote, and how it ended."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"{lines[-1]} (exit status {self._process.wait()})"

    def send(self, what: Any) -> None:
        """Send it orders, an answer, or None: there is no more to do."""
        with suppress(OSError):  # it is dead, which the next look at its pipe tells
            self.pipe.send(what)
