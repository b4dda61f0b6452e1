"""What a correction has come to, for people: outcomes, rounds, what was accepted, what it cost, and its control.

correction_lines(tally, costs)                    # names and values for the table of a result
correction_note(tally)                            # one line while the job runs; empty where nothing was corrected
"""

from collections.abc import Mapping, Sequence

from rmbatch.stages.tally import CorrectionCount, Tally

WRITERS = "correct."
"""Beginning of the names of editors and critics among those who are asked."""


def correction_lines(tally: Tally, usd: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """Of a finished job. ``usd``: what each asker has cost in this run."""
    outcomes, rounds = tally.outcomes(), tally.rounds()
    if not outcomes and not tally.outcomes(is_control=True):
        return []
    lines = [("corrected", _join(outcomes)), ("edits", _join(tally.decisions()) or "none")]
    lines += [(f"round {number}", _describe_round(each)) for number, each in enumerate(rounds, 1)]
    if rounds:
        lines.append(("correction", _describe_sum(rounds, outcomes, _sum_usd(usd))))
    if control := tally.rounds(is_control=True):
        held_back = tally.outcomes(is_control=True)
        lines.append(("control", f"{_describe_sum(control, held_back, None)}, by resampling; {_join(held_back)}"))
    return lines


def correction_note(tally: Tally) -> str:
    """How a correction goes."""
    rounds = tally.rounds()
    if not rounds:
        return ""
    told = ", ".join(
        f"round {number} {each.rows:,} rows {_share(each.accepted, each.rows)} accepted {_number(each.gain)} gained"
        for number, each in enumerate(rounds, 1)
    )
    return f"corrected: {told}"


def _describe_round(each: CorrectionCount) -> str:
    told = [
        f"{each.rows:,} rows",
        f"{each.edits:,} edits",
        f"{each.accepted:,} accepted ({_share(each.accepted, each.rows)} of the rows)",
        f"score +{_number(each.gain / each.rows)} a row",
        _describe_tokens(each.tokens, each.untold),
    ]
    if each.held_out:
        told.append(f"held-out judge: {_join(each.held_out)}")
    return ", ".join(told)


def _describe_sum(rounds: Sequence[CorrectionCount], outcomes: Mapping[str, int], usd: float | None) -> str:
    rows, gain = rounds[0].rows, sum(each.gain for each in rounds)
    tokens, accepted = sum(each.tokens for each in rounds), sum(each.accepted for each in rounds)
    told = [
        f"{rows:,} rows edited",
        f"{outcomes.get('target', 0) + outcomes.get('improved', 0):,} better",
        f"score +{_number(gain / rows)} a row",
        f"{tokens / rows:,.0f} tokens a row",
    ]
    if tokens:
        told.append(f"+{_number(1000 * gain / tokens)} for 1,000 tokens")
    if accepted:
        told.append(f"{tokens / accepted:,.0f} tokens for each accepted edit")
    if usd and accepted:
        told.append(f"${usd / accepted:,.4f} for each accepted edit in this run")
    return ", ".join(told)


def _describe_tokens(tokens: int, untold: int) -> str:
    return f"{tokens:,} tokens" + (f" (of {untold:,} rows not known)" if untold else "")


def _sum_usd(usd: Mapping[str, float | None]) -> float | None:
    """What editors and critics have cost; None where that is not known."""
    costs = [cost for name, cost in usd.items() if name.startswith(WRITERS)]
    return None if None in costs or not costs else sum(cost for cost in costs if cost is not None)


def _join(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.0%}"


def _number(value: float) -> str:
    return f"{value:.3g}"
