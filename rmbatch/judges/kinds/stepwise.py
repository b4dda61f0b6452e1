"""Judges the steps of each response, all steps of one in one question, so that the conversation is read once.

Source: Lightman et al., "Let's Verify Step by Step", arXiv 2305.20050; as questions to a model: Zheng et al.,
"ProcessBench", arXiv 2412.06559.
"""

import math
import re
from collections.abc import Callable, Sequence

from rmbatch.judges import form
from rmbatch.judges.asking import Vote
from rmbatch.judges.kinds.base import Judge, Outcome, Parts, Plan, Responses, enough, told
from rmbatch.judges.kinds.votes import aggregated
from rmbatch.judges.spec import StepwiseSpec

_SPLITS = {"paragraphs": re.compile(r"\n[ \t]*\n\s*"), "lines": re.compile(r"\n")}
_OVER_STEPS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda steps: sum(steps) / len(steps),
    "prod": math.prod,
    "last": lambda steps: steps[-1],
}


def plan(judge: Judge, responses: Responses) -> Plan:
    """A question for each response that has steps."""
    spec = judge.spec
    assert isinstance(spec, StepwiseSpec)
    missing = [responses.missing(place) for place in range(len(responses))]
    steps: dict[int, list[str]] = {}
    questions = []
    for place, why in enumerate(missing):
        if why is not None:
            continue
        text = str(responses.responses[place])
        found = split(text, spec.split)
        if not found:
            missing[place] = Outcome(error="no_steps: the response is empty")
            continue
        steps[place] = found
        asked = form.numbers_of_steps(len(found), *spec.scale, whole=spec.whole, critique=spec.critique)
        questions.append(judge.question(asked, responses.seen(place), spec.n, [text], response=text, steps=found))

    def outcomes(votes: list[list[Vote]]) -> Parts:
        found = {place: _outcome(spec, some) for place, some in zip(steps, votes, strict=True)}
        return {"": [why or found[place] for place, why in enumerate(missing)]}

    return Plan(questions, outcomes)


def split(response: str, where: str) -> list[str]:
    """The steps of a response, without the empty ones."""
    return [step.strip() for step in _SPLITS[where].split(response) if step.strip()]


def _outcome(spec: StepwiseSpec, votes: list[Vote]) -> Outcome:
    good, too_few = enough(votes, spec.quorum)
    if too_few is not None:
        return too_few
    steps = [aggregated(on_step, spec.aggregate) for on_step in zip(*(vote.value for vote in good))]
    reason = told(good, lambda value: ", ".join(f"{each:g}" for each in value))
    return Outcome(float(_OVER_STEPS[spec.over_steps](steps)), reason=reason, steps=steps)
