"""The plan of a job over rows: files, rows, units, roles and first rows, shown before the job does anything."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.show.display import describe_mixed_columns, draw_table

CELL = 100
"""The most characters of a value that are shown."""


@dataclass(frozen=True)
class JobPlan:
    """What a job would do. Numbers are estimates where only reading all of a JSONL input would tell them."""

    job: str
    format: str
    num_files: int
    num_bytes: int
    num_rows: int
    num_units: int
    estimated: bool
    """Whether rows and units are estimated from the first rows."""
    num_seen: int
    """Rows that were read."""
    skipped: Sequence[str]
    """Files of another format, which are not read."""
    adapter: str | None
    """The adapter that shows the rows in standard columns, if any."""
    split: str | None
    """The split of the rows, and the part that the job works on, if any."""
    roles: Mapping[str, str]
    """Column by role."""
    reads: Mapping[str, Sequence[str]]
    """Columns by reward."""
    writes: Sequence[str]
    """Columns of the output."""
    output: str
    exports: Mapping[str, str]
    """By name: the folder and the settings of an export that is written in the end."""
    mixed: Mapping[str, Mapping[str, Any]]
    """By column whose rows are of several kinds: see ``InputDataset.mixed``. Of the first rows, where estimated."""
    models: Mapping[str, Mapping[str, str]]
    """By reward model: tokens, GPU hours and so on, as text."""
    asked: Mapping[str, Mapping[str, str]]
    """By asker (a judge, a source of candidates): requests, tokens, cost and the first question, as text."""
    shared: Mapping[str, Mapping[str, str]]
    """By chat model that several ask: who asks it, and what that comes to in all, as text."""
    first_rows: Sequence[Mapping[str, Any]]
    """The first rows with the columns that the job adds. Judges and models are not asked."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def show(self, console: Console) -> None:
        """Print it for a person."""
        about, counted = ("about ", " (counted when the job runs)") if self.estimated else ("", "")
        lines = [
            ("input", f"{self.num_files:,} {self.format} files, {self.num_bytes / 1e6:,.1f} MB"),
            ("rows", f"{about}{self.num_rows:,}{counted}"),
            ("units", f"{about}{self.num_units:,}"),
            *((name, told) for name, told in (("as", self.adapter), ("split", self.split)) if told),
            *self.roles.items(),
            *((f"reward {name}", "reads " + ", ".join(columns)) for name, columns in self.reads.items()),
            ("writes", ", ".join(self.writes)),
            ("output", self.output),
            *((f"export {name}", told) for name, told in self.exports.items()),
        ]
        by = f"by the first {self.num_seen:,} rows: " if self.estimated else ""
        lines += [(name, by + line) for name, line in describe_mixed_columns(self.mixed)]
        if self.skipped:
            lines.append(("skipped", f"{len(self.skipped)} files of another kind, such as {self.skipped[0]}"))
        console.print(draw_table(self.job, lines))
        for kind, several in (("model", self.models), ("asks", self.asked), ("chat model", self.shared)):
            for name, estimate in several.items():
                console.print(draw_table(f"{kind} {name}", list(estimate.items())))
        console.print(_draw_rows(self.first_rows))


def _draw_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Draw each row as lines of names and values."""
    table = Table(title="first rows", title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for number, row in enumerate(rows):
        for place, (name, value) in enumerate(row.items()):
            table.add_row("" if place else str(number), Text(name), Text(_format_cell(value)))
    return table


def _format_cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text.replace("\n", "\u23ce") if len(text) <= CELL else text[: CELL - 1].replace("\n", "\u23ce") + "\u2026"
