"""Draws the doctor's findings of models and judges as tables."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from rmbatch.doctor.findings import Finding

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def draw_findings(name: str, model: str, findings: Sequence[Finding]) -> Table:
    title = Text(f"{name}: {model}")
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.level, _STYLES[finding.level]), Text(finding.check), Text(finding.message))
    return table


def count_findings(findings: Sequence[Finding]) -> str:
    counts: Counter[str] = Counter(finding.level for finding in findings)
    levels = ("failure", "warning")
    return ", ".join(f"{counts[level] or 'no'} {level}{'s' * (counts[level] != 1)}" for level in levels)
