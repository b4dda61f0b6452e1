"""What a running job has done so far, for its progress display: counts that tasks report and the driver reads.

Only a display: the truth is in the ledger. Tasks also learn here that they should stop.

    board = Scoreboard.start()
    board.add({"rows": 4096})       # from any task
    board.counts()                  # on the driver
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError


class _Counts:
    """The actor behind a Scoreboard."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._stop = ""

    def add(self, counts: Mapping[str, int]) -> str:
        self._counts.update(counts)
        return self._stop

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def stop(self, why: str) -> None:
        self._stop = why


@dataclass(frozen=True)
class Scoreboard:
    """A handle on the counts; travels to tasks."""

    actor: Any

    @classmethod
    def start(cls) -> "Scoreboard":
        return cls(ray.remote(_Counts).options(num_cpus=0, max_restarts=-1, max_task_retries=3).remote())

    def add(self, counts: Mapping[str, int]) -> str:
        """Add to the counts; what comes back is why the job should stop, or empty."""
        why: str = ray.get(self.actor.add.remote(dict(counts)))
        return why

    def counts(self) -> dict[str, int]:
        """What tasks have reported; empty where Ray is lost, of which the job itself will hear."""
        with suppress(RayError):
            found: dict[str, int] = ray.get(self.actor.counts.remote())
            return found
        return {}

    def stop(self, why: str) -> None:
        """Ask all tasks to stop at their next commit."""
        with suppress(RayError):
            ray.get(self.actor.stop.remote(why))
