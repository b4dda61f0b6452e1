"""What one write task does with one block: work off the living rows, guarded against rows that kill the process.

Plain functions on Arrow tables; Ray calls them, and so do tests without Ray.

    for block in BlockWork(stages, attempts, group=None)(table): writer.add(block)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from connectors.attempts import Attempts, narrow
from connectors.groups import group_offsets
from connectors.schema import DEAD, DEAD_TYPE, ROW, UNIT, visible_columns
from connectors.units import ranges_of
from rmbatch.stages.base import Stage


@dataclass(frozen=True)
class BlockWork:
    """The stages of a job over one block, and the markers that find a row which kills its process."""

    stages: Sequence[Stage]
    attempts: Attempts
    group: str | None = None
    """Key column of flat rows: a block is only ever cut between groups."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Each row of the block once: with the stages' columns, or marked dead."""
        done = []
        for start, stop in _runs(table):
            done += self._work_off(table.slice(start, stop - start))
        return pa.concat_tables(done, promote_options="default") if done else table

    def _work_off(self, table: pa.Table) -> list[pa.Table]:
        """Rows of one unit that follow each other."""
        rows = ranges_of(np.asarray(table[UNIT]), np.asarray(table[ROW]))[0]
        offsets = np.arange(table.num_rows + 1) if self.group is None else group_offsets(table, self.group)
        cuts = (offsets + rows.start).tolist()
        done = []
        for chunk in narrow(rows, self.attempts.deaths(rows), cuts):
            part = table.slice(chunk.rows.start - rows.start, chunk.rows.num_rows)
            if chunk.dead:
                done.append(_bury(part))
                continue
            with self.attempts.attempt(chunk.rows):
                done += self._run(part)
        return done

    def _run(self, table: pa.Table) -> list[pa.Table]:
        dead = np.asarray(table[DEAD].is_valid())
        if not dead.any():
            return [_apply(self.stages, table)]
        parts = [_apply(self.stages, table.filter(pa.array(~dead)))] if not dead.all() else []
        return [*parts, table.filter(pa.array(dead))]


def _apply(stages: Sequence[Callable[[pa.Table], pa.Table]], table: pa.Table) -> pa.Table:
    for stage in stages:
        table = stage(table)
    return table


def _runs(table: pa.Table) -> list[tuple[int, int]]:
    """Where the rows of one unit follow each other."""
    runs, start = [], 0
    for piece in ranges_of(np.asarray(table[UNIT]), np.asarray(table[ROW])):
        runs.append((start, start + piece.num_rows))
        start += piece.num_rows
    return runs


def _bury(table: pa.Table) -> pa.Table:
    """The rows, marked as dead because they killed the process that worked on them."""
    raw = [str(row).encode() for row in visible_columns(table).to_pylist()]
    letters = [
        {
            "code": "killed_worker",
            "message": "the process that worked on this row died each time",
            "line": None,
            "offset": None,
            "raw": text,
        }
        for text in raw
    ]
    index = table.column_names.index(DEAD)
    return table.set_column(index, pa.field(DEAD, DEAD_TYPE), pa.array(letters, DEAD_TYPE))
