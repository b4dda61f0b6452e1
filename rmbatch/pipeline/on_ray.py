"""Runs a job on the Ray that this process is connected to, and turns Ray's errors into ours.

Each list of ranges is one Ray task that reads, applies the stages and writes. So rows never cross the object store, and
a task holds only a block and a file in memory.

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
from rmbatch.chat.limits.accounts import SavedUsage, with_default_cache, with_service
from rmbatch.endpoints.connections import use_connections
from rmbatch.pipeline.actors import chats, pools
from rmbatch.pipeline.actors.board import RayBoard
from rmbatch.pipeline.actors.servers import Servers
from rmbatch.pipeline.errors import list_causes, to_job_error
from rmbatch.pipeline.shuffle import (
    BUCKET,
    BUCKET_BYTES,
    MAX_PARTITIONS,
    assign_buckets,
    build_dataset,
    count_buckets,
    write_bucket,
)
from rmbatch.pipeline.source import RangeSource, Read
from rmbatch.pipeline.task import RowTask, cut_tasks, read_blocks
from rmbatch.stages.base import Needs

A = TypeVar("A")
B = TypeVar("B")

IN_FLIGHT = 64
"""The most tasks of ``map`` under way."""


class OnRay:
    """An ``Executor``."""

    def __init__(self, *, may_grow: bool) -> None:
        """``may_grow``: the cluster may get more nodes later."""
        self.num_cpus = int(ray.cluster_resources().get("CPU", 1))
        self._may_grow = may_grow
        self._servers: Servers | None = None

    def __enter__(self) -> "OnRay":
        return self

    def __exit__(self, *_: object) -> None:
        self._close_servers()

    def load_early(self, needs: Needs, say: Callable[[str], None]) -> None:
        served = {each.chat.serve_key: each.chat.serve for each in needs.askers.values() if each.chat.serve}
        cpus = sum(each.cpus * each.replica_range[1] for each in served.values())
        if served and ray.cluster_resources().get("CPU", 0.0) - cpus >= 1:  # or planning would wait for them for ever
            self._start_servers(needs, say)

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        remote = ray.remote(function).options(num_cpus=1, max_retries=3)
        pending: list[Any] = []
        for item in items:
            pending.append(remote.remote(item))
            if len(pending) >= IN_FLIGHT:
                with translate_ray_errors():
                    yield ray.get(pending.pop(0))
        while pending:
            with translate_ray_errors():
                yield ray.get(pending.pop(0))

    def board(self) -> RayBoard:
        return RayBoard.start()

    def shuffle(self, dataset: InputDataset, key: str, folder: Folder) -> InputDataset:
        num_buckets = count_buckets(dataset)
        pieces = [Range(unit.index, 0, unit.num_rows) for unit in dataset.units.values()]
        tasks = cut_tasks(dataset, pieces, BUCKET_BYTES, self.num_cpus, splittable=True)

        def read(pieces: Sequence[Range]) -> Read:
            part = dataset.select_ranges(pieces)
            return lambda pieces: read_blocks(part, pieces, None, None)

        _quieten()
        rows = ray.data.read_datasource(RangeSource(tasks, read), override_num_blocks=len(tasks))
        assign = partial(assign_buckets, key=key, num_buckets=num_buckets)
        rows = rows.map_batches(assign, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)

        def write(table: pa.Table) -> pa.Table:
            return pa.Table.from_pylist([write_bucket(table, key, folder)])

        groups = rows.groupby(BUCKET, num_partitions=min(num_buckets, MAX_PARTITIONS))
        with translate_ray_errors():
            written = groups.map_groups(write, batch_format="pyarrow").take_all()
        return build_dataset(dataset, written, folder)

    @contextmanager
    def services(self, needs: Needs, folder: Folder, say: Callable[[str], None]) -> Iterator["RayServices"]:
        models = {name: each.spec for name, each in needs.models.items()}
        specs = {name: each.chat for name, each in needs.askers.items()}
        cached = {name: with_default_cache(with_service(spec), folder) for name, spec in specs.items()}
        saved = SavedUsage(folder)
        servers = self._start_servers(needs, say)
        with (
            self._closing_servers(),
            pools.start_engines(models, say=say, may_grow=self._may_grow, taken=servers.taken) as engines,
        ):
            if not specs:
                yield RayServices(engines if models else None, None, {}, saved, servers)
                return
            servers.await_ready()
            named = {spec.client_key: (name, spec) for name, spec in cached.items()}
            with chats.start_chats(
                named, folder.options, saved.by_account, say, saved.save, servers.directory
            ) as clients:
                connections = clients.connections
                by_key = {specs[name].client_key: connections[spec.client_key] for name, spec in cached.items()}
                try:
                    yield RayServices(engines if models else None, clients, by_key, saved, servers)
                except JobError:  # the job will continue later; an interrupt does not wait for this
                    clients.compact()
                    raise
                clients.compact()

    def run(self, task: RowTask, tasks: Sequence[Sequence[Range]], board: RayBoard, running: "RayServices") -> None:
        def read(pieces: Sequence[Range]) -> Read:
            part = replace(task, dataset=task.dataset.select_ranges(pieces))
            return lambda pieces: _run_task(part, pieces, board, connections)

        connections = running.connections
        _quieten()
        source = RangeSource(tasks, read)
        with translate_ray_errors():
            ray.data.read_datasource(
                source, override_num_blocks=len(tasks), num_cpus=running.task_cpus, concurrency=running.max_tasks
            ).materialize()

    def _start_servers(self, needs: Needs, say: Callable[[str], None]) -> Servers:
        """The job's own servers; those that are there already stay."""
        if self._servers is None:
            self._servers = Servers(say=say, may_grow=self._may_grow)
        models = {each.spec.engine_key: each.spec for each in needs.models.values() if not each.spec.is_remote}
        asked = {name: each.chat for name, each in needs.askers.items()}
        clients = {each.client_key: each.actors for each in asked.values()}
        self._servers.start(asked, models, sum(clients.values()) * chats.ACTOR_CPUS)
        return self._servers

    @contextmanager
    def _closing_servers(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._close_servers()

    def _close_servers(self) -> None:
        servers, self._servers = self._servers, None
        if servers is not None:
            servers.close()


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
    clients_by_key: Mapping[str, Any]
    """The connections to clients, by the askers' client keys."""
    saved: SavedUsage
    servers: Servers

    @property
    def connections(self) -> dict[str, Any]:
        """The connections for tasks, by engine key and client key."""
        return {**(self.engines.connections if self.engines else {}), **self.clients_by_key}

    @property
    def task_cpus(self) -> float:
        """The CPUs of a task: few where it mostly waits for models."""
        return pools.TASK_CPUS if self.engines or self.clients else 1.0

    @property
    def max_tasks(self) -> int | None:
        """The most tasks that leave engines and servers their CPUs: one that dies needs them again to come back. None:
        as many as the cluster has room for."""
        taken = self.servers.taken["CPU"] + (self.engines.cpus if self.engines else 0.0)
        if not taken:
            return None
        return max(int((ray.cluster_resources().get("CPU", 1.0) - taken) / pools.TASK_CPUS), 1)

    @property
    def block_rows(self) -> int | None:
        return self.clients.block_rows if self.clients else None

    def meters(self, max_age_s: float = pools.METER_EVERY_S) -> Mapping[str, Mapping[str, float]]:
        return self.engines.meters(max_age_s) if self.engines else {}

    def devices(self) -> Mapping[str, str]:
        return self.engines.devices() if self.engines else {}

    def save_usage(self) -> None:
        if self.clients:
            self.saved.save(self.clients.usage())


def _quieten() -> None:
    """Send Ray Data's progress, plans and tracebacks to its log files only. A job shows its own."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True  # wrapped in Ray's own error, it would lose its cause
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextmanager
def translate_ray_errors() -> Iterator[None]:
    """Turn Ray's errors into UserError or JobError, be it a worker's error or the loss of Ray."""
    try:
        yield
    except Exception as error:
        causes = list_causes(error)
        ours = any(isinstance(cause, UserError | JobError) and not isinstance(cause, RayError) for cause in causes)
        if not ours and not any(isinstance(cause, RayError) for cause in causes):
            raise
        raise to_job_error(causes, _is_ray_error) from error


def _is_ray_error(error: BaseException) -> bool:
    return isinstance(error, RayError) or type(error).__module__.startswith("ray.")
