"""Rewards made of rewards: a weighted sum, a gate, a router, a cascade. Each is a ``Reward`` itself, so they nest.

Every part keeps its own scores beside the composition's (``score.<name>.<part>``). A part scores only the responses
that reach it. Behind a closed gate, on another route or outside a band nothing is computed, and the part's error says
``not_reached``. A null is never averaged away: each composition has its own policy for nulls.

    Gate(require=reward("reasoning_format"), then=reward("math_verify"))
    Router({"math": (When(column="source", equals="math"), reward("math_verify"))}, default=reward("f1_score"))
    Cascade({"words": reward("f1_score"), "maths": reward("math_verify")}, bands={"words": (0.2, 0.8)})
    WeightedSum({"a": reward("accuracy"), "b": Gate(...)}, {"a": 1.0, "b": 0.5})
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from connectors.errors import UserError
from rmbatch.rewards.contract import Scores, null_scores
from rmbatch.rewards.evaluation import Columns, Offsets, Reward
from rmbatch.rewards.totals import CombineRule, read_combine_rule, weighted_sum
from rmbatch.rows.messages import TEXT
from rmbatch.settings.base import Settings

PartScores = tuple[dict[str, Scores], Scores]
"""The scores of all parts, and the composition's own."""

NOT_REACHED = "not_reached"
"""The code where a part did not score a response."""

_NO_TEXT = pa.scalar(None, TEXT)
_NOT_REACHED = pa.scalar(f"{NOT_REACHED}: another part decided about this response", TEXT)


