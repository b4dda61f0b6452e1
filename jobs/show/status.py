"""How far an output is, read from the files beside it: while a job runs, after a crash, and when it is finished.

found = output_status("s3://team/best/", StorageOptions())      # plain values, for --json
show_status(found, Console())
"""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from connectors.commit import PARTS
from connectors.errors import UserError
from connectors.lease import seems_held
from connectors.ledger import Ledger
from connectors.storage import Folder, StorageOptions
from jobs.show.display import rate_text, result_table, table

RECENT_S = 60.0
SHORTEST_S = 10.0
"""Commits that are closer are of tasks that ended together: what they did took longer than the time between them."""
LONGEST_S = 900.0
"""Two commits that are further apart are not of one run: a task writes a file every five minutes."""


def output_status(output: str, options: StorageOptions) -> dict[str, Any]:
    """How far the output is: output, state, rows, planned_rows, files, bytes, rows_per_s (null: unknown),
    last_commit_age_s, parts (rows by data, rejected, dead_letters) and tally. Raises UserError for no output of ours.
    """
    ledger = Ledger(Folder.open(output, options))
    try:
        progress = ledger.progress()
    except NotADirectoryError:
        raise UserError(f"{output} is a file; write the folder that the job writes to (output.path)") from None
    if progress is None:
        raise UserError(f"{output} is no output of rmbatch: it has no _rmbatch/plan.json")
    parts = {part: progress.finished[part] for part in PARTS.values()}
    held = seems_held(ledger.private.folder("lease"))
    state = "finished" if progress.manifest is not None else "running" if held else "not finished"
    times = progress.commit_times
    return {
        "output": output,
        "state": state,
        "rows": progress.finished_rows,
        "planned_rows": progress.planned_rows,
        "files": progress.num_files,
        "bytes": progress.num_bytes,
        "rows_per_s": recent_rate(times, time.time()) if state == "running" else None,
        "last_commit_age_s": time.time() - max(times) if times else None,
        "parts": parts,
        "tally": dict(sorted((name, count) for name, count in progress.finished.items() if name not in parts)),
    }


def show_status(found: Mapping[str, Any], console: Console) -> None:
    """Print the finished share, rows, rates and dead letters of an output."""
    share = found["rows"] / max(found["planned_rows"], 1)
    lines = [
        ("state", _state_line(found)),
        ("rows", f"{found['rows']:,} of {found['planned_rows']:,} ({share:.1%})"),
        ("files", f"{found['files']:,}, {found['bytes'] / 1e6:,.1f} MB"),
    ]
    console.print(table(found["output"], lines))
    console.print(result_table("", found["parts"], found["tally"], {}))


def recent_rate(commit_times: Mapping[float, int], now: float) -> float | None:
    """Rows per second lately, by the rows of each commit and when it came (Unix time); None where that is unknown.

    A rate is between two commits, ``SHORTEST_S`` apart. Once the next one is later than twice the time between the
    last two, the rate is unknown: a job that hangs has none.
    """
    latest = max(commit_times, default=0.0)
    before = max((at for at in commit_times if at <= latest - SHORTEST_S), default=None)
    if before is None:
        return None
    if latest - before > LONGEST_S or now - latest > max(2 * (latest - before), RECENT_S):
        return None
    first = min(before, *(at for at in commit_times if at > latest - RECENT_S))
    return sum(rows for at, rows in commit_times.items() if at > first) / (latest - first)


def _state_line(found: Mapping[str, Any]) -> str:
    age = found["last_commit_age_s"]
    since = "" if age is None else f"; the last rows came {age:,.0f} s ago"
    if found["state"] == "not finished":
        return f"not finished{since} (run the same command to go on)"
    if found["state"] == "finished":
        return "finished"
    if age is None:
        return "running, nothing finished yet"
    rate = found["rows_per_s"]
    if not rate:
        return f"running{since}"
    return (
        f"running, {rate_text(rate)} rows/s, about {(found['planned_rows'] - found['rows']) / rate:,.0f} s left{since}"
    )
