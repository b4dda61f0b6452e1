"""Compares pairs in a helper process with a main thread of its own, for threads that are not the main one.

Each interpreter has one helper, started at its first use and reused. It is killed at exit; should the parent die, the
end of its input ends it. It is a plain ``python -m``: multiprocessing would import the caller's main module again,
which fails in a notebook and costs seconds in a Ray worker. Where a pair kills the helper (out of memory, a computation
that no signal interrupts), its score is null with a code, and the next pair gets a fresh process.

    HELPER.compare_pairs([("so 4", "4")], timeout_s=5)
"""

import atexit
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, Any

from rmbatch.rewards.rules.math_comparison import Comparison, Pair, compare_pairs

_START_S = 60
"""What a new process may take to import itself, on a busy machine."""


class Helper:
    """Compares pairs in a child process, for one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def compare_pairs(self, pairs: Iterable[Pair], timeout_s: int) -> list[Comparison]:
        """The comparison of each pair, in order: the same as ``math_comparison.compare_pairs``."""
        with self._lock:
            return [self._compare_pair(pair, timeout_s) for pair in pairs]

    def stop(self) -> None:
        """Kill the child, if there is one of ours."""
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what was still to be written has no reader now
                        pipe.close()

    def _compare_pair(self, pair: Pair, timeout_s: int) -> Comparison:
        requests, replies = self._pipes()
        try:
            pickle.dump((pair, timeout_s), requests)
            requests.flush()
            # Three timed computations and the start. After that it is stuck where no signal reaches it.
            if not select.select([replies], [], [], 3 * timeout_s + _START_S)[0]:
                self.stop()
                return None, f"timeout: still busy after {3 * timeout_s + _START_S} s", None
            result: Comparison = pickle.load(replies)
        except (EOFError, BrokenPipeError):
            self.stop()
            return None, "verify_failed: the helper process died", None
        return result

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._child is not None and self._owner == os.getpid() and self._child.poll() is not None:
            self.stop()  # it died while idle
        if self._child is None or self._owner != os.getpid():  # a fork has the parent's child, which is not its own
            command = [sys.executable, "-P", "-m", "rmbatch.rewards.rules.math_process"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            self._owner = os.getpid()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        return self._child.stdin, self._child.stdout


HELPER = Helper()
atexit.register(HELPER.stop)


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    while True:
        try:
            request: Any = pickle.load(requests)
        except EOFError:
            return
        pair, timeout_s = request
        pickle.dump(compare_pairs([pair], timeout_s)[0], replies)
        replies.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; the end of input ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not land among the replies
    _serve(sys.stdin.buffer, answers)
