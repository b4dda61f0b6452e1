"""What a job over rows would do, as it is shown before it does anything: files, rows, units, roles, its first rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.show.display import mixed_lines, table

CELL = 100
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Ahead:
    """What a job would do. Numbers that a JSONL input only tells when all of it is read are estimates."""

    job: str
    format: str
    num_files: int
    num_bytes: int
    num_rows: int
    num_units: int
    estimated: bool
    """Whether rows and units are estimated, by the first rows."""
    num_seen: int
    """Rows that were looked at."""
    skipped: Sequence[str]
    """Files of another kind, which are not read."""
    roles: Mapping[str, str]
    """Column by role."""
    reads: Mapping[str, Sequence[str]]
    """Columns by reward."""
    writes: Sequence[str]
    """Columns of the output."""
    output: str
    mixed: Mapping[str, Mapping[str, Any]]
    """By column whose rows are of several kinds: see ``InputDataset.mixed``; of the first rows, where estimated."""
    models: Mapping[str, Mapping[str, str]]
    """By served model: tokens, GPU hours and so on, as text."""
    judges: Mapping[str, Mapping[str, str]]
    """By judge: requests, tokens, cost, the first question, as text."""
    first_rows: Sequence[Mapping[str, Any]]
    """The first rows with what the job adds to them, worked off in this process; judges and models are not asked."""

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)

    def show(self, console: Console) -> None:
        """Print it for a person."""
        about, counted = ("about ", " (counted when the job runs)") if self.estimated else ("", "")
        lines = [
            ("input", f"{self.num_files:,} {self.format} files, {self.num_bytes / 1e6:,.1f} MB"),
            ("rows", f"{about}{self.num_rows:,}{counted}"),
            ("units", f"{about}{self.num_units:,}"),
            *self.roles.items(),
            *((f"reward {name}", "reads " + ", ".join(columns)) for name, columns in self.reads.items()),
            ("writes", ", ".join(self.writes)),
            ("output", self.output),
        ]
        by = f"by the first {self.num_seen:,} rows: " if self.estimated else ""
        lines += [(name, by + told) for name, told in mixed_lines(self.mixed)]
        if self.skipped:
            lines.append(("skipped", f"{len(self.skipped)} files of another kind, such as {self.skipped[0]}"))
        console.print(table(self.job, lines))
        for kind, several in (("model", self.models), ("judge", self.judges)):
            for name, told in several.items():
                console.print(table(f"{kind} {name}", list(told.items())))
        console.print(_drawn(self.first_rows))


def _drawn(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Each row downwards."""
    drawn = Table(title="first rows", title_justify="left", show_header=False, box=None, pad_edge=False)
    drawn.add_column(style="dim")
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for number, row in enumerate(rows):
        for place, (name, value) in enumerate(row.items()):
            drawn.add_row("" if place else str(number), Text(name), Text(_cell(value)))
    return drawn


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text.replace("\n", "\u23ce") if len(text) <= CELL else text[: CELL - 1].replace("\n", "\u23ce") + "\u2026"
