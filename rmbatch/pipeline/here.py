"""Runs a job in processes of this machine. That suits jobs that are shorter than the start of a Ray.

A worker that dies is replaced, and its ranges are processed again. That finds the row that kills it
(``connectors/attempts.py``). A job that asks chat models has one worker, because its clients hold its limits.

    with Here(num_cpus=2) as executor:
        executor.run(RowTask(...), tasks, executor.board(), running)
"""

import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.errors import JobError
from connectors.storage import Folder
from connectors.units import Range
from rmbatch.pipeline.board import LocalBoard
from rmbatch.pipeline.servers import check_chat_servers
from rmbatch.pipeline.shuffle import BUCKET, assign_buckets, build_dataset, count_buckets, write_bucket
from rmbatch.pipeline.task import MIN_BLOCK_ROWS, RowTask, read_blocks
from rmbatch.pipeline.worker import COUNTS, DONE, FAILED, Orders
from rmbatch.pipeline.worker_process import Worker, take_worker
from rmbatch.stages.base import Needs

A = TypeVar("A")
B = TypeVar("B")

MAX_DEATHS = 200
"""The most deaths of workers in one run. Finding a row that kills its worker takes about ten."""
MAX_STARTS = 3
"""The most deaths in a row of workers without ranges. Then it is not a row that kills them."""


class Here:
    """An ``Executor``."""

    def __init__(self, num_cpus: int | None = None) -> None:
        """``num_cpus``: the most workers. None: as many as this process may use."""
        self.num_cpus = num_cpus or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
        self._idle = [take_worker()]  # it imports modules while the job is planned

    def __enter__(self) -> "Here":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            self._idle.pop().kill()

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        return map(function, items)

    def board(self) -> LocalBoard:
        return LocalBoard()

    def shuffle(self, dataset: InputDataset, key: str, folder: Folder) -> InputDataset:
        num_buckets = count_buckets(dataset)
        pieces = [Range(unit.index, 0, unit.num_rows) for unit in dataset.units.values()]
        blocks = (assign_buckets(block, key, num_buckets) for block in read_blocks(dataset, pieces, None, None))
        written = [write_bucket(bucket, key, folder) for bucket in _gather_buckets(blocks)]
        return build_dataset(dataset, written, folder)

    def load_early(self, needs: Needs, say: Callable[[str], None]) -> None:
        """Nothing: no engine runs here."""

    @contextmanager
    def services(self, needs: Needs, folder: Folder, say: Callable[[str], None]) -> Iterator["HereServices"]:
        for name, asker in needs.askers.items():
            check_chat_servers((name, asker.chat))
            say(f"{name}: asks {asker.chat.model} at {asker.chat.service_name}")
        yield HereServices(needs, folder)

    def run(self, task: RowTask, tasks: Sequence[Sequence[Range]], board: LocalBoard, running: "HereServices") -> None:
        specs = {name: each.chat for name, each in running.needs.askers.items()}
        orders = Orders(task, specs, running.folder)
        num_workers = 1 if specs else min(self.num_cpus, len(tasks))
        workers = [self._idle.pop() if self._idle else take_worker() for _ in range(num_workers)]
        try:
            _distribute(workers, orders, deque(tasks), board)
            for worker in workers:
                worker.send(None)
            for worker in workers:
                worker.wait()
        finally:
            for worker in workers:
                worker.kill()


@dataclass(frozen=True)
class HereServices:
    """The chat clients of a job. Its worker opens them when it first asks."""

    needs: Needs
    folder: Folder

    @property
    def block_rows(self) -> int | None:
        """The rows that a worker should take at a time: about twice as many as requests may be under way."""
        at_once = [
            each.chat.batch.max_requests if each.chat.batch else each.chat.in_flight
            for each in self.needs.askers.values()
        ]
        return max(2 * max(at_once), MIN_BLOCK_ROWS) if at_once else None

    def meters(self, max_age_s: float = 0.0) -> Mapping[str, Mapping[str, float]]:
        """Empty: an engine that runs elsewhere has no meter here."""
        del max_age_s
        return {}

    def devices(self) -> Mapping[str, str]:
        """Empty."""
        return {}

    def save_usage(self) -> None:
        """Nothing to do: the worker saves it."""


def _distribute(workers: list[Worker], orders: Orders, todo: deque[Sequence[Range]], board: LocalBoard) -> None:
    """Give ranges to workers until all are done. Raises an error of a worker, and JobError where workers keep dying."""
    deaths = deaths_at_start = 0
    for worker in workers:
        worker.send(orders)
    while todo or any(worker.pieces for worker in workers):
        for worker in workers:
            if worker.is_ready and not worker.pieces and todo:
                worker.assign(todo.popleft())
        for pipe in wait([worker.pipe for worker in workers]):
            (place,) = (at for at, worker in enumerate(workers) if worker.pipe is pipe)
            worker = workers[place]
            try:
                what, value = worker.pipe.recv()
            except (EOFError, OSError):
                deaths, deaths_at_start = deaths + 1, 0 if worker.pieces else deaths_at_start + 1
                if deaths > MAX_DEATHS or deaths_at_start >= MAX_STARTS:
                    raise JobError(f"worker processes of this machine keep dying: {worker.describe_end()}") from None
                if worker.pieces:
                    todo.appendleft(worker.pieces)
                worker.kill()
                workers[place] = take_worker()
                workers[place].send(orders)
                continue
            if what == COUNTS:
                worker.send(board.add(value))
            elif what == FAILED:
                raise value
            else:
                worker.is_ready = True
                if what == DONE:
                    worker.pieces = ()


def _gather_buckets(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Gather the rows of each bucket in a temporary folder, and yield bucket by bucket."""
    with tempfile.TemporaryDirectory() as folder:
        for block in blocks:
            bucket = np.asarray(block[BUCKET])
            for number in np.unique(bucket):
                part = block.filter(pa.array(bucket == number))
                with Path(folder, str(number)).open("ab") as end, pa.ipc.new_stream(end, part.schema) as writer:
                    writer.write_table(part)
        for path in sorted(Path(folder).iterdir()):
            with path.open("rb") as file:
                parts = []
                while file.peek(1):
                    parts.append(pa.ipc.open_stream(file).read_all())
            yield pa.concat_tables(parts, promote_options="default")
