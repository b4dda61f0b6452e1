"""Processes one block of a task: its readable rows go through the stages, guarded against rows that kill the process.

Plain functions on Arrow tables. Ray calls them, and so do tests without Ray.

    for block in BlockWork(stages, attempts, group=None)(table): writer.add(block)
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from connectors.attempts import Attempts, Deaths, narrow
from connectors.groups import group_offsets
from connectors.schema import DEAD, DEAD_TYPE, KEPT, OUTCOME, REJECTED, ROW, UNIT, visible_columns
from connectors.units import Range, to_ranges
from rmbatch.adapters.view import in_part
from rmbatch.stages.base import Stage


@dataclass(frozen=True)
class BlockWork:
    """The stages of a job over one block, with markers that find a row that kills its process."""

    stages: Sequence[Stage]
    attempts: Attempts
    group: str | None = None
    """The key column of flat rows. A block is cut only between groups."""
    part: str | None = None
    """The part of a split input to work on. Rows of the other part are rejected as they are. None: all rows."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return each row of the block once: with the stages' columns, or marked dead."""
        done: list[pa.Table] = []
        healthy: dict[Range, pa.Table] = {}
        for start, stop in _find_runs(table):
            run = table.slice(start, stop - start)
            rows = to_ranges(np.asarray(run[UNIT]), np.asarray(run[ROW]))[0]
            deaths = self.attempts.deaths(rows)
            if deaths or self.group is not None:  # side by side, two groups with one key would be one
                done += self._process(run, rows, deaths)
            else:
                healthy[rows] = run
        if healthy:
            done += self._process_together(healthy)
        return pa.concat_tables(done, promote_options="default") if done else table

    def _process_together(self, runs: Mapping[Range, pa.Table]) -> list[pa.Table]:
        """Process several runs at once, so that what asks servers asks for all of them. None of them killed before."""
        with ExitStack() as marked:
            for rows in runs:
                marked.enter_context(self.attempts.attempt(rows))
            return self._run(pa.concat_tables(runs.values()))

    def _process(self, table: pa.Table, rows: Range, deaths: Deaths) -> list[pa.Table]:
        """Process consecutive rows of one unit."""
        cuts = self._cuts(table, rows) if deaths else ()
        done = []
        for chunk in narrow(rows, deaths, cuts):
            part = table.slice(chunk.rows.start - rows.start, chunk.rows.num_rows)
            if chunk.dead:
                done.append(_mark_dead(part))
                continue
            with self.attempts.attempt(chunk.rows):
                done += self._run(part)
        return done

    def _cuts(self, table: pa.Table, rows: Range) -> list[int]:
        """The rows at which the block may be cut."""
        offsets = np.arange(table.num_rows + 1) if self.group is None else group_offsets(table, self.group)
        cuts: list[int] = (offsets + rows.start).tolist()
        return cuts

    def _run(self, table: pa.Table) -> list[pa.Table]:
        dead = np.asarray(table[DEAD].is_valid())
        chosen = in_part(table, self.part)
        skipped = dead if chosen is None else dead | ~np.asarray(chosen)
        if not skipped.any():
            return [_apply(self.stages, table)]
        parts = [_apply(self.stages, table.filter(pa.array(~skipped)))] if not skipped.all() else []
        if chosen is None:
            return [*parts, table.filter(pa.array(dead))]
        left = table.filter(pa.array(skipped))
        return [*(_set_outcome(each, KEPT) for each in parts), _set_outcome(left, REJECTED)]


def _apply(stages: Sequence[Callable[[pa.Table], pa.Table]], table: pa.Table) -> pa.Table:
    for stage in stages:
        table = stage(table)
    return table


def _set_outcome(table: pa.Table, outcome: int) -> pa.Table:
    """The rows with this outcome, unless a stage has decided."""
    if OUTCOME in table.column_names:
        return table
    return table.append_column(OUTCOME, pa.array(np.full(table.num_rows, outcome, np.int8)))


def _find_runs(table: pa.Table) -> list[tuple[int, int]]:
    """Find the runs of consecutive rows of one unit, each as start and stop."""
    runs, start = [], 0
    for piece in to_ranges(np.asarray(table[UNIT]), np.asarray(table[ROW])):
        runs.append((start, start + piece.num_rows))
        start += piece.num_rows
    return runs


def _mark_dead(table: pa.Table) -> pa.Table:
    """Mark rows as dead because they killed their process."""
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
