"""What an evaluation says: figures with intervals, comparisons with corrected p, and lines about what needs no skill.

Everything here is plain values, so a report is JSON, a table or a plot.

    report = summarise({"rewardbench": (suite, result)}, ["ours", "judge"], [("ours", "judge")])
    report["suites"]["rewardbench"]["rewards"]["ours"]["figures"]["overall"]["fair"]
    leaderboard(report)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rmbatch.evaluation.base import Suite
from rmbatch.evaluation.figures import Value
from rmbatch.evaluation.statistics import (
    adjust_holm,
    bootstrap_p,
    detectable_difference,
    interval,
    mcnemar,
    standard_error,
)
from rmbatch.evaluation.tally import CONTROL, Comparison, SuiteResult

DIGITS = 12
"""Decimals that are kept: sums in another order may differ in the last ones."""
SAME_PICK = 0.9
"""From this agreement on, a reward no better than length is said to be length, even where both are at chance."""


def summarise(
    results: Mapping[str, tuple[Suite, SuiteResult]],
    names: Sequence[str],
    compare: Sequence[tuple[str, str]],
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The report of all suites, as plain values. Holm's correction is over all comparisons of rewards.

    ``names``: the rewards. A suite without verdicts of a reward leaves it out. ``labels``: by suite, its title.
    """
    suites = {
        name: _describe_suite(suite, result, [each for each in names if each in result.figures])
        for name, (suite, result) in results.items()
    }
    for name, label in (labels or {}).items():
        suites[name]["title"] = label
    comparisons = [
        {"suite": name, **_describe_comparison(*pair, result.comparisons[pair])}
        for name, (_, result) in results.items()
        for pair in compare
        if pair in result.comparisons
    ]
    adjusted = adjust_holm(np.array([np.nan if each["p"] is None else each["p"] for each in comparisons], dtype=float))
    for each, p in zip(comparisons, adjusted):
        each["p_holm"] = _plain(p)
    return {"suites": suites, "comparisons": comparisons}


