"""The rewards from Python, without Ray: one number, whichever way a sample comes in."""

import importlib.metadata
import os
import subprocess
import sys
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards import Gate, Router, WeightedSum
from rmbatch.rewards.evaluation import Candidate, Result

PIECES = ["4", "5", r"\boxed{4}", "<think>", "</think>", "<answer>a</answer>", " the cat", "\n", "é", "中文", "$x$"]
TEXTS = st.none() | st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
NESTED = st.fixed_dictionaries({"responses": st.none() | st.lists(TEXTS, max_size=3), "reference": TEXTS})
KNOBS: dict[str, dict[str, Any]] = {"ngram_repetition_penalty": {"n": 1}, "length_penalty": {"max_length": 12}}


def rows_of(table: pa.Table, name: str) -> list[dict[str, Any]]:
    parts = [part for part in ("score", "error", "reason") if f"{part}.{name}" in table.schema.names]
    return [dict(zip(parts, values)) for values in zip(*(table[f"{part}.{name}"].to_pylist() for part in parts))]


def flat_results(result: Result | list[Result]) -> list[tuple[float | None, str | None, str | None]]:
    results = result if isinstance(result, list) else [result]
    return [(one.score, one.error, one.reason) for one in results]


# All others are in rewards/test_every_rule.py.
@pytest.mark.parametrize("name", ["accuracy", "math_verify_reward", *KNOBS])
@settings(max_examples=25, deadline=None)
@given(samples=st.lists(NESTED, min_size=1, max_size=4))
def test_one_number_whichever_way(name: str, samples: list[dict[str, Any]]) -> None:
    rm = rmbatch.reward(name, **KNOBS.get(name, {}))
    nested = [rm.evaluate(sample) for sample in samples]
    assert rm.evaluate_batch(samples) == nested

    schema = pa.schema([("responses", pa.list_(pa.string())), ("reference", pa.string())])
    scored = rm.score(pa.Table.from_pylist(samples, schema=schema))
    for sample, result, row in zip(samples, nested, rows_of(scored, name)):
        candidates = sample["responses"] or []
        assert [score for score, _, _ in flat_results(result)] == (row["score"] or [])
        assert [error for _, error, _ in flat_results(result)] == (row["error"] or [])
        assert (row["score"] is None) == (sample["responses"] is None)
        flat = [{"response": text, "reference": sample["reference"]} for text in candidates]
        assert rm.evaluate_batch(flat) == result
        flat_schema = pa.schema([("response", pa.string()), ("reference", pa.string())])
        flat_rows = rows_of(rm.score(pa.Table.from_pylist(flat, schema=flat_schema)), name)
        assert [(r["score"], r["error"], r.get("reason")) for r in flat_rows] == flat_results(result)


def test_samples_may_differ() -> None:
    samples: list[dict[str, Any]] = [
        {"response": "4", "reference": 4},
        {"response": "0.5", "reference": 0.5},
        {"responses": ["4", ["4"], None], "reference": "4"},
        {"completion": [{"role": "assistant", "content": "4"}], "answer": "4"},
        {"response": "4"},
        {"response": "true", "reference": True, "junk": [1, "a", {"b": {2}}]},
        {},
    ]
    rm = rmbatch.reward("accuracy")
    given_results = rm.evaluate_batch(samples)
    assert given_results == [rm.evaluate(sample) for sample in samples]
    assert [[r.score for r in g] if isinstance(g, list) else g.score for g in given_results] == [
        1.0, 1.0, [1.0, 1.0, None], 1.0, None, 1.0, None,
    ]  # fmt: skip
    assert given_results[4] == Result(None, "missing_reference: reference is null")
    assert rm.evaluate_batch([]) == []


def test_columns_say_what_names_do_not() -> None:
    rm = rmbatch.reward("accuracy")
    columns = {"response": "said", "reference": "truth"}
    assert rm.evaluate({"said": "4", "truth": "4"}, columns=columns).score == 1.0
    assert rm.evaluate({"said": "4"}, columns=columns).error == "missing_reference: reference is null"
    with pytest.raises(UserError, match="reference"):
        rm.score(pa.table({"response": ["4"]}))


