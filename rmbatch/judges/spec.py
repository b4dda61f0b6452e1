"""What a judge is: who is asked (``ChatSpec``), how it judges, and how its verdicts become scores.

One frozen model for each kind, the same in a job file (``rewards: {help: {judge: pointwise, …}}``) and in Python
(``rmbatch.judge("pointwise", …)``). A name of the alignment library stands for a kind and its principles.

    judge_spec({"judge": "pairwise", "principles": "helpfulness", "endpoint": "http://host:8000", "model": "qwen3-32b"})

Importing it loads no client and no template engine.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from connectors.errors import UserError
from rmbatch.chat.spec import ChatSpec
from rmbatch.judges.library import LIBRARY
from rmbatch.settings.base import Positive
from rmbatch.settings.names import nearest

Finite = Annotated[float, Field(allow_inf_nan=False)]
Aggregate = Literal["mean", "median", "majority", "min", "max"]


class JudgeSpec(ChatSpec):
    """What all kinds of judges have, beside who is asked."""

    judge: str
    """The kind."""
    principles: str | tuple[str, ...] | None = None
    """What good means: a topic of the alignment library, the path of a principle file, or sentences. None: what the
    template says."""
    template: str | None = None
    """A jinja2 template of what the judge is asked, or the path of one (``*.jinja``). None: the kind's own."""
    system: str | None = None
    """A system message before it. None: none is sent, for some models refuse one."""
    reference: bool = False
    """Whether the judge sees the reference; a response without one then has no score."""
    critique: bool = True
    """Whether reasons are asked for before the verdict: better verdicts, longer answers."""
    repair: bool = False
    """Whether a verdict that cannot be read is asked for once more, with what is wrong with it."""
    min_votes: Positive | None = None
    """Of ``n`` votes, the fewest that must be readable. None: more than half."""
    one_by_one: bool = False
    """Whether each of ``n`` votes is a request of its own, with seeds that count up, for servers that do not know n."""
    shuffle_seed: int = 0
    """What decides the order of candidates, together with the texts themselves."""

    @model_validator(mode="after")
    def _votes_fit(self) -> Self:
        if self.min_votes is not None and self.min_votes > self.n:
            raise ValueError(f"min_votes: {self.min_votes} of {self.n} votes (n) can never be there")
        if self.logprobs is not None:
            raise ValueError("logprobs: no judge reads log probabilities; leave it out")
        return self

    @property
    def quorum(self) -> int:
        """``min_votes``, with None filled in."""
        return self.n // 2 + 1 if self.min_votes is None else self.min_votes

    def chat(self) -> ChatSpec:
        """Who is asked, and how, alone; judges with equal ones share their client."""
        asked = {name: getattr(self, name) for name in ChatSpec.model_fields}
        is_single = self.asks_differently or self.one_by_one
        return ChatSpec.model_construct(**asked | ({"n": 1} if is_single else {}))


def _check_scale(scale: tuple[float, float], whole: bool) -> None:
    low, high = scale
    if not low < high:
        raise ValueError(f"scale: must begin below its end; got {list(scale)}")
    if whole and math.floor(high) - math.ceil(low) < 1:
        raise ValueError(f"scale: {list(scale)} has no two whole numbers; write another one, or whole: false")


class PointwiseSpec(JudgeSpec):
    """Each response by itself."""

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
        _check_scale(self.scale, self.whole)
        if self.score == "violations" and self.principles is None:
            raise ValueError("score: violations needs principles that can be violated")
        return self


class PairwiseSpec(JudgeSpec):
    """The responses of a prompt, two at a time; who wins how often is the score."""

    judge: Literal["pairwise"] = "pairwise"
    orders: Literal["both", "one"] = "both"
    """both: each pair is judged twice, with the places changed; if the verdicts contradict, that is a tie. one: once,
    in an order by ``shuffle_seed``."""
    ties: bool = True
    """Whether the judge may call it a tie."""
    alone: Finite | None = None
    """The score of a response that has no other one to be compared with. None: no score."""
    score: Literal["win_rate", "copeland", "elo", "bradley_terry"] = "win_rate"
    """win_rate: share of games won, a tie is half. copeland: opponents beaten minus those lost to, over opponents, in
    [-1, 1]. elo: around 1500. bradley_terry: log strength, 0 on average; both of the latter for many candidates."""
    max_games: Positive | None = None
    """Pairs that are played for each prompt. None: all, n(n-1)/2 of them."""


class ListwiseSpec(JudgeSpec):
    """All responses of a prompt at once, in an order by ``shuffle_seed``, another one for each vote."""

    asks_differently: ClassVar[bool] = True

    judge: Literal["listwise"] = "listwise"
    alone: Finite | None = None
    """The score of a response that has no other one to be compared with. None: no score."""
    score: Literal["best", "ranking"] = "best"
    """best: 1 for the chosen response, 0 for the others. ranking: 1 for the first, 0 for the last, evenly between. With
    several votes (``n``) their mean."""


class StepwiseSpec(JudgeSpec):
    """The steps of each response, all in one question."""

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
        _check_scale(self.scale, self.whole)
        return self


AnyJudge = PointwiseSpec | PairwiseSpec | ListwiseSpec | StepwiseSpec
KINDS: dict[str, type[AnyJudge]] = {
    "pointwise": PointwiseSpec,
    "pairwise": PairwiseSpec,
    "listwise": ListwiseSpec,
    "stepwise": StepwiseSpec,
}


def judge_spec(written: Mapping[str, Any]) -> AnyJudge:
    """The judge that is written down, ``judge`` being a kind or a name of the library.

    Raises ValidationError, and UserError for an unknown judge.
    """
    name = str(written.get("judge"))
    if name in LIBRARY:
        written = {**library_defaults(name), **written, "judge": LIBRARY[name].kind}
    elif name not in KINDS:
        known = [*KINDS, *LIBRARY]
        raise UserError(
            f"judge: {name!r} is no kind of judge ({', '.join(KINDS)}) and not in the library; {nearest(name, known)}"
        )
    return KINDS[written["judge"]].model_validate(written)


def library_defaults(name: str) -> dict[str, str]:
    """The settings that a name of the library stands for, beside its kind."""
    entry = LIBRARY[name]
    return {"principles": entry.topic} | ({"score": "violations"} if entry.kind == "pointwise" else {})


def judge_mistake(name: str, invalid: ValidationError) -> str:
    """A validation error of a judge's settings in one line, for Python."""
    fault = invalid.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        model = KINDS[LIBRARY[name].kind if name in LIBRARY else name]
        return (
            f"a {model.model_fields['judge'].default} judge has no setting {key!r}; {nearest(key, model.model_fields)}"
        )
    return f"judge {name}: {key}{': ' if key else ''}{fault['msg'].removeprefix('Value error, ')}"
