"""Runs the unfinished rows of a plan through its stages on Ray, and turns Ray's errors into ours.

Read, stages and write are one Ray task for each piece of work: rows never cross the object store, and a task holds a
block and a file in memory.

    run_pieces(dataset, missing, work, spec, run=run_id, epoch=lease.epoch, board=board)
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from connectors.dataset import InputDataset
from connectors.errors import JobError, UserError
from connectors.faults import explain, is_storage_error
from connectors.units import Range, pack, split_evenly
from connectors.writer import OutputSpec
from rmbatch.costs import usage
from rmbatch.endpoints.connections import use_connections
from rmbatch.pipeline.blocks import BlockWork
from rmbatch.pipeline.progress import Scoreboard
from rmbatch.pipeline.sink import LedgerSink
from rmbatch.pipeline.source import UnitSource
from rmbatch.reward_models.reward import model_rewards

A = TypeVar("A")
B = TypeVar("B")

MIN_TASKS_PER_CPU = 4
"""So that the last tasks do not leave the cluster idle."""
MIN_SPLIT_ROWS = 256
"""No piece is cut smaller than this, so that a task's own cost stays small."""
MAX_TASKS = 100_000
"""Ray's driver spends about 20 ms on each."""


def run_pieces(
    dataset: InputDataset,
    pieces: Sequence[Range],
    work: BlockWork,
    spec: OutputSpec,
    *,
    run: str,
    epoch: int,
    board: Scoreboard,
    block_rows: int | None = None,
    connections: Mapping[str, Any] | None = None,
    task_cpus: float = 1.0,
    max_tasks: int | None = None,
) -> None:
    """Score, choose and write the rows of ``pieces``; returns when all are committed, raises JobError if one is not.

    ``connections``: how tasks reach served models, by engine key. ``task_cpus``: what a task takes of the cluster.
    ``max_tasks``: how many run at a time; None: as many as the cluster has room for.
    """
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    tasks = cut_tasks(dataset, pieces, spec.file_bytes, num_cpus, splittable=work.group is None)

    sink = LedgerSink(spec, run, epoch, board)

    def finish(blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
        with use_connections(connections or {}):
            num_rows = sink.write(_reported(map(work, blocks), board))
            for stage in work.stages:
                for _, reward in model_rewards(getattr(stage, "rewards", {})):
                    reward.keep()
            yield pa.table({"num_rows": [num_rows]})

    quiet()
    source = UnitSource(dataset, tasks, work.group, block_rows, work=finish)
    with ours():
        ray.data.read_datasource(
            source, override_num_blocks=len(tasks), num_cpus=task_cpus, concurrency=max_tasks
        ).materialize()


def _reported(blocks: Iterable[pa.Table], board: Scoreboard) -> Iterator[pa.Table]:
    """The blocks; what served models cost is reported after each, without waiting for a commit."""
    for block in blocks:
        counts = usage.take()
        if counts:
            board.add(counts)
        yield block


def cut_tasks(
    dataset: InputDataset, pieces: Sequence[Range], file_bytes: int, num_cpus: int, *, splittable: bool
) -> list[list[Range]]:
    """The pieces as tasks of about one output file each, but enough of them to keep all CPUs busy to the end.

    ``splittable``: a piece may be cut at any row, which is done where there are too few of them; a task that begins
    inside a row group decodes it from its beginning, on a CPU that would else be idle.
    """
    units = dataset.units
    wanted = MIN_TASKS_PER_CPU * num_cpus
    if splittable and len(pieces) < wanted:
        pieces = split_evenly(pieces, wanted, MIN_SPLIT_ROWS)
    total = sum(units[piece.unit].num_bytes * piece.num_rows / max(units[piece.unit].num_rows, 1) for piece in pieces)
    target = min(file_bytes, total / wanted)
    return list(pack(pieces, units, max(target, total / MAX_TASKS)))


def quiet() -> None:
    """Ray Data's own progress, plans and tracebacks go to its log files; a job shows its own (errors: ``ours``)."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True  # wrapped in Ray's own, an error reaches us without its cause
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def run_in_order(function: Callable[[A], B], items: Sequence[A], in_flight: int = 64) -> Iterator[B]:
    """``map(function, items)`` on the cluster, results in order, with so many tasks under way."""
    remote = ray.remote(function).options(num_cpus=1, max_retries=3)
    pending: list[Any] = []
    for item in items:
        pending.append(remote.remote(item))
        if len(pending) >= in_flight:
            with ours():
                yield ray.get(pending.pop(0))
    while pending:
        with ours():
            yield ray.get(pending.pop(0))


class ours:  # noqa: N801 - reads as a statement: with ours(): ...
    """Turns what Ray raises into UserError or JobError: what a worker raised, or what became of Ray."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, UserError | JobError) and not isinstance(cause, RayError):
                raise type(cause)(str(cause)) from error
        if any(isinstance(cause, RayError) for cause in causes):
            telling = next((cause for cause in causes if not type(cause).__module__.startswith("ray.")), causes[-1])
            if is_storage_error(telling) and (told := explain(telling)):
                raise JobError(told) from error
            said = str(telling).strip().splitlines() or ["without a word"]
            raise JobError(f"a task of the job failed: {type(telling).__name__}: {said[0]}") from error


def _causes(error: BaseException | None) -> Sequence[BaseException]:
    """The error and what it came from, outermost first; Ray keeps a worker's error as ``cause``."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = getattr(error, "cause", None) or error.__cause__
    return seen
