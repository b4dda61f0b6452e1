"""A row on its way through the rounds: what was tried, what rewards said of it, what was decided.

row = Row(place=0, messages=[{"role": "user", "content": "2 + 2?"}], first="5", assessment=Assessment(0.0))
row.best.text                                    # "5", until an edit is accepted
row.rounds[-1].attempts[0].decision              # "not_better: 0 is not above 0"
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from rmbatch.chat.request import make_affinity
from rmbatch.chat.templates import format_conversation

Kind = Literal["first", "edit", "rewrite", "sample"]
"""first: the answer that came in. edit, rewrite: by the editor. sample: of the control, a plain answer."""

FIRST, ACCEPTED = "first", "accepted"
OUTCOMES = ("untouched", "no_score", "target", "improved", "unchanged", "failed")
"""What became of a row; the codes are part of the output and stay as they are.

untouched: it did not enter, for it is good enough. no_score: it did not enter, for it has no score.
target: a better text was found, which is good enough. improved: a better text was found.
unchanged: nothing better was found. failed: it could not be edited, or no request was answered.
"""
STOPS = ("target", "patience", "duplicate", "tokens", "rounds", "failed")
"""Why a row that entered was done: ``correct.stopped``."""


@dataclass(frozen=True)
class Assessment:
    """What the rewards say of a text."""

    score: float | None
    """The score that has to rise."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """By reward, and by part of a reward."""
    errors: Mapping[str, str | None] = field(default_factory=dict)
    reasons: Mapping[str, str | None] = field(default_factory=dict)


@dataclass
class Attempt:
    """A text that was tried; ``decision`` is ``stable_code`` or ``stable_code: message``."""

    kind: Kind
    text: str | None = None
    """None: nothing was written."""
    tokens: int | None = 0
    """Of the request that wrote it, prompt included. None: its server did not say."""
    assessment: Assessment | None = None
    """None: it was thrown away before it was scored."""
    decision: str = ""
    more_scores: list[float] = field(default_factory=list)
    """The same score by other draws of the judges, where their noise is looked at."""

    @property
    def code(self) -> str:
        """The code of the decision."""
        return self.decision.partition(":")[0]

    @property
    def score(self) -> float | None:
        """Its score; None where it has none."""
        return None if self.assessment is None else self.assessment.score


@dataclass
class Round:
    """One round of a row."""

    critique: str | None = None
    """What the editor was shown. None: nothing was wrong that anybody could name."""
    critique_tokens: int | None = 0
    """Of the critics that are models of their own."""
    attempts: list[Attempt] = field(default_factory=list)
    held_out: str | None = None
    """Where an edit was accepted: what the held-out judge says of it against the text that it replaced: ``better``,
    ``worse``, ``tie``; or ``unclear`` where it gave no verdict."""

    @property
    def accepted(self) -> Attempt | None:
        """The attempt that became the best text."""
        return next((each for each in self.attempts if each.code == ACCEPTED), None)

    @property
    def tokens(self) -> int | None:
        """Of all its requests. None where a server did not say."""
        return add_tokens([self.critique_tokens, *(each.tokens for each in self.attempts)])


@dataclass
class Row:
    """A row that has entered."""

    place: int
    """In its block."""
    messages: Sequence[Mapping[str, Any]] | None
    """The conversation that it answers."""
    first: Attempt
    reference: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What templates show beside it, by role or name."""
    is_control: bool = False
    rounds: list[Round] = field(default_factory=list)
    stopped: str | None = None
    """One of STOPS. None: it is open."""
    error: str | None = None
    """Why nothing could be tried, as ``stable_code: message``."""

    @cached_property
    def prompt(self) -> str:
        """The conversation as text."""
        return format_conversation(self.messages or ())

    @cached_property
    def affinity(self) -> str:
        """Of the requests about it: they go to the same one of several servers."""
        return make_affinity(self.prompt)

    @property
    def best(self) -> Attempt:
        """The best text so far: the last that was accepted, for each was better than the one before."""
        accepted = (each.accepted for each in reversed(self.rounds))
        return next((each for each in accepted if each is not None), self.first)

    @property
    def attempts(self) -> Iterator[Attempt]:
        """All that was tried, the first answer too."""
        yield self.first
        for each in self.rounds:
            yield from each.attempts

    @property
    def tokens(self) -> int | None:
        """Of all its critiques and edits. None where a server did not say."""
        return add_tokens([each.tokens for each in self.rounds])

    @property
    def known_tokens(self) -> int:
        """The same, as far as servers have said."""
        parts = [each.critique_tokens for each in self.rounds] + [each.tokens for each in self.attempts]
        return sum(each or 0 for each in parts)

    @property
    def outcome(self) -> str:
        """One of OUTCOMES."""
        if self.best is not self.first:
            return "target" if self.stopped == "target" else "improved"
        return "failed" if self.error is not None else "unchanged"

    def failed_tries(self) -> list[Attempt]:
        """What was tried since the best text was found, and not accepted."""
        since: list[Attempt] = []
        for each in self.rounds:
            others = [attempt for attempt in each.attempts if attempt.text is not None and attempt.code != ACCEPTED]
            since = others if each.accepted is not None else [*since, *others]
        return since


def add_tokens(counts: Sequence[int | None]) -> int | None:
    """Their sum. None where one of them is not known."""
    return None if None in counts else sum(each for each in counts if each is not None)
