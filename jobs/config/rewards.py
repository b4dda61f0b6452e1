"""An entry of ``rewards:`` in a job file: a reward with its knobs, or a composition of others, to any depth.

math: {reward: math_verify}
tidy: {gate: {require: {reward: reasoning_format}, then: {reward: math_verify}, otherwise: 0.0}}
any:  {route: {to: {maths: {when: {column: source, equals: gsm8k}, then: math_verify}}, default: f1_score}}
fast: {cascade: {parts: {words: f1_score, maths: math_verify}, bands: {words: [0.2, 0.8]}}}
both: {sum: {parts: {exact: accuracy, words: f1_score}, weights: {exact: 1.0, words: 0.5, on_null: null}}}
rm:   {model: Skywork/Skywork-Reward-V2-Llama-3.1-8B, max_length: 8192, replicas: [1, 8]}
help: {judge: pointwise, principles: helpfulness, endpoint: "http://host:8000", model: Qwen/Qwen3-32B}
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    RootModel,
    SerializeAsAny,
    Tag,
    ValidationInfo,
    model_validator,
)

from connectors.errors import UserError
from jobs.config.identity import digest, digest_file, identity_of_fields
from rmbatch.judges.kinds.base import JudgeKind, resolve_judge
from rmbatch.judges.library import LIBRARY
from rmbatch.judges.reward import JudgeReward
from rmbatch.reward_models.reward import ModelReward
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.rewards.composition import Cascade, Gate, Router, WeightedSum, When
from rmbatch.rewards.evaluation import Reward
from rmbatch.rewards.function import bind
from rmbatch.rewards.totals import CombineRule
from rmbatch.settings.base import Finite, Settings


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"the name {name!r} becomes part of column names; use letters, digits, _ and -")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
"""Name of a reward or of a part: the end of its columns' names."""


class RuleConfig(Settings):
    """A function, and its knobs beside it."""

    reward: str
    """A built-in name, `path/to/file.py:function`, `package.module:function` or an installed package's entry point."""
    knobs: dict[str, Any] = Field(default_factory=dict)
    """Everything else that stands beside `reward`."""

    @model_validator(mode="before")
    @classmethod
    def _gather_knobs(cls, written: Any) -> Any:
        if isinstance(written.get("knobs"), Mapping):  # a dumped one
            return written
        return {"reward": written["reward"], "knobs": {key: value for key, value in written.items() if key != "reward"}}

    def build(self) -> Reward:
        """The function with its knobs; raises UserError for an unknown reward or knob."""
        return bind(self.reward, self.knobs)

    def files(self, name: str) -> dict[str, str]:
        """The user's file that holds the function: a digest by its path."""
        del name
        path = self.reward.rpartition(":")[0]
        return {path: digest_file(path)} if path.endswith(".py") else {}


class ModelConfig(RootModel[RewardModelSpec]):
    """A served model: `model` and its settings."""

    def build(self) -> Reward:
        """The model's reward; loads nothing."""
        return ModelReward(self.root)

    def identity(self) -> dict[str, Any]:
        """What decides the scores, as plain values."""
        return self.root.identity()

    def files(self, name: str) -> dict[str, str]:
        """The model's folder and its chat template, where these are the user's own: a digest by path."""
        del name
        own = [self.root.model] if Path(self.root.model).is_dir() else []
        if (self.root.chat_template or "").endswith(".jinja"):  # else it is the template itself
            own.append(str(self.root.chat_template))
        return {path: digest_file(path) for path in own}


def _read_judge(written: Any, info: ValidationInfo) -> JudgeKind:
    """The judge of an entry; ``reward`` with a name of the library, as RM-Gallery has it, is meant as a judge too."""
    if isinstance(written, JudgeKind):
        return written
    settings = {key: value for key, value in written.items() if key != "reward"}
    try:
        kind, settings = resolve_judge({"judge": written.get("reward"), **settings})
    except UserError as error:
        raise ValueError(str(error)) from None
    return kind.model_validate(settings, context=info.context)


