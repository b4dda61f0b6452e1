"""What a kind of judge promises. Kinds work on plain values: they know neither columns nor servers.

parse_judge({"judge": "pairwise", "principles": "helpfulness", "endpoint": "http://host:8000", "model": "m"})
load_kind("pairwise").compares                       # True
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, cast

from connectors.errors import UserError
from rmbatch.chat.request import make_affinity
from rmbatch.chat.templates import read_template
from rmbatch.judges.asking import Question, Vote
from rmbatch.judges.form import Form
from rmbatch.judges.kinds import KINDS
from rmbatch.judges.kinds.outcomes import Outcome
from rmbatch.judges.kinds.responses import Responses
from rmbatch.judges.library import LIBRARY, library_defaults
from rmbatch.judges.principles import PrincipleSet
from rmbatch.judges.prompt import Prompt, make_mark, read_packaged
from rmbatch.judges.spec import JudgeSpec
from rmbatch.settings.mistakes import validate
from rmbatch.settings.names import nearest

Parts = dict[str, list[Outcome]]
"""By part ("" for the score itself): an outcome for each response."""


@dataclass(frozen=True)
class Plan:
    """The questions to ask, and how their votes become outcomes."""

    questions: list[Question]
    outcomes: Callable[[list[list[Vote]]], Parts]
    """From the votes on each question, in order, to an outcome for each response of the batch."""


@dataclass(frozen=True)
class QuestionWriter:
    """Writes a judge's questions; pickles."""

    kind: "JudgeKind"
    prompt: Prompt
    principles: PrincipleSet | None

    @property
    def num_principles(self) -> int:
        return len(self.principles.principles) if self.principles else 0

    def write(
        self,
        form: Form,
        seen: Mapping[str, Any],
        num_votes: int,
        texts: Sequence[str],
        *,
        number: int = 0,
        **judged: Any,
    ) -> Question:
        """Write the question about ``texts``, shown as ``judged``; ``seen``: the rest that the template shows.

        ``number``: which of several votes it is for.
        """
        foreign = [str(each) for name, each in seen.items() if name != "messages" and each is not None]
        low, high = self.kind.bounds
        text = self.prompt.render(
            about=self.principles.about if self.principles else "",
            principles=list(self.principles.principles) if self.principles else [],
            answer_format=form.instructions(self.kind.structured),
            low=low,
            high=high,
            mark=make_mark(seen["prompt"], [*texts, *foreign]),
            **seen,
            **judged,
        )
        affinity = make_affinity(str(seen["prompt"]))
        return Question(text, form, num_votes, number, "\n".join([*texts, *foreign]), affinity)


class JudgeKind(JudgeSpec):
    """A kind of judge: the model of its settings, which says what it shows and gives, and plans what to ask.

    A subclass promises that ``judge`` is a Literal of its name in ``KINDS``; that its template shows what ``shows``
    says; that ``plan`` gives an outcome for each response and each of ``part_names``, a null with an error where there
    is nothing to judge, and never asks about a response that is missing; and that equal responses to a prompt get
    equal scores, wherever they stand in their row.
    """

    shows: ClassVar[tuple[tuple[str, ...], ...]]
    """The template's variables for what is judged. Of each group, a template must show at least one."""
    compares: ClassVar[bool] = False
    """Whether it sees several responses of a prompt together, and so needs to know which belong together."""
    part_names: ClassVar[Mapping[str, Sequence[str]]] = {"": ("reason",)}
    """Score columns by part ("" for the score itself), with the columns beside each: reason, steps."""

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """``low`` and ``high`` in a template: the ends of its scale, if it has one."""
        return None, None

    @abstractmethod
    def plan(self, writer: QuestionWriter, responses: Responses) -> Plan:
        """Plan what to ask about these responses, and how votes become outcomes."""

    @classmethod
    def own_template(cls) -> str:
        """The text of the kind's own template."""
        return read_packaged(f"{cls.model_fields['judge'].default}.jinja")

    @classmethod
    def make_prompt(cls, template: str | None) -> Prompt:
        """The prompt of a template, None for the kind's own; raises UserError for one that cannot be used."""
        text = cls.own_template() if template is None else read_template(template)
        return Prompt(cls.model_fields["judge"].default, text, cls.shows, compares=cls.compares)

    @classmethod
    def model_for(cls, written: Mapping[str, Any]) -> "type[JudgeKind]":
        """The kind that settings are for; in a job file `reward` may stand for `judge`."""
        return resolve_judge({"judge": written.get("reward"), **written})[0]


def load_kind(name: str) -> type[JudgeKind]:
    """Import the kind of this name; raises KeyError."""
    module, _, attribute = KINDS[name].partition(":")
    return cast(type[JudgeKind], getattr(import_module(module), attribute))


def resolve_judge(written: Mapping[str, Any]) -> tuple[type[JudgeKind], dict[str, Any]]:
    """The kind that ``judge`` names, or its name in the library stands for, and the settings with the library's.

    Raises UserError for an unknown name.
    """
    name = str(written.get("judge"))
    if name in LIBRARY:
        kind = LIBRARY[name].kind
        return load_kind(kind), {**library_defaults(name), **written, "judge": kind}
    if name not in KINDS:
        known = [*KINDS, *LIBRARY]
        raise UserError(
            f"judge: {name!r} is no kind of judge ({', '.join(KINDS)}) and not in the library; {nearest(name, known)}"
        )
    return load_kind(name), dict(written)


def parse_judge(written: Mapping[str, Any]) -> JudgeKind:
    """Make the judge of these settings; raises UserError for a setting that does not fit."""
    kind, settings = resolve_judge(written)
    return validate(kind, settings, where=f"judge {str(written['judge'])!r}", noun="setting")
