"""One entry of ``rewards:`` in a job file: a reward with its knobs, or one made of others, nested as one likes.

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
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from connectors.errors import UserError
from rmbatch.judges.library import LIBRARY
from rmbatch.judges.reward import JudgeReward
from rmbatch.judges.spec import JudgeSpec, judge_mistake, judge_spec
from rmbatch.reward_models.reward import ModelReward
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.rewards.composition import Cascade, Gate, Router, WeightedSum, When
from rmbatch.rewards.evaluation import Reward
from rmbatch.rewards.function import bind
from rmbatch.rewards.totals import CombineRule
from rmbatch.settings.base import Finite, Settings


def _plain(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"the name {name!r} becomes part of column names; use letters, digits, _ and -")
    return name


Name = Annotated[str, AfterValidator(_plain)]
"""Name of a reward or of a part: the end of its columns' names."""


class RewardConfig(Settings):
    """A reward: which one and its knobs, side by side in the job file; a served model and its settings likewise; or one
    of sum, gate, route and cascade."""

    reward: str | None = None
    """A built-in name, `path/to/file.py:function`, `package.module:function` or an installed package's entry point."""
    knobs: dict[str, Any] = Field(default_factory=dict)
    """Everything else that stands beside `reward`."""
    served: RewardModelSpec | None = None
    """`model` and everything that stands beside it."""
    judged: SerializeAsAny[JudgeSpec] | None = None
    """`judge` (a kind, or a name of the alignment library) and everything that stands beside it."""
    sum: "SumConfig | None" = None
    """A weighted sum of parts."""
    gate: "GateConfig | None" = None
    """A score only where another one is high enough."""
    route: "RouteConfig | None" = None
    """Another reward for each kind of row."""
    cascade: "CascadeConfig | None" = None
    """The next reward only where this one is not sure."""

    @model_validator(mode="before")
    @classmethod
    def _gather_knobs(cls, written: Any) -> Any:
        if isinstance(written, str):
            return {"reward": written}
        if isinstance(written, Mapping) and _is_judge(written):
            return {"judged": _judge(written)}
        known = {"reward", "model", "served", "judged", *COMPOSITIONS}
        chosen = {key for key in known if written.get(key) is not None} if isinstance(written, Mapping) else set()
        if len(chosen) != 1:
            several = f" and not several of them ({', '.join(sorted(chosen))})" if chosen else ""
            ways = "like {reward: f1_score}, {model: FOLDER} or {judge: pointwise, ...}; or one of"
            raise ValueError(f"write which reward it is, {ways} {', '.join(COMPOSITIONS)}{several}")
        if written.get("model") is not None:
            return {"served": written}
        if written.get("reward") is None or isinstance(written.get("knobs"), Mapping):
            return written
        return {"reward": written["reward"], "knobs": {key: value for key, value in written.items() if key != "reward"}}

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        if self.served is not None:
            return self.served.model_dump(mode="json")
        if self.judged is not None:
            return self.judged.model_dump(mode="json")
        unused = ("knobs",) if self.reward is None else ()
        return {key: value for key, value in dump(self).items() if value is not None and key not in unused}

    def build(self) -> Reward:
        """The reward, its parts bound to their knobs; raises UserError for an unknown reward or knob."""
        if self.reward is not None:
            return bind(self.reward, self.knobs)
        if self.served is not None:
            return ModelReward(self.served)
        if self.judged is not None:
            return JudgeReward(self.judged)
        made = self.sum or self.gate or self.route or self.cascade
        assert made is not None
        return made.build()


def _is_judge(written: Mapping[str, Any]) -> bool:
    reward = written.get("reward")
    return reward in LIBRARY if reward is not None else bool(written.get("judge"))


def _judge(written: Mapping[str, Any]) -> JudgeSpec:
    """The judge of an entry; ``reward`` with a name of the library, as RM-Gallery has it, is meant as a judge too."""
    settings = {key: value for key, value in written.items() if key != "reward"}
    settings.setdefault("judge", written.get("reward"))
    try:
        return judge_spec(settings)
    except ValidationError as invalid:
        raise ValueError(judge_mistake(settings["judge"], invalid)) from None
    except UserError as error:
        raise ValueError(str(error)) from None


COMPOSITIONS = ("sum", "gate", "route", "cascade")

Parts = Annotated[dict[Name, RewardConfig], Field(min_length=1)]


class SumConfig(Settings):
    """The sum of weight times score."""

    parts: Parts
    """By the name that their columns end in."""
    weights: CombineRule
    """Weight by part, and `on_null`: what a part without a score does to the sum."""

    def build(self) -> Reward:
        return WeightedSum(_built(self.parts), self.weights)


class GateConfig(Settings):
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


class CaseConfig(Settings):
    """One route."""

    when: When
    """Which rows take it; the first route whose condition holds is taken."""
    then: RewardConfig
    """What scores them."""


class RouteConfig(Settings):
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


class CascadeConfig(Settings):
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


for _model in (RewardConfig, SumConfig, GateConfig, CaseConfig, RouteConfig, CascadeConfig):
    _model.model_rebuild()
