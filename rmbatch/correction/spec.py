"""The settings of correction: which rows enter, who criticises and edits, what is accepted, when a row is done.

    CorrectSpec.model_validate({
        "gate": {"below": 0.9},
        "critics": ["math", {"endpoint": "http://host:8000", "model": "qwen3-32b"}],
        "editor": {"endpoint": "http://host:8000", "model": "qwen3-8b", "edits": 2},
        "accept": {"margin": 0.05, "never_lower": ["math"]},
    })

The same in a job file (``correct:``) and in Python (``rmbatch.correct``). Importing it loads no client.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from connectors.errors import UserError
from rmbatch.chat.spec import ChatSpec
from rmbatch.chat.templates import read_template
from rmbatch.settings.base import Finite, Positive, Settings

Share = Annotated[float, Field(gt=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class GateSpec(Settings):
    """Which rows enter. The others pass untouched and cost nothing. A row that no longer would enter is done."""

    below: Finite | None = None
    """A row enters whose score is lower than this: the target. None: no score is a target."""
    failing: dict[str, Finite] = Field(default_factory=dict)
    """By reward or part: a row enters that scores lower than this. ``[math]`` is short for ``{math: 1.0}``. Without it
    and without ``below``, each row enters that has a score."""
    on_null: Literal["pass", "enter"] = "pass"
    """What no score means. pass: the row is left as it is, for nothing could show that an edit is better. enter: the
    first edit that has a score is taken as better, which suits rows whose response is missing."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out_failing(cls, written: Any) -> Any:
        """Allow a list of rewards that have to score 1.0."""
        if isinstance(written, Mapping) and isinstance(written.get("failing"), list | tuple):
            return {**written, "failing": dict.fromkeys(written["failing"], 1.0)}
        return written

    @property
    def has_target(self) -> bool:
        """Whether a row can become good enough to be done."""
        return self.below is not None or bool(self.failing)


class _WriterSpec(ChatSpec):
    """A chat model that writes about responses."""

    template: str | None = None
    """A jinja2 template of what it is told, or the path of one (``*.jinja``); docs/correction.md lists what it can
    show. None: our own."""
    system: str | None = None
    """A system message before it. None: none is sent."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed is another draw. The seed of each request is a hash of this, the row's texts, the round and its
    number."""

    @model_validator(mode="after")
    def _check_one_sample(self) -> Self:
        if self.n > 1:
            raise ValueError("n: an editor writes `edits` texts a round, a critic one; leave n out")
        if self.logprobs is not None:
            raise ValueError("logprobs: nobody reads log probabilities here; leave it out")
        return self

    def chat(self) -> ChatSpec:
        """Who is asked, and how, alone; each request has a seed of its own."""
        return self.as_chat(n=1, seed=None)

    def identity(self) -> dict[str, Any]:
        """All that decides the texts, as plain values; templates as their text."""
        own = {name: _template_text(getattr(self, name)) for name in type(self).model_fields if "template" in name}
        return {**super().identity(), **own}


class EditorSpec(_WriterSpec):
    """The model that edits."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.8
    """None: not sent, which some reasoning models need."""
    edits: Positive = 1
    """Edits of a row in each round, asked for at the same time; the best that is accepted is taken."""
    rewrite: Literal["missing", "after_failure", "always", "never"] = "missing"
    """When it writes the whole answer anew in place of an edit. missing: where there is no text. after_failure: also
    in the round after one in which nothing was accepted."""
    rewrite_template: str | None = None
    """As ``template``, for answers that are written anew. None: our own."""

    @model_validator(mode="after")
    def _check_edits_differ(self) -> Self:
        if self.edits > 1 and self.temperature == 0:
            raise ValueError(f"edits: {self.edits} edits at temperature 0 are the same; set a temperature above 0")
        return self


class CriticSpec(_WriterSpec):
    """A model that criticises in its own words."""


class NoiseSpec(Settings):
    """Score what seems better again, and the best text, by judges with other seeds, and compare the means.

    A judge that always says the same has no noise, and neither has a rule.
    """

    repeats: Positive = 2
    """How often both are scored again."""
    times: NotNegative = 2.0
    """By so many standard errors of their difference the means have to differ, beside the margin."""


class AcceptSpec(Settings):
    """What counts as better."""

    margin: NotNegative = 0.0
    """The score has to rise by more than this, in the unit of the score."""
    never_lower: tuple[str, ...] = ()
    """Rewards or parts, by name, that must not fall, however much the score rises."""
    noise: NoiseSpec | None = None
    """Raise the margin by the noise of the judges. None: the margin as it is."""


class StopSpec(Settings):
    """When a row is done before its rounds are over, and when the job stops."""

    patience: Positive = 1
    """Rounds in a row without an accepted edit."""
    tokens_per_row: Positive | None = None
    """No round begins for a row that has used so many tokens for critiques and edits. None: no limit."""
    gain_per_1k_tokens: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The job stops when the scores rise by less than this for each 1,000 tokens of critiques and edits. None: never.
    It may change between the runs of a job."""
    held_out: bool = True
    """Whether the job stops when the held-out judge prefers what was replaced while the scores rise."""


