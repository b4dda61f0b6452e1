"""What a reward's signature declares, what is refused, and the one form that its scores are brought to."""

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import Field

from connectors.errors import UserError
from rmbatch.rewards.contract import RewardError, Scores, reward, spec_of
from rmbatch.rewards.function import bind


@reward("shout")
def shout(
    response: pa.Array, *, mark: Literal["!", "?"] = "!", weight: Annotated[float, Field(gt=0)] = 1.0
) -> pa.Array:
    """How often a response shouts."""
    return pc.multiply(pc.cast(pc.count_substring(response, mark), pa.float64()), weight)


@reward("lift", kind="listwise")
def lift(response: pa.Array, *, offsets: np.ndarray[Any, Any], scale: float = 1.0) -> pa.Array:
    """Length above the mean of the prompt's responses."""
    length = pc.utf8_length(response).to_numpy(zero_copy_only=False)
    means = np.concatenate(
        [np.full(end - start, length[start:end].mean()) for start, end in pairwise(offsets) if end > start]
    )
    return pa.array((length - means) * scale)


@reward("counted")
class Counted:
    """Counts its calls: state."""

    def __init__(self, *, start: int) -> None:
        self.calls = start

    def __call__(self, response: pa.Array, reference: pa.Array) -> Scores:
        self.calls += 1
        return Scores(pa.array([float(self.calls)] * len(response)))


def scores(target: Any, given: dict[str, list[Any]], **knobs: Any) -> Scores:
    columns = {name: pa.array(values, pa.large_string()) for name, values in given.items()}
    return bind(target, knobs).score_columns(columns.__getitem__, len(next(iter(columns.values()))))


def test_the_signature_is_the_declaration() -> None:
    spec = spec_of(shout)
    assert (spec.name, spec.kind, spec.columns, spec.writes_reason) == ("shout", "pointwise", ("response",), False)
    assert [(knob.name, knob.default) for knob in spec.knobs] == [("mark", "!"), ("weight", 1.0)]
    counted = spec_of(Counted)
    assert (counted.columns, [knob.name for knob in counted.knobs]) == (("response", "reference"), ["start"])
    assert counted.writes_reason
    assert counted.knobs[0].required


def test_a_declared_function_is_still_that_function() -> None:
    assert shout(pa.array(["a!!"]), weight=2.0).to_pylist() == [4.0]


def test_state_lives_as_long_as_the_reward() -> None:
    rm = bind(Counted, {"start": 6})
    sample = {"response": "a", "reference": "b"}
    assert [rm.evaluate(sample).score, rm.evaluate(sample).score] == [7.0, 8.0]


