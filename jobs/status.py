"""How far an output is, read from the files beside it: while a job runs, after a crash, and when it is finished.

show_status("s3://team/best/", StorageOptions(), Display())
"""

import time

from connectors.errors import UserError
from connectors.lease import seems_held
from connectors.ledger import PARTS, Ledger, Progress
from connectors.storage import Folder, StorageOptions
from jobs.display import Display, result_table, table

RECENT_S = 60.0


def show_status(output: str, options: StorageOptions, display: Display) -> None:
    """Print the finished share, rows, rates and dead letters of an output; UserError if it is none."""
    ledger = Ledger(Folder.open(output, options))
    try:
        progress = ledger.progress()
    except NotADirectoryError:
        raise UserError(f"{output} is a file; write the folder that the job writes to (output.path)") from None
    if progress is None:
        raise UserError(f"{output} is no output of rmbatch: it has no _rmbatch/plan.json")
    rows = {part: progress.finished[part] for part in PARTS.values()}
    tally = {name: count for name, count in progress.finished.items() if name not in rows}
    held = seems_held(ledger.private.folder("lease"))
    state = "finished" if progress.manifest is not None else _state(progress, held)
    share = progress.finished_rows / max(progress.planned_rows, 1)
    lines = [
        ("state", state),
        ("rows", f"{progress.finished_rows:,} of {progress.planned_rows:,} ({share:.1%})"),
        ("files", f"{progress.num_files:,}, {progress.num_bytes / 1e6:,.1f} MB"),
    ]
    display.console.print(table(output, lines))
    display.console.print(result_table("", rows, dict(sorted(tally.items())), {}))


def _state(progress: Progress, held: bool) -> str:
    """Running or not, by the lease, and how fast it was lately, by the commits."""
    times = progress.commit_times
    age = f"; the last rows came {time.time() - max(times):,.0f} s ago" if times else ""
    if not held:
        return f"not finished{age} (run the same command to go on)"
    if len(times) < 2:
        return f"running{age}" if times else "running, nothing finished yet"
    latest, before = sorted(times, reverse=True)[:2]
    first = min(before, *(at for at in times if at > latest - RECENT_S))
    rate = sum(rows for at, rows in times.items() if at > first) / max(latest - first, 1e-3)
    left = (progress.planned_rows - progress.finished_rows) / rate
    return f"running, {rate:,.0f} rows/s, about {left:,.0f} s left{age}"
