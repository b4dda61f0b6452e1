"""One task of a job: it reads its ranges of rows, works them off, writes data files and commits them.

The same on a Ray cluster (``on_ray.py``) and in a process of this machine (``here.py``). Rows are finished inside the
task that scored them: data files first, then their commit record. A Ray Data sink could not do that: its
``on_write_complete`` comes once, at the very end, when a job that was killed has nothing; and it keeps all blocks of a
task in memory.

    num_rows = RowTask(dataset, work, spec, run="4f1c", epoch=3)(pieces, board)
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.errors import DeadEndError, JobError
from connectors.groups import whole_groups
from connectors.lease import current_epoch, deleted
from connectors.ledger import Ledger
from connectors.units import Range, pack, split_evenly
from connectors.writer import OutputSpec, OutputWriter
from rmbatch.costs import usage
from rmbatch.pipeline.blocks import BlockWork
from rmbatch.pipeline.board import Board

COMMIT_EVERY_S = 300.0
"""Work that took this long is committed, however small its file: a crash costs no more of slow or paid work."""
BLOCK_BYTES = 16 << 20
"""A block holds about this much of the input."""
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 64, 65_536
MIN_TASKS_PER_CPU = 4
"""So that the last tasks do not leave the CPUs idle."""
MIN_SPLIT_ROWS = 256
"""No piece is cut smaller than this, so that a task's own cost stays small."""
MAX_TASKS = 100_000
"""Ray's driver spends about 20 ms on each."""


@dataclass(frozen=True)
class RowTask:
    """What all tasks of a run do with the ranges that each is given; picklable."""

    dataset: InputDataset
    work: BlockWork
    spec: OutputSpec
    run: str
    epoch: int
    """Of the run's lease."""
    block_rows: int | None = None
    """Rows that are worked on at a time. None: about 16 MiB of input."""

    def __call__(self, pieces: Sequence[Range], board: Board) -> int:
        """Work off these ranges; how many rows were finished. Raises JobError where the job must stop."""
        blocks = map(self.work, read_blocks(self.dataset, pieces, self.work.group, self.block_rows))
        num_rows = self._write(blocks, board)
        for stage in self.work.stages:
            stage.flush()
        return num_rows

    def _write(self, blocks: Iterable[pa.Table], board: Board) -> int:
        reported = 0
        with OutputWriter(self.spec, self.run, before_commit=self._check_still_ours) as writer:
            committed_at = time.monotonic()
            for block in blocks:
                _report_usage(board)
                writer.add(block)
                if time.monotonic() - committed_at > COMMIT_EVERY_S:
                    writer.flush()
                if len(writer.commits) > reported:
                    committed_at = time.monotonic()
                reported = _report(writer, reported, board)
        _report(writer, reported, board)
        return sum(record.num_rows for record in writer.commits)

    def _check_still_ours(self) -> None:
        """A task of a dead run that is still alive must not write into what a later run has taken over or finished."""
        ledger = Ledger(self.spec.folder)
        epoch = current_epoch(ledger.private.folder("lease"))
        if epoch < self.epoch:
            raise DeadEndError(deleted(self.spec.folder.url))
        if epoch > self.epoch or ledger.private.exists("manifest.json"):
            raise JobError("another run has taken over this output")


def _report_usage(board: Board) -> None:
    """Report what models and judges have cost, without waiting for a commit."""
    counts = usage.take()
    if counts:
        board.add(counts)


def _report(writer: OutputWriter, reported: int, board: Board) -> int:
    """Report the commits that are new; how many there are."""
    for record in writer.commits[reported:]:
        num_bytes = sum(file.num_bytes for file in record.files)
        why = board.add({"rows": record.num_rows, "bytes": num_bytes, **record.rows, **record.tally})
        if why:
            raise JobError(why)
    return len(writer.commits)


def read_blocks(
    dataset: InputDataset, pieces: Sequence[Range], group: str | None, block_rows: int | None
) -> Iterator[pa.Table]:
    """The rows of some ranges, in blocks of whole groups (``group``: the key column of flat rows)."""
    for piece in pieces:
        tables = dataset.read(piece, block_rows or rows_per_block(dataset, piece))
        yield from tables if group is None else whole_groups(tables, group)


def rows_per_block(dataset: InputDataset, piece: Range) -> int:
    """As many rows as make about BLOCK_BYTES, by the unit's average row."""
    unit = dataset.units[piece.unit]
    row_bytes = max(unit.num_bytes / max(unit.num_rows, 1), 1.0)
    return int(min(max(BLOCK_BYTES / row_bytes, MIN_BLOCK_ROWS), MAX_BLOCK_ROWS))


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
