"""Checks a judge's verdicts on a few rows before it is paid for all: are they readable, do they differ, are they fair?

    judge_findings(rmbatch.judge("pairwise", …), flatten(first_rows, roles))

This sends a few requests, which cost money.
"""

import statistics
from collections import Counter
from collections.abc import Iterator

from connectors.errors import JobError, UserError
from rmbatch.doctor.findings import Finding
from rmbatch.judges.kinds.pairwise import CONSISTENCY
from rmbatch.judges.reward import JudgeReward
from rmbatch.rewards.contract import Scores
from rmbatch.rows.roles import FlatView

MIN_READABLE = 0.5
"""Share of verdicts; with fewer a job is not worth its price."""
MIN_CONSISTENT = 0.7
"""Share of pairs; GPT-4 had 0.65, and 0.77 with examples, on answers of close quality (arXiv 2306.05685, table 2)."""
MIN_SCORES = 4
"""With fewer scores it means little that all are the same."""


def judge_findings(judge: JudgeReward, view: FlatView) -> list[Finding]:
    """The findings; a failure would make the job's scores useless. Raises UserError for missing columns."""
    if judge.spec.serve is not None:
        return [Finding("warning", "server", f"only the job itself serves {judge.spec.serve.model}; not asked")]
    if judge.takes_offsets and view.offsets is None:
        return [Finding("warning", "rows", "flat rows are compared only in the job, where they are grouped; not asked")]
    try:
        parts = judge.score_parts(view.column, view.num_candidates, view.offsets)
    except UserError:
        raise
    except JobError as error:
        return [Finding("failure", "server", str(error))]
    return [Finding("ok", "server", f"answers at {judge.spec.service_name}"), *_check_scores(parts)]


def _check_scores(parts: dict[str, Scores]) -> Iterator[Finding]:
    scores = [score for score in parts[""].score.to_pylist() if score is not None]
    assert parts[""].error is not None
    errors = Counter(parts[""].error.drop_null().to_pylist())
    yield _check_verdicts(len(scores), errors)
    if len(scores) >= MIN_SCORES:
        yield _check_spread(scores)
    if CONSISTENCY in parts and (message := parts[CONSISTENCY].score.drop_null().to_pylist()):
        yield _check_consistency(statistics.fmean(message))


def _check_verdicts(num_scores: int, errors: Counter[str]) -> Finding:
    of_judge = {error: number for error, number in errors.items() if not error.startswith(("missing_", "nothing_to"))}
    num_failed = sum(of_judge.values())
    if not num_failed:
        return Finding("ok", "verdicts", f"{num_scores} scores of {num_scores + errors.total()} responses")
    worst = max(of_judge, key=lambda error: of_judge[error])
    share = num_scores / (num_scores + num_failed)
    message = f"{num_failed} of {num_scores + num_failed} have no score, mostly {worst[:300]}"
    return Finding("failure" if share < MIN_READABLE else "warning", "verdicts", message)


def _check_spread(scores: list[float]) -> Finding:
    if len(set(scores)) == 1:
        cure = "; a finer scale, principles or another kind of judge may tell them apart"
        return Finding("warning", "spread", f"all {len(scores)} scores are {scores[0]:g}{cure}")
    message = f"scores from {min(scores):g} to {max(scores):g}, mean {statistics.fmean(scores):.3g}"
    most, number = Counter(scores).most_common(1)[0]
    return Finding("ok", "spread", f"{message}; the commonest is {most:g}, {number / len(scores):.0%} of them")


def _check_consistency(share: float) -> Finding:
    message = f"both orders agree in {share:.0%} of pairs"
    if share < MIN_CONSISTENT:
        return Finding(
            "warning", "places", f"{message}; the others count as ties: the judge goes by places, or cannot tell"
        )
    return Finding("ok", "places", message)