class Composition(Reward):
    """A reward made of ``parts``, by the name that their columns end in."""

    parts: Mapping[str, Reward]
    reads: tuple[str, ...] = ()
    """Columns that the composition itself reads."""
    gives_reasons = True
    """Whether it gives reasons of its own."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """The kind of composition; a job or ``score(…, name=…)`` gives it a better name."""
        return type(self).__name__.lower()

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        named = [name for part in self.parts.values() for name in part.columns]
        return tuple(dict.fromkeys([*self.reads, *named]))

    @property
    def optional(self) -> tuple[str, ...]:  # type: ignore[override]
        needed = {*self.reads}.union(*({*part.columns} - {*part.optional} for part in self.parts.values()))
        return tuple(name for name in self.columns if name not in needed)

    @property
    def takes_offsets(self) -> bool:  # type: ignore[override]
        return any(part.takes_offsets for part in self.parts.values())

    @property
    def part_names(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, Sequence[str]] = {"": ("reason",) if self.gives_reasons else ()}
        for name, part in self.parts.items():
            found |= {_join_names(name, inner): more for inner, more in part.part_names.items()}
        return found

    def score_parts(self, column: Columns, num_rows: int, offsets: Offsets | None = None) -> dict[str, Scores]:
        parts, own = self._compose(_Batch(column, num_rows, offsets))
        return {"": own, **{name: parts[name] for name in self.part_names if name}}

    @abstractmethod
    def _compose(self, batch: "_Batch") -> PartScores:
        """All parts' scores, and the composition's own."""

    def _score_part(self, name: str, batch: "_Batch") -> dict[str, Scores]:
        found = self.parts[name].score_parts(batch.column, batch.num_rows, batch.offsets)
        return {_join_names(name, inner): scores for inner, scores in found.items()}


def _check_parts(parts: Any) -> dict[str, Reward]:
    """The parts as a dict; raises UserError where one is no reward."""
    if not isinstance(parts, Mapping):
        raise UserError(f"the parts of a composition are a dict of rewards by name; got {type(parts).__name__}")
    for name, part in parts.items():
        if not isinstance(part, Reward):
            raise UserError(f"part {name!r} is no reward but {part!r}; write rmbatch.reward({part!r})")
    return dict(parts)


def leaf_rewards(rewards: Mapping[str, Reward]) -> Iterator[tuple[str, Reward]]:
    """The rewards that are made of no others, by the names that their columns end in."""
    for name, reward in rewards.items():
        if isinstance(reward, Composition):
            yield from ((f"{name}.{inner}", found) for inner, found in leaf_rewards(reward.parts))
        else:
            yield name, reward


class WeightedSum(Composition):
    """The sum of weight times score over the parts: see ``rmbatch.rewards.totals`` for its unit and what nulls do."""

    gives_reasons = False

    def __init__(self, parts: Mapping[str, Reward], rule: CombineRule | Mapping[str, Any]) -> None:
        """``rule`` may be a dict, as ``combine:`` in a job file: ``{"a": 1.0, "b": 0.5, "on_null": None}``."""
        self.parts, self.rule = _check_parts(parts), read_combine_rule(rule)
        self.rule.check(list(parts))

    def _compose(self, batch: "_Batch") -> PartScores:
        parts = reduce(lambda found, name: found | self._score_part(name, batch), self.parts, dict[str, Scores]())
        total, error = weighted_sum({name: parts[name].score for name in self.parts}, self.rule)
        return parts, Scores(total, error.cast(TEXT), pa.nulls(batch.num_rows, TEXT))


class Gate(Composition):
    """The score of ``then`` where ``require`` reaches ``min_score``; elsewhere ``otherwise``: a hard constraint.

    ``otherwise`` None: no score there (``gate_closed``). ``on_null``: where ``require`` has no score there is none
    either (``gate_is_null``), or it counts as closed. A null of ``then`` is a null (``part_is_null``).
    """

    def __init__(
        self,
        require: Reward,
        then: Reward,
        *,
        min_score: float = 1.0,
        otherwise: float | None = 0.0,
        on_null: Literal["null", "closed"] = "null",
    ) -> None:
        self.parts = _check_parts({"require": require, "then": then})
        self.min_score, self.otherwise, self.on_null = min_score, otherwise, on_null

    def _compose(self, batch: "_Batch") -> PartScores:
        found = self._score_part("require", batch)
        required = found["require"].score
        is_open = pc.greater_equal(required, self.min_score)  # null for null
        if self.on_null == "closed":
            is_open = is_open.fill_null(False)
        found |= batch.select(is_open.fill_null(False)).scatter(
            lambda some: self._score_part("then", some), self, "then"
        )
        then = found["then"].score
        closed = pa.scalar(self.otherwise, pa.float64())
        score = pc.if_else(is_open, then, closed)  # null where is_open is
        shown = _add_prefix(
            "the gate is closed: require gave ", pc.coalesce(required.cast(TEXT), pa.scalar("no score", TEXT))
        )
        error = pc.if_else(
            is_open,
            _add_prefix("part_is_null: then: ", found["then"].error),
            _add_prefix("gate_closed: ", shown) if self.otherwise is None else _NO_TEXT,
        )
        error = pc.if_else(is_open.is_null(), _add_prefix("gate_is_null: ", found["require"].error), error)
        reason = pc.if_else(is_open, found["then"].reason, shown)
        return found, Scores(score, _keep_where_null(score, error), reason)


class When(Settings):
    """A predicate on a column: every given condition must hold. Of a null value only ``is_null: true`` holds."""

    column: str
    """The column, by role or name."""
    equals: str | int | float | bool | None = None
    """Its value as text equals this one."""
    one_of: tuple[str | int | float | bool, ...] | None = None
    """Its value as text equals one of these."""
    matches: str | None = None
    """Its text contains a match of this pattern (Rust's regex syntax, linear time)."""
    min: float | None = None
    """Its number is this or more."""
    max: float | None = None
    """Its number is this or less."""
    is_null: bool | None = None
    """It has no value (true), or has one (false)."""

    @model_validator(mode="after")
    def _check_condition(self) -> Self:
        said = {name: getattr(self, name) for name in self.model_fields_set - {"column"}}
        nothing = [name for name, value in said.items() if value is None]
        if nothing:
            raise ValueError(f"when: {nothing[0]}: null says nothing; for rows without a value write is_null: true")
        if not said:
            raise ValueError(f"when: {{column: {self.column}}} holds always; add equals, one_of, matches, min or max")
        if self.matches is not None:
            from polars.exceptions import PolarsError

            try:
                _matches_pattern(pa.array([""], TEXT), self.matches)
            except PolarsError as error:
                raise ValueError(f"matches: {self.matches!r} is no pattern ({error})") from None
        return self

    @model_serializer(mode="wrap")
    def _dump_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if value is not None}

    def __call__(self, column: Columns) -> pa.Array:
        """Where it holds: bool, never null."""
        values = column(self.column)
        holds = pa.repeat(pa.scalar(True), len(values))
        if self.is_null is not None:
            holds = pc.equal(values.is_null(), self.is_null)
        for choices in (None if self.equals is None else (self.equals,), self.one_of):
            if choices is not None:
                known = pa.array([_as_text(choice) for choice in choices], TEXT)
                holds = pc.and_(holds, pc.is_in(self._texts(values), value_set=known))
        if self.matches is not None:
            holds = pc.and_(holds, _matches_pattern(self._texts(values), self.matches).fill_null(False))
        for limit, compare in ((self.min, pc.greater_equal), (self.max, pc.less_equal)):
            if limit is not None:
                holds = pc.and_(holds, compare(self._numbers(values), limit).fill_null(False))
        return holds

    def _texts(self, values: pa.Array) -> pa.Array:
        if pa.types.is_nested(values.type):
            raise UserError(f"when: column {self.column!r} is {values.type}; a plain value is needed")
        return values.cast(TEXT)

    def _numbers(self, values: pa.Array) -> pa.Array:
        """The values as numbers; text that is no number, and any other kind of value, is null."""
        import polars as pl

        return pl.Series(pl.from_arrow(self._texts(values))).cast(pl.Float64, strict=False).to_arrow()


