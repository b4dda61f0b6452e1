"""What is judged, and what became of it, in plain values: the responses of a batch, and an outcome for each.

A kind of judge (``pointwise.py``, ``pairwise.py``, ``listwise.py``, ``stepwise.py``) is a function: responses in,
questions out, and how their votes become outcomes. Neither columns nor servers are known there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from rmbatch.judges.asking import Question, Vote
from rmbatch.judges.form import Form
from rmbatch.judges.principles import PrincipleSet
from rmbatch.judges.prompt import Prompt, conversation, mark_of
from rmbatch.judges.spec import JudgeSpec
from rmbatch.messages import TEXT
from rmbatch.rewards.contract import STEPS, Scores


@dataclass(frozen=True)
class Outcome:
    """What is said of one response; either a score, or an error."""

    score: float | None = None
    error: str | None = None
    """``stable_code: message``."""
    reason: str | None = None
    steps: Sequence[float] | None = None


Parts = dict[str, list[Outcome]]
"""By part ("" for the score itself): an outcome for each response."""


@dataclass(frozen=True)
class Plan:
    """What has to be asked, and what the answers come to."""

    questions: list[Question]
    outcomes: Callable[[list[list[Vote]]], Parts]


@dataclass(frozen=True)
class Judge:
    """What a kind needs to write its questions; pickles."""

    spec: JudgeSpec
    prompt: Prompt
    principles: PrincipleSet | None

    def question(self, form: Form, seen: Mapping[str, Any], num_votes: int, **judged: Any) -> Question:
        """The question about what is judged, to somebody who sees the rest."""
        text = self.prompt.render(
            about=self.principles.about if self.principles else "",
            principles=list(self.principles.principles) if self.principles else [],
            answer_format=form.instructions(self.spec.structured),
            low=getattr(self.spec, "scale", (None, None))[0],
            high=getattr(self.spec, "scale", (None, None))[1],
            **seen,
            **judged,
        )
        return Question(text, form, num_votes)


class Responses:
    """The responses of a batch with all that a judge sees of them."""

    def __init__(
        self,
        prompts: Sequence[Sequence[Mapping[str, str | None]] | None],
        responses: Sequence[str | None],
        references: Sequence[str | None] | None,
        columns: Mapping[str, Sequence[Any]],
        offsets: np.ndarray[Any, Any] | None,
    ) -> None:
        """``references`` None: no judge sees them; ``offsets`` None: no response is compared with another."""
        self.prompts, self.responses, self.references, self.columns = prompts, responses, references, columns
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.responses)

    def missing(self, place: int) -> Outcome | None:
        """Why there is nothing to judge here; None where there is."""
        for name, values in (("prompt", self.prompts), ("response", self.responses), ("reference", self.references)):
            if values is not None and values[place] is None:
                return Outcome(error=f"missing_{name}: {name} is null")
        return None

    def seen(self, place: int) -> dict[str, Any]:
        """The variables of a template that belong to this response, but for the response itself."""
        messages = self.prompts[place] or ()
        text = conversation(messages)
        return {
            **{name: values[place] for name, values in self.columns.items()},
            "prompt": text,
            "messages": messages,
            "reference": None if self.references is None else self.references[place],
            "mark": mark_of(text),
        }

    def groups(self) -> list[range]:
        """The places of the responses of each prompt."""
        assert self.offsets is not None
        return [range(start, stop) for start, stop in pairwise(self.offsets.tolist())]


def enough(votes: Sequence[Vote], quorum: int) -> tuple[list[Vote], Outcome | None]:
    """The votes that could be read; and, where those are too few, what to say instead of a score."""
    good = [vote for vote in votes if vote.error is None]
    if len(good) >= quorum:
        return good, None
    bad = next(vote for vote in votes if vote.error is not None)
    said = "\n\n".join(vote.said for vote in votes if vote.said)
    return good, Outcome(error=bad.error, reason=said or None)


def told(votes: Sequence[Vote], shown: Callable[[Any], str]) -> str | None:
    """The reasons of votes; of several, each after its verdict."""
    if len(votes) == 1:
        return votes[0].said or None
    return "\n\n".join(f"[{shown(vote.value)}] {vote.said}".strip() for vote in votes)


def as_scores(outcomes: Sequence[Outcome], has_steps: bool) -> Scores:
    """The outcomes as columns."""
    steps = pa.array([each.steps for each in outcomes], STEPS) if has_steps else None
    return Scores(
        pa.array([each.score for each in outcomes], pa.float64()),
        pa.array([each.error for each in outcomes], TEXT),
        pa.array([each.reason for each in outcomes], TEXT),
        steps,
    )
