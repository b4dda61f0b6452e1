"""What is said of a response in the end: a score with its reason, or an error. Outcomes become columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rmbatch.judges.asking import Vote
from rmbatch.rewards.contract import STEPS, Scores
from rmbatch.rows.messages import TEXT


@dataclass(frozen=True)
class Outcome:
    """What is said of one response; either a score, or an error."""

    score: float | None = None
    error: str | None = None
    """``stable_code: message``."""
    reason: str | None = None
    steps: Sequence[float] | None = None


def check_quorum(votes: Sequence[Vote], quorum: int) -> tuple[list[Vote], Outcome | None]:
    """The votes that could be read; and, where those are too few, the outcome that says so."""
    good = [vote for vote in votes if vote.error is None]
    if len(good) >= quorum:
        return good, None
    bad = next(vote for vote in votes if vote.error is not None)
    said = "\n\n".join(vote.said for vote in votes if vote.said)
    return good, Outcome(error=bad.error, reason=said or None)


def without_comparison(score: float | None) -> Outcome:
    """The outcome of a response that cannot be compared: ``score``, or an error where that is None."""
    why = "the prompt has no other response that differs"
    return Outcome(error=f"nothing_to_compare: {why}") if score is None else Outcome(score, reason=why)


def join_reasons(votes: Sequence[Vote], show: Callable[[Any], str]) -> str | None:
    """The reasons of votes; of several, each after its verdict."""
    if len(votes) == 1:
        return votes[0].said or None
    return "\n\n".join(f"[{show(vote.value)}] {vote.said}".strip() for vote in votes)


def as_scores(outcomes: Sequence[Outcome], has_steps: bool) -> Scores:
    """The outcomes as columns."""
    steps = pa.array([each.steps for each in outcomes], STEPS) if has_steps else None
    return Scores(
        pa.array([each.score for each in outcomes], pa.float64()),
        pa.array([each.error for each in outcomes], TEXT),
        pa.array([each.reason for each in outcomes], TEXT),
        steps,
    )
