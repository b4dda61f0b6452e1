"""What a person sees: a progress bar for each stage of a run, and the tables of plan, status and result.

On a terminal bars move; elsewhere (a log, ``ray job logs``) a line appears now and then.

    with Display() as display:
        with display.doing("reading the input"): ...
        with display.stage("score", total=1_000_000, unit="rows") as advance_to: advance_to(4096)
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rmbatch.costs.chat import ChatCost
from rmbatch.costs.engines import EngineCost
from rmbatch.stages.tally import Tally

LOG_EVERY_S = 10.0
LOG_AFTER_S = 2.0
"""A step that takes longer than this is told in a log too."""


class _Count(ProgressColumn):
    """How much of how much; nothing for a step whose size is unknown."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f} {task.fields['unit']}")


class _Rate(ProgressColumn):
    """Units per second over the last half minute; nothing before the second step forward."""

    def render(self, task: Task) -> Text:
        rate = _rate(task)
        return Text(f"{rate_text(rate)} {task.fields['unit']}/s" if rate else "", style="cyan")


def _rate(task: Task) -> float | None:
    """Between steps forward: what starts slowly, or stood before this run, is not in it."""
    return None if task.total is None else task.finished_speed or task.speed


def rate_text(rate: float) -> str:
    """A rate with the digits that it needs: ``0.3``, ``12``, ``1,200``."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class Display:
    """The console of one command."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            _Count(),
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
    def doing(self, step: str) -> Iterator[None]:
        """Says what is being done while it is: at once on a terminal, in a log where it takes its time."""
        task = self._progress.add_task(step, total=None, unit="", note="")
        late = threading.Timer(LOG_AFTER_S, self.say, [step])
        late.daemon = True
        if not self.console.is_terminal:
            late.start()
        try:
            yield
        finally:
            late.cancel()
            self._progress.remove_task(task)

    @contextmanager
    def stage(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
        """A bar for one stage; the function that comes back moves it to an absolute position, and shows a note."""
        number = self._progress.add_task(name, total=total, completed=done, unit=unit, note="")
        (task,) = (each for each in self._progress.tasks if each.id == number)
        last = time.monotonic()

        def advance_to(position: int, note: str = "") -> None:
            nonlocal last
            self._progress.update(number, completed=position, note=note)
            now = time.monotonic()
            if not self.console.is_terminal and now - last >= LOG_EVERY_S:
                last = now
                rate = _rate(task)
                told = f", {rate_text(rate)} {unit}/s, {(total - position) / rate:,.0f} s left" if rate else ""
                self.say(f"{name}: {position:,}/{total:,} {unit}{told}{note and '; ' + note}")

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


def result_table(title: str, rows: Mapping[str, int], counts: Mapping[str, int], speed: Mapping[str, Any]) -> Table:
    """What became of the rows: kept, rejected, dead, the scores by reward and the nulls by reason."""
    tally = Tally(counts)
    lines = [("rows in", f"{sum(rows.values()):,}"), ("kept", f"{rows.get('data', 0):,}")]
    lines.append(("rejected", f"{rows.get('rejected', 0):,}"))
    lines.append(("dead letters", _with_parts(rows.get("dead_letters", 0), tally.dead)))
    if tally.choices:
        lines.append(("responses", ", ".join(f"{name} {count:,}" for name, count in tally.choices.items())))
    for name, count in tally.scored.items():
        shown = ", ".join(f"{code} {n:,}" for code, n in tally.nulls(name).items())
        lines.append((f"score.{name}", f"{count:,} scored" + (f"; null: {shown}" if shown else "")))
    lines += mixed_lines(speed.get("mixed", {}))
    for name, cost in speed.get("served", {}).items():
        lines.append((f"model {name}", EngineCost(**cost).line()))
    for name, cost in speed.get("judged", {}).items():
        lines.append((f"judge {name}", ChatCost(**cost).line()))
    if speed.get("rows_per_s"):
        lines.append(
            ("speed", f"{rate_text(speed['rows_per_s'])} rows/s, {rate_text(speed['bytes_per_s'] / 1e6)} MB/s of input")
        )
    if speed.get("seconds"):
        lines.append(("time", f"{speed['seconds']:,.1f} s, of which {speed['work_seconds']:,.1f} s on rows"))
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


def _with_parts(total: int, parts: Mapping[str, int]) -> str:
    return f"{total:,}" + (f": {', '.join(f'{name} {count:,}' for name, count in parts.items())}" if parts else "")
