"""The total of several rewards: a weighted sum, with a stated policy for parts without a score.

The parts are not normalised: each is added in its own unit, so a weight is also an exchange rate. The sum follows the
order of the weights in the job file, so that the same job gives the same bits.

    rule = CombineRule.model_validate({"math": 1.0, "length": 0.1, "on_null": None})
    rule.check(["math", "length"])  # the job's rewards; raises UserError for a weight without its reward
    parts = {"math": pa.array([1.0, None]), "length": pa.array([-0.5, 0.0])}
    score, error = weighted_sum(parts, rule)
    score  # [0.95, null]
    error  # [null, "part_is_null: math"]
"""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import reduce
from math import isfinite
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator, model_validator

from connectors.errors import UserError
from rmbatch.settings.base import Settings
from rmbatch.settings.mistakes import validate

_NO_SCORE = pa.scalar(None, pa.float64())
_NO_TEXT = pa.scalar(None, pa.string())


class CombineRule(Settings):
    """``combine:`` in a job file, where on_null stands beside the weights: ``{math: 1.0, on_null: null}``.

    So a reward with a weight cannot have the name ``on_null``.
    """

    weights: Mapping[str, float]
    """The weight of each reward by name, in the order of the sum. Negative is a penalty; at least one is not 0."""

    on_null: Literal["renormalise"] | float | None = None
    """What a part without a score does to the total.

    None: the total is null too, and its error names the part.
    renormalise: the total is the sum over the parts present, times all weights over the weights present (absolute
    values); it is null if every part is null, or all that are present have weight 0.
    A number: it stands in for each missing score, in the part's own unit, before the weight.
    """

    @model_validator(mode="before")
    @classmethod
    def _gather_weights(cls, written: Any) -> Any:
        if not isinstance(written, Mapping):
            raise ValueError(f"write reward names and their weights, like {{math: 1.0, length: 0.1}}; got {written!r}")
        if isinstance(written.get("weights"), Mapping):  # a dumped rule, not a reward called weights
            return written
        weights = {name: weight for name, weight in written.items() if name != "on_null"}
        return {"weights": weights, "on_null": written.get("on_null")}

    @field_validator("weights", mode="before")
    @classmethod
    def _check_weights(cls, weights: Mapping[Any, Any]) -> Any:
        for name, weight in weights.items():
            if _read_finite(weight) is None:
                raise ValueError(f"the weight of {name!r} must be a finite number; got {weight!r}")
        if not any(_read_finite(weight) for weight in weights.values()):
            raise ValueError("give at least one reward a weight other than 0, like {math: 1.0}")
        return weights

    @field_validator("on_null", mode="before")
    @classmethod
    def _check_on_null(cls, on_null: Any) -> Any:
        if on_null in (None, "renormalise"):
            return on_null
        number = _read_finite(on_null)
        if number is None:
            raise ValueError(f"on_null must be null, renormalise or a finite number; got {on_null!r}")
        return number

    def check(self, names: Collection[str]) -> None:
        """Raise UserError unless every weight's reward is among ``names``, the rewards that there are."""
        for name in self.weights:
            if name not in names:
                near = get_close_matches(name, [*names, "on_null"], n=1)
                meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
                raise UserError(f"combine.{name}: no reward has this name; {meant}")


def read_combine_rule(written: CombineRule | Mapping[str, Any]) -> CombineRule:
    """The rule that a dict describes, as in a job file; raises UserError where it is none."""
    if isinstance(written, CombineRule):
        return written
    return validate(CombineRule, written, where="combine")


def weighted_sum(parts: Mapping[str, pa.Array], rule: CombineRule) -> tuple[pa.Array, pa.Array]:
    """The sum of weight times score over the rule's rewards, and why it is null where it is.

    parts: score[n] float64 by reward name -> score[n] float64, in the parts' units times the weights; error[n] string.
    Parts without a weight are left out; a NaN counts as null; ``rule.on_null`` says what nulls do. Where there is no
    total, error is "part_is_null: math, length" (all null parts), or "not_a_number" where inf met -inf or weight 0.
    Raises UserError for a weight without its part, ValueError for parts of unequal length.
    """
    rule.check(parts)
    scores = {name: _nan_to_null(parts[name].cast(pa.float64())) for name in rule.weights}
    if len({len(score) for score in scores.values()}) > 1:
        lengths = ", ".join(f"{name} {len(score)}" for name, score in scores.items())
        raise ValueError(f"parts must have one score for each row; got {lengths}")

    filled = scores
    if isinstance(rule.on_null, float):
        filled = {name: score.fill_null(rule.on_null) for name, score in scores.items()}
    weighted = [pc.multiply(score, rule.weights[name]) for name, score in filled.items()]
    if rule.on_null == "renormalise":
        total = pc.multiply(_sum(part.fill_null(0.0) for part in weighted), _renormalising_factor(scores, rule.weights))
    else:
        total = _sum(weighted)
    return _nan_to_null(total), _errors(total, scores)


def _sum(terms: Iterable[Any]) -> Any:
    """Left to right, without the compensation that builtin sum brings from Python 3.12 on: the same bits everywhere."""
    return reduce(pc.add, terms)


def _renormalising_factor(scores: Mapping[str, pa.Array], weights: Mapping[str, float]) -> pa.Array:
    """The sum of all weights over that of the present parts' weights, absolute: 1 where none is missing, null for 0."""
    present = _sum(pc.if_else(score.is_valid(), abs(weights[name]), 0.0) for name, score in scores.items())
    every = _sum(pa.scalar(abs(weight)) for weight in weights.values())
    return pc.divide(every, pc.if_else(pc.equal(present, 0.0), _NO_SCORE, present))


def _errors(total: pa.Array, scores: Mapping[str, pa.Array]) -> pa.Array:
    """Why each total is null, or will be because it is NaN; null where it is a number."""
    error = pc.if_else(pc.is_nan(total), "not_a_number", _NO_TEXT)
    missing = total.is_null()
    # Only rows that miss a part: with "skip", Arrow drops a row that has nothing to join (narwhals issue 3965).
    names = [pc.if_else(score.filter(missing).is_null(), name, _NO_TEXT) for name, score in scores.items()]
    null_parts = pc.binary_join_element_wise(*names, ", ", null_handling="skip")
    return pc.replace_with_mask(error, missing, pc.binary_join_element_wise("part_is_null", null_parts, ": "))


def _nan_to_null(score: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(score), _NO_SCORE, score)


def _read_finite(value: Any) -> float | None:
    """The number that ``value`` is or spells; None for anything else, and for booleans, inf and NaN."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isfinite(number) else None
