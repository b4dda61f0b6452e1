"""Reward functions as people write them: each form works by its signature, or is refused with what to write."""

import inspect
import json
import math
import os
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError
from jobs.config.job_types import parse_job
from rmbatch.rewards.composition import Gate
from rmbatch.rewards.contract import RewardError, reward, spec_of
from rmbatch.rewards.forms import form_of
from tests.jobs.running import fit_job

SAMPLES: list[dict[str, Any]] = [
    {"prompt": "Thank me.", "response": "thanks", "reference": "2", "weight": 2.0},
    {"prompt": "Thank me.", "response": None, "reference": "3", "weight": 3.0},
    {"prompt": "Thank me.", "response": "no", "reference": None, "weight": None},
]


def score_or_code(target: Any, samples: list[dict[str, Any]] = SAMPLES, **knobs: Any) -> list[Any]:
    """Score, or code of the error, of each sample; the same number whichever way the samples come in."""
    rm = rmbatch.reward(target, **knobs)
    results = [(r.score, r.error) for r in rm.evaluate_batch(samples)]  # type: ignore[union-attr]
    scored = rm.score(pa.Table.from_pylist(samples), name="x")
    assert list(zip(scored["score.x"].to_pylist(), scored["error.x"].to_pylist())) == results
    return [score if error is None else error.partition(":")[0] for score, error in results]


def by_row(response: str) -> float:
    return float("thanks" in response)


def by_row_without_return(response: str):  # type: ignore[no-untyped-def]
    return "thanks" in response


def by_row_without_annotation(response) -> bool:  # type: ignore[no-untyped-def]
    return "thanks" in response


def by_row_optional(response: str | None) -> int:
    return 0 if response is None else len(response)


def by_row_number(response: str, reference: int, weight: float = 0.5) -> float | None:
    return reference * weight


def by_row_knob(response: str, *, word: str = "no") -> float:
    return float(word in response)


def by_row_default(response: str, nowhere: str = "th") -> float:
    return float(response.startswith(nowhere))


def by_row_prompt(prompt: str, response: str) -> float:
    return len(prompt)


def by_row_messages(prompt: list[dict[str, str]], response: str) -> float:
    return len(prompt[0]["content"])


def by_row_rest(response: str, **columns: Any) -> float | None:
    return columns["weight"]  # type: ignore[no-any-return]


def by_position(response: str, /) -> float:
    return len(response)


async def by_row_async(response: str) -> float:
    return len(response)


def lists(response: list[str | None]) -> list[float | None]:
    return [None if text is None else len(text) for text in response]


def list_of_unsaid(response) -> list[float]:  # type: ignore[no-untyped-def]
    return [0.0 if text is None else len(text) for text in response]


