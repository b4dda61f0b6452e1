"""Shows the progress of a run, and draws the tables of plan, status and result.

A terminal shows moving bars. A log (``ray job logs``) gets a line now and then.

    with Display() as display:
        with display.show_step("reading the input"): ...
        with display.show_progress("score", total=1_000_000, unit="rows") as advance_to: advance_to(4096)
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jobs.show.correction import correction_lines
from jobs.show.selection import selection_lines
from rmbatch.costs.chat import ChatCost
from rmbatch.costs.engines import EngineCost
from rmbatch.stages.tally import Tally

LOG_EVERY_S = 10.0
LOG_AFTER_S = 2.0
"""A step that takes longer than this appears in a log too."""


class _Count(ProgressColumn):
    """The finished part and the total; empty for a step of unknown size."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f} {task.fields['unit']}")


class _Rate(ProgressColumn):
    """Units per second over the last half minute; empty before the second step forward."""

    def render(self, task: Task) -> Text:
        rate = _measure_rate(task)
        return Text(f"{format_rate(rate)} {task.fields['unit']}/s" if rate else "", style="cyan")


def _measure_rate(task: Task) -> float | None:
    """The rate between steps forward. A slow start, and work done before this run, do not count."""
    return None if task.total is None else task.finished_speed or task.speed


def format_rate(rate: float) -> str:
    """Write a rate with as many digits as it needs: ``0.3``, ``12``, ``1,200``."""
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
        """Print one line above the bars."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def show_step(self, step: str) -> Iterator[None]:
        """Show a step while it runs: at once on a terminal, in a log only if it takes long."""
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
    def show_progress(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
        """Show a bar. Call the yielded function with the absolute position, and perhaps a note."""
        number = self._progress.add_task(name, total=total, completed=done, unit=unit, note="")
        (task,) = (each for each in self._progress.tasks if each.id == number)
        last = time.monotonic()

        def advance_to(position: int, note: str = "") -> None:
            nonlocal last
            self._progress.update(number, completed=position, note=note)
            now = time.monotonic()
            if not self.console.is_terminal and now - last >= LOG_EVERY_S:
                last = now
                rate = _measure_rate(task)
                speed = f", {format_rate(rate)} {unit}/s, {(total - position) / rate:,.0f} s left" if rate else ""
                self.say(f"{name}: {position:,}/{total:,} {unit}{speed}{note and '; ' + note}")

        yield advance_to
        advance_to(total)


def draw_table(title: str, rows: Sequence[tuple[str, str]]) -> Group:
    """Draw names and values in two columns without a frame. The title, often a path, may be wider than they are."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))  # not markup: data is full of square brackets
    return Group(*([Text(title, "table.title")] if title else []), table)


def draw_result(title: str, rows: Mapping[str, int], counts: Mapping[str, int], speed: Mapping[str, Any]) -> Group:
    """Draw the counts of rows (kept, rejected, dead), of scores by reward and of nulls by reason."""
    tally = Tally(counts)
    lines = [("rows in", f"{sum(rows.values()):,}"), ("kept", f"{rows.get('data', 0):,}")]
    lines.append(("rejected", f"{rows.get('rejected', 0):,}"))
    lines.append(("dead letters", _format_parts(rows.get("dead_letters", 0), tally.dead)))
    if tally.parts:
        lines.append(("split", ", ".join(f"{name} {count:,}" for name, count in tally.parts.items())))
    num_texts, num_tokens = tally.generated
    if num_texts or tally.generation_errors:
        errors = ", ".join(f"{code} {n:,}" for code, n in tally.generation_errors.items())
        lines.append(
            ("generated", f"{num_texts:,} texts, {num_tokens:,} tokens" + (f"; errors: {errors}" if errors else ""))
        )
    if tally.choices:
        lines.append(("responses", ", ".join(f"{name} {count:,}" for name, count in tally.choices.items())))
    lines += selection_lines(tally)
    for name, count in tally.scored.items():
        shown = ", ".join(f"{code} {n:,}" for code, n in tally.nulls(name).items())
        lines.append((f"score.{name}", f"{count:,} scored" + (f"; null: {shown}" if shown else "")))
    lines += correction_lines(tally, {name: cost["usd"] for name, cost in speed.get("judged", {}).items()})
    lines += describe_mixed_columns(speed.get("mixed", {}))
    for name, cost in speed.get("served", {}).items():
        lines.append((f"model {name}", EngineCost(**cost).line()))
    for name, cost in speed.get("judged", {}).items():
        lines.append((f"asks {name}", ChatCost(**cost).line()))
    if speed.get("rows_per_s"):
        lines.append(
            (
                "speed",
                f"{format_rate(speed['rows_per_s'])} rows/s, {format_rate(speed['bytes_per_s'] / 1e6)} MB/s of input",
            )
        )
    if speed.get("seconds"):
        lines.append(("time", f"{speed['seconds']:,.1f} s, of which {speed['work_seconds']:,.1f} s on rows"))
    return draw_table(title, lines)


def describe_mixed_columns(mixed: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Describe each column whose rows are of several kinds (``InputDataset.mixed``), as names and values."""
    lines = []
    for name, column in mixed.items():
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in column["kinds"].items())
        if column["kept"] == "json":
            line = f"all of it is JSON text, in which text has quotes, because its rows are of several kinds ({kinds})"
        else:
            how = "are dead letters" if column["kept"] == "dead_letters" else f"are JSON text in {column['kept']}"
            line = f"{column['type']}; {column['odd']:,} of {column['rows']:,} rows are not ({kinds}), and {how}"
        lines.append((f"column {name}", line))
    return lines


def _format_parts(total: int, parts: Mapping[str, int]) -> str:
    return f"{total:,}" + (f": {', '.join(f'{name} {count:,}' for name, count in parts.items())}" if parts else "")
