"""The page of a report: one HTML file with its style, its script and its plots inside, which asks no network.

page = build_page(report, {"best_of_n": svg})
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from jobs.show.report_examples import show_examples
from jobs.show.report_html import paragraph
from jobs.show.report_scores import show_agreement, show_nulls, show_scores
from jobs.show.report_selection import show_curve, show_drift, show_pairs, show_picks
from jobs.show.report_work import show_correction, show_costs

Plain = Mapping[str, Any]
Plots = Mapping[str, str]
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may do: nothing of what it shows, such as a response with HTML in it, can load or send anything."""


def build_page(report: Plain, plots: Plots) -> str:
    """The whole page. plots: SVG elements by name."""
    sections = [(name, title, "".join(build(report, plots))) for name, title, build in _SECTIONS]
    shown = [(name, title, content) for name, title, content in sections if content]
    links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, _ in shown)
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{escape(title)}</h2>\n{content}</section>'
        for name, title, content in shown
    )
    title = f"Report on {report['output']}"
    here = Path(__file__).parent
    style, script = ((here / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the figures</a>
<header>
<h1>{escape(title)}</h1>
<p class="meta">{escape(_describe(report))}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="main">
{body}
</main>
<footer><p>Written by rmbatch {escape(report["rmbatch"])}. All figures are in report.json beside this page, the plots as
PNG.</p></footer>
<script>
{script}</script>
</body>
</html>
"""


def _describe(report: Plain) -> str:
    finished = report["finished"]
    parts = [
        f"job {report['job']}",
        f"{report['num_prompts']:,} prompts with {report['num_candidates']:,} candidates",
        *(f"{count:,} rows in {part}" for part, count in report["rows"].items() if count),
    ]
    if finished:
        parts.append(f"finished {datetime.fromtimestamp(finished, UTC):%Y-%m-%d %H:%M} UTC")
    by, gold = report["columns"]["by"], report["columns"]["gold"]
    parts += [f"picked by {by}"] if by else []
    parts += [f"gold: {gold}"] if gold else []
    return "; ".join(parts)


def _show_findings(report: Plain, plots: Plots) -> Iterator[str]:
    if not report["findings"]:
        yield paragraph("Nothing stands out.")
        return
    lines = (
        f'<li class="{each["level"]}"><b>{each["level"].title()}:</b>{escape(each["text"])}</li>'
        for each in report["findings"]
    )
    yield f'<ul class="findings">{"".join(lines)}</ul>'


_SECTIONS: tuple[tuple[str, str, Callable[[Plain, Plots], Iterable[str]]], ...] = (
    ("findings", "What stands out", _show_findings),
    ("curve", "Best of N", show_curve),
    ("picks", "Picks and ties", show_picks),
    ("scores", "Scores", show_scores),
    ("agreement", "Agreement", show_agreement),
    ("drift", "Drift of the selected", show_drift),
    ("pairs", "Lengths of pairs", show_pairs),
    ("correction", "Correction", show_correction),
    ("nulls", "Missing scores", show_nulls),
    ("costs", "Throughput and cost", show_costs),
    ("examples", "Examples", show_examples),
)