def leaderboard(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line a suite and reward; of a suite the best worst case first, so what has no score lifts nobody."""
    found: list[dict[str, Any]] = []
    for name, suite in report["suites"].items():
        lines = [
            {"suite": name, "reward": reward, **each["figures"][suite["main"]], "says": each["says"]}
            for reward, each in suite["rewards"].items()
        ]
        found += sorted(lines, key=lambda line: -1.0 if line["worst"] is None else line["worst"], reverse=True)
    return found


def _describe_suite(suite: Suite, result: SuiteResult, names: Sequence[str]) -> dict[str, Any]:
    controls = [name.removeprefix(CONTROL) for name in result.figures if name.startswith(CONTROL)]
    return {
        "suite": suite.name,
        "title": suite.title,
        "main": suite.main,
        "items": result.num_items,
        "official": suite.official,
        "source": suite.source,
        "rewards": {name: _describe_reward(suite, result, name, controls) for name in names},
        "controls": {name: describe_figures(result.figures[CONTROL + name]) for name in controls},
    }


def _describe_reward(suite: Suite, result: SuiteResult, name: str, controls: Sequence[str]) -> dict[str, Any]:
    figures = describe_figures(result.figures[name])
    against = {
        control: {
            **_describe_comparison(name, control, result.comparisons[name, CONTROL + control]),
            "same_pick": _plain(result.agreement.get((name, CONTROL + control), np.nan)),
        }
        for control in controls
        if (name, CONTROL + control) in result.comparisons
    }
    error = standard_error(result.figures[name][suite.main].fair[1:])
    return {
        "figures": figures,
        "details": dict(suite.details(result.sums[name])),
        "ties": result.num_ties.get(name, 0),
        "against": against,
        "detectable_difference": _plain(detectable_difference(error * np.sqrt(2))),
        "says": _say(name, against, figures[suite.main]),
    }


def describe_figures(figures: Mapping[str, Value]) -> dict[str, dict[str, Any]]:
    """Figures as plain values, the fair number with its interval."""
    found = {}
    for name, value in figures.items():
        low, high = interval(value.fair[1:])
        found[name] = {
            "official": _plain(value.official[0]),
            "fair": _plain(value.fair[0]),
            "low": _plain(low),
            "high": _plain(high),
            "worst": _plain(value.worst[0]),
            "best": _plain(value.best[0]),
            "coverage": _plain(value.coverage[0]),
            "items": _plain(value.num_items),
        }
    return found


def _describe_comparison(first: str, second: str, comparison: Comparison) -> dict[str, Any]:
    """The difference of two scorers in the fair main figure, on items that both have scored."""
    replicates = comparison.first.fair[1:] - comparison.second.fair[1:]
    difference = comparison.first.fair[0] - comparison.second.fair[0]
    low, high = interval(replicates)
    counts = comparison.discordance
    is_exact = counts.binary and counts.items and comparison.counts_items
    exact = mcnemar(counts.only_first, counts.only_second) if is_exact else np.nan
    resampled = bootstrap_p(replicates) if counts.items else np.nan
    return {
        "first": first,
        "second": second,
        "items": counts.items,
        "first_fair": _plain(comparison.first.fair[0]),
        "second_fair": _plain(comparison.second.fair[0]),
        "difference": _plain(difference),
        "low": _plain(low),
        "high": _plain(high),
        "only_first": counts.only_first,
        "only_second": counts.only_second,
        "p_mcnemar": _plain(exact),
        "p_bootstrap": _plain(resampled),
        "p": _plain(resampled if np.isnan(exact) else exact),
        "detectable_difference": _plain(detectable_difference(standard_error(replicates))),
    }


def _say(name: str, against: Mapping[str, Mapping[str, Any]], main: Mapping[str, Any]) -> list[str]:
    """Lines about what explains the main figure without skill."""
    lines = []
    if main["fair"] is not None and main["low"] is None:
        lines.append("no interval: some subsets have so few items that no draw of the prompts holds all of them")
    chance = against.get("constant")
    at_chance = chance is not None and _is_no_better(chance)
    if chance is not None and at_chance:
        lines.append(
            f"no better than chance: {name} {_show(chance['first_fair'])}, chance {_show(chance['second_fair'])}"
        )
    length = _find_length(against, at_chance)
    if length is not None:
        same = "" if length["same_pick"] is None else f", and both pick the same in {length['same_pick']:.0%}"
        lines.append(
            f"length alone explains it: {name} {_show(length['first_fair'])}, picking the {length['second']} response "
            f"{_show(length['second_fair'])}{same}"
        )
    nothing = against.get("says_nothing_is_wrong")
    if nothing is not None and _is_no_better(nothing):
        lines.append(f"no better than saying that nothing is wrong ({_show(nothing['second_fair'])})")
    coverage = main["coverage"]
    if coverage is not None and coverage < 1:
        lines.append(f"{1 - coverage:.1%} of it has no score; see worst and best case")
    return lines


def _find_length(against: Mapping[str, Mapping[str, Any]], at_chance: bool) -> Mapping[str, Any] | None:
    """The comparison with picking by length that explains a figure: the reward is no better than it.

    Either it picks the same, or it is no better than the better one of longest and shortest, though better than chance.
    """
    lengths = [against[each] for each in ("longest", "shortest") if each in against]
    lengths.sort(key=lambda each: -1.0 if each["second_fair"] is None else each["second_fair"], reverse=True)
    for place, each in enumerate(lengths):
        alike = (each["same_pick"] or 0.0) >= SAME_PICK
        if _is_no_better(each) and (alike or (place == 0 and not at_chance)):
            return each
    return None


def _is_no_better(comparison: Mapping[str, Any]) -> bool:
    """Whether the interval of the difference reaches 0, or nothing was scored; no interval says nothing."""
    low = comparison["low"]
    return comparison["difference"] is None if low is None else bool(low <= 0)


def _show(figure: float | None) -> str:
    return "no score" if figure is None else f"{figure:.3f}"


def _plain(number: Any) -> Any:
    """The number as JSON holds it: rounded, null for NaN, whole numbers as such."""
    found = float(number)
    if np.isnan(found):
        return None
    return int(found) if found.is_integer() and abs(found) > 1 else round(found, DIGITS)
