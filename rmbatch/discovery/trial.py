"""Tries principles on preferences: a judge that goes by them compares the answers, and is right, wrong or undecided.

Any row may be tried with principles of its own, all in parallel. What the judge says is read as everywhere
(``rmbatch/judges/``): what cannot be read is no verdict, neither right nor wrong. It proposes nothing and counts
nothing.

    trial = Trial(Pairwise(endpoint="http://host:8000", model="qwen3-32b"), about="What counts is …")
    trial.judged([Case(preference, [Principle(text="It names the next step.")]), Case(preference)])
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from connectors.errors import UserError
from rmbatch.discovery.preferences import Preference
from rmbatch.judges.asking import ask
from rmbatch.judges.kinds.base import QuestionWriter
from rmbatch.judges.kinds.listwise import Listwise
from rmbatch.judges.kinds.outcomes import Outcome
from rmbatch.judges.kinds.pairwise import Pairwise
from rmbatch.judges.kinds.responses import Responses
from rmbatch.judges.principles import Principle, PrincipleSet

Comparing = Pairwise | Listwise
"""Judges that say which of several answers is better."""
_WAVE = 4
"""Cases are judged in waves of so many times what may be in flight, so that progress is seen and memory is bounded."""


@dataclass(frozen=True)
class Case:
    """A row, and the principles by which it is judged; none: only by what the trial is about."""

    preference: Preference
    principles: Sequence[Principle] = ()


@dataclass(frozen=True)
class CaseResult:
    """What became of a case."""

    outcome: Literal["right", "wrong", "tie"] | None
    """right: the preferred answer has a higher score than every other. tie: no other has a higher one. None: at least
    one answer has no score."""
    error: str | None = None
    """``stable_code: message``; None where there is an outcome."""
    liked: tuple[str, ...] = ()
    """The answers with the highest score."""
    reason: str = ""
    """What the judge said of the preferred answer."""

    @property
    def code(self) -> str:
        """The error's stable code, or empty."""
        return (self.error or "").partition(":")[0]


class Trial:
    """One judge and what it judges."""

    def __init__(self, spec: Comparing, about: str) -> None:
        """Raises UserError for a judge whose prompt needs more than a prompt and answers."""
        self.spec, self.about = spec, about
        self._prompt = spec.make_prompt(spec.template)
        if spec.reference or self._prompt.columns or (spec.template is not None and self._prompt.shows_reference):
            needs = ", ".join(self._prompt.columns) or "reference"
            raise UserError(f"judge: it is to see {needs}, but preferences have only prompts and answers; leave it out")

    def run(self, cases: Sequence[Case], advance_to: Callable[[int], object] = lambda done: None) -> list[CaseResult]:
        """The verdict of each case. Raises JobError where all must stop."""
        size = len(cases) if self.spec.batch else _WAVE * self.spec.in_flight  # a batch may take a day
        results: list[CaseResult] = []
        for start in range(0, len(cases), max(size, 1)):
            results += self._run_wave(cases[start : start + size])
            advance_to(len(results))
        return results

    def _run_wave(self, cases: Sequence[Case]) -> list[CaseResult]:
        plans = [
            self.spec.plan(QuestionWriter(self.spec, self._prompt, self._principles(case)), _responses(case.preference))
            for case in cases
        ]
        votes = iter(ask(self.spec, [question for plan in plans for question in plan.questions]))
        return [
            _compare(case.preference, plan.outcomes(list(itertools.islice(votes, len(plan.questions))))[""])
            for case, plan in zip(cases, plans)
        ]

    def _principles(self, case: Case) -> PrincipleSet:
        """Not checked: without principles there is still something that it is about, which a file could not hold."""
        return PrincipleSet.model_construct(topic="trial", about=self.about, principles=tuple(case.principles))


def _responses(preference: Preference) -> Responses:
    answers = [preference.chosen, *preference.rejected]
    return Responses([preference.messages] * len(answers), answers, None, {}, np.array([0, len(answers)]))


def _compare(preference: Preference, outcomes: Sequence[Outcome]) -> CaseResult:
    """``outcomes``: of the preferred answer, then of the others."""
    error = next((each.error for each in outcomes if each.score is None), None)
    if error is not None:
        return CaseResult(None, error)
    scores = [each.score for each in outcomes if each.score is not None]
    best = max(scores)
    answers = (preference.chosen, *preference.rejected)
    liked = tuple(answer for answer, score in zip(answers, scores) if score == best)
    outcome: Literal["right", "wrong", "tie"] = "wrong" if scores[0] < best else "right" if len(liked) == 1 else "tie"
    return CaseResult(outcome, None, liked, outcomes[0].reason or "")
