"""The report of principles that were found: one page for people, out of the plain values that programs read.

write_page(report)                                         # Markdown
summarise_worth(report["worth"])                        # "On 120 held-out rows the judge is right on …"
"""

from collections.abc import Mapping
from typing import Any

_FOUND = {
    "better": "So the principles help.",
    "worse": "So the principles do harm: do not use them.",
    "undecided": "So these rows do not show that the principles help, nor that they do harm.",
    "unknown": "So nothing is known of what the principles are worth.",
}
_BY = {
    "usefulness": "those that alone, on rows to learn from, put right more verdicts than they spoilt",
    "support": "those of which many rows say the like, for none was tried alone, or none was of use alone",
}
Plain = Mapping[str, Any]


def summarise_worth(worth: Plain) -> str:
    """What was found on held-out rows, in a few honest sentences."""
    num_rows = worth["with"]["num_rows"]
    if worth["gain"] is None:
        said = f"Of {num_rows:,} held-out rows none has a verdict both with and without the principles."
    else:
        said = (
            f"On {num_rows:,} held-out rows the judge is right on {_share(worth['with']['accuracy'])} with the "
            f"principles and on {_share(worth['without']['accuracy'])} without, of those with a verdict; on the "
            f"{worth['gain']['num_rows']:,} with both the difference is {_difference(worth['gain'])}."
        )
    return f"{said} {_FOUND[worth['found']]}"


def write_page(report: Plain) -> str:
    """The whole page."""
    worth, rows = report["worth"], report["rows"]
    lines = [
        f"# Principles: {report['topic']}",
        "",
        report["about"],
        "",
        f"**{summarise_worth(worth)}**",
        "",
        "Intervals are of 95 %. Accuracy: right among the rows with a verdict, ties not being right. Coverage: decided "
        "(no tie, and readable) among all rows. Precision: right among the decided.",
        "",
        "| judged by | accuracy | coverage | precision | right | wrong | ties | no verdict |",
        "|---|---|---|---|---|---|---|---|",
        _row("all principles", worth["with"]),
        _row("no principles", worth["without"]),
        *(_row(f"{place} alone", each["alone"]) for place, each in enumerate(worth["principles"], 1)),
        "",
        "## The principles",
        "",
        "In the order in which they were chosen. Contribution: accuracy with all, less accuracy with all but this one; "
        "of principles that say the like, each contributes little.",
        "",
    ]
    for place, each in enumerate(worth["principles"], 1):
        name = f"**{each['name']}.** " if each["name"] else ""
        contribution = "not known" if each["contribution"] is None else _difference(each["contribution"])
        lines += [f"{place}. {name}{each['text']}", f"   *Contribution: {contribution}. From {each['source']}.*"]
    lines += ["", "## Where they come from", "", *(f"- {line}" for line in _origin(report, rows)), ""]
    return "\n".join(lines)


def _origin(report: Plain, rows: Plain) -> list[str]:
    unusable = _counts(rows["unusable"])
    return [
        f"judge: {report['judge']}; writer: {report['writer']}; seed {report['seed']}",
        f"{rows['usable']:,} of {rows['read']:,} rows could be used" + (f"; not: {unusable}" if unusable else ""),
        f"{rows['train']:,} to learn from, {rows['held_out']:,} held out; no prompt is in both",
        f"rows to learn from, by how they ended: {_counts(report['proposed']['rows'])}",
        f"{report['proposed']['principles']:,} principles proposed, {report['selected']['candidates']:,} different "
        f"ones from rows that converged, {report['selected']['kept']:,} kept",
        f"of these were preferred {_BY[report['selected']['by']]}",
    ]


def _row(name: str, measured: Plain) -> str:
    shares = " | ".join(_share(measured[each]) for each in ("accuracy", "coverage", "precision"))
    counts = " | ".join(f"{measured[each]:,}" for each in ("right", "wrong", "ties"))
    return f"| {name} | {shares} | {counts} | {_counts(measured['nulls']) or '0'} |"


def _share(share: Plain | None) -> str:
    if share is None:
        return "not known"
    return f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%})"


def _difference(each: Plain) -> str:
    value, low, high = (f"{100 * each[name]:+.1f}" for name in ("value", "low", "high"))
    return f"{value} points ({low} to {high})"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())
