"""What a report has to say first: sentences about its figures, warnings before all else.

find_all(report)       # [{"level": "warning", "text": "more is worse: …"}, …]
"""

from collections.abc import Iterator, Mapping
from typing import Any

LEVELS = ("warning", "advice", "note")
Plain = Mapping[str, Any]


def find_all(report: Plain) -> list[dict[str, str]]:
    """The sentences of a report, the most urgent first."""
    found = [
        *_about_length(report),
        *_about_curve(report),
        *_about_ties(report),
        *_about_drift(report),
        *_about_nulls(report),
        *_about_rows(report),
        *_about_correction(report),
    ]
    return sorted(found, key=lambda each: LEVELS.index(each["level"]))


def _about_length(report: Plain) -> Iterator[dict[str, str]]:
    for each in report["length"] or []:
        if each["verdict"] not in ("alone", "mostly"):
            continue
        way = "longer" if each["longer"] >= 0.5 else "shorter"
        share = max(each["longer"], 1 - each["longer"])
        text = (
            f"{each['score']} prefers the {way} response in {share:.1%} of the {each['ordered']:,} pairs that it orders"
        )
        end = ": it is response length alone" if each["verdict"] == "alone" else ": it follows response length"
        is_chooser = each["score"] == report["columns"]["by"]
        yield _say("warning" if is_chooser or each["verdict"] == "alone" else "note", text + end + ".")


def _about_curve(report: Plain) -> Iterator[dict[str, str]]:
    curve, by, gold = report["curve"], report["columns"]["by"], report["columns"]["gold"]
    if not curve or not curve["sizes"]:
        return
    if gold is None:
        yield _say(
            "note",
            "No gold score is named, so nothing tells what the picks are worth: the best-of-N curve shows the choosing "
            "score itself, which always rises. Name one with --gold.",
        )
        return
    if curve["sizes"][-1] < 2:
        yield _say("note", "Too few prompts have more than one candidate, so there is no best-of-N curve.")
        return
    for name, each in sorted(curve["choosers"].items(), key=lambda item: item[0] != by):
        yield from _about_chooser(name, each, curve, gold, is_chosen=name == by)


def _about_chooser(name: str, each: Plain, curve: Plain, gold: str, *, is_chosen: bool) -> Iterator[dict[str, str]]:
    points = dict(zip(curve["sizes"], each["points"]))
    best, largest, recommended = each["best"], each["largest"], each["recommended"]
    if each["more_is_worse"]:
        loss = each["loss"]
        yield _say(
            "warning",
            f"More is worse: picking by {name}, N = {largest} is worth {_number(points[largest]['mean'])} {gold} and "
            f"N = {best} {_number(points[best]['mean'])}. N = {largest} costs {_number(loss['mean'])} "
            f"({_interval(loss)}).",
        )
    if each["harms"]:
        yield _say(
            "warning",
            f"Picking by {name} at N = {largest} is worse than picking at random: {_number(points[largest]['mean'])} "
            f"against {_number(curve['random']['mean'])} {gold}.",
        )
    if not is_chosen:
        return
    if each["best_gain"]["low"] is None:
        yield _say(
            "note",
            f"{curve['prompts']:,} prompts are too few for intervals. On them alone the mean is highest at N = {best}: "
            f"{_number(points[best]['mean'])} {gold}; at N = {largest} it is {_number(points[largest]['mean'])}, and "
            f"{_number(curve['random']['mean'])} for a random pick.",
        )
        return
    if not each["helps"]:
        yield _say(
            "advice",
            f"These {curve['prompts']:,} prompts do not show that picking by {name} is better than a random pick: the "
            f"mean is highest at N = {best}, {_number(points[best]['mean'])} {gold}, "
            f"{_signed(each['best_gain']['mean'])} against a random pick ({_interval(each['best_gain'])}). Until more "
            "prompts tell, use N = 1.",
        )
        return
    text = (
        f"Use N = {recommended} when picking by {name}: worth {_number(points[recommended]['mean'])} {gold}, "
        f"{_signed(each['gain']['mean'])} against a random pick ({_interval(each['gain'])})."
    )
    if recommended < best:
        text += (
            f" The highest mean is {_number(points[best]['mean'])} at N = {best}; the {curve['prompts']:,} prompts do "
            "not tell the two apart."
        )
    yield _say("advice", text)


def _about_ties(report: Plain) -> Iterator[dict[str, str]]:
    picks = report["picks"]
    if not picks:
        return
    ties, gold = picks["ties"].get(picks["by"]), report["columns"]["gold"]
    if picks["kept"]:
        tied, of, differ = picks["kept_by_tie"], picks["kept"], picks["ties_that_matter"]
        text = f"A tie decided {tied:,} of {of:,} picks ({tied / of:.1%})"
    elif ties and ties["prompts"]:
        tied, of, differ = ties["tied"], ties["prompts"], ties["that_matter"]
        text = f"A tie decides the pick by {picks['by']} for {tied:,} of {of:,} prompts ({tied / of:.1%})"
    else:
        return
    matter = tied
    if gold is not None and tied and differ is not None:
        matter = differ
        text += f"; in {matter:,} prompts the tied candidates differ in {gold}"
    yield _say("warning" if matter >= 0.2 * of else "note", f"{text}.")


def _about_drift(report: Plain) -> Iterator[dict[str, str]]:
    for each in (report["drift"] or {}).get("measures", []):
        if each["differs"] and each["shift"] is not None and abs(each["shift"]) >= 0.2:
            yield _say(
                "note",
                f"Selected responses differ from their pool in {each['measure']}: {_number(each['selected'])} against "
                f"{_number(each['pool'])} ({each['shift']:+.2f} standard deviations).",
            )


def _about_nulls(report: Plain) -> Iterator[dict[str, str]]:
    for name, each in report["scores"].items():
        total = each["count"] + each["nulls"] + each["infinite"]
        if total and each["nulls"] / total >= 0.01:
            yield _say(
                "note", f"{each['nulls']:,} of {total:,} candidates ({each['nulls'] / total:.1%}) have no {name}."
            )


def _about_rows(report: Plain) -> Iterator[dict[str, str]]:
    missing = sum(report["rows"].get(part, 0) for part in ("data", "rejected")) - report["read_rows"]
    if missing > 0:
        yield _say(
            "note",
            f"{missing:,} rejected rows were not written (output.rejected: drop): no figure is about them"
            + ("." if report["has_pools"] else ", and nothing is compared with the pools that they were in."),
        )


def _about_correction(report: Plain) -> Iterator[dict[str, str]]:
    found = report["correction"]
    if not found or not found["gains"]:
        return
    groups, apart = found["gains"]["groups"], found["gains"]["apart"]
    if "corrected" in groups and groups["corrected"]["rounds"]:
        last = groups["corrected"]["rounds"][-1]
        text = f"Correction gained {_number(last['gain']['mean'])} a row in {last['round']} rounds"
        text += f" ({_interval(last['gain'])})"
        if apart is None:
            yield _say("note", f"{text}. There was no control, so sampling anew might have gained as much.")
        else:
            level = "warning" if apart["low"] is None or apart["low"] <= 0 else "note"
            yield _say(
                level,
                f"{text}, {_signed(apart['mean'])} against the control that was sampled anew ({_interval(apart)}).",
            )


def _say(level: str, text: str) -> dict[str, str]:
    return {"level": level, "text": text}


def _interval(mean: Plain) -> str:
    if mean["low"] is None:
        return "too few for an interval"
    return f"95 % interval {_number(mean['low'])} to {_number(mean['high'])}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.4g}"


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+,.4g}"
