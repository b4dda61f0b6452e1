"""Plots of an evaluation, as PNG: each suite's main figure with its interval, and RM-Bench's matrix.

Needs the extra ``report``; without it there are no plots, and one line says so.
"""

import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

STYLES = ("concise", "plain", "markdown")
"""Of RM-Bench's responses, in the order of its data."""


def draw_plots(report: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, bytes]:
    """PNG images by name; none where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        say("no plots: they need matplotlib, which is not installed: pip install 'rmbatch[report]'")
        return {}
    plots = {name: _draw_suite(name, suite) for name, suite in report["suites"].items()}
    for name, suite in report["suites"].items():
        if suite["suite"] == "rm_bench":
            plots |= {
                f"{name}_{reward}_matrix": _draw_matrix(each["figures"]) for reward, each in suite["rewards"].items()
            }
    return plots


def _draw_suite(name: str, suite: Mapping[str, Any]) -> bytes:
    """The main figure of each reward with its interval; controls as dashed lines, the official number as a cross."""
    from matplotlib.figure import Figure

    rewards = {reward: each["figures"][suite["main"]] for reward, each in suite["rewards"].items()}
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(rewards)), layout="constrained")
    axes = figure.subplots()
    for place, (_, each) in enumerate(rewards.items()):
        if each["fair"] is None:
            continue
        low, high = (each["fair"] if each[end] is None else each[end] for end in ("low", "high"))
        error = [[max(each["fair"] - low, 0)], [max(high - each["fair"], 0)]]
        axes.errorbar(each["fair"], place, xerr=error, fmt="o", color="tab:blue", capsize=3)
        axes.plot([each["worst"], each["best"]], [place, place], color="tab:blue", alpha=0.25, linewidth=6)
        if each["official"] is not None:
            axes.plot(each["official"], place, "x", color="black")
    for color, (control, figures) in zip(("gray", "tab:orange", "tab:green"), suite["controls"].items()):
        value = figures[suite["main"]]["fair"]
        if value is not None:
            axes.axvline(value, linestyle="--", color=color, linewidth=1, label=control)
    axes.set_yticks(range(len(rewards)), list(rewards))
    axes.set_ylim(-0.6, len(rewards) - 0.4)
    axes.invert_yaxis()
    axes.set_xlabel(f"{suite['title']}, {suite['main']} ({suite['items']:,} items; dot: fair, cross: official)")
    axes.set_title(name)
    if suite["controls"]:
        axes.legend(fontsize="small")
    return _to_png(figure)


def _draw_matrix(figures: Mapping[str, Any]) -> bytes:
    """Accuracy by the style of the right response (rows) and of the wrong one (columns)."""
    from matplotlib.figure import Figure

    values = [[_fair(figures, f"{right} > {wrong}") for wrong in STYLES] for right in STYLES]
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center")
    axes.set_xticks(range(3), STYLES)
    axes.set_yticks(range(3), STYLES)
    axes.set_xlabel("wrong response")
    axes.set_ylabel("right response")
    return _to_png(figure)


def _fair(figures: Mapping[str, Any], name: str) -> float:
    value = figures[name]["fair"] if name in figures else None
    return float("nan") if value is None else float(value)


def _to_png(figure: Any) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120, metadata={"Software": None})
    return sink.getvalue()
