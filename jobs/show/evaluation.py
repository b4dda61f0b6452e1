"""Shows an evaluation: a leaderboard for a terminal, and a page of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

LEADERBOARD = "leaderboard.md"
_COLUMNS = ("suite", "reward", "fair", "95 %", "worst–best", "official", "coverage", "items")


def draw_leaderboard(report: Mapping[str, Any], console: Console) -> None:
    """Print the leaderboard, the comparisons and what needs no skill."""
    table = Table(title="leaderboard (fair: ties shared; by worst case)", title_justify="left", box=None)
    for name in _COLUMNS:
        is_name = name in ("suite", "reward")
        table.add_column(name, justify="left" if is_name else "right", no_wrap=True, overflow="ellipsis")
    for line in _board_lines(report):
        table.add_row(*line)
    console.print(table)
    for comparison in report["comparisons"]:
        console.print(describe_comparison(comparison), highlight=False, markup=False)
    for text in _says(report):
        console.print(text, highlight=False, markup=False)


def write_page(report: Mapping[str, Any]) -> str:
    """The leaderboard as Markdown, with all figures of each suite."""
    lines = ["# Leaderboard", "", *_markdown(_COLUMNS, _board_lines(report)), ""]
    lines += [
        "fair: ties are shared, over what has a score, with its 95 % interval over draws of the prompts. worst, best: "
        "what has no score is lost, or won. official: as the suite's own code counts.",
        "",
    ]
    lines += [f"- {text}" for text in _says(report)]
    if report["comparisons"]:
        lines += ["", "## Comparisons", ""]
        lines += [f"- {describe_comparison(each)}" for each in report["comparisons"]]
    for name, suite in report["suites"].items():
        rewards = list(suite["rewards"])
        lines += ["", f"## {name}: {suite['title']}, {suite['items']:,} items", "", suite["official"], ""]
        controls = list(suite["controls"])
        header = ("figure", *rewards, *(f"*{each}*" for each in controls))
        figures = dict.fromkeys(figure for each in suite["rewards"].values() for figure in each["figures"])
        rows = []
        for figure in figures:
            cells = [_both(each["figures"].get(figure)) for each in suite["rewards"].values()]
            cells += [_both(suite["controls"][each].get(figure)) for each in controls]
            rows.append([figure, *cells])
        lines += _markdown(header, rows)
        lines += ["", f"Source: {suite['source']}."]
    return "\n".join(lines) + "\n"


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """One comparison as a sentence."""
    first, second = comparison["first"], comparison["second"]
    if comparison["difference"] is None:
        return f"{comparison['suite']}: {first} and {second} share no scored item"
    sure = comparison["p_holm"] is not None and comparison["p_holm"] < 0.05
    return (
        f"{comparison['suite']}: {first} − {second} = {comparison['difference']:+.3f} "
        f"[{_signed(comparison['low'])}, {_signed(comparison['high'])}], p = {_number(comparison['p'])} "
        f"({_number(comparison['p_holm'])} after Holm), {'a difference' if sure else 'no difference shown'}; "
        f"{comparison['items']:,} items can show {_number(comparison['detectable_difference'])}"
    )


def _board_lines(report: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            line["suite"],
            line["reward"],
            _number(line["fair"]),
            f"{_number(line['low'])}–{_number(line['high'])}",
            "" if line["coverage"] == 1 else f"{_number(line['worst'])}–{_number(line['best'])}",
            _number(line["official"]),
            "–" if line["coverage"] is None else f"{line['coverage']:.1%}",
            f"{report['suites'][line['suite']]['items']:,}",
        ]
        for line in report["leaderboard"]
    ]


def _says(report: Mapping[str, Any]) -> list[str]:
    return [f"{line['suite']}: {text}" for line in report["leaderboard"] for text in line["says"]]


def _both(figure: Mapping[str, Any] | None) -> str:
    """The fair number, and the official one where it differs."""
    if figure is None:
        return "–"
    fair, official = _number(figure["fair"]), _number(figure["official"])
    return fair if fair == official else f"{fair} (official {official})"


def _number(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}" if abs(number) >= 0.001 or number == 0 else f"{number:.1e}"


def _signed(number: float | None) -> str:
    return "–" if number is None else f"{number:+.3f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    found = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return found + [f"| {' | '.join(row)} |" for row in rows]
