"""Judges each response by itself: on a scale, or by which principles it violates.

Source of the principle-critic-score form: RM-Gallery; of scales: Zheng et al., "Judging LLM-as-a-Judge", 2306.05685.
"""

from typing import Any

from rmbatch.judges import form
from rmbatch.judges.asking import Vote
from rmbatch.judges.kinds.base import Judge, Outcome, Parts, Plan, Responses, enough, told
from rmbatch.judges.kinds.votes import aggregated
from rmbatch.judges.spec import PointwiseSpec


def plan(judge: Judge, responses: Responses) -> Plan:
    """A question for each response that is there."""
    spec = judge.spec
    assert isinstance(spec, PointwiseSpec)
    num_principles = len(judge.principles.principles) if judge.principles else 0
    if spec.score == "violations":
        asked = form.violations(num_principles, critique=spec.critique)
    else:
        asked = form.scale(*spec.scale, whole=spec.whole, critique=spec.critique)
    missing = [responses.missing(place) for place in range(len(responses))]
    there = [place for place, why in enumerate(missing) if why is None]
    questions = [
        judge.question(asked, responses.seen(place), spec.n, [text], response=text)
        for place in there
        for text in [str(responses.responses[place])]
    ]

    def outcomes(votes: list[list[Vote]]) -> Parts:
        found = {place: _outcome(spec, some, num_principles) for place, some in zip(there, votes, strict=True)}
        return {"": [why or found[place] for place, why in enumerate(missing)]}

    return Plan(questions, outcomes)


def _outcome(spec: PointwiseSpec, votes: list[Vote], num_principles: int) -> Outcome:
    good, too_few = enough(votes, spec.quorum)
    if too_few is not None:
        return too_few
    if spec.score == "scale":
        return Outcome(aggregated([vote.value for vote in good], spec.aggregate), reason=told(good, "{:g}".format))
    shares = [1 - len(vote.value) / num_principles for vote in good]
    named = [Vote(vote.value, said=f"{_violated(vote.value)}\n{vote.said}".strip()) for vote in good]
    return Outcome(aggregated(shares, spec.aggregate), reason=told(named, lambda value: f"{len(value)}"))


def _violated(numbers: Any) -> str:
    return f"violates {', '.join(map(str, numbers))}" if numbers else "violates none"
