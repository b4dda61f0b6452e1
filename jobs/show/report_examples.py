"""The examples of a report's page: a prompt, its pick, what the pick is compared with, and their diff.

show_examples(report, {})          # HTML of each kind
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from jobs.show.report_html import diff_block, heading, number, paragraph, table, text_block

Plain = Mapping[str, Any]
_TITLES = {"best": "Best", "worst": "Worst", "contested": "Most contested"}


def show_examples(report: Plain, plots: Mapping[str, str]) -> Iterator[str]:
    """The examples by kind, each folded up; the first of a kind is open."""
    for kind, about in report["kinds_of_examples"].items():
        own = [each for each in report["examples"] if each["kind"] == kind]
        if own:
            yield heading(_TITLES[kind])
            yield paragraph(f"Here {about}.", "hint")
            yield from (_show(each, report, is_open=not place) for place, each in enumerate(own))


def _show(each: Plain, report: Plain, *, is_open: bool) -> str:
    pick, other = each["pick"], each["other"]
    names = list(pick["scores"])
    gold = report["columns"]["gold"]
    has_gold = gold is not None and gold not in names
    rows = [
        [
            label,
            one["number"],
            one["source"],
            *(one["scores"][name] for name in names),
            *([one["gold"]] if has_gold else []),
        ]
        for label, one in (("pick", pick), ("compared with", other))
        if one is not None
    ]
    header = ["which", "candidate", "source", *names, *([gold] if has_gold else [])]
    title = " ".join((each["prompt"] or "no prompt").split())
    title = title if len(title) <= 90 else f"{title[:90]}…"
    inside = [
        heading("Prompt"),
        text_block(each["prompt"]),
        table(f"Scores of two of {each['candidates']:,} candidates" if other else "Scores of the pick", header, rows),
        heading("Pick"),
        text_block(pick["text"]),
    ]
    if other is not None:
        inside += [heading("Compared with"), text_block(other["text"])]
    if each["diff"]:
        inside += [
            heading("From what it is compared with to the pick"),
            paragraph("Struck through: only in what it is compared with. Underlined: only in the pick.", "hint"),
            diff_block(each["diff"]),
        ]
    inside.append(paragraph(f"Rows: {', '.join(each['rows'])}", "hint"))
    summary = f"{_worth(pick, report)}{title}"
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>\n{''.join(inside)}</details>"


def _worth(pick: Plain, report: Plain) -> str:
    value = pick["gold"] if pick["gold"] is not None else next(iter(pick["scores"].values()), None)
    return "" if value is None else f"{number(value)} – "
