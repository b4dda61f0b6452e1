"""The board of a running job: counts that tasks report and the driver reads, and the request to stop.

It serves only displays and early stops. The ledger holds the truth.

    board = LocalBoard()
    why = board.add({"rows": 4096})       # from a task; not empty: stop
    board.counts()                        # on the driver
"""

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Protocol


class Board(Protocol):
    """A handle on the counts, which travels to tasks."""

    def add(self, counts: Mapping[str, int]) -> str:
        """Add to the counts. Return why the job should stop; empty where it should continue."""

    def counts(self) -> dict[str, int]:
        """The sum of all reports of tasks."""

    def stop(self, why: str) -> None:
        """Ask all tasks to stop at their next commit."""


class LocalBoard:
    """A ``Board`` in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._stop = ""

    def add(self, counts: Mapping[str, int]) -> str:
        with self._lock:
            self._counts.update(counts)
            return self._stop

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def stop(self, why: str) -> None:
        with self._lock:
            self._stop = why
