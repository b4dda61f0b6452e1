"""Judges the steps of each response, all steps of one in one question, so that the conversation is read once.

Source: Lightman et al., "Let's Verify Step by Step", arXiv 2305.20050; as questions to a model: Zheng et al.,
"ProcessBench", arXiv 2412.06559.
"""

import math
import re
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Literal, Self

from pydantic import model_validator

from rmbatch.judges import form
from rmbatch.judges.asking import Vote
from rmbatch.judges.kinds.base import JudgeKind, Parts, Plan, QuestionWriter
from rmbatch.judges.kinds.outcomes import Outcome, check_quorum, join_reasons
from rmbatch.judges.kinds.responses import Responses
from rmbatch.judges.kinds.votes import aggregate_votes
from rmbatch.judges.spec import Aggregate, check_scale
from rmbatch.settings.base import Finite

_SPLITS = {"paragraphs": re.compile(r"\n[ \t]*\n\s*"), "lines": re.compile(r"\n")}
_OVER_STEPS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda steps: sum(steps) / len(steps),
    "prod": math.prod,
    "last": lambda steps: steps[-1],
}


class Stepwise(JudgeKind):
    """The steps of each response, all in one question."""

    shows = (("steps", "response"),)
    part_names = MappingProxyType({"": ("reason", "steps")})

    judge: Literal["stepwise"] = "stepwise"
    split: Literal["paragraphs", "lines"] = "paragraphs"
    """Where a step ends: at blank lines, or at each line (steps in a column of lists arrive as lines)."""
    scale: tuple[Finite, Finite] = (0, 1)
    """Lowest and highest number for a step."""
    whole: bool = True
    """Only whole numbers; with 0 to 1 a step is right or wrong."""
    over_steps: Literal["min", "mean", "prod", "last"] = "min"
    """How the steps' scores become the response's."""
    aggregate: Aggregate = "mean"
    """What several votes (``n``) on a step come to."""

    @model_validator(mode="after")
    def _scale_fits(self) -> Self:
        check_scale(self.scale, self.whole)
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        return self.scale

    def plan(self, writer: QuestionWriter, responses: Responses) -> Plan:
        """A question for each response that has steps."""
        missing = [responses.find_missing(place) for place in range(len(responses))]
        steps: dict[int, list[str]] = {}
        questions = []
        for place, why in enumerate(missing):
            if why is not None:
                continue
            text = str(responses.responses[place])
            found = split_steps(text, self.split)
            if not found:
                missing[place] = Outcome(error="no_steps: the response is empty")
                continue
            steps[place] = found
            asked = form.numbers_of_steps(len(found), *self.scale, whole=self.whole, critique=self.critique)
            questions.append(
                writer.write(asked, responses.template_variables(place), self.n, [text], response=text, steps=found)
            )

        def outcomes(votes: list[list[Vote]]) -> Parts:
            found = {place: _score_votes(self, some) for place, some in zip(steps, votes, strict=True)}
            return {"": [why or found[place] for place, why in enumerate(missing)]}

        return Plan(questions, outcomes)


def split_steps(response: str, where: str) -> list[str]:
    """The steps of a response, without the empty ones."""
    return [step.strip() for step in _SPLITS[where].split(response) if step.strip()]


def _score_votes(spec: Stepwise, votes: list[Vote]) -> Outcome:
    good, too_few = check_quorum(votes, spec.quorum)
    if too_few is not None:
        return too_few
    steps = [aggregate_votes(on_step, spec.aggregate) for on_step in zip(*(vote.value for vote in good))]
    reason = join_reasons(good, lambda value: ", ".join(f"{each:g}" for each in value))
    return Outcome(float(_OVER_STEPS[spec.over_steps](steps)), reason=reason, steps=steps)