class GuardSpec(Settings):
    """Which edits are thrown away before they cost a score. Empty ones, cut off ones and copies always are."""

    refusal: bool = True
    """An edit that refuses, where the best text does not."""
    language: Literal["script", "words"] | None = "script"
    """An edit in another language than the best text and the prompt. script: by the letters alone. words: by words,
    which needs the extra `rules`."""
    format: bool = True
    """An edit that lacks what the best text has: JSON, a code block, a box, tags such as ``<answer>``."""
    length: tuple[NotNegative, NotNegative] | None = (0.2, 5.0)
    """The least and the greatest length, as a multiple of that of the best text (texts under 200 characters count as
    200). None: any length."""
    near_copy: Annotated[float, Field(gt=0, le=1)] | None = None
    """The likeness, by edits of characters, from which an edit counts as a copy. None: only texts that are equal but
    for white space at the ends of lines, for a corrected digit is nearly a copy, and may be all that was wrong."""


class ControlSpec(Settings):
    """A share of the rows that enter gets plain answers to its prompt instead, for about as many tokens."""

    share: Share
    """Which rows these are, a hash of their texts decides."""


class CorrectSpec(Settings):
    """How responses are corrected."""

    gate: GateSpec = GateSpec()
    """Which rows enter."""
    critics: tuple[str | CriticSpec, ...] | None = None
    """Names of rewards, whose reasons and errors are shown to the editor, rules first, and models that criticise in
    their own words. None: all rewards."""
    editor: EditorSpec
    """Who edits."""
    rounds: Positive = 3
    """The most rounds of a row."""
    accept: AcceptSpec = AcceptSpec()
    """What counts as better."""
    stop: StopSpec = StopSpec()
    """When a row is done, and when the job stops."""
    guards: GuardSpec = GuardSpec()
    """Which edits are thrown away unscored."""
    control: ControlSpec | None = None
    """What plain resampling would have given. None: nothing is held back."""
    score: str | None = None
    """Name of the score that has to rise. None: the total, or the only reward."""
    show_reference: bool = False
    """Whether the editor and critics may see the reference. Else ``[reference]`` stands where a reason quotes it."""
    history: bool = True
    """Whether every critique and edit is kept in ``correct.history``."""

    @property
    def critic_models(self) -> tuple[CriticSpec, ...]:
        """The critics that are models of their own."""
        return tuple(each for each in self.critics or () if isinstance(each, CriticSpec))

    def names_of_critics(self, rewards: list[str]) -> list[str]:
        """The rewards that are critics."""
        return rewards if self.critics is None else [each for each in self.critics if isinstance(each, str)]

    def identity(self) -> dict[str, Any]:
        """All that decides the result, as plain values."""
        plain = self.model_dump(mode="json", exclude={"editor", "critics"})
        for name in ("gain_per_1k_tokens", "held_out"):
            plain["stop"].pop(name)
        critics = [each if isinstance(each, str) else each.identity() for each in self.critics or ()]
        return {**plain, "editor": self.editor.identity(), "critics": None if self.critics is None else critics}


def _template_text(template: str | None) -> str | None:
    """The text behind a template; of a file that is gone, its name."""
    try:
        return None if template is None else read_template(template)
    except UserError:
        return template
