"""What makes rows finished: data files, then their commit record, inside the task that scored them.

Not a Ray Data sink: its ``on_write_complete`` comes once, at the very end, when a job that was killed has nothing; and
it keeps all blocks of a task in memory (``source.py`` says more).

    num_rows = LedgerSink(spec, run="4f1c", epoch=3, board=board).write(blocks)
"""

import time
from collections.abc import Iterable

import pyarrow as pa

from connectors.errors import DeadEndError, JobError
from connectors.lease import current_epoch, deleted
from connectors.ledger import Ledger
from connectors.writer import OutputSpec, OutputWriter
from rmbatch.pipeline.progress import Scoreboard

COMMIT_EVERY_S = 300.0
"""Work that took this long is committed, however small its file: a crash costs no more of slow or paid work."""


class LedgerSink:
    """Writes the blocks of one task through an OutputWriter; returns how many rows it finished."""

    def __init__(self, spec: OutputSpec, run: str, epoch: int, board: Scoreboard) -> None:
        self._spec, self._run, self._epoch, self._board = spec, run, epoch, board

    def write(self, blocks: Iterable[pa.Table]) -> int:
        reported = 0
        with OutputWriter(self._spec, self._run, before_commit=self._check_still_ours) as writer:
            committed_at = time.monotonic()
            for block in blocks:
                writer.add(block)
                if time.monotonic() - committed_at > COMMIT_EVERY_S:
                    writer.flush()
                if len(writer.commits) > reported:
                    committed_at = time.monotonic()
                reported = self._report(writer, reported)
        self._report(writer, reported)
        return sum(record.num_rows for record in writer.commits)

    def _report(self, writer: OutputWriter, reported: int) -> int:
        for record in writer.commits[reported:]:
            num_bytes = sum(file.num_bytes for file in record.files)
            counts = {"rows": record.num_rows, "bytes": num_bytes, **record.rows, **record.tally}
            why = self._board.add(counts)
            if why:
                raise JobError(why)
        return len(writer.commits)

    def _check_still_ours(self) -> None:
        """A task of a dead run that is still alive must not write into what a later run has taken over or finished."""
        ledger = Ledger(self._spec.folder)
        epoch = current_epoch(ledger.private.folder("lease"))
        if epoch < self._epoch:
            raise DeadEndError(deleted(self._spec.folder.url))
        if epoch > self._epoch or ledger.private.exists("manifest.json"):
            raise JobError("another run has taken over this output")
