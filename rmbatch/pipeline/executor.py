"""Where the work of a job is done: on a Ray cluster (``on_ray.py``), or by processes of this machine (``here.py``).

A job asks either in the same words, and both use the same tasks, files and ledger: an output that one has begun the
other may finish.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from connectors.dataset import InputDataset
from connectors.storage import Folder
from connectors.units import Range
from rmbatch.pipeline.board import Board
from rmbatch.pipeline.task import RowTask
from rmbatch.stages.base import Needs

A = TypeVar("A")
B = TypeVar("B")


class Running(Protocol):
    """The engines and chat clients of a job, while its rows are worked on."""

    @property
    def block_rows(self) -> int | None:
        """Rows that a task should work on at a time. None: as many as without chat clients."""

    def meters(self, max_age_s: float = 5.0) -> Mapping[str, Mapping[str, float]]:
        """By engine key: ``busy_s`` and ``idle_s`` of its engines since they were loaded, and ``replicas``."""

    def devices(self) -> Mapping[str, str]:
        """By engine key: the device that its first engine runs on."""

    def keep_usage(self) -> None:
        """Keep what has been used of budgets so far. Raises OSError."""


class Executor(Protocol):
    """Somewhere to work."""

    num_cpus: int
    """What there is to work with; decides into how many tasks the rows are cut."""

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """``map(function, items)``, results in order."""

    def board(self) -> Board:
        """A new board for the tasks of a run."""

    def shuffle(self, dataset: InputDataset, key: str, folder: Folder) -> InputDataset:
        """The same rows with all rows of a key next to each other. Raises JobError if any was lost or doubled."""

    def services(self, needs: Needs, folder: Folder, say: Callable[[str], None]) -> AbstractContextManager[Running]:
        """What the stages need, running. Answers and usage are kept in the job's own folder. Raises UserError for a
        model that cannot be loaded and servers that are not there."""

    def run(self, task: RowTask, tasks: Sequence[Sequence[Range]], board: Any, running: Any) -> None:
        """Call the task with each list of ranges, and the board. Raises JobError where one is not committed."""
