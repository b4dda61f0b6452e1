"""Judges each response by itself: on a scale, or by which principles it violates.

Source of the principle-critic-score form: RM-Gallery; of scales: Zheng et al., "Judging LLM-as-a-Judge", 2306.05685.
"""

from typing import Any, Literal, Self

from pydantic import model_validator

from rmbatch.judges import form
from rmbatch.judges.asking import Vote
from rmbatch.judges.kinds.base import JudgeKind, Parts, Plan, QuestionWriter
from rmbatch.judges.kinds.outcomes import Outcome, check_quorum, join_reasons
from rmbatch.judges.kinds.responses import Responses
from rmbatch.judges.kinds.votes import aggregate_votes
from rmbatch.judges.spec import Aggregate, check_scale
from rmbatch.settings.base import Finite


class Pointwise(JudgeKind):
    """Each response by itself."""

    shows = (("response",),)

    judge: Literal["pointwise"] = "pointwise"
    score: Literal["scale", "violations"] = "scale"
    """scale: a number. violations: which principles are violated; the score is 1 minus their share."""
    scale: tuple[Finite, Finite] = (1, 10)
    """Lowest and highest number, both included; the score is the number itself."""
    whole: bool = True
    """Only whole numbers."""
    aggregate: Aggregate = "mean"
    """What several votes (``n``) come to."""

    @model_validator(mode="after")
    def _scale_fits(self) -> Self:
        check_scale(self.scale, self.whole)
        if self.score == "violations" and self.principles is None:
            raise ValueError("score: violations needs principles that can be violated")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        return self.scale

    def plan(self, writer: QuestionWriter, responses: Responses) -> Plan:
        """A question for each response that is there."""
        num_principles = writer.num_principles
        if self.score == "violations":
            asked = form.violations(num_principles, critique=self.critique)
        else:
            asked = form.scale(*self.scale, whole=self.whole, critique=self.critique)
        missing = [responses.find_missing(place) for place in range(len(responses))]
        there = [place for place, why in enumerate(missing) if why is None]
        questions = [
            writer.write(asked, responses.template_variables(place), self.n, [text], response=text)
            for place in there
            for text in [str(responses.responses[place])]
        ]

        def outcomes(votes: list[list[Vote]]) -> Parts:
            found = {place: _score_votes(self, some, num_principles) for place, some in zip(there, votes, strict=True)}
            return {"": [why or found[place] for place, why in enumerate(missing)]}

        return Plan(questions, outcomes)


def _score_votes(spec: Pointwise, votes: list[Vote], num_principles: int) -> Outcome:
    good, too_few = check_quorum(votes, spec.quorum)
    if too_few is not None:
        return too_few
    if spec.score == "scale":
        return Outcome(
            aggregate_votes([vote.value for vote in good], spec.aggregate), reason=join_reasons(good, "{:g}".format)
        )
    shares = [1 - len(vote.value) / num_principles for vote in good]
    named = [Vote(vote.value, said=f"{_describe_violations(vote.value)}\n{vote.said}".strip()) for vote in good]
    return Outcome(aggregate_votes(shares, spec.aggregate), reason=join_reasons(named, lambda value: f"{len(value)}"))


def _describe_violations(numbers: Any) -> str:
    return f"violates {', '.join(map(str, numbers))}" if numbers else "violates none"
