"""The sections of a report's page about scores: their distributions, their agreement, and why some are missing."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.show.report_html import heading, paragraph, plot, share, table
from jobs.show.report_plots import score_plot

Plain = Mapping[str, Any]
Plots = Mapping[str, str]
_QUANTILES = {"0.05": "5 %", "0.25": "25 %", "0.5": "median", "0.75": "75 %", "0.95": "95 %"}
_FIGURES = ("candidates", "no score", "mean", "deviation", "min", *_QUANTILES.values(), "max")
_LENGTH = {"alone": "length alone", "mostly": "mostly length", "little": "no", "unknown": "too few pairs"}


def show_scores(report: Plain, plots: Plots) -> Iterator[str]:
    """The distribution of each score, and of each by source."""
    scores = report["scores"]
    if not scores:
        return
    rows = [[name, *_describe(each)] for name, each in scores.items()]
    yield table("Distribution of each score", ["score", *_FIGURES], rows)
    pictures = [
        f"<div>{heading(name)}{plot(plots, score_plot(name), f'Distribution of {name}', _caption(each))}</div>"
        for name, each in scores.items()
        if score_plot(name) in plots
    ]
    yield f'<div class="plots">{"".join(pictures)}</div>'
    by_source = [
        [source, name, *_describe(own)] for name, each in scores.items() for source, own in each["sources"].items()
    ]
    if by_source:
        yield table("Scores by source", ["source", "score", *_FIGURES], by_source)


def _caption(each: Plain) -> str:
    words = f"Share of the {each['count']:,} candidates with a score."
    if each["bin_width"] is not None:
        words += " Values below 0.1 % and above 99.9 % are in the outermost bars."
    return words


def _describe(each: Plain) -> list[Any]:
    quantiles = [each["quantiles"][name] for name in _QUANTILES]
    ends = [each["mean"], each["deviation"], each["min"]]
    return [each["count"] + each["infinite"], each["nulls"], *ends, *quantiles, each["max"]]


def show_agreement(report: Plain, plots: Plots) -> Iterator[str]:
    """How far scores agree with each other, and with the length of the response."""
    found = report["agreement"]
    if found and found["pairs"]:
        sample = "" if found["prompts"] >= found["of"] else f", a random sample of the {found['of']:,}"
        yield paragraph(
            "Of two candidates of a prompt that both scores order, how often they agree which is better, over "
            f"{found['prompts']:,} prompts with several candidates{sample}; 50 % is chance."
        )
        yield plot(plots, "agreement", "Agreement between the scores")
        rows = [
            [
                *(each["first"], each["second"], share(each["agreement"]), each["ordered"], each["pairs"]),
                *(share(each["same_pick"]), each["prompts"]),
            ]
            for each in found["pairs"]
        ]
        header = ["score", "other score", "agree on pairs", "pairs both order", "pairs with both scores"]
        yield table("Agreement between scores", [*header, "same pick", "prompts"], rows)
    if report["length"]:
        rows = [
            [
                *(each["score"], share(each["longer"]), each["ordered"], share(each["decides"])),
                _LENGTH[each["verdict"]],
            ]
            for each in report["length"]
        ]
        header = ["score", "prefers the longer", "pairs that it orders", "share of all pairs", "is it length?"]
        note = f"Pairs of candidates of a prompt that differ in characters. {describe_sample(report)}"
        yield table("Does a score follow response length?", header, rows, note=note)


def describe_sample(report: Plain) -> str:
    """Over how many prompts a figure about texts is."""
    sample = report["sample"]
    if sample["prompts"] >= sample["of"]:
        return f"Over all {sample['of']:,} prompts."
    return f"Over {sample['prompts']:,} of {sample['of']:,} prompts, a sample spread evenly over the files."


def show_nulls(report: Plain, plots: Plots) -> Iterator[str]:
    """Why candidates have no score, and rows no candidates."""
    if report["nulls"]:
        rows = [
            [each["score"], each["code"], each["count"], share(each["count"] / max(each["of"], 1))]
            for each in report["nulls"]
        ]
        yield table("Why candidates have no score", ["score", "code", "candidates", "share of all"], rows)
    for name, caption, what in (
        ("generation_errors", "Candidates that could not be generated", "candidates"),
        ("dead", "Dead letters", "rows"),
    ):
        if report[name]:
            yield table(caption, ["code", what], [[*each] for each in report[name].items()])
