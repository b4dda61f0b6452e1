"""What a person sees: a progress bar for each stage of a run, and the tables of plan, status and result.

On a terminal bars move; elsewhere (a log, ``ray job logs``) a line appears now and then.

    with Display() as display:
        with display.stage("score", total=1_000_000, unit="rows") as advance_to: advance_to(4096)
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rmbatch.chat.spending import Spending
from rmbatch.scoring import null_codes
from rmbatch.served.economics import Economics

LOG_EVERY_S = 10.0


class _Rate(ProgressColumn):
    """Units per second since the stage began."""

    def render(self, task: Task) -> Text:
        seconds = task.elapsed or 0.0
        rate = (task.completed - task.fields["begun_at"]) / seconds if seconds > 0 else 0.0
        return Text(f"{rate:,.0f} {task.fields['unit']}/s", style="cyan")


class Display:
    """The console of one command."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, message: str) -> None:
        """One line above the bars."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
        """A bar for one stage; the function that comes back moves it to an absolute position, and shows a note."""
        task = self._progress.add_task(name, total=total, completed=done, unit=unit, begun_at=done, note="")
        began = last = time.monotonic()

        def advance_to(position: int, note: str = "") -> None:
            nonlocal last
            self._progress.update(task, completed=position, note=note)
            now = time.monotonic()
            if not self.console.is_terminal and now - last >= LOG_EVERY_S:
                last = now
                rate = (position - done) / (now - began)
                left = f", {(total - position) / rate:,.0f} s left" if rate else ""
                self.say(f"{name}: {position:,}/{total:,} {unit}, {rate:,.0f} {unit}/s{left}{note and '; ' + note}")

        yield advance_to
        advance_to(total)


def table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Two columns without a frame: names and values."""
    drawn = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    drawn.add_column(style="bold")
    drawn.add_column(overflow="fold")
    for name, value in rows:
        drawn.add_row(Text(name), Text(value))  # not markup: data is full of square brackets
    return drawn


def result_table(title: str, rows: Mapping[str, int], tally: Mapping[str, int], speed: Mapping[str, Any]) -> Table:
    """What became of the rows: kept, rejected, dead, the scores by reward and the nulls by reason."""
    lines = [("rows in", f"{sum(rows.values()):,}"), ("kept", f"{rows.get('data', 0):,}")]
    lines.append(("rejected", f"{rows.get('rejected', 0):,}"))
    lines.append(("dead letters", _with_parts(rows.get("dead_letters", 0), _below("dead.", tally))))
    candidates = _below("select.", tally)
    if candidates:
        lines.append(("responses", ", ".join(f"{name} {count:,}" for name, count in candidates.items())))
    for name, count in tally.items():
        if name.startswith("scored."):
            reward = name.removeprefix("scored.")
            shown = ", ".join(f"{code} {n:,}" for code, n in null_codes(tally, reward).items())
            lines.append((f"score.{reward}", f"{count:,} scored" + (f"; null: {shown}" if shown else "")))
    lines += mixed_lines(speed.get("mixed", {}))
    for name, cost in speed.get("served", {}).items():
        lines.append((f"model {name}", Economics(**cost).line()))
    for name, cost in speed.get("judged", {}).items():
        lines.append((f"judge {name}", Spending(**cost).line()))
    if speed.get("seconds"):
        lines.append(("speed", f"{speed['rows_per_s']:,.0f} rows/s, {speed['bytes_per_s'] / 1e6:,.1f} MB/s of input"))
        lines.append(("time", f"{speed['seconds']:,.1f} s"))
    return table(title, lines)


def mixed_lines(mixed: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What became of columns whose rows are of several kinds, see ``InputDataset.mixed``: names and values."""
    lines = []
    for name, column in mixed.items():
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in column["kinds"].items())
        if column["kept"] == "json":
            told = f"all of it is JSON text, in which text has quotes, because its rows are of several kinds ({kinds})"
        else:
            how = "are dead letters" if column["kept"] == "dead_letters" else f"are JSON text in {column['kept']}"
            told = f"{column['type']}; {column['odd']:,} of {column['rows']:,} rows are not ({kinds}), and {how}"
        lines.append((f"column {name}", told))
    return lines


def _below(prefix: str, tally: Mapping[str, int]) -> dict[str, int]:
    """The counts whose names begin so, the largest first."""
    found = {name.removeprefix(prefix): count for name, count in tally.items() if name.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _with_parts(total: int, parts: Mapping[str, int]) -> str:
    return f"{total:,}" + (f": {', '.join(f'{name} {count:,}' for name, count in parts.items())}" if parts else "")
