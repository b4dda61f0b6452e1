"""The weighted sum of rewards: a table of traps per null policy, and a reference that adds row by row."""

import math
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from connectors.errors import UserError
from rmbatch.rewards.totals import CombineRule, weighted_sum

NAN, INF = float("nan"), float("inf")


def rule_of(written: dict[str, Any]) -> CombineRule:
    return CombineRule.model_validate(written)


def total_of(written: dict[str, Any], row: dict[str, float | None]) -> tuple[float | None, str | None]:
    score, error = weighted_sum({name: pa.array([part], pa.float64()) for name, part in row.items()}, rule_of(written))
    assert (score.type, error.type) == (pa.float64(), pa.string())
    return score[0].as_py(), error[0].as_py()


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "row", "score", "error"),
    [
        ({"a": 1, "b": 0.5}, {"a": 1.0, "b": -1.0}, 0.5, None),
        ({"a": 1}, {"a": 0.0}, 0.0, None),  # zero is a score
        ({"a": 1}, {"a": 1.0, "other": None}, 1.0, None),  # a reward without a weight has no say
        ({"a": 1, "b": 1}, {"a": None, "b": 1.0}, None, "part_is_null: a"),
        ({"b": 1, "a": 1, "c": 1}, {"a": None, "b": None, "c": 1.0}, None, "part_is_null: b, a"),  # in the job's order
        ({"a": 1, "b": 0}, {"a": 1.0, "b": None}, None, "part_is_null: b"),  # weight 0 does not excuse a null
        ({"a": 1}, {"a": NAN}, None, "part_is_null: a"),
        ({"a": 1, "b": -1}, {"a": INF, "b": INF}, None, "not_a_number"),  # inf - inf
        ({"a": 1, "b": 0}, {"a": 1.0, "b": INF}, None, "not_a_number"),  # 0 * inf
        ({"a": 1, "b": 1}, {"a": INF, "b": 1.0}, INF, None),
        ({"a": 1, "b": 1, "on_null": "renormalise"}, {"a": 1.0, "b": 0.5}, 1.5, None),
        ({"a": 1, "b": 1, "on_null": "renormalise"}, {"a": 1.0, "b": None}, 2.0, None),
        ({"a": 3, "b": -1, "on_null": "renormalise"}, {"a": None, "b": 0.5}, -2.0, None),  # a penalty stays one
        ({"a": 1, "b": -1, "on_null": "renormalise"}, {"a": 1.0, "b": None}, 2.0, None),  # the weights' sum is 0 here
        ({"a": 1, "b": 1, "on_null": "renormalise"}, {"a": None, "b": None}, None, "part_is_null: a, b"),
        ({"a": 1, "b": 0, "on_null": "renormalise"}, {"a": None, "b": 5.0}, None, "part_is_null: a"),  # 0 / 0
        ({"a": 1, "b": 2, "on_null": 0}, {"a": 1.0, "b": None}, 1.0, None),
        ({"a": 1, "b": 2, "on_null": -0.5}, {"a": 1.0, "b": None}, 0.0, None),  # taken before the weight
        ({"a": 1, "b": 2, "on_null": 0}, {"a": None, "b": None}, 0.0, None),
        ({"a": 1, "on_null": 0.25}, {"a": NAN}, 0.25, None),
        ({"weights": 2}, {"weights": 3.0}, 6.0, None),  # a reward that is called weights
    ],
)
def test_one_row(written: dict[str, Any], row: dict[str, float | None], score: float | None, error: str | None) -> None:
    assert total_of(written, row) == (score, error)


@pytest.mark.parametrize("on_null", [None, "renormalise", 0.0])
def test_empty_batch(on_null: Any) -> None:
    score, error = weighted_sum({"a": pa.array([], pa.float64())}, rule_of({"a": 1, "on_null": on_null}))
    assert (len(score), score.type, len(error), error.type) == (0, pa.float64(), 0, pa.string())


@pytest.mark.parametrize(
    "part", [pa.nulls(2), pa.array([None, 3]), pa.array([0.5, None], pa.float32()), pa.array([9, 1.0, None]).slice(1)]
)
def test_other_types_and_slices(part: pa.Array) -> None:
    score, _ = weighted_sum({"a": part}, rule_of({"a": 2}))
    assert score.to_pylist() == [None if value is None else 2.0 * value for value in part.to_pylist()]


def test_the_job_file_orders_the_sum() -> None:
    parts = {"big": pa.array([1e16]), "small": pa.array([1.0]), "minus": pa.array([-1e16])}
    forward, _ = weighted_sum(parts, rule_of({"big": 1, "minus": 1, "small": 1}))
    backward, _ = weighted_sum(parts, rule_of({"small": 1, "big": 1, "minus": 1}))
    assert (forward[0].as_py(), backward[0].as_py()) == (1.0, 0.0)  # floats: the order shows, so it must be fixed


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_reads_the_job_file_and_its_own_dump() -> None:
    rule = rule_of({"math": 1, "length": "0.1", "on_null": 0})  # "0.1": from an environment variable
    assert rule.weights == {"math": 1.0, "length": 0.1}
    assert rule.on_null == 0.0
    assert rule_of(rule.model_dump()) == rule
    assert rule_of({"math": 1}).on_null is None


