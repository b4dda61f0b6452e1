"""The board of a job on Ray: an actor that holds the counts (``rmbatch/pipeline/board.py``)."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from rmbatch.pipeline.board import LocalBoard


@dataclass(frozen=True)
class RayBoard:
    """A ``Board``; a handle that tasks can hold."""

    actor: Any

    @classmethod
    def start(cls) -> "RayBoard":
        return cls(ray.remote(LocalBoard).options(num_cpus=0, max_restarts=-1, max_task_retries=3).remote())

    def add(self, counts: Mapping[str, int]) -> str:
        why: str = ray.get(self.actor.add.remote(dict(counts)))
        return why

    def counts(self) -> dict[str, int]:
        """The sum of all reports of tasks. Empty where Ray is lost: then the job itself stops."""
        with suppress(RayError):
            found: dict[str, int] = ray.get(self.actor.counts.remote())
            return found
        return {}

    def stop(self, why: str) -> None:
        with suppress(RayError):
            ray.get(self.actor.stop.remote(why))