def arrays(weight: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return weight * 2


def of_pandas(weight: pd.Series) -> pd.Series:
    return weight + 1


def of_polars(weight: pl.Series) -> pl.Series:
    return weight + 1


def arrow(response: pa.Array) -> pa.Array:
    return pa.compute.utf8_length(response)


def trl(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [None if text is None else len(text) + (w or 0) for text, w in zip(completions, kwargs["weight"])]


def trl_columns(prompts, completions, weight, log_metric=None, **kwargs):  # type: ignore[no-untyped-def]
    assert prompts == ["Thank me."] * len(completions)
    assert set(kwargs) <= {"reference", "trainer_state", "log_extra"}
    kwargs["log_extra"]("text", completions)
    return [float(w or 0) for w in weight]


async def trl_async(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [len(text or "") for text in completions]


def verl(data_source, solution_str, ground_truth, extra_info=None, strict=False):  # type: ignore[no-untyped-def]
    return {"score": float(extra_info["w"] if extra_info else strict), "acc": 1.0}


class Stateful:
    """Counts."""

    def __init__(self, *, start: float = 0.0) -> None:
        self.calls = start

    def __call__(self, response: str) -> float:
        self.calls += 1
        return len(response)


VERL = [{**sample, "data_source": "gsm8k"} for sample in SAMPLES]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (by_row, [1.0, "missing_response", 0.0]),
        (by_row_without_return, [1.0, "missing_response", 0.0]),
        (by_row_without_annotation, [1.0, "missing_response", 0.0]),
        (by_row_optional, [6.0, 0.0, 2.0]),
        (by_row_number, [4.0, "missing_response", "missing_reference"]),
        (by_row_knob, [0.0, "missing_response", 1.0]),
        (by_row_default, [1.0, "missing_response", 0.0]),
        (by_row_prompt, [9.0, "missing_response", 9.0]),
        (by_row_messages, [9.0, "missing_response", 9.0]),
        (by_row_rest, [2.0, "missing_response", "no_score"]),
        (by_position, [6.0, "missing_response", 2.0]),
        (by_row_async, [6.0, "missing_response", 2.0]),
        (lists, [6.0, "missing_response", 2.0]),
        (list_of_unsaid, [6.0, 0.0, 2.0]),
        (arrow, [6.0, "missing_response", 2.0]),
        (arrays, [4.0, 6.0]),
        (of_pandas, [3.0, 4.0]),
        (of_polars, [3.0, 4.0]),
        (trl, [8.0, "missing_response", 2.0]),
        (trl_columns, [2.0, 3.0, 0.0]),
        (trl_async, [6.0, 0.0, 2.0]),
        (Stateful, [6.0, "missing_response", 2.0]),
    ],
)
def test_a_reward_works_as_it_is_written(target: Any, expected: list[Any]) -> None:
    assert score_or_code(target, SAMPLES[: len(expected)]) == expected


def test_verl_functions_are_rewards() -> None:
    assert score_or_code(verl, VERL, strict=True) == [
        1.0,
        "missing_response",
        "missing_reference",
    ]  # verl's reward_kwargs
    assert score_or_code(verl, [{**VERL[0], "extra_info": {"w": 7}}]) == [7.0]
    assert rmbatch.reward(verl).evaluate(SAMPLES[0]).error == "missing_data_source: data_source is null"  # type: ignore


def test_verl_extra_values_become_the_reason() -> None:
    def compute_score(solution_str: str, ground_truth: str) -> dict[str, float]:
        return {"score": 0.5, "acc": 1.0}

    result = rmbatch.reward(compute_score).evaluate(SAMPLES[0])
    assert json.loads(result.reason) == {"acc": 1.0}  # type: ignore


def test_trl_functions_get_conversations_for_conversations() -> None:
    def conversational(completions, prompts, **kwargs):  # type: ignore[no-untyped-def]
        assert prompts[0] == [{"role": "user", "content": "hi"}]
        return [len(completion[0]["content"]) for completion in completions]

    sample = {"prompt": [{"role": "user", "content": "hi"}], "response": "four"}
    assert score_or_code(conversational, [sample]) == [4.0]
    nested = {"prompt": sample["prompt"], "responses": ["a", "bb"]}
    assert [result.score for result in rmbatch.reward(conversational).evaluate(nested)] == [1.0, 2.0]  # type: ignore


def test_a_column_may_be_called_as_a_knob() -> None:
    def f(completions, *, weight: float = 9.0, **kwargs):  # type: ignore[no-untyped-def]
        return [weight for _ in completions]

    assert score_or_code(f)[0] == 9.0


def test_an_own_reward_works_inside_a_composition() -> None:
    gate = Gate(rmbatch.reward(by_row), rmbatch.reward(trl))
    assert [result.score for result in gate.evaluate_batch(SAMPLES)] == [8.0, None, 0.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (Decimal("0.25"), 0.25),
        (None, "no_score"),
        (math.nan, "not_finite"),
        (-math.inf, "not_finite"),
        (10**400, "not_finite"),
    ],
)
def test_results_are_numbers(result: Any, expected: Any) -> None:
    def f(response: str) -> float:
        return result  # type: ignore[no-any-return]

    assert score_or_code(f, SAMPLES[:1]) == [expected]


@pytest.mark.parametrize("result", ["high", [1.0], {"score": 1.0}, 1j])
def test_a_result_that_is_no_number_names_the_row(result: Any) -> None:
    def f(response: str) -> float:
        return result if response == "no" else 1.0

    with pytest.raises(RewardError, match=r"reward 'f' gave .*; a number is needed, or None for no score \(sample 2\)"):
        rmbatch.reward(f).evaluate_batch(SAMPLES)


def test_result_of_wrong_length_is_an_error() -> None:
    def f(response: list[str]) -> list[float]:
        return [1.0]

    with pytest.raises(RewardError, match="reward 'f' gave 1 scores for 2 responses"):
        rmbatch.reward(f).evaluate_batch(SAMPLES[:1] * 2)


def test_unreadable_reference_is_no_score() -> None:
    result = rmbatch.reward(by_row_number).evaluate({"response": "a", "reference": "many"})
    assert result.error == "unreadable_value: reference is 'many', and the reward's annotation says otherwise"  # type: ignore[union-attr]


@pytest.mark.parametrize("reference", ["3", '{"a": 1}', "not JSON", "[" * 100_000])
def test_json_of_another_type_is_no_score(reference: str) -> None:
    def count(response: str, reference: list[int]) -> float:
        return float(len(reference))

    odd, plain = rmbatch.reward(count).evaluate_batch(
        [{"response": "a", "reference": each} for each in (reference, "[1]")]
    )
    assert odd.error.startswith("unreadable_value: reference is")  # type: ignore[union-attr]
    assert plain.score == 1.0  # type: ignore[union-attr]


def test_unannotated_row_function_is_refused_with_a_cure() -> None:
    def polite(response):  # type: ignore[no-untyped-def]
        return float(response.lower() == "please")

    with pytest.raises(RewardError, match=r"raised AttributeError.*write `def polite\(response: str\) -> float`"):
        rmbatch.reward(polite).evaluate({"response": "please"})