def test_stands_in_a_job_model() -> None:
    class Job(BaseModel):
        combine: CombineRule | None = None

    job = Job.model_validate({"combine": {"math": 1.0, "on_null": "renormalise"}})
    assert job.combine is not None
    assert dict(job.combine.weights) == {"math": 1.0}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "at least one reward a weight other than 0"),
        ({"on_null": 0}, "at least one reward"),
        ({"a": 0, "b": 0.0}, "other than 0"),
        ({"a": True}, "weight of 'a' must be a finite number; got True"),  # YAML's yes
        ({"a": None}, "weight of 'a' must be a finite number; got None"),
        ({"a": "high"}, "weight of 'a' must be a finite number; got 'high'"),
        ({"a": NAN}, "finite number; got nan"),
        ({"a": INF}, "finite number; got inf"),
        ({"a": 10**400}, "finite number"),
        ({"a": 1, "on_null": "renormalize"}, "null, renormalise or a finite number; got 'renormalize'"),
        ({"a": 1, "on_null": False}, "finite number; got False"),
        ({"a": 1, "on_null": NAN}, "finite number; got nan"),
        (["a"], r"write reward names and their weights, like \{math: 1.0, length: 0.1\}; got \['a'\]"),
        ({"weights": {"a": 1}, "rest": 1}, "rest"),
    ],
)
def test_wrong_rules_are_refused(written: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CombineRule.model_validate(written)


@pytest.mark.parametrize(
    ("written", "names", "message"),
    [
        ({"mth": 1}, ["math", "length"], r"^combine\.mth: no reward has this name; did you mean 'math'\?$"),
        (
            {"math": 1, "zzz": 1},
            ["math", "length"],
            r"^combine\.zzz: no reward has this name; there are: math, length$",
        ),
        ({"math": 1, "on_nul": 0}, ["math"], "did you mean 'on_null'"),  # a misspelt policy looks like a reward
        ({"math": 1}, [], "there are: none"),
    ],
)
def test_a_weight_without_its_reward_names_the_nearest(written: Any, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rule_of(written).check(names)


def test_parts_must_be_there_and_equally_long() -> None:
    rule = rule_of({"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"^combine\.b: "):
        weighted_sum({"a": pa.array([1.0])}, rule)
    with pytest.raises(ValueError, match="got a 1, b 2"):
        weighted_sum({"a": pa.array([1.0]), "b": pa.array([1.0, 2.0])}, rule)


# --- properties -------------------------------------------------------------------------------------------------------

parts_of_rows = st.lists(st.lists(st.none() | st.floats(), min_size=3, max_size=3), max_size=6)
weight_lists = st.lists(st.sampled_from([1.0, 0.1, 0.0, -0.5, 1 / 3]), min_size=3, max_size=3).filter(any)


def slow_total(row: list[float | None], weights: list[float], on_null: Any) -> float | None:
    """The reference: one row, one part after the other."""
    row = [None if part is None or math.isnan(part) else part for part in row]
    if isinstance(on_null, float):
        row = [on_null if part is None else part for part in row]
    if on_null is None and None in row:
        return None
    total = present = every = 0.0
    for part, weight in zip(row, weights, strict=True):
        every += abs(weight)
        if part is not None:
            total += weight * part
            present += abs(weight)
    if on_null == "renormalise":
        if present == 0.0:
            return None
        total *= every / present
    return None if math.isnan(total) else total


@given(parts_of_rows, weight_lists, st.sampled_from([None, "renormalise", 0.0, -1.5]))
def test_equals_the_slow_reference_to_the_bit(rows: list[Any], weights: list[float], on_null: Any) -> None:
    names = ["a", "b", "c"]
    parts = {name: pa.array([row[i] for row in rows], pa.float64()) for i, name in enumerate(names)}
    score, error = weighted_sum(parts, rule_of({**dict(zip(names, weights, strict=True)), "on_null": on_null}))
    assert score.to_pylist() == [slow_total(row, weights, on_null) for row in rows]
    assert score.is_null().equals(error.is_valid())  # a reason wherever there is no total, and nowhere else


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), weight_lists)
def test_without_nulls_the_policies_agree_to_the_bit(values: list[float], weights: list[float]) -> None:
    names = ["a", "b", "c"]
    parts = {name: pa.array(np.roll(values, i)) for i, name in enumerate(names)}
    policies = (None, "renormalise", 7.0)
    totals = [
        weighted_sum(parts, rule_of({**dict(zip(names, weights, strict=True)), "on_null": policy}))[0]
        for policy in policies
    ]
    assert totals[0].equals(totals[1])
    assert totals[0].equals(totals[2])


def test_a_million_rows_in_seconds() -> None:
    """A sanity bound, to catch a loop per row: 0.13 s measured on two cores."""
    num = 1_000_000
    random = np.random.default_rng(0)
    parts = {name: pa.array(random.random(num), mask=random.random(num) < 0.3) for name in "abc"}
    started = time.perf_counter()
    weighted_sum(parts, rule_of({"a": 1, "b": 0.5, "c": -1}))
    assert time.perf_counter() - started < 5