def test_score_adds_columns_and_changes_none() -> None:
    table = pa.table({"id": [2**60 + 1], "response": ["4"], "reference": ["4"]})
    scored = rmbatch.reward("accuracy").score(table, name="exact")
    assert scored.schema.names == ["id", "response", "reference", "score.exact", "error.exact"]
    assert scored.select(table.schema.names) == table
    assert scored.schema.field("error.exact").type == pa.string()
    assert "reason.m" in rmbatch.reward("math_verify").score(table, name="m").schema.names
    with pytest.raises(UserError, match=r"has a column 'score\.exact' already"):
        rmbatch.reward("accuracy").score(scored, name="exact")
    empty = rmbatch.reward("accuracy").score(table.slice(0, 0))
    assert empty.num_rows == 0
    assert empty.schema.field("score.accuracy").type == pa.float64()


def test_best_of_n() -> None:
    rm = rmbatch.reward("f1_score")
    sample = {"responses": ["x", None, "a b", "a"], "reference": "a b"}
    assert rm.best_of_n(sample) == [Candidate(2, "a b", 1.0)]
    assert [one.index for one in rm.best_of_n(sample, n=9)] == [2, 3, 0]  # a null never wins
    assert rm.best_of_n({"responses": ["a"], "reference": None}) == []
    assert rm.best_of_n({"responses": [], "reference": "a"}) == []
    with pytest.raises(UserError, match="n=0"):
        rm.best_of_n(sample, n=0)


def test_ties_do_not_go_by_position() -> None:
    rm = rmbatch.reward("accuracy")
    texts = ["p", "q", "r", "s"]
    chosen = rm.best_of_n({"responses": texts, "reference": "4"}, seed=3)[0].response
    assert rm.best_of_n({"responses": texts[::-1], "reference": "4"}, seed=3)[0].response == chosen
    drawn = {rm.best_of_n({"responses": texts, "reference": "4"}, seed=seed)[0].response for seed in range(40)}
    assert drawn == set(texts)


def test_importing_is_light() -> None:
    script = (
        "import sys, rmbatch, rmbatch.rewards\n"
        "heavy = {'ray', 'torch', 'vllm', 'openai', 'pyarrow', 'polars', 'sympy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from tests.rmbatch.rewards.every import RULES, made\n"
        "for name in RULES:\n"
        "    made(name).evaluate({'responses': ['4'], 'reference': '4'})\n"
        "assert not {'ray', 'torch', 'vllm', 'openai'} & set(sys.modules)\n"
        "from rmbatch.rewards import reward, Scores\n"
        "assert rmbatch.Scores is Scores and callable(reward('x'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_integers_beyond_64_bits_keep_their_digits() -> None:
    big = 2**70
    result = rmbatch.reward("accuracy").evaluate({"response": str(big), "reference": big})
    assert isinstance(result, Result)
    assert result.score == 1.0


def kinds_of_tables() -> dict[str, Any]:
    rows = [{"response": "4", "reference": "4"}, {"response": "5", "reference": None}]
    return {
        "arrow": pa.Table.from_pylist(rows),
        "batch": pa.RecordBatch.from_pylist(rows),
        "pandas": pd.DataFrame(rows, index=[7, 9]),
        "polars": pl.DataFrame(rows),
        "rows": rows,
    }


@pytest.mark.parametrize("kind", ["arrow", "batch", "pandas", "polars", "rows"])
def test_score_takes_and_returns_tables_of_many_libraries(kind: str) -> None:
    table = kinds_of_tables()[kind]
    scored = rmbatch.reward("accuracy").score(table)
    assert type(scored) is type(table)
    scores = [row["score.accuracy"] for row in scored] if kind == "rows" else list(scored["score.accuracy"])
    assert [None if str(score) in ("nan", "None") else float(str(score)) for score in scores] == [1.0, None]
    if kind == "pandas":
        assert list(scored.index) == [7, 9]
        assert list(table.columns) == ["response", "reference"]  # what was given is as it was


def test_score_of_a_frame_with_odd_values() -> None:
    frame = pd.DataFrame({"response": ["4", "0.5"], "reference": [4, "0.5"], "extra": [{"a": 1}, 2]})
    assert list(rmbatch.reward("accuracy").score(frame)["score.accuracy"]) == [1.0, 1.0]


@pytest.mark.parametrize("call", ["score", "evaluate_batch"])
def test_misspelt_role_is_refused(call: str) -> None:
    rows = [{"response": "4", "reference": "5", "gold": "4"}]  # reference would be guessed
    with pytest.raises(UserError, match="columns: refrence: no role, and nothing reads it; did you mean 'reference'"):
        getattr(rmbatch.reward("exact_match"), call)(rows, columns={"refrence": "gold"})


@pytest.mark.parametrize("missing", [float("nan"), pd.NA])
def test_what_pandas_writes_for_null_is_null(missing: Any) -> None:
    rows = [  # as DataFrame.to_dict("records") gives them
        {"response": "4", "reference": 4.0},
        {"response": missing, "reference": 4.0},
        {"response": "nan", "reference": missing},
    ]
    rm = rmbatch.reward("exact_match")
    expected = [None, "missing_response: response is null", "missing_reference: reference is null"]
    assert [row["error.exact_match"] for row in rm.score(rows)] == expected
    assert [result.error for result in rm.evaluate_batch(rows)] == expected
    nested = pd.DataFrame({"responses": [["4", "5"], None], "reference": ["4", "4"]})
    assert list(map(str, rmbatch.reward("accuracy").score(nested)["score.accuracy"])) == ["[1. 0.]", "None"]


def test_score_takes_a_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(kinds_of_tables()["rows"]).select([1, 0])
    scored = rmbatch.reward("accuracy").score(dataset)
    assert scored["score.accuracy"][:] == [None, 1.0]
    assert type(scored) is type(dataset)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rm: rm.evaluate("text"), r"a sample is a dict, such as \{'response': 'text'.*; got 'text'"),
        (lambda rm: rm.evaluate_batch("text"), "evaluate_batch takes a list of samples"),
        (lambda rm: rm.evaluate_batch({"response": "4"}), "for one sample use evaluate"),
        (lambda rm: rm.evaluate_batch([{"response": "4"}, None]), "a sample is a dict"),
        (lambda rm: rm.best_of_n(["4"]), "a sample is a dict"),
        (lambda rm: rm.evaluate({"respnse": "4", "reference": "4"}), "reads 'response', and the sample has 'respnse'"),
        (lambda rm: rm.best_of_n({"responses": ["4"], "referense": "4"}), "reads 'reference', .* has 'referense'"),
        (lambda rm: rm.score({"response": "4"}), "for one sample, a dict, use evaluate"),
        (lambda rm: rm.score("rollouts.parquet"), "a table is needed .* got 'rollouts.parquet'; read a file first"),
    ],
)
def test_a_mistake_of_the_caller_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        call(rmbatch.reward("accuracy"))
    assert "\n" not in str(raised.value)