AnyJudge = Annotated[SerializeAsAny[JudgeKind], BeforeValidator(_read_judge)]
"""A judge of any kind, with the settings of its kind."""


class JudgeConfig(RootModel[AnyJudge]):
    """A judge: `judge` (a kind, or a name of the alignment library) and its settings."""

    def build(self) -> Reward:
        """The judge's reward; raises UserError for a template or principles that cannot be used."""
        return JudgeReward(self.root)

    def identity(self) -> dict[str, Any]:
        """What decides the scores, as plain values. The service is in ``files``: another one is a warning, no error."""
        return {**self.root.identity(), "service": self.root.service}

    def files(self, name: str) -> dict[str, str]:
        """Digests of the template and principles of the reward ``name``, and the name of its service."""
        with suppress(UserError):  # a file may be gone since the job has finished
            judge = JudgeReward(self.root)
            principles = {} if judge.principles is None else {f"the principles of {name}": judge.principles.digest}
            template = {f"the template of {name}": digest(judge.template.encode())}
            return template | principles | {f"the service of {name}": self.root.service_name}
        return {}


class _Composition(Settings):
    """What holds other rewards."""

    def identity(self) -> dict[str, Any]:
        """What decides the scores, as plain values, those of its parts among them."""
        return identity_of_fields(self)

    def files(self, name: str) -> dict[str, str]:
        """The files of all parts, whose names begin with ``name``."""
        found: dict[str, str] = {}
        for field, value in self:
            for end, part in value.items() if isinstance(value, Mapping) else [(field, value)]:
                if hasattr(part, "files"):
                    found |= part.files(f"{name}.{end}")
        return found


class _Composed(_Composition):
    """A composition under the key that says which; it has just this field."""

    def files(self, name: str) -> dict[str, str]:
        """The files of all parts, whose names begin with ``name``."""
        return {path: digest for _, value in self for path, digest in value.files(name).items()}

    def build(self) -> Reward:
        """The composition, its parts bound to their knobs; raises UserError for an unknown reward or knob."""
        (made,) = [value.build() for _, value in self]
        return cast(Reward, made)


class SumReward(_Composed):
    sum: "SumConfig"
    """A weighted sum of parts."""


class GateReward(_Composed):
    gate: "GateConfig"
    """A score only where another one is high enough."""


class RouteReward(_Composed):
    route: "RouteConfig"
    """Another reward for each kind of row."""


class CascadeReward(_Composed):
    cascade: "CascadeConfig"
    """The next reward only where this one is not sure."""


COMPOSITIONS = ("sum", "gate", "route", "cascade")
_CONFIGS = {
    "reward": "RuleConfig",
    "model": "ModelConfig",
    "judge": "JudgeConfig",
    **{name: f"{name.capitalize()}Reward" for name in COMPOSITIONS},
}
"""By the key that says which reward it is: the class of its settings."""


def _find_config(written: Any) -> str:
    """The name of the class of an entry's settings. Raises ValueError unless it says just one reward."""
    if isinstance(written, BaseModel):
        return type(written).__name__
    chosen = _find_keys(written) if isinstance(written, Mapping) else []
    if len(chosen) != 1:
        several = f" and not several of them ({', '.join(sorted(chosen))})" if chosen else ""
        ways = "like {reward: f1_score}, {model: FOLDER} or {judge: pointwise, ...}; or one of"
        raise ValueError(f"write which reward it is, {ways} {', '.join(COMPOSITIONS)}{several}")
    return _CONFIGS[chosen[0]]


def _find_keys(written: Mapping[str, Any]) -> list[str]:
    reward = written.get("reward")
    if (isinstance(reward, str) and reward in LIBRARY) or (reward is None and written.get("judge")):
        return ["judge"]  # which has a model, too
    return [key for key in _CONFIGS if key != "judge" and written.get(key) is not None]


def _write_out(written: Any) -> Any:
    """An entry as a mapping; raises ValueError for what is none, as a discriminator may not."""
    written = {"reward": written} if isinstance(written, str) else written
    _find_config(written)
    return written


