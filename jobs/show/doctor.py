"""What the doctor has found of models and judges, as tables."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from rmbatch.doctor.findings import Finding

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def findings_table(name: str, model: str, findings: Sequence[Finding]) -> Table:
    title = Text(f"{name}: {model}")
    drawn = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for finding in findings:
        drawn.add_row(Text(finding.level, _STYLES[finding.level]), Text(finding.check), Text(finding.message))
    return drawn


def count_findings(findings: Sequence[Finding]) -> str:
    counts: Counter[str] = Counter(finding.level for finding in findings)
    levels = ("failure", "warning")
    return ", ".join(f"{counts[level] or 'no'} {level}{'s' * (counts[level] != 1)}" for level in levels)
