"""How far an output is, read from the files beside it: while a job runs, after a crash, and when it is finished.

show_status("s3://team/best/", StorageOptions(), Display())
"""

import time

from connectors.errors import UserError
from connectors.ledger import PARTS, Ledger, Progress
from connectors.storage import Folder, StorageOptions
from jobs.display import Display, result_table, table

RECENT_S = 60.0


def show_status(output: str, options: StorageOptions, display: Display) -> None:
    """Print the finished share, rows, rates and dead letters of an output; UserError if it is none."""
    ledger = Ledger(Folder.open(output, options))
    progress = ledger.progress()
    if progress is None:
        raise UserError(f"{output} is no output of rmbatch: it has no _rmbatch/plan.json")
    rows = {part: progress.finished[part] for part in PARTS.values()}
    tally = {name: count for name, count in progress.finished.items() if name not in rows}
    state = "finished" if progress.manifest is not None else _state(progress)
    share = progress.finished_rows / max(progress.planned_rows, 1)
    lines = [
        ("state", state),
        ("rows", f"{progress.finished_rows:,} of {progress.planned_rows:,} ({share:.1%})"),
        ("files", f"{progress.num_files:,}, {progress.num_bytes / 1e6:,.1f} MB"),
    ]
    display.console.print(table(output, lines))
    display.console.print(result_table("", rows, dict(sorted(tally.items())), {}))


def _state(progress: Progress) -> str:
    """Running or not, by the age of the latest commit, and how fast it was lately."""
    if not progress.commit_times:
        return "planned, nothing finished yet"
    now = time.time()
    latest = max(progress.commit_times)
    recent = sum(rows for at, rows in progress.commit_times.items() if at > latest - RECENT_S)
    span = max(latest - min(at for at in progress.commit_times if at > latest - RECENT_S), 1.0)
    rate, left = recent / span, progress.planned_rows - progress.finished_rows
    if now - latest > RECENT_S:
        return f"not finished; the last rows came {now - latest:,.0f} s ago (run the same command to go on)"
    return f"running, {rate:,.0f} rows/s, about {left / rate if rate else 0:,.0f} s left"
