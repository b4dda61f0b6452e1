"""The sections of a report's page about what is picked: best-of-N curves, ties, drift, the lengths of pairs."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.show.report_html import interval, number, paragraph, plot, share, table
from jobs.show.report_scores import describe_sample

Plain = Mapping[str, Any]
Plots = Mapping[str, str]
INTERVAL = "95 % interval"
_N_TO_USE = """
The N to use is the smallest that is not measurably worse than the N of the highest mean: the 95 % interval of their
difference, prompt by prompt, holds 0. It is 1 where no N is measurably better than a random pick. More is worse where
the loss at the largest N is measurably above 0.
"""


def show_curve(report: Plain, plots: Plots) -> Iterator[str]:
    """What the pick out of N candidates is worth."""
    curve, gold, by = report["curve"], report["columns"]["gold"], report["columns"]["by"]
    if not curve or not curve["sizes"]:
        return
    measure = gold or by
    words = (
        f"The mean {measure} of the pick out of N candidates, over {curve['prompts']:,} prompts: each the exact mean "
        "over all subsets of N candidates of a prompt, with ties shared. Intervals are 95 %, by a bootstrap over "
        f"prompts ({curve['replicates']:,} replicates)."
    )
    if curve["prompts_with_fewer"]:
        words += (
            f" {curve['prompts_with_fewer']:,} prompts with fewer than {curve['sizes'][-1]} candidates are left out."
        )
    if curve["without_gold"]:
        words += f" {curve['without_gold']:,} candidates without {measure} are left out."
    yield paragraph(words)
    yield plot(plots, "best_of_n", f"Best-of-N curve: mean {measure} of the pick by N")
    for name, each in sorted(curve["choosers"].items(), key=lambda item: item[0] != by):
        yield _show_points(name, each, curve, measure)
    if gold:
        yield _show_advice(curve)


def _show_points(name: str, each: Plain, curve: Plain, measure: str) -> str:
    rows = [
        [size, point["mean"], interval(point), best["mean"], curve["random"]["mean"]]
        for size, point, best in zip(curve["sizes"], each["points"], curve["oracle"])
    ]
    chosen = [place for place, size in enumerate(curve["sizes"]) if size == each["recommended"] and each["helps"]]
    missing, note = each["without_score"], ""
    if missing:
        note = (
            f"{missing:,} candidates have no {name}: they are never picked before one that has, and alone are worth 0."
        )
    return table(f"Picked by {name}", ["N", measure, INTERVAL, "oracle", "random pick"], rows, chosen, note)


def _show_advice(curve: Plain) -> str:
    rows = [
        [
            name,
            each["recommended"] if each["helps"] or each["gain"]["low"] is None else 1,
            *(each["best"], each["most_of_gain"]),
            *(each["gain"]["mean"], interval(each["gain"]), each["loss"]["mean"], interval(each["loss"])),
            "yes" if each["more_is_worse"] else "no",
        ]
        for name, each in curve["choosers"].items()
    ]
    header = ["score", "N to use", "N of the highest mean", "N of 90 % of the gain", "gain over random", INTERVAL]
    header += [f"loss at N = {curve['sizes'][-1]}", f"{INTERVAL} of the loss", "more is worse"]
    return table("The N to use, by score", header, rows, note=" ".join(_N_TO_USE.split()))


def show_picks(report: Plain, plots: Plots) -> Iterator[str]:
    """How many picks a tie decides, and what was kept."""
    picks, gold = report["picks"], report["columns"]["gold"]
    if picks["kept"]:
        yield paragraph(
            f"{picks['kept']:,} candidates of {picks['kept_prompts']:,} prompts were kept; a tie decided "
            f"{picks['kept_by_tie']:,} of them."
        )
    if picks["worth"]:
        worth = picks["worth"]
        names = {"selected": "selected", "random": "random pick", "oracle": "oracle", "gain": "selected less random"}
        rows = [[label, worth[name]["mean"], interval(worth[name])] for name, label in names.items()]
        note = f"Over {worth['prompts']:,} prompts. Random pick and oracle take as many candidates of each prompt."
        yield table(f"What was kept, by {gold}", ["pick", f"mean {gold}", INTERVAL], rows, note=note)
    rows = [
        [name, each["prompts"], each["tied"], share(each["tied"] / each["prompts"])]
        + ([each["that_matter"]] if gold else [])
        for name, each in picks["ties"].items()
        if each["prompts"]
    ]
    if rows:
        header = ["score", "prompts", "decided by a tie", "share", *(["of them, gold differs"] if gold else [])]
        note = "Prompts whose highest score belongs to several candidates."
        yield table("Picks that a tie decides", header, rows, note=note)
    if report["choices"]:
        rows = [[*each] for each in report["choices"].items()]
        yield table("What became of the candidates", ["outcome", "candidates"], rows)


def show_drift(report: Plain, plots: Plots) -> Iterator[str]:
    """How the selected differ from their pool."""
    drift = report["drift"]
    if not drift:
        return
    against = "their first answers" if report["correction"] else "all candidates of the same prompt"
    yield paragraph(
        f"What was picked against {against}, prompt by prompt, over {drift['prompts']:,} prompts. "
        f"{describe_sample(report)} Where the interval of the difference holds 0, nothing tells them apart."
    )
    yield plot(plots, "drift", "Selected less pool, in standard deviations")
    rows = [
        [
            *(each["measure"], each["selected"], each["pool"], each["difference"]["mean"]),
            *(interval(each["difference"]), each["shift"], each["about"]),
        ]
        for each in drift["measures"]
    ]
    header = ["measure", "selected", "pool", "difference", INTERVAL, "in deviations", "what it is"]
    yield table("Selected against their pool", header, rows)
    languages = drift["languages"]
    if languages:
        rows = [[each["language"], share(each["selected"]), share(each["pool"])] for each in languages["shares"]]
        note = f"Found by py3langid in {languages['texts']:,} responses of the sample; it errs on short texts."
        yield table("Languages", ["language", "selected", "pool"], rows, note=note)


def show_pairs(report: Plain, plots: Plots) -> Iterator[str]:
    """How long the chosen response of a pair is beside the rejected one."""
    pairs = report["pairs"]
    if not pairs:
        return
    total = pairs["pairs"]
    longer, shorter, equal = (pairs[name] / total for name in ("chosen_longer", "chosen_shorter", "equal"))
    chosen, rejected = (number(round(pairs[f"{name}_characters"])) for name in ("chosen", "rejected"))
    yield paragraph(
        f"The best and the worst candidate of a prompt, by the choosing score: {total:,} pairs. The chosen is longer "
        f"in {longer:.1%}, shorter in {shorter:.1%}, as long in {equal:.1%}; on average it has {chosen} characters and "
        f"the rejected one {rejected}. {describe_sample(report)}"
    )
    yield plot(plots, "pair_lengths", "Pairs by the length of the chosen response")
    rows = [[each["chosen"], each["pairs"], share(each["pairs"] / total)] for each in pairs["bands"]]
    header = ["the chosen one is", "pairs", "share"]
    yield table("Length of the chosen response beside the rejected one", header, rows)