def test_missing_key_is_null_where_no_other_is_like_it() -> None:
    result = rmbatch.reward("accuracy").evaluate({"response": "4", "topic": "sums"})
    assert result == Result(None, "missing_reference: reference is null")


def test_a_weighted_sum_takes_its_rule_as_a_dict() -> None:
    parts = {"exact": rmbatch.reward("accuracy"), "words": rmbatch.reward("f1_score")}
    total = WeightedSum(parts, {"exact": 1.0, "words": 0.5, "on_null": 0.0})
    assert total.evaluate({"response": "4", "reference": "4"}).score == 1.5  # type: ignore[union-attr]
    with pytest.raises(UserError, match="combine: the weight of 'exact' must be a finite number; got 'much'"):
        WeightedSum(parts, {"exact": "much"})
    with pytest.raises(UserError, match=r"combine.exat: no reward has this name; did you mean 'exact'\?"):
        WeightedSum(parts, {"exat": 1.0})
    with pytest.raises(
        UserError, match=r"part 'require' is no reward but 'accuracy'; write rmbatch.reward\('accuracy'\)"
    ):
        Gate("accuracy", parts["words"])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="route 'a': write"):
        Router({"a": parts["words"]})  # type: ignore[dict-item]


def test_what_is_public_is_shown() -> None:
    assert {"reward", "judge", "reward_model", "run", "list_rewards", "rewards", "trl", "verl"} <= set(dir(rmbatch))
    assert not {"Any", "Callable", "TYPE_CHECKING"} & set(dir(rmbatch))
    assert all(hasattr(rmbatch, name) for name in dir(rmbatch))
    assert {"Gate", "WeightedSum", "Router", "Cascade", "When"} <= set(dir(rmbatch.rewards))
    assert all(hasattr(rmbatch.rewards, name) for name in dir(rmbatch.rewards))


def test_the_version_is_that_of_the_package() -> None:
    assert rmbatch.__version__ == importlib.metadata.version("rmbatch")
