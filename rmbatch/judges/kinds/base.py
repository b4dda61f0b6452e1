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

    def question(
        self,
        form: Form,
        seen: Mapping[str, Any],
        num_votes: int,
        texts: Sequence[str],
        *,
        number: int = 0,
        **judged: Any,
    ) -> Question:
        """The question about ``texts``, shown as ``judged``, to somebody who sees the rest.

        ``number``: which of several votes it is for.
        """
        foreign = [str(each) for name, each in seen.items() if name != "messages" and each is not None]
        text = self.prompt.render(
            about=self.principles.about if self.principles else "",
            principles=list(self.principles.principles) if self.principles else [],
            answer_format=form.instructions(self.spec.structured),
            low=getattr(self.spec, "scale", (None, None))[0],
            high=getattr(self.spec, "scale", (None, None))[1],
            mark=mark_of(seen["prompt"], [*texts, *foreign]),
            **seen,
            **judged,
        )
        return Question(text, form, num_votes, number, "\n".join([*texts, *foreign]))


class Responses:
    """The responses of a batch with all that a judge sees of them."""

    def __init__(
        self,
        prompts: Sequence[Sequence[Mapping[str, str | None]] | None],
        responses: Sequence[str | None],
        references: Sequence[str | None] | None,
        columns: Mapping[str, Sequence[Any]],
        offsets: np.ndarray[Any, Any] | None,
        *,
        needs_reference: bool = False,
    ) -> None:
        """``references`` None: no judge sees them; ``offsets`` None: no response is compared with another."""
        self.prompts, self.responses, self.references = prompts, responses, references
        self.columns = {name: [_shown(value) for value in values] for name, values in columns.items()}
        self.offsets = offsets
        self._needs_reference = needs_reference

    def __len__(self) -> int:
        return len(self.responses)

    def missing(self, place: int) -> Outcome | None:
        """Why there is nothing to judge here; None where there is."""
        messages = self.prompts[place]
        if not messages:
            return Outcome(error="missing_prompt: prompt is null, or has no message")
        if any(message["content"] is None for message in messages):
            why = "a message has no text, but an image or a tool call perhaps"
            return Outcome(error=f"malformed_conversation: {why}")
        if self.responses[place] is None:
            return Outcome(error="missing_response: response is null")
        if self._needs_reference and (self.references is None or self.references[place] is None):
            return Outcome(error="missing_reference: reference is null")
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
        }

    def groups(self) -> list[range]:
        """The places of the responses of each prompt."""
        assert self.offsets is not None
        return [range(start, stop) for start, stop in pairwise(self.offsets.tolist())]


def _shown(value: Any) -> Any:
    """A column's value for a template, without the keys that only other rows have."""
    if isinstance(value, dict):
        return {key: _shown(inner) for key, inner in value.items() if inner is not None}
    return [_shown(inner) for inner in value] if isinstance(value, list) else value


def enough(votes: Sequence[Vote], quorum: int) -> tuple[list[Vote], Outcome | None]:
    """The votes that could be read; and, where those are too few, what to say instead of a score."""
    good = [vote for vote in votes if vote.error is None]
    if len(good) >= quorum:
        return good, None
    bad = next(vote for vote in votes if vote.error is not None)
    said = "\n\n".join(vote.said for vote in votes if vote.said)
    return good, Outcome(error=bad.error, reason=said or None)


def alone(score: float | None) -> Outcome:
    """What is said of a response that cannot be compared."""
    why = "the prompt has no other response that differs"
    return Outcome(error=f"nothing_to_compare: {why}") if score is None else Outcome(score, reason=why)


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
