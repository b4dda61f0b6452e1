"""Works a job off on the Ray that this process is attached to, and turns Ray's errors into ours.

Read, stages and write are one Ray task for each list of ranges: rows never cross the object store, and a task holds a
block and a file in memory.

    executor = OnRay(may_grow=False)
    executor.run(RowTask(...), tasks, executor.board(), running)
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from connectors.dataset import InputDataset
from connectors.errors import JobError, UserError
from connectors.storage import Folder
from connectors.units import Range
from rmbatch.chat.limits.accounts import Spent, with_default_cache
from rmbatch.endpoints.connections import use_connections
from rmbatch.pipeline.actors import chats, pools
from rmbatch.pipeline.actors.board import RayBoard
from rmbatch.pipeline.errors import as_job_error, causes_of
from rmbatch.pipeline.shuffle import (
    BUCKET,
    BUCKET_BYTES,
    MAX_PARTITIONS,
    assign_buckets,
    count_buckets,
    grouped_dataset,
    write_bucket,
)
from rmbatch.pipeline.source import RangeSource, Read
from rmbatch.pipeline.task import RowTask, cut_tasks, read_blocks
from rmbatch.stages.base import Needs

A = TypeVar("A")
B = TypeVar("B")

IN_FLIGHT = 64
"""Tasks of ``map`` that are under way."""


class OnRay:
    """An ``Executor``."""

    def __init__(self, *, may_grow: bool) -> None:
        """``may_grow``: the cluster may get nodes that are not there yet."""
        self.num_cpus = int(ray.cluster_resources().get("CPU", 1))
        self._may_grow = may_grow

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        remote = ray.remote(function).options(num_cpus=1, max_retries=3)
        pending: list[Any] = []
        for item in items:
            pending.append(remote.remote(item))
            if len(pending) >= IN_FLIGHT:
                with ray_errors():
                    yield ray.get(pending.pop(0))
        while pending:
            with ray_errors():
                yield ray.get(pending.pop(0))

    def board(self) -> RayBoard:
        return RayBoard.start()

    def shuffle(self, dataset: InputDataset, key: str, folder: Folder) -> InputDataset:
        num_buckets = count_buckets(dataset)
        pieces = [Range(unit.index, 0, unit.num_rows) for unit in dataset.units.values()]
        tasks = cut_tasks(dataset, pieces, BUCKET_BYTES, self.num_cpus, splittable=True)

        def read(pieces: Sequence[Range]) -> Read:
            part = dataset.only(pieces)
            return lambda pieces: read_blocks(part, pieces, None, None)

        _quieten()
        rows = ray.data.read_datasource(RangeSource(tasks, read), override_num_blocks=len(tasks))
        assign = partial(assign_buckets, key=key, num_buckets=num_buckets)
        rows = rows.map_batches(assign, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)

        def write(table: pa.Table) -> pa.Table:
            return pa.Table.from_pylist([write_bucket(table, key, folder)])

        groups = rows.groupby(BUCKET, num_partitions=min(num_buckets, MAX_PARTITIONS))
        with ray_errors():
            written = groups.map_groups(write, batch_format="pyarrow").take_all()
        return grouped_dataset(dataset, written, folder)

    @contextmanager
    def services(self, needs: Needs, folder: Folder, say: Callable[[str], None]) -> Iterator["RayServices"]:
        models = {name: each.spec for name, each in needs.models.items()}
        asked = {name: each.chat for name, each in needs.askers.items()}
        kept = {name: with_default_cache(spec, folder) for name, spec in asked.items()}
        spent = Spent(folder)
        with pools.started(models, say=say, may_grow=self._may_grow) as engines:
            if not asked:
                yield RayServices(engines if models else None, None, {}, spent)
                return
            named = {spec.client_key: (name, spec) for name, spec in kept.items()}
            with chats.start_chats(named, folder.options, spent.by_account, say, spent.keep) as clients:
                there = clients.connections
                ways = {asked[name].client_key: there[spec.client_key] for name, spec in kept.items()}
                try:
                    yield RayServices(engines if models else None, clients, ways, spent)
                except JobError:  # it goes on another day; who interrupts it does not wait for this
                    clients.compact()
                    raise
                clients.compact()

    def run(self, task: RowTask, tasks: Sequence[Sequence[Range]], board: RayBoard, running: "RayServices") -> None:
        def read(pieces: Sequence[Range]) -> Read:
            part = replace(task, dataset=task.dataset.only(pieces))
            return lambda pieces: _run_task(part, pieces, board, connections)

        connections = running.connections
        _quieten()
        source = RangeSource(tasks, read)
        with ray_errors():
            ray.data.read_datasource(
                source, override_num_blocks=len(tasks), num_cpus=running.task_cpus, concurrency=running.max_tasks
            ).materialize()


def _run_task(
    task: RowTask, pieces: Sequence[Range], board: RayBoard, connections: Mapping[str, Any]
) -> Iterable[pa.Table]:
    with use_connections(connections):
        yield pa.table({"num_rows": [task(pieces, board)]})


@dataclass(frozen=True)
class RayServices:
    """The engines and chat clients of a job, as actors."""

    engines: pools.Pools | None
    clients: chats.Chats | None
    ways: Mapping[str, Any]
    """By the key that askers ask by: the way to its client."""
    spent: Spent

    @property
    def connections(self) -> dict[str, Any]:
        """By engine key and client key, for the tasks."""
        return {**(self.engines.connections if self.engines else {}), **self.ways}

    @property
    def task_cpus(self) -> float:
        """What a task takes of the cluster: little where it waits for models most of the time."""
        return pools.TASK_CPUS if self.engines or self.clients else 1.0

    @property
    def max_tasks(self) -> int | None:
        """How many tasks may run at a time. None: as many as there is room for."""
        return self.engines.max_tasks if self.engines else None

    @property
    def block_rows(self) -> int | None:
        return self.clients.block_rows if self.clients else None

    def meters(self, max_age_s: float = pools.METER_EVERY_S) -> Mapping[str, Mapping[str, float]]:
        return self.engines.meters(max_age_s) if self.engines else {}

    def devices(self) -> Mapping[str, str]:
        return self.engines.devices() if self.engines else {}

    def keep_usage(self) -> None:
        if self.clients:
            self.spent.keep(self.clients.usage())


def _quieten() -> None:
    """Ray Data's own progress, plans and tracebacks go to its log files; a job shows its own."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True  # wrapped in Ray's own, an error reaches us without its cause
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextmanager
def ray_errors() -> Iterator[None]:
    """Turns what Ray raises into UserError or JobError: what a worker raised, or what became of Ray."""
    try:
        yield
    except Exception as error:
        causes = causes_of(error)
        ours = any(isinstance(cause, UserError | JobError) and not isinstance(cause, RayError) for cause in causes)
        if not ours and not any(isinstance(cause, RayError) for cause in causes):
            raise
        raise as_job_error(causes, _is_of_ray) from error


def _is_of_ray(error: BaseException) -> bool:
    return isinstance(error, RayError) or type(error).__module__.startswith("ray.")
