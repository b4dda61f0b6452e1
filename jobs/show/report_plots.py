"""Plots of a report: each as PNG, and as SVG whose colours are variables of the page, so that it fits light and dark.

Needs the extra ``report``; without it there are no plots, and one line says so.

    plots = draw_report(report, print)
    plots["best_of_n"].svg, plots["best_of_n"].png
"""

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from rmbatch.reports.usage import ALL

Plain = Mapping[str, Any]
Palette = Mapping[str, str]
LINES = ("line1", "line2", "line3", "line4", "line5", "line6")
LIGHT: Palette = {
    "ink": "#1d2330",
    "muted": "#5b6475",
    "grid": "#d9dde5",
    "warn": "#b3261e",
    **dict(zip(LINES, ("#1f5fbf", "#b45309", "#0f766e", "#9333a8", "#5f6b1f", "#be185d"))),
}
"""Of PNG images. The page has its own for light and dark."""
_MARKS: Palette = {name: f"#0a0b{number:02x}" for number, name in enumerate(LIGHT)}
"""Stand in an SVG for the variables of the page."""
MOST_SOURCES = 6
MOST_MARKS = 60
"""With more points, a curve over time is a line alone."""
WIDTH = 5.4
"""Inches."""


@dataclass(frozen=True)
class Plot:
    """One picture in both forms."""

    svg: str
    png: bytes


def draw_report(report: Plain, say: Callable[[str], None]) -> dict[str, Plot]:
    """Plots by name; none where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        say("no plots: they need matplotlib, which is not installed: pip install 'rmbatch[report]'")
        return {}
    drawings: dict[str, Callable[[Palette], Any]] = {}
    if report["curve"] and len(report["curve"]["sizes"]) > 1:
        drawings["best_of_n"] = lambda colors: _draw_curve(report, colors)
    for name, score in report["scores"].items():
        if score["count"]:
            drawings[f"score_{_file_name(name)}"] = partial(_draw_score, score)
    if report["agreement"] and any(each["agreement"] is not None for each in report["agreement"]["pairs"]):
        drawings["agreement"] = lambda colors: _draw_agreement(report["agreement"]["pairs"], colors)
    if report["drift"]:
        drawings["drift"] = lambda colors: _draw_drift(report["drift"]["measures"], colors)
    if report["pairs"]:
        drawings["pair_lengths"] = lambda colors: _draw_bands(report["pairs"]["bands"], colors)
    if report["correction"] and report["correction"]["gains"]:
        drawings["correction"] = lambda colors: _draw_correction(report["correction"]["gains"]["groups"], colors)
    if report["progress"] and len(report["progress"]["points"]) > 1:
        drawings["progress"] = lambda colors: _draw_progress(report["progress"], colors)
    if report["usage"]:
        drawings["usage"] = lambda colors: _draw_usage(report["usage"]["curves"], colors)
    return {name: _render(name, draw) for name, draw in drawings.items()}


def score_plot(name: str) -> str:
    """The name of the plot of a score."""
    return f"score_{_file_name(name)}"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _render(name: str, draw: Callable[[Palette], Any]) -> Plot:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}):
        sink, picture = io.StringIO(), io.BytesIO()
        draw(_MARKS).savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        draw(LIGHT).savefig(picture, format="png", dpi=144, metadata={"Software": None})
    return Plot(_to_page(sink.getvalue(), name), picture.getvalue())


def _to_page(svg: str, name: str) -> str:
    """The SVG element alone, with the page's colours and font, and no id that two plots share."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for color, mark in _MARKS.items():
        svg = svg.replace(mark, f"var(--{color})")
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for each in used:
        svg = svg.replace(f'"{each}"', f'"{name}-{each}"').replace(f"#{each}", f"#{name}-{each}")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2).strip()


def _axes(colors: Palette, height: float, rows: int = 1, width: float = WIDTH) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    found = figure.subplots(rows, 1, sharex=rows > 1)
    for axes in [found] if rows == 1 else found:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(colors["grid"])
        axes.tick_params(colors=colors["muted"], labelcolor=colors["ink"], length=3)
        axes.set_axisbelow(True)
    return figure, found


def _label(axes: Any, colors: Palette, x: str = "", y: str = "") -> None:
    axes.set_xlabel(x, color=colors["ink"])
    axes.set_ylabel(y, color=colors["ink"])


def _legend(axes: Any, colors: Palette) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, labelcolor=colors["ink"], fontsize=9)


