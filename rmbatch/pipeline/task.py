"""One task of a job: it reads its ranges of rows, applies the stages, writes data files and commits them.

It is the same on a Ray cluster (``on_ray.py``) and in a process of this machine (``here.py``). A task finishes its own
rows: it writes data files first, then their commit record. A Ray Data sink cannot do that. Its ``on_write_complete``
comes once, at the very end, so a killed job would have nothing. It also keeps all blocks of a task in memory.

    num_rows = RowTask(dataset, work, spec, run="4f1c", epoch=3)(pieces, board)
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.errors import DeadEndError, JobError
from connectors.groups import whole_groups
from connectors.lease import current_epoch, describe_deletion
from connectors.ledger import Ledger
from connectors.units import Range, pack, split_evenly, total_rows
from connectors.writer import OutputSpec, OutputWriter
from rmbatch.chat.again import AskAgain, asking_again
from rmbatch.costs import usage
from rmbatch.pipeline.blocks import BlockWork
from rmbatch.pipeline.board import Board

COMMIT_EVERY_S = 300.0
"""A task commits at least this often, however small its file, so that a crash loses little slow or paid work."""
BLOCK_BYTES = 16 << 20
"""Input bytes in a block, about."""
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 64, 65_536
MIN_TASKS_PER_CPU = 4
"""With fewer tasks, the last ones would leave CPUs idle."""
MIN_SPLIT_ROWS = 256
"""The smallest piece that a split may make, so that a task's own cost stays small."""
MAX_TASKS = 100_000
"""The most tasks: Ray's driver spends about 20 ms on each."""


@dataclass(frozen=True)
class RowTask:
    """What every task of a run does with its ranges. It pickles."""

    dataset: InputDataset
    work: BlockWork
    spec: OutputSpec
    run: str
    epoch: int
    """The epoch of the run's lease."""
    block_rows: int | None = None
    """The rows of a block. None: about 16 MiB of input."""
    again: AskAgain | None = None
    """Which kept answers are asked for again. None: none."""

    def __call__(self, pieces: Sequence[Range], board: Board) -> int:
        """Process these ranges, and return the number of finished rows. Raises JobError where the job must stop."""
        read = read_blocks(self.dataset, pieces, self.work.group, self.block_rows)
        if self.block_rows is not None and self.work.group is None:
            read = gather_blocks(read, self.block_rows)
        try:
            with asking_again(self.again):
                num_rows = self._write(map(self.work, read), board)
        except JobError:
            _report_usage(board)  # what a block has paid for counts, though it was not finished
            raise
        for stage in self.work.stages:
            stage.flush()
        return num_rows

    def _write(self, blocks: Iterable[pa.Table], board: Board) -> int:
        reported = 0
        with OutputWriter(self.spec, self.run, before_commit=self._check_still_ours) as writer:
            committed_at = time.monotonic()
            for block in _report_meanwhile(blocks, board):
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
        """Raises JobError where a later run has taken over or finished the output: this task may outlive its run."""
        ledger = Ledger(self.spec.folder)
        epoch = current_epoch(ledger.private.folder("lease"))
        if epoch < self.epoch:
            raise DeadEndError(describe_deletion(self.spec.folder.url))
        if epoch > self.epoch or ledger.private.exists("manifest.json"):
            raise JobError("another run has taken over this output")


def _report_meanwhile(blocks: Iterable[pa.Table], board: Board) -> Iterator[pa.Table]:
    """The blocks; while one is worked off, the usage of models and judges is reported from time to time."""
    left = iter(blocks)
    while True:
        with usage.report_to(board.add):
            block = next(left, None)
        if block is None:
            return
        yield block


def _report_usage(board: Board) -> None:
    """Report the usage of models and judges, without waiting for a commit."""
    counts = usage.take()
    if counts:
        board.add(counts)


def _report(writer: OutputWriter, reported: int, board: Board) -> int:
    """Report the new commits. Return the number of all commits."""
    for record in writer.commits[reported:]:
        num_bytes = sum(file.num_bytes for file in record.files)
        why = board.add({"rows": record.num_rows, "bytes": num_bytes, **record.rows, **record.tally})
        if why:
            raise JobError(why)
    return len(writer.commits)


def read_blocks(
    dataset: InputDataset, pieces: Sequence[Range], group: str | None, block_rows: int | None
) -> Iterator[pa.Table]:
    """Read ranges in blocks of whole groups. ``group``: the key column of flat rows."""
    for piece in pieces:
        tables = dataset.read(piece, block_rows or count_block_rows(dataset, piece))
        yield from tables if group is None else whole_groups(tables, group)


def gather_blocks(blocks: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """Gather blocks of scattered rows into blocks of at least so many rows."""
    found: list[pa.Table] = []
    for block in blocks:
        found.append(block)
        if sum(each.num_rows for each in found) >= num_rows:
            yield pa.concat_tables(found).unify_dictionaries()
            found = []
    if found:
        yield pa.concat_tables(found).unify_dictionaries()


def count_block_rows(dataset: InputDataset, piece: Range) -> int:
    """Count the rows of about BLOCK_BYTES, by the unit's average row."""
    unit = dataset.units[piece.unit]
    row_bytes = max(unit.num_bytes / max(unit.num_rows, 1), 1.0)
    return int(min(max(BLOCK_BYTES / row_bytes, MIN_BLOCK_ROWS), MAX_BLOCK_ROWS))


def cut_tasks(
    dataset: InputDataset,
    pieces: Sequence[Range],
    file_bytes: int,
    num_cpus: int,
    *,
    splittable: bool,
    min_rows: int = 1,
) -> list[list[Range]]:
    """Cut the pieces into tasks of about one output file each, but enough of them to keep all CPUs busy to the end.

    ``splittable``: where there are too few pieces, they may be cut at any row. A task that begins inside a row group
    decodes it from its beginning, on a CPU that would be idle otherwise. ``min_rows``: small pieces are put together to
    about so many rows.
    """
    units = dataset.units
    wanted = MIN_TASKS_PER_CPU * num_cpus
    if splittable and len(pieces) < wanted:
        pieces = split_evenly(pieces, wanted, MIN_SPLIT_ROWS)
    total = sum(units[piece.unit].num_bytes * piece.num_rows / max(units[piece.unit].num_rows, 1) for piece in pieces)
    target = min(file_bytes, total / min(wanted, max(total_rows(pieces) // min_rows, 1)))
    return list(pack(pieces, units, max(target, total / MAX_TASKS)))