class Router(Composition):
    """The score of the first route whose predicate holds, else of ``default``; without one, null (``no_route``)."""

    def __init__(self, routes: Mapping[str, tuple[When, Reward]], default: Reward | None = None) -> None:
        if not routes:
            raise UserError("a router needs at least one route")
        if "default" in routes:
            raise UserError("the name 'default' is taken by the reward of no route; name the route differently")
        for name, route in routes.items():
            if not (isinstance(route, tuple) and len(route) == 2 and isinstance(route[0], When)):
                raise UserError(f"route {name!r}: write (When(column=…, equals=…), reward); got {route!r}")
        self.routes = {name: when for name, (when, _) in routes.items()}
        parts = {name: part for name, (_, part) in routes.items()} | ({"default": default} if default else {})
        self.parts = _check_parts(parts)
        self.reads = tuple(dict.fromkeys(when.column for when in self.routes.values()))

    def _compose(self, batch: "_Batch") -> PartScores:
        unrouted = pa.repeat(pa.scalar(True), batch.num_rows)
        found: dict[str, Scores] = {}
        own = null_scores(batch.num_rows)
        for name in self.parts:
            here = pc.and_(unrouted, self.routes[name](batch.column)) if name in self.routes else unrouted
            unrouted = pc.and_not(unrouted, here)
            found |= batch.select(here).scatter(lambda some, name=name: self._score_part(name, some), self, name)
            own = _choose_scores(here, found[name], own, f"route {name}")
        error = pc.if_else(
            unrouted, pa.scalar("no_route: no route takes this response, and there is no default", TEXT), own.error
        )
        return found, Scores(own.score, error, own.reason)