def _draw_curve(report: Plain, colors: Palette) -> Any:
    curve, by, gold = report["curve"], report["columns"]["by"], report["columns"]["gold"]
    sizes = curve["sizes"]
    figure, axes = _axes(colors, 3.9)
    axes.grid(axis="y", color=colors["grid"], linewidth=0.7)
    if gold is not None:
        axes.plot(sizes, [each["mean"] for each in curve["oracle"]], ":", color=colors["muted"], label="oracle")
        axes.axhline(curve["random"]["mean"], linestyle="--", color=colors["muted"], linewidth=1.2, label="random pick")
    names = sorted(curve["choosers"], key=lambda name: name != by)[: len(LINES)]
    for name, color in zip(names, LINES):
        each = curve["choosers"][name]
        points = each["points"]
        means, low, high = ([point[key] for point in points] for key in ("mean", "low", "high"))
        axes.plot(sizes, means, "-o", color=colors[color], markersize=3.5, linewidth=1.8, label=f"picked by {name}")
        if None not in (*low, *high):
            axes.fill_between(sizes, low, high, color=colors[color], alpha=0.15, linewidth=0)
    if gold is not None and by in curve["choosers"]:
        chosen = curve["choosers"][by]
        if chosen["helps"]:
            axes.plot(
                chosen["recommended"], chosen["worth"], "o", markersize=11, markerfacecolor="none",
                markeredgecolor=colors["line1"], markeredgewidth=1.6, label=f"recommended: N = {chosen['recommended']}",
            )  # fmt: skip
    if sizes[-1] > 20:
        axes.set_xscale("log", base=2)
    ticks = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if size <= sizes[-1]]
    ticks = (
        list(sizes)
        if sizes[-1] <= 10
        else sorted({*ticks, sizes[-1]} - {t for t in ticks if 0.75 * sizes[-1] < t < sizes[-1]})
    )
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    _label(axes, colors, "N, candidates to pick from", f"mean {gold or by} of the pick")
    _legend(axes, colors)
    return figure


def _draw_score(score: Plain, colors: Palette) -> Any:
    """Bars of all candidates; below, of each source."""
    sources = list(score["sources"].items())[:MOST_SOURCES] if len(score["sources"]) > 1 else []
    parts = [("all candidates", score), *sources]
    figure, axes = _axes(colors, 1.7 + 0.95 * (len(parts) - 1), len(parts))
    for place, (name, each) in enumerate(parts):
        own = axes if len(parts) == 1 else axes[place]
        bars = each["bars"]
        apart = min((b[0] - a[0] for a, b in itertools.pairwise(bars)), default=1.0)
        width = [high - low if high > low else 0.8 * min(apart, 1.0) for low, high, _ in bars]
        left = [low if high > low else low - size / 2 for (low, high, _), size in zip(bars, width)]
        heights = [count / each["count"] for _, _, count in bars]
        own.bar(left, heights, width, align="edge", color=colors[LINES[place % len(LINES)]], alpha=0.85)
        own.set_ylim(0, max(heights) * 1.12)
        own.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        own.locator_params(axis="y", nbins=3)
        if len(bars) <= 6 and all(low == high for low, high, _ in bars):
            own.set_xticks([low for low, _, _ in bars], [f"{low:g}" for low, _, _ in bars])
        if len(parts) > 1:
            own.set_title(name, loc="left", fontsize=9, color=colors["ink"], pad=2)
        own.grid(axis="y", color=colors["grid"], linewidth=0.6)
    _label(axes if len(parts) == 1 else axes[-1], colors, "score", "")
    return figure


def _draw_agreement(pairs: Sequence[Plain], colors: Palette) -> Any:
    names = list(dict.fromkeys(name for each in pairs for name in (each["first"], each["second"])))
    size = len(names)
    figure, axes = _axes(colors, 1.2 + 0.5 * size)
    from matplotlib.patches import Rectangle

    for each in pairs:
        a, b = names.index(each["first"]), names.index(each["second"])
        value = each["agreement"]
        for x, y in ((a, b), (b, a)):
            if value is not None:
                axes.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 1, 1, color=colors["line1"], alpha=0.65 * value**2, linewidth=0)
                )
            axes.text(x, y, "–" if value is None else f"{value:.0%}", ha="center", va="center", color=colors["ink"])
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xticks(
        range(size),
        [_short(name) for name in names],
        rotation=30 if size > 3 else 0,
        ha="right" if size > 3 else "center",
    )
    axes.set_yticks(range(size), [_short(name) for name in names])
    return figure


