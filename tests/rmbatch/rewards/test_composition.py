"""Rewards made of rewards: what each composition makes of its parts' scores and nulls, and whom it asks."""

import itertools
import pickle
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards import Cascade, Gate, Result, Reward, Router, WeightedSum, reward
from rmbatch.rewards.composition import When
from rmbatch.rewards.totals import CombineRule

ASKED: list[list[float | None]] = []


@reward("given")
def given(value: pa.Array) -> pa.Array:
    """The score that a column holds."""
    return value


@reward("doubled")
def doubled(value: pa.Array) -> pa.Array:
    """Twice the column; remembers what it was asked about."""
    ASKED.append(value.to_pylist())
    return pc.multiply(value.cast(pa.float64()), 2.0)


@reward("of_response")
def of_response(response_value: pa.Array) -> pa.Array:
    """The score that a column holds for each candidate."""
    return response_value


@reward("place", kind="listwise")
def place(value: pa.Array, *, offsets: Any) -> pa.Array:
    """How many responses of the prompt are compared."""
    sizes = [b - a for a, b in itertools.pairwise(offsets) for _ in range(b - a)]
    return pa.array(sizes, pa.float64())


GIVEN, DOUBLED, PLACE = rmbatch.reward(given), rmbatch.reward(doubled), rmbatch.reward(place)


def scored(composition: Reward, value: list[float | None], **columns: list[Any]) -> dict[str, list[Any]]:
    """Score, error and reason, and those of the parts, by column."""
    ASKED.clear()
    columns = {"response": ["r"] * len(value), "value": value} | columns
    table = composition.score(pa.table(columns), {"value": "value"}, name="x")
    return {name: table[name].to_pylist() for name in table.column_names if name not in columns}


def codes(errors: list[str | None]) -> list[str | None]:
    return [error and error.split(":")[0] for error in errors]


@pytest.mark.parametrize(
    ("knobs", "expected", "expected_codes"),
    [
        ({}, [0.0, 2.0, 6.0, None], [None, None, None, "gate_is_null"]),
        ({"otherwise": None}, [None, 2.0, 6.0, None], ["gate_closed", None, None, "gate_is_null"]),
        ({"otherwise": -1.0, "on_null": "closed"}, [-1.0, 2.0, 6.0, -1.0], [None] * 4),
        ({"min_score": 2.0}, [0.0, 0.0, 6.0, None], [None, None, None, "gate_is_null"]),
    ],
)
def test_a_gate(knobs: dict[str, Any], expected: list[float | None], expected_codes: list[str | None]) -> None:
    found = scored(Gate(GIVEN, DOUBLED, **knobs), [0.5, 1.0, 3.0, None])
    assert found["score.x"] == expected
    assert codes(found["error.x"]) == expected_codes
    assert found["score.x.require"] == [0.5, 1.0, 3.0, None]
    behind = [value for value in (1.0, 3.0) if value >= knobs.get("min_score", 1.0)]
    assert [behind] == ASKED  # nothing is computed behind a closed gate
    assert found["score.x.then"] == [value * 2 if value in behind else None for value in [0.5, 1.0, 3.0, None]]
    assert codes(found["error.x.then"])[0] == "not_reached"


def test_a_null_behind_an_open_gate_is_a_null() -> None:
    found = scored(Gate(rmbatch.reward(given), rmbatch.reward("accuracy")), [1.0], reference=[None])
    assert found["score.x"] == [None]
    assert found["error.x"] == ["part_is_null: then: missing_reference: reference is null"]


