"""What ``rmbatch export`` shows: how many rows were written, and what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group

from jobs.show.display import draw_table
from rmbatch.exports.card import ExportFacts


@dataclass(frozen=True)
class ExportResult:
    """An export that is finished."""

    folder: str
    facts: ExportFacts
    pushed_to: str | None = None
    """The page on the hub that it was uploaded to."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        facts = self.facts
        return {
            "folder": self.folder,
            "format": facts.format,
            "rows": facts.rows,
            "prompts": facts.prompts,
            "candidates": facts.candidates,
            "prompts_left_out": dict(facts.prompts_left_out),
            "candidates_left_out": dict(facts.candidates_left_out),
            "files": list(facts.files),
            **({"pushed_to": self.pushed_to} if self.pushed_to else {}),
        }

    def show(self, console: Console) -> None:
        """Print the folder and the counts."""
        facts = self.facts
        lines = [
            ("folder", self.folder),
            ("rows", f"{facts.rows:,}"),
            ("prompts", _with_reasons(facts.prompts, facts.prompts_left_out)),
        ]
        if facts.candidates:
            lines.append(("candidates", _with_reasons(facts.candidates, facts.candidates_left_out)))
        if self.pushed_to:
            lines.append(("pushed to", self.pushed_to))
        console.print(draw_table("", lines))


def draw_exports(exports: Mapping[str, Mapping[str, Any]]) -> Group:
    """Draw what the exports of a job hold, a line each."""
    lines = []
    for name, made in exports.items():
        prompts = _with_reasons(made["prompts"], made["prompts_left_out"])
        lines.append((f"export {name}", f"{made['rows']:,} rows in {made['folder']}; prompts {prompts}"))
    return draw_table("", lines)


def _with_reasons(count: int, left_out: Any) -> str:
    reasons = ", ".join(f"{code} {number:,}" for code, number in sorted(left_out.items()))
    return f"{count:,}" + (f"; left out: {reasons}" if reasons else "")