def _draw_drift(measures: Sequence[Plain], colors: Palette) -> Any:
    """How far the selected lie from their pool, in standard deviations, with intervals."""
    shown = [each for each in measures if each["shift"] is not None]
    figure, axes = _axes(colors, 1.1 + 0.34 * len(shown))
    axes.axvline(0, color=colors["muted"], linewidth=1)
    axes.grid(axis="x", color=colors["grid"], linewidth=0.6)
    for place, each in enumerate(shown):
        apart = each["difference"]
        scale = each["shift"] / apart["mean"] if apart["mean"] else 0.0
        color = colors["line2" if each["differs"] else "muted"]
        if apart["low"] is not None:
            axes.plot([apart["low"] * scale, apart["high"] * scale], [place, place], color=color, linewidth=2)
        axes.plot(each["shift"], place, "o" if each["differs"] else "s", color=color, markersize=6)
    axes.set_yticks(range(len(shown)), [each["measure"] for each in shown])
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    _label(axes, colors, "selected less pool, in standard deviations of the pool")
    return figure


def _draw_bands(bands: Sequence[Plain], colors: Palette) -> Any:
    figure, axes = _axes(colors, 2.2)
    total = sum(each["pairs"] for each in bands)
    axes.barh(
        [each["chosen"] for each in bands], [each["pairs"] / total for each in bands], color=colors["line1"], height=0.7
    )
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", color=colors["grid"], linewidth=0.6)
    _label(axes, colors, "share of the pairs, by the length of the chosen response")
    return figure


def _draw_correction(groups: Plain, colors: Palette) -> Any:
    figure, axes = _axes(colors, 3.4)
    axes.grid(axis="y", color=colors["grid"], linewidth=0.7)
    for (name, group), color, style in zip(groups.items(), ("line1", "line2"), ("-o", "--s")):
        rounds = [0, *(each["round"] for each in group["rounds"])]
        means, low, high = ([0.0, *(each["gain"][key] for each in group["rounds"])] for key in ("mean", "low", "high"))
        label = f"{'corrected' if name == 'corrected' else 'control, sampled anew'} ({group['rows']:,} rows)"
        axes.plot(rounds, means, style, color=colors[color], markersize=4, label=label)
        if None not in (*low, *high):
            axes.fill_between(rounds, low, high, color=colors[color], alpha=0.15, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _label(axes, colors, "round", "gain of the score a row")
    _legend(axes, colors)
    return figure


@dataclass(frozen=True)
class _Panel:
    """One of several plots over the same time."""

    label: str
    curves: Mapping[str, Sequence[Sequence[Sequence[float]]]]
    """By name: pieces of a curve, each a list of points (seconds, value)."""
    first_color: int = 0


def _draw_progress(progress: Plain, colors: Palette) -> Any:
    seconds, rows, tokens = zip(*progress["points"])
    panels = [_Panel("rows finished", {"": [[*zip(seconds, rows)]]})]
    if tokens[-1] > 0:
        panels.append(_Panel("tokens finished", {"": [[*zip(seconds, tokens)]]}, first_color=1))
    return _draw_over_time(panels, "since the first record", colors)


def _draw_usage(curves: Sequence[Plain], colors: Palette) -> Any:
    """Money, tokens and requests so far; a gap where no run was under way."""
    panels: list[_Panel] = []
    for unit, label in (("usd", "US dollars so far"), ("tokens", "tokens so far"), ("requests", "requests so far")):
        mine = {each["name"]: each["runs"] for each in curves if each["unit"] == unit}
        if mine:
            panels.append(_Panel(label, mine, first_color=sum(len(panel.curves) for panel in panels)))
    return _draw_over_time(panels, "since the first run began", colors)


def _draw_over_time(panels: Sequence[_Panel], since: str, colors: Palette) -> Any:
    """Curves that grow, one plot below the other."""
    end = max(piece[-1][0] for panel in panels for curve in panel.curves.values() for piece in curve)
    unit, name = next(((u, n) for u, n in ((3600, "hours"), (60, "minutes")) if end >= 2 * u), (1, "seconds"))
    figure, found = _axes(colors, 0.8 + 1.6 * len(panels), len(panels))
    for panel, axes in zip(panels, found if len(panels) > 1 else [found]):
        places = itertools.cycle(LINES[panel.first_color % len(LINES) :] + LINES[: panel.first_color % len(LINES)])
        for label, curve in panel.curves.items():
            color = colors["ink" if label == ALL else next(places)]
            for place, piece in enumerate(curve):
                seconds, values = zip(*piece)
                axes.plot(
                    [each / unit for each in seconds], values, "-o" if len(piece) <= MOST_MARKS else "-", color=color,
                    markersize=3, label=label if label and place == 0 else None,
                )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_format_amount)
        axes.grid(axis="y", color=colors["grid"], linewidth=0.6)
        _label(axes, colors, "", panel.label)
        if any(panel.curves):
            _legend(axes, colors)
    axes.set_xlabel(f"{name} {since}", color=colors["ink"])
    return figure


def _format_amount(value: float, _: int) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
