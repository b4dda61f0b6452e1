"""Reads how far an output is from the files beside it: while a job runs, after a crash, and when it is finished.

read_row_status(Folder.open("s3://team/best/")).show(Console())
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from connectors.commit import PARTS
from connectors.lease import may_be_running
from connectors.ledger import Ledger
from connectors.storage import Folder
from jobs.show.display import draw_result, draw_table, format_rate

RECENT_S = 60.0
SHORTEST_S = 10.0
"""The shortest time between two commits that gives a rate. Closer commits are of tasks that ended together."""
LONGEST_S = 900.0
"""The longest time between two commits of one run: a task writes a file every five minutes."""


@dataclass(frozen=True)
class OutputStatus:
    """How far the output of a job over rows is."""

    output: str
    state: str
    """finished, running or not finished."""
    rows: int
    planned_rows: int
    files: int
    bytes: int
    rows_per_s: float | None
    """The rate of the last minute. None: unknown."""
    last_commit_age_s: float | None
    """None: no rows are finished yet."""
    parts: Mapping[str, int]
    """Rows by data, rejected and dead_letters."""
    tally: Mapping[str, int]

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))

    def show(self, console: Console) -> None:
        """Print the finished share, rows, rates and dead letters."""
        share = self.rows / max(self.planned_rows, 1)
        lines = [
            ("state", self._state()),
            ("rows", f"{self.rows:,} of {self.planned_rows:,} ({share:.1%})"),
            ("files", f"{self.files:,}, {self.bytes / 1e6:,.1f} MB"),
        ]
        console.print(draw_table(self.output, lines))
        console.print(draw_result("", self.parts, self.tally, {}))

    def _state(self) -> str:
        age = self.last_commit_age_s
        since = "" if age is None else f"; the last rows came {age:,.0f} s ago"
        if self.state == "not finished":
            return f"not finished{since} (run the same command to go on)"
        if self.state == "finished":
            return "finished"
        if age is None:
            return "running, nothing finished yet"
        rate = self.rows_per_s
        if not rate:
            return f"running{since}"
        left = (self.planned_rows - self.rows) / rate
        return f"running, {format_rate(rate)} rows/s, about {left:,.0f} s left{since}"


def read_row_status(output: Folder) -> OutputStatus:
    """Read how far the output of a planned job is."""
    ledger = Ledger(output)
    progress = ledger.progress()
    assert progress is not None
    parts = {part: progress.finished[part] for part in PARTS.values()}
    held = may_be_running(ledger.private.folder("lease"))
    state = "finished" if progress.manifest is not None else "running" if held else "not finished"
    times = progress.commit_times
    return OutputStatus(
        output.url,
        state,
        progress.finished_rows,
        progress.planned_rows,
        progress.num_files,
        progress.num_bytes,
        estimate_rate(times, time.time()) if state == "running" else None,
        time.time() - max(times) if times else None,
        parts,
        dict(sorted((name, count) for name, count in progress.finished.items() if name not in parts)),
    )


def estimate_rate(commit_times: Mapping[float, int], now: float) -> float | None:
    """Estimate the current rows per second from the rows of each commit, by its Unix time. None: unknown.

    The rate is measured between two commits that are at least ``SHORTEST_S`` apart. It becomes unknown when the next
    commit takes more than twice that time, so a job that hangs has no rate.
    """
    latest = max(commit_times, default=0.0)
    before = max((at for at in commit_times if at <= latest - SHORTEST_S), default=None)
    if before is None:
        return None
    if latest - before > LONGEST_S or now - latest > max(2 * (latest - before), RECENT_S):
        return None
    first = min(before, *(at for at in commit_times if at > latest - RECENT_S))
    return sum(rows for at, rows in commit_times.items() if at > first) / (latest - first)