class Cascade(Composition):
    """The score of the first part; where it lies inside the part's band (ends included), that of the next, and so on.

    ``on_null``: where a part has no score, there is none (``part_is_null``), or the next part decides.
    """

    def __init__(
        self,
        parts: Mapping[str, Reward],
        bands: Mapping[str, tuple[float, float]],
        *,
        on_null: Literal["null", "next"] = "null",
    ) -> None:
        self.parts, self.bands, self.on_null = _check_parts(parts), dict(bands), on_null
        leading = list(self.parts)[:-1]
        if not leading or list(self.bands) != leading:
            raise UserError(
                f"a cascade needs two parts or more, and a band for each but the last, in order; got the parts "
                f"{', '.join(self.parts) or '(none)'} and bands for {', '.join(self.bands) or '(none)'}"
            )
        for name, (low, high) in self.bands.items():
            if not low <= high:
                raise UserError(f"the band of {name!r} must not end before it begins; got [{low}, {high}]")

    def _compose(self, batch: "_Batch") -> PartScores:
        undecided = pa.repeat(pa.scalar(True), batch.num_rows)
        found: dict[str, Scores] = {}
        own = null_scores(batch.num_rows)
        for name in self.parts:
            found |= batch.select(undecided).scatter(lambda some, name=name: self._score_part(name, some), self, name)
            own = _choose_scores(undecided, found[name], own, f"decided by {name}")
            if name in self.bands:
                low, high = self.bands[name]
                score = found[name].score
                inside = pc.and_(pc.greater_equal(score, low), pc.less_equal(score, high))
                undecided = pc.and_(undecided, inside.fill_null(self.on_null == "next"))
        return found, own


class _Batch:
    """Columns of responses, and parts of them."""

    def __init__(self, column: Columns, num_rows: int, offsets: Offsets | None) -> None:
        self.column, self.num_rows, self.offsets = column, num_rows, offsets

    def select(self, mask: pa.Array) -> "_Part":
        """The responses where the mask holds (bool, no nulls)."""
        return _Part(self, mask)


class _Part:
    """Some responses of a batch. Only these are compared with each other."""

    def __init__(self, whole: _Batch, mask: pa.Array) -> None:
        self.whole, self.mask = whole, np.asarray(mask)

    def scatter(self, ask: Any, owner: Composition, name: str) -> dict[str, Scores]:
        """The scores that ``ask`` gives these responses, in the order of the whole batch; ``not_reached`` elsewhere."""
        if self.mask.all():
            found: dict[str, Scores] = ask(self.whole)
            return found
        ends = np.concatenate([[0], np.cumsum(self.mask)])
        if self.mask.any():
            keep = pa.array(self.mask)
            offsets = None if self.whole.offsets is None else ends[self.whole.offsets]
            some: dict[str, Scores] = ask(
                _Batch(lambda column: self.whole.column(column).filter(keep), int(ends[-1]), offsets)
            )
        else:
            some = {_join_names(name, inner): null_scores(0) for inner in owner.parts[name].part_names}
        index = pa.array(ends[:-1], mask=~self.mask)
        reached = pa.array(self.mask)
        return {
            part: Scores(
                scores.score.take(index),
                pc.if_else(reached, scores.error.take(index), _NOT_REACHED),  # type: ignore[union-attr]
                scores.reason.take(index),  # type: ignore[union-attr]
                None if scores.steps is None else scores.steps.take(index),
            )
            for part, scores in some.items()
        }


def _choose_scores(here: pa.Array, part: Scores, others: Scores, why: str) -> Scores:
    """The part's scores where ``here`` holds, the others' elsewhere."""
    error = pc.if_else(here, _keep_where_null(part.score, _add_prefix("part_is_null: ", part.error)), others.error)
    reason = _add_prefix(why, pc.coalesce(_add_prefix(": ", part.reason), pa.scalar("", TEXT)))
    return Scores(pc.if_else(here, part.score, others.score), error, pc.if_else(here, reason, others.reason))


def _add_prefix(prefix: str, texts: pa.Array) -> pa.Array:
    """The prefix before each text; null stays null."""
    return pc.binary_join_element_wise(pa.scalar(prefix, TEXT), texts, pa.scalar("", TEXT))


def _keep_where_null(score: pa.Array, error: pa.Array) -> pa.Array:
    return pc.if_else(score.is_null(), error, _NO_TEXT)


def _matches_pattern(texts: pa.Array, pattern: str) -> pa.Array:
    import polars as pl  # most jobs do without

    return pl.Series(pl.from_arrow(texts)).str.contains(pattern).to_arrow()


def _as_text(value: Any) -> str:
    """The value as Arrow writes it: 1.0 is "1"."""
    text: str = pc.cast(pa.scalar(value), TEXT).as_py()
    return text


def _join_names(name: str, inner: str) -> str:
    return f"{name}.{inner}" if inner else name
