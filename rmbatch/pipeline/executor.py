"""The contract of what runs a job's tasks: a Ray cluster (``on_ray.py``) or processes of this machine (``here.py``).

Both use the same tasks, files and ledger, so one may finish an output that the other has begun.
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


class RunningServices(Protocol):
    """The engines and chat clients of a job, while its rows are processed."""

    @property
    def block_rows(self) -> int | None:
        """The rows that a task should process at a time. None: as many as without chat clients."""

    def meters(self, max_age_s: float = 5.0) -> Mapping[str, Mapping[str, float]]:
        """By engine key: ``busy_s`` and ``idle_s`` of its engines since they were loaded, and ``replicas``."""

    def devices(self) -> Mapping[str, str]:
        """By engine key: the device of its first engine."""

    def save_usage(self) -> None:
        """Save the usage of budgets so far. Raises OSError."""


class Executor(Protocol):
    """Runs the tasks of a job."""

    num_cpus: int
    """The CPUs of all its workers. They decide the number of tasks."""

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """``map(function, items)``, results in order."""

    def board(self) -> Board:
        """A new board for the tasks of a run."""

    def shuffle(self, dataset: InputDataset, key: str, folder: Folder) -> InputDataset:
        """Put all rows of a key next to each other. Raises JobError if a row is lost or doubled."""

    def load_early(self, needs: Needs, say: Callable[[str], None]) -> None:
        """Begin to load what takes long, while the rows are planned, if there is room beside that.

        Raises UserError for what the cluster has no room for.
        """

    def services(
        self, needs: Needs, folder: Folder, say: Callable[[str], None]
    ) -> AbstractContextManager[RunningServices]:
        """Start the engines, servers and chat clients that stages need, and stop them at the end.

        Answers and usage are kept in the job's own folder. Raises UserError for a model that cannot be loaded, and for
        servers that do not answer.
        """

    def run(self, task: RowTask, tasks: Sequence[Sequence[Range]], board: Any, running: Any) -> None:
        """Call the task with each list of ranges and the board. Raises JobError where ranges are not committed."""