RewardConfig = Annotated[
    Annotated[RuleConfig, Tag("RuleConfig")]
    | Annotated[ModelConfig, Tag("ModelConfig")]
    | Annotated[JudgeConfig, Tag("JudgeConfig")]
    | Annotated[SumReward, Tag("SumReward")]
    | Annotated[GateReward, Tag("GateReward")]
    | Annotated[RouteReward, Tag("RouteReward")]
    | Annotated[CascadeReward, Tag("CascadeReward")],
    Discriminator(_find_config),
    BeforeValidator(_write_out),
]
"""A reward: a function and its knobs, a served model or a judge and its settings, or one of sum, gate, route and
cascade. Each has ``build`` and ``files``, and ``identity`` where not all of it decides its scores."""

Parts = Annotated[dict[Name, RewardConfig], Field(min_length=1)]


class SumConfig(_Composition):
    """The sum of weight times score."""

    parts: Parts
    """By the name that their columns end in."""
    weights: CombineRule
    """Weight by part, and `on_null`: what a part without a score does to the sum."""

    def build(self) -> Reward:
        return WeightedSum(_built(self.parts), self.weights)


class GateConfig(_Composition):
    """A hard constraint."""

    require: RewardConfig
    """What must be met."""
    min_score: Finite = 1.0
    """Its lowest score that opens the gate."""
    then: RewardConfig
    """What scores the response behind the gate."""
    otherwise: Finite | None = 0.0
    """The score of a response before a closed gate. null: no score."""
    on_null: Literal["null", "closed"] | None = "null"
    """What no score of `require` means: no score, or a closed gate."""

    def build(self) -> Reward:
        return Gate(
            self.require.build(),
            self.then.build(),
            min_score=self.min_score,
            otherwise=self.otherwise,
            on_null=self.on_null or "null",
        )


class CaseConfig(_Composition):
    """One route."""

    when: When
    """Which rows take it; the first route whose condition holds is taken."""
    then: RewardConfig
    """What scores them."""


class RouteConfig(_Composition):
    """Another reward for each kind of row: by conditions, or by the values of one column."""

    by: str | None = None
    """A column whose values, as text, are the names in `to`. None: each route has a `when`."""
    to: Annotated[dict[Name, CaseConfig | RewardConfig], Field(min_length=1)]
    """By name: a reward (with `by`), or {when: ..., then: ...}."""
    default: RewardConfig | None = None
    """What scores the rows that no route takes. None: they get no score."""

    @model_validator(mode="after")
    def _routes_say_when(self) -> Self:
        for name, case in self.to.items():
            if isinstance(case, CaseConfig) == (self.by is not None):
                wanted = "a reward" if self.by else "{when: {column: ...}, then: ...}, or name a column in by"
                raise ValueError(f"to.{name}: write {wanted}")
        return self

    def build(self) -> Reward:
        routes = {}
        for name, case in self.to.items():
            if isinstance(case, CaseConfig):
                routes[name] = (case.when, case.then.build())
            else:
                assert self.by is not None
                routes[name] = (When(column=self.by, equals=name), case.build())
        return Router(routes, self.default.build() if self.default else None)


class CascadeConfig(_Composition):
    """The first part decides, but inside its band the next one does, and so on."""

    parts: Parts
    """In the order in which they are asked."""
    bands: dict[Name, tuple[Finite, Finite]]
    """By part, for all but the last: the scores, both ends included, where the next part decides."""
    on_null: Literal["null", "next"] | None = "null"
    """What no score of a part means: no score, or that the next part decides."""

    def build(self) -> Reward:
        return Cascade(_built(self.parts), self.bands, on_null=self.on_null or "null")


def _built(parts: Mapping[str, RewardConfig]) -> dict[str, Reward]:
    return {name: part.build() for name, part in parts.items()}


for _model in (SumReward, GateReward, RouteReward, CascadeReward):
    _model.model_rebuild()
