"""The sections of a report's page about the job's work: rounds of correction, throughput, cost."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.show.report_html import interval, number, paragraph, plot, table

Plain = Mapping[str, Any]
Plots = Mapping[str, str]
GROUPS = ("corrected", "control")


def show_correction(report: Plain, plots: Plots) -> Iterator[str]:
    """What correction has gained in each round, beside its control."""
    found = report["correction"]
    if not found:
        return
    if found["gains"]:
        yield from _show_gains(found["gains"], plots)
    rows = [
        [
            *(name, place, each["rows"], each["edits"], each["accepted"], each["gain"] / max(each["rows"], 1)),
            *(each["tokens"], 1000 * each["gain"] / each["tokens"] if each["tokens"] else None),
            ", ".join(f"{key} {count:,}" for key, count in each["held_out"].items()) or None,
        ]
        for name in GROUPS
        for place, each in enumerate(found[name]["rounds"], 1)
    ]
    if rows:
        header = ["group", "round", "open rows", "edits", "accepted", "gain a row", "tokens", "gain for 1,000 tokens"]
        yield table("Rounds, as the job counted them", [*header, "held-out judge"], rows)
    for key, caption, header in (
        ("outcomes", "What became of the rows", ["group", "outcome", "rows"]),
        ("decisions", "What was decided about the edits", ["group", "decision", "edits"]),
    ):
        rows = [[name, code, count] for name in GROUPS for code, count in found[name][key].items()]
        if rows:
            yield table(caption, header, rows)


def _show_gains(gains: Plain, plots: Plots) -> Iterator[str]:
    words = "The score of the rows that entered, less that of their first answers; a row that is done keeps its score."
    if gains["apart"]:
        apart = gains["apart"]
        words += f" In the end corrected rows gained {number(apart['mean'])} more than the control ({interval(apart)})."
    else:
        words += " There was no control (correct.control), so nothing tells what sampling anew would have gained."
    yield paragraph(words)
    yield plot(plots, "correction", "Gain after each round")
    rows = [
        [name, each["round"], each["gain"]["mean"], interval(each["gain"]), each["tokens"], group["rows"]]
        for name, group in gains["groups"].items()
        for each in group["rounds"]
    ]
    header = ["group", "round", "gain so far", "95 % interval", "tokens a row so far", "rows"]
    yield table("Gain after each round", header, rows)


def _show_usage(usage: Plain, plots: Plots) -> Iterator[str]:
    """What models have used and cost in all runs."""
    users, num_runs = usage["users"], len(usage["runs"])
    gaps = {name: _describe_gaps(used) for name, used in users.items()}
    runs = "its one run" if num_runs == 1 else f"its {num_runs:,} runs"
    is_whole = not any(gap for name, gap in gaps.items() if users[name]["kind"] == "chat") and not usage["damaged"]
    if all(used["kind"] != "chat" for used in users.values()):
        words = f"The job used reward models, which have no price, in {runs}."
    elif usage["usd"] is None:
        words = f"No price is set for the chat models that the job asked in {runs}, so their cost is not known."
    else:
        least = "" if is_whole else "at least "
        words = f"Chat models cost the job {least}${number(usage['usd'])} in {runs}."
    if usage["damaged"]:
        words += f" The usage of {usage['damaged']:,} further runs cannot be read."
    yield paragraph(f"{words} A run that was killed lacks what it used in its last seconds.")
    caption = "Between the runs there are gaps." if num_runs > 1 else ""
    yield plot(plots, "usage", "What models have cost and used over time", caption)
    rows = [
        [
            *(name, used["model"], used["usd"], gaps[name] or None, used["answers"], used["saved_answers"]),
            *(used["failures"], used["prompt_tokens"], used["cached_tokens"]),
            used["completion_tokens"] if used["kind"] == "chat" else None,
        ]
        for name, used in users.items()
    ]
    header = ["used by", "model", "US dollars", "not in it", "answers", "kept or equal answers", "without an answer"]
    header += ["prompt tokens", "of them cached", "generated tokens"]
    yield table("Models, in all runs", header, rows)


def _describe_gaps(used: Plain) -> str:
    """What the money does not cover; empty where it covers all."""
    if used["kind"] != "chat":
        return "a reward model has no price"
    found = []
    if used["usd"] is None:
        found.append("no price is set")
    elif used["unpriced_tokens"]:
        found.append(f"{used['unpriced_tokens']:,} tokens of runs without a price")
    if used["untold_answers"]:
        found.append(f"the tokens of {used['untold_answers']:,} answers were not told")
    return "; ".join(found)


def show_costs(report: Plain, plots: Plots) -> Iterator[str]:
    """How fast the output grew, and what models have cost."""
    progress, costs = report["progress"], report["costs"] or {}
    if progress:
        span = progress["ended"] - progress["begun"]
        rate = f", {number(progress['rows_per_s'])} rows a second from there on" if progress["rows_per_s"] else ""
        yield paragraph(
            f"{progress['rows']:,} rows in {progress['records']:,} records, the last {number(round(span, 1))} s after "
            f"the first{rate}."
        )
        yield plot(plots, "progress", "Rows finished over time")
    if report["usage"]:
        yield from _show_usage(report["usage"], plots)
    if costs.get("work_seconds"):
        yield paragraph(
            f"The last run worked for {number(round(costs['work_seconds'], 1))} s of its "
            f"{number(round(costs['seconds'], 1))} s: {number(costs['rows_per_s'])} rows and "
            f"{number(round(costs['bytes_per_s'] / 1e6, 3))} MB a second."
        )
    for kind, caption in (("judged", "Chat models, in the last run"), ("served", "Reward models, in the last run")):
        used = costs.get(kind) or {}
        names = [key for each in used.values() for key, value in each.items() if not isinstance(value, dict | list)]
        if used:
            names = list(dict.fromkeys(names))
            rows = [[name, *(each.get(key) for key in names)] for name, each in used.items()]
            yield table(caption, ["used by", *(name.replace("_", " ") for name in names)], rows)