@pytest.mark.parametrize(
    ("target", "knobs", "message"),
    [
        (shout, {"marc": "!"}, r"reward 'shout': marc: unknown knob; did you mean 'mark'\?"),
        (shout, {"mark": "."}, r"reward 'shout': mark: got '\.'; write '!' or '\?'"),
        (shout, {"weight": 0}, r"reward 'shout': weight: got 0; write more than 0"),
        (shout, {"weight": "much"}, "weight: got 'much'; write a number"),
        (Counted, {}, "reward 'counted': start: missing; it has no default"),
        (lift, {"offsets": [0]}, "offsets: unknown knob"),  # the caller's, not the user's
    ],
)
def test_a_wrong_knob_is_one_line(target: Any, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        bind(target, knobs)
    assert "\n" not in str(raised.value)


def no_column(*, knob: int = 1) -> pa.Array: ...
def stars(*columns: pa.Array) -> pa.Array: ...
def alone(response: pa.Array) -> pa.Array: ...
def together(response: pa.Array, *, offsets: Any) -> pa.Array: ...


class Positional:
    """Takes its knob by position."""

    def __init__(self, knob: int) -> None: ...

    def __call__(self, response: pa.Array) -> pa.Array: ...


class NotCallable:
    """Has no __call__."""


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        (no_column, "pointwise", "reads no column"),
        (stars, "pointwise", "write them out"),
        (alone, "listwise", "needs a keyword-only parameter `offsets`"),
        (together, "pointwise", "cannot take `offsets`"),
        (alone, "pairwize", "is none of pointwise"),
        (NotCallable, "pointwise", "no __call__"),
        (Positional, "pointwise", r"after a `\*`"),
    ],
)
def test_a_signature_that_declares_no_reward_is_refused(target: Any, kind: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reward("it", kind=kind)(target)


@pytest.mark.parametrize(
    ("score", "error", "expected_score", "expected_error"),
    [
        (pa.array([1, 0]), None, [1.0, 0.0], [None, None]),  # integers are scores
        (pa.array([True, None]), None, [1.0, None], [None, "no_score: the reward gave no score"]),
        (
            pa.array([math.nan, -math.inf]),
            None,
            [None, None],
            ["not_finite: the reward gave nan", "not_finite: the reward gave -inf"],
        ),
        (pa.array([math.nan, 1.0]), pa.array(["odd: why", None]), [None, 1.0], ["odd: why", None]),  # its own word wins
        (pa.array([1.0, None]), pa.array(["odd: why"] * 2), [1.0, None], [None, "odd: why"]),  # a score has no error
        (pa.chunked_array([[1.0], [2.0]]), None, [1.0, 2.0], [None, None]),
        (np.array([1.0, 2.0]), None, [1.0, 2.0], [None, None]),
        ([1, True], None, [1.0, 1.0], [None, None]),  # a list, of whatever numbers
        (pa.nulls(2), None, [None, None], ["no_score: the reward gave no score"] * 2),
    ],
)
def test_scores_come_in_one_form(score: Any, error: Any, expected_score: list[Any], expected_error: list[Any]) -> None:
    def it(response: pa.Array) -> Scores:
        return Scores(score, error)

    given = scores(it, {"response": ["a", "b"]})
    assert given.score.to_pylist() == expected_score
    assert given.score.type == pa.float64()
    assert given.error is not None
    assert given.error.to_pylist() == expected_error
    assert given.reason is not None
    assert given.reason.null_count == 2


def test_error_names_the_first_null_column() -> None:
    def it(response: pa.Array, reference: pa.Array) -> pa.Array:
        return pa.nulls(len(response))

    errors = scores(it, {"response": ["a", None, None, "a"], "reference": [None, "b", None, "b"]}).error
    assert errors is not None
    assert [error.split(":")[0] for error in errors.to_pylist()] == [
        "missing_reference", "missing_response", "missing_response", "no_score",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pa.array([1.0]), "reward 'it' gave 1 scores for 2 responses"),
        (Scores(pa.array([1.0, 2.0]), error=pa.array(["a"])), "gave 1 errors for 2"),
        ([1.0], "gave 1 scores for 2 responses"),
        ([1.0, "high"], r"gave 'high' \(a str\); a number is needed, or None for no score \(response 1\)"),
        (1.0, "gave a float as score; one number for each of the 2 responses is needed"),
        (pa.array(["1", "2"]), "scores of type string"),  # text that looks like numbers is a bug too
        (None, "gave a NoneType"),
        (Scores(pa.array([1.0, 2.0]), reason=pa.array(["a", "b"])), "does not declare them"),
    ],
)
def test_a_broken_contract_names_the_reward(given: Any, message: str) -> None:
    def it(response: pa.Array) -> pa.Array:
        return given

    with pytest.raises(RewardError, match=message):
        scores(it, {"response": ["a", "b"]})


def test_exceptions_of_a_reward_pass_through() -> None:
    def it(response: pa.Array) -> pa.Array:
        raise ZeroDivisionError("row 3")

    with pytest.raises(ZeroDivisionError, match="row 3"):
        scores(it, {"response": ["a"]})
    assert scores(it, {"response": []}).score.to_pylist() == []  # an empty batch never reaches the reward


def test_listwise_rewards_get_the_offsets() -> None:
    rm = bind(lift, {"scale": 2.0})
    nested = rm.score(pa.table({"responses": [["a", "bbb"], [], None, ["cc"]]}))
    assert nested["score.lift"].to_pylist() == [[-2.0, 2.0], [], None, [0.0]]
    assert [result.score for result in rm.evaluate({"responses": ["a", "bbb"]})] == [-2.0, 2.0]
    with pytest.raises(UserError, match="listwise: it compares the responses of one prompt"):
        rm.evaluate({"response": "a"})