KINDS: dict[str, list[Any]] = {
    "x": [1.0, 2.5, 3.0, None],
    "kind": ["a", "b", "c", None],
    "n": [1, 2, 3, None],
    "text": ["x1", "ö2", "", None],
}


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (When(column="kind", equals="a"), [True, False, False, False]),
        (When(column="n", equals=2), [False, True, False, False]),
        (When(column="x", equals=1.0), [True, False, False, False]),  # Arrow writes 1, Python 1.0
        (When(column="kind", one_of=("a", "c")), [True, False, True, False]),
        (When(column="n", min=2), [False, True, True, False]),
        (When(column="n", min=2, max=2), [False, True, False, False]),
        (When(column="kind", min=0), [False, False, False, False]),  # text that is no number
        (When(column="text", matches=r"^\p{L}\d$"), [True, True, False, False]),
        (When(column="kind", is_null=True), [False, False, False, True]),
        (When(column="kind", is_null=False, one_of=("c",)), [False, False, True, False]),
    ],
)
def test_a_predicate(when: When, expected: list[bool]) -> None:
    table = pa.table(KINDS)
    assert when(lambda name: table[name].combine_chunks()).to_pylist() == expected


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({}, "holds always"),
        ({"equals": None}, "equals: null says nothing"),
        ({"matches": "("}, "is no pattern"),
        ({"equal": "a"}, "Extra inputs"),
    ],
)
def test_a_predicate_that_says_nothing_is_refused(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        When(column="kind", **conditions)


def test_a_predicate_on_a_list_is_a_mistake() -> None:
    with pytest.raises(UserError, match="when: column 'kind' is list<item: string>"):
        When(column="kind", equals="a")(lambda name: pa.array([["a"]]))


def test_a_router_takes_the_first_route() -> None:
    routes = {"low": (When(column="value", max=1), GIVEN), "any": (When(column="value", max=2), DOUBLED)}
    found = scored(Router(routes), [1.0, 2.0, 3.0, None])
    assert found["score.x"] == [1.0, 4.0, None, None]
    assert codes(found["error.x"]) == [None, None, "no_route", "no_route"]
    assert found["reason.x"][:2] == ["route low", "route any"]
    assert ASKED == [[2.0]]
    with_default = scored(Router(routes, default=GIVEN), [1.0, 2.0, 3.0, None])
    assert with_default["score.x"] == [1.0, 4.0, 3.0, None]
    assert with_default["error.x"][3] == "part_is_null: missing_value: value is null"


@pytest.mark.parametrize(
    ("on_null", "expected", "expected_codes"),
    [
        ("null", [0.1, 0.4, 1.6, 0.9, None], [None, None, None, None, "part_is_null"]),
        ("next", [0.1, 0.4, 1.6, 0.9, None], [None, None, None, None, "part_is_null"]),
    ],
)
def test_a_cascade_asks_the_next_only_inside_the_band(
    on_null: Any, expected: list[float | None], expected_codes: list[str | None]
) -> None:
    cascade = Cascade({"first": GIVEN, "second": DOUBLED}, {"first": (0.2, 0.8)}, on_null=on_null)
    found = scored(cascade, [0.1, 0.2, 0.8, 0.9, None])
    assert found["score.x"] == pytest.approx(expected)
    assert codes(found["error.x"]) == expected_codes
    reached = [0.2, 0.8] if on_null == "null" else [0.2, 0.8, None]
    assert [reached] == ASKED
    assert found["reason.x"][:2] == ["decided by first", "decided by second"]
    assert found["score.x.first"] == [0.1, 0.2, 0.8, 0.9, None]  # per-part scores are kept


def test_a_weighted_sum_keeps_nulls_visible() -> None:
    rule = CombineRule.model_validate({"a": 1.0, "b": 0.5})
    found = scored(WeightedSum({"a": GIVEN, "b": DOUBLED}, rule), [1.0, None])
    assert found["score.x"] == [2.0, None]
    assert found["error.x"] == [None, "part_is_null: a, b"]
    assert found["score.x.b"] == [2.0, None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cascade({"a": GIVEN}, {}), "two parts or more"),
        (lambda: Cascade({"a": GIVEN, "b": GIVEN}, {"b": (0, 1)}), "a band for each but the last"),
        (lambda: Cascade({"a": GIVEN, "b": GIVEN}, {"a": (1, 0)}), "must not end before it begins"),
        (lambda: Router({}), "at least one route"),
        (lambda: Router({"default": (When(column="value", min=0), GIVEN)}), "is taken"),
        (lambda: WeightedSum({"a": GIVEN}, CombineRule.model_validate({"b": 1})), "no reward has this name"),
    ],
)
def test_impossible_composition_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


NESTED = Gate(
    rmbatch.reward("length_penalty", min_length=1),
    Router(
        {"maths": (When(column="kind", equals="maths"), rmbatch.reward("accuracy"))},
        default=WeightedSum(
            {"f1": rmbatch.reward("f1_score"), "exact": rmbatch.reward("accuracy")},
            CombineRule.model_validate({"f1": 0.5, "exact": 0.25, "on_null": None}),
        ),
    ),
    min_score=0.0,
)
SAMPLES = [
    {"responses": ["4", "", None, "5"], "reference": "4", "kind": "maths"},
    {"responses": ["a cat", "the cat"], "reference": "a cat", "kind": "chat"},
    {"responses": [], "reference": "x", "kind": None},
    {"responses": ["a"], "reference": None, "kind": None},
]


def test_nested_compositions_agree_in_every_way_of_scoring() -> None:
    batch = NESTED.evaluate_batch(SAMPLES)
    assert batch == [NESTED.evaluate(sample) for sample in SAMPLES]
    assert [[result.score for result in results] for results in batch] == [
        [1.0, 0.0, None, 0.0],
        [0.75, pytest.approx(0.25)],
        [],
        [None],
    ]
    table = NESTED.score(pa.Table.from_pylist(SAMPLES), name="x")
    assert table["score.x"].to_pylist() == [[result.score for result in results] for results in batch]
    by_part = [[result.parts["then.default.f1"].score for result in results] for results in batch]
    assert table["score.x.then.default.f1"].to_pylist() == by_part
    flat = pa.Table.from_pylist(
        [{"response": text, **sample} for sample in SAMPLES for text in sample["responses"]]
    ).drop_columns(["responses"])
    assert NESTED.score(flat, name="x")["score.x"].to_pylist() == [
        score for scores in table["score.x"].to_pylist() for score in scores
    ]
    copy: Reward = pickle.loads(pickle.dumps(NESTED))
    assert copy.evaluate_batch(SAMPLES) == batch
    assert NESTED.best_of_n(SAMPLES[0])[0].response == "4"


def test_listwise_part_compares_only_reached_responses() -> None:
    columns = {"responses": [["a", "b", "c"], ["d"]], "response_value": [[1.0, 0.0, 2.0], [1.0]], "value": [0.0, 0.0]}
    found = Gate(rmbatch.reward(of_response), PLACE).score(pa.table(columns), name="x")
    assert found["score.x"].to_pylist() == [[2.0, 0.0, 2.0], [1.0]]


def test_no_rows() -> None:
    assert scored(NESTED, [], reference=[], kind=[])["score.x"] == []
    assert Result(1.0) == Result(1.0, None, None)