def contradictory(response: str) -> list[float]: ...  # type: ignore[empty-body]
def one_of_a_column(response: pa.Array) -> float: ...  # type: ignore[empty-body]
def mixed(response: pa.Array, reference: str) -> pa.Array: ...
def a_list_of_what(response: list[str]): ...  # type: ignore[no-untyped-def]
def text(response: str) -> str: ...  # type: ignore[empty-body]
def nothing(response) -> None: ...  # type: ignore[no-untyped-def]
def plural(responses: list[str]) -> list[float]: ...  # type: ignore[empty-body]
def tokens(completions, completion_ids, **kwargs): ...  # type: ignore[no-untyped-def]
def rest(response: pa.Array, **kwargs: Any) -> pa.Array: ...
def odd(response: Callable[[], str]) -> float: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (contradictory, "takes a row at a time and returns a whole column; write `def contradictory"),
        (one_of_a_column, "takes whole columns and returns one value; write"),
        (mixed, "mixes arrow and value"),
        (a_list_of_what, "a list may be a column or one row's value; say what it returns"),
        (text, r"returns str, which is no number; write `def text\(response: str\) -> float`"),
        (nothing, "returns nothing; write"),
        (plural, "call the parameter `response`"),
        (tokens, "needs 'completion_ids', which only a trainer has; write `completion_ids=None`"),
        (rest, "name neither columns nor knobs; write them out"),
        (odd, "the annotation of 'response' is no column's and no value's; write"),
        (os.system, "'system' declares no reward: nothing says that command are columns"),
        (os.remove, "'remove' declares no reward"),
        (json.loads, "write them out"),
        (print, "write them out"),
        (dict, "declares no reward|has no __call__"),
    ],
)
def test_ambiguous_form_is_refused_with_a_cure(target: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        rmbatch.reward(target)
    assert "\n" not in str(raised.value)


def test_declared_reward_may_use_any_column_name() -> None:
    @reward("longer")
    def longer(command):  # type: ignore[no-untyped-def]
        return pa.compute.utf8_length(command)

    assert rmbatch.reward(longer).evaluate({"command": "abc"}).score == 3.0  # type: ignore[union-attr]


def test_column_given_as_a_knob_is_refused_with_a_cure() -> None:
    with pytest.raises(UserError, match=r"reads 'nowhere' as a column; to make it a knob, write it after a `\*`"):
        rmbatch.reward(by_row_default, nowhere="x")


@pytest.mark.parametrize(
    ("annotations", "kind"),
    [
        ({"response": "str", "return": "float"}, "row"),
        ({"response": "Optional[str]", "return": "float | None"}, "row"),
        ({"response": "list[str]", "return": "list[float | None]"}, "list"),
        ({"response": "pa.Array", "return": "pa.Array"}, "arrow"),
        ({"response": "np.ndarray", "return": "Sequence[float]"}, "numpy"),
        ({"response": "pl.Series"}, "polars"),
        ({"response": "pd.Series", "return": "pd.Series"}, "pandas"),
        ({"response": "Mapping[str, Any] | None", "return": "int"}, "row"),
    ],
)
def test_type_checking_annotations_are_read_as_text(annotations: Mapping[str, str], kind: str) -> None:
    def f(response): ...  # type: ignore[no-untyped-def]

    f.__annotations__ = {**annotations}
    signature = inspect.signature(f)
    assert form_of("f", f, signature, list(signature.parameters.values())).kind == kind


def test_a_job_reads_what_own_rewards_need(tmp_path: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def row(response: str, nowhere: str = '') -> float:\n    return 1.0\n"
        "def rest(completions, **kwargs):\n    return [1.0] * len(completions)\n"
    )
    job = {
        "job": "score",
        "input": {"path": "x"},
        "rewards": {"row": {"reward": f"{path}:row"}, "rest": {"reward": f"{path}:rest"}},
        "output": {"path": "y", "columns": []},
    }
    schema = pa.schema([("response", pa.string()), ("weight", pa.float64())])
    assert fit_job(parse_job(job, "job"), schema).read_columns == ["response", "weight"]
    del job["rewards"]["rest"]  # type: ignore[attr-defined]
    assert fit_job(parse_job(job, "job"), schema).read_columns == ["response"]


def test_reading_a_form_runs_nothing() -> None:
    assert spec_of(by_row).columns == ("response",)
    assert spec_of(trl).columns == ("response", "*")
    assert spec_of(verl).columns == ("data_source", "response", "reference", "extra_info")


def test_list_from_unannotated_function_is_refused() -> None:
    def yes(response):  # type: ignore[no-untyped-def]
        return [1.0 if text == "yes" else 0.0 for text in response]  # never equal: these are Arrow scalars

    with pytest.raises(RewardError, match=r"write `def yes\(response: list\[str\]\) -> list\[float\]`"):
        rmbatch.reward(yes).evaluate({"response": "yes"})
