"""Shows a principles job: its plan, its status, its report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from jobs.config.principles import PAGE, PRINCIPLES, PROPOSED, REPORT
from jobs.show.display import draw_table
from rmbatch.discovery.report import summarise_worth


@dataclass(frozen=True)
class PrinciplesReport:
    """The report of a principles job, as in ``report.json``."""

    output: str
    values: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(self.values)

    def show(self, console: Console) -> None:
        """Print it for a person: the principles, their worth, their cost, and where the files are."""
        worth = self.values["worth"]
        lines = [("found", summarise_worth(worth))]
        for place, each in enumerate(worth["principles"], 1):
            lines.append((f"{place}", f"{each['name']}: {each['text']}" if each["name"] else each["text"]))
        lines += list(self.values["spent"].items())
        lines.append(("files", f"{self.output}/{PRINCIPLES}, {PAGE}, {REPORT}, {PROPOSED}"))
        console.print(draw_table(f"principles: {self.values['topic']}", lines))


@dataclass(frozen=True)
class PrinciplesStatus:
    """How far the output of a principles job is."""

    output: str
    state: str
    """finished, running or not finished."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))

    def show(self, console: Console) -> None:
        """Print it for a person."""
        more = " (run the same command to go on)" if self.state == "not finished" else ""
        console.print(draw_table(self.output, [("job", "principles"), ("state", self.state + more)]))


@dataclass(frozen=True)
class PrinciplesPlan:
    """What a principles job would do."""

    rows: Mapping[str, Any]
    judge: str
    writer: str
    proposals: int
    """Rows of the first round of questions to the writer."""
    output: str

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))

    def show(self, console: Console) -> None:
        """Print it for a person."""
        unusable = "".join(f"; {number:,} {why}" for why, number in self.rows["unusable"].items())
        lines = [
            ("rows", f"{self.rows['usable']:,} of {self.rows['read']:,} can be used{unusable}"),
            ("split", f"{self.rows['train']:,} to learn from, {self.rows['held_out']:,} held out"),
            ("judge", self.judge),
            ("writer", f"{self.writer}, asked about {self.proposals:,} rows first"),
            ("output", self.output),
        ]
        console.print(draw_table("principles", lines))
