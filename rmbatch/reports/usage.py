"""What the models of a job have used and cost over all its runs: totals by user, and curves over time with gaps.

describe_usage(runs)          # runs: UsageSeries of each run, as ``jobs/run/usage.py`` reads them
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmbatch.costs.series import ModelUsage, UsageSeries

MOST_POINTS = 400
"""Points of a curve, over all runs."""
MOST_CURVES = 5
"""Curves of one unit; where there are more users, the smallest are one curve."""
UNITS = ("usd", "tokens", "requests")
"""What a curve shows: money where a price is set, else tokens, and requests where no tokens are known."""
OTHERS, ALL = "others", "all"


def describe_usage(runs: Sequence[UsageSeries]) -> dict[str, Any] | None:
    """Totals and curves as plain values. None: no run has used a model.

    ``runs``: seconds since the first run began, at which each began and ended. ``curves``: for each user its unit, and
    for each run its points: seconds since the first run began, and what all runs had used by then.
    """
    runs = sorted((run for run in runs if run.last), key=lambda run: run.began)
    if not runs:
        return None
    first = runs[0].began
    names = list(dict.fromkeys(name for run in runs for name in run.last))
    users = {name: _add_up([run.last[name] for run in runs if name in run.last]) for name in names}
    known = [each["usd"] for each in users.values() if each["usd"] is not None]
    return {
        "begun": first,
        "runs": [[run.began - first, run.began - first + run.points[-1][0]] for run in runs],
        "usd": sum(known) if known else None,
        "users": users,
        "curves": [curve for unit in UNITS for curve in _draw_unit(unit, users, runs)],
    }


def _add_up(parts: Sequence[ModelUsage]) -> dict[str, Any]:
    """What one user has used in all runs."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    is_chat = parts[-1].kind == "chat"
    prices = [part.usd for part in parts if part.usd is not None]
    return {
        "kind": parts[-1].kind,
        "model": parts[-1].model,
        "answers": counts["answers" if is_chat else "requests"],
        "saved_answers": counts["saved_answers"] if is_chat else counts["stored"] + counts["repeated"],
        "failures": counts["failures"],
        "prompt_tokens": counts["prompt_tokens" if is_chat else "tokens"],
        "cached_tokens": counts["cached_tokens"],
        "completion_tokens": counts["completion_tokens"],
        "usd": sum(prices) if prices else None,
        "unpriced_tokens": sum(_count_tokens(part) for part in parts if part.usd is None),
        "untold_answers": counts["untold_answers"],
    }


def _draw_unit(unit: str, users: dict[str, Any], runs: Sequence[UsageSeries]) -> list[dict[str, Any]]:
    """The curves of all users that are shown in this unit, the largest first, and one of their sum."""
    mine = {name: _cumulate(name, unit, runs) for name, used in users.items() if _choose_unit(used) == unit}
    ordered = sorted(mine, key=lambda name: -mine[name][-1][-1][1])
    shown = {name: mine[name] for name in ordered}
    if len(ordered) > MOST_CURVES + 1:
        shown = {name: mine[name] for name in ordered[:MOST_CURVES]}
        shown[OTHERS] = _sum_curves([mine[name] for name in ordered[MOST_CURVES:]])
    if unit == "usd" and len(shown) > 1:
        shown = {ALL: _sum_curves([*mine.values()]), **shown}
    return [{"name": name, "unit": unit, "runs": points} for name, points in shown.items()]


Points = list[list[list[float]]]
"""By run: seconds since the first run began, and what has been used by then."""


def _cumulate(name: str, unit: str, runs: Sequence[UsageSeries]) -> Points:
    """What a user has used by time, in all runs; each run goes on where the one before ended."""
    before, found = 0.0, []
    for run in runs:
        most = max(MOST_POINTS // len(runs), 2)
        places = np.unique(np.linspace(0, len(run.points) - 1, min(len(run.points), most)).round().astype(int))
        points = [run.points[place] for place in places.tolist()]
        start = run.began - runs[0].began
        found.append([[start + at, before + _measure(used.get(name), unit)] for at, used in points])
        before += _measure(run.last.get(name), unit)
    return found


def _sum_curves(curves: Sequence[Points]) -> Points:
    """The sum of curves that have the same points of time."""
    return [
        [[same[0][0], sum(value for _, value in same)] for same in zip(*parts, strict=True)]
        for parts in zip(*curves, strict=True)
    ]


def _choose_unit(used: dict[str, Any]) -> str:
    if used["usd"] is not None:
        return "usd"
    return "tokens" if used["prompt_tokens"] + used["completion_tokens"] else "requests"


def _measure(used: ModelUsage | None, unit: str) -> float:
    if used is None:
        return 0.0
    if unit == "usd":
        return used.usd or 0.0
    return _count_tokens(used) if unit == "tokens" else used.counts.get("answers", 0) + used.counts.get("requests", 0)


def _count_tokens(used: ModelUsage) -> int:
    if used.kind == "chat":
        return used.counts.get("prompt_tokens", 0) + used.counts.get("completion_tokens", 0)
    return used.counts.get("tokens", 0)
