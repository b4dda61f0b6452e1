"""Reads the metrics that verl's file logger writes, over all attempts of a training.

points = join_attempts([read_metrics(first), read_metrics(second)])
points[20]["train/loss"], last_value(points, "held_out/accuracy")
"""

import json
import math
from collections.abc import Mapping, Sequence

Points = dict[int, dict[str, float]]
"""By step: metrics by name."""


def read_metrics(text: str) -> Points:
    """The metrics of one attempt. A last line that is not whole is left out, and so are values that are no numbers."""
    points: Points = {}
    for line in text.splitlines():
        try:
            read = json.loads(line)
            step, data = int(read["step"]), dict(read["data"])
        except (ValueError, KeyError, TypeError):
            continue
        numbers = {name: float(value) for name, value in data.items() if _is_number(value)}
        points.setdefault(step, {}).update(numbers)
    return dict(sorted(points.items()))


def join_attempts(attempts: Sequence[Points]) -> Points:
    """The metrics of all attempts, in order: what a later one has trained again counts instead of the earlier."""
    joined: Points = {}
    for points in attempts:
        if not points:
            continue
        first = min(points)
        joined = {step: values for step, values in joined.items() if step <= first}
        for step, values in points.items():
            joined[step] = joined.get(step, {}) | values
    return joined


def last_value(points: Points, name: str) -> float | None:
    """The latest value of a metric; None: it was never told."""
    return next((points[step][name] for step in sorted(points, reverse=True) if name in points[step]), None)


def first_value(points: Points, name: str) -> float | None:
    """The earliest value of a metric; None: it was never told."""
    return next((points[step][name] for step in sorted(points) if name in points[step]), None)


def series(points: Points, name: str) -> list[tuple[int, float]]:
    """A metric over the steps."""
    return [(step, values[name]) for step, values in sorted(points.items()) if name in values]


def plot_curves(points: Points, titles: Mapping[str, Sequence[str]], file: str) -> bool:
    """Draw the curves as a PNG; False: matplotlib is not installed, or there is nothing to draw."""
    shown = {
        title: {name: series(points, name) for name in names if series(points, name)} for title, names in titles.items()
    }
    shown = {title: lines for title, lines in shown.items() if lines}
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    if not shown:
        return False
    figure = Figure(figsize=(7, 2.6 * len(shown)), layout="constrained")
    for place, (title, lines) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(len(shown), 1, place)
        for name, values in lines.items():
            axes.plot([step for step, _ in values], [value for _, value in values], marker=".", label=name)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
