"""The rewards for form, as tables of (response, expected)."""

import time
from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards.rules.format import NgramRepetitionPenalty, length_penalty, reasoning_format


def score(name: str, response: str | None, **knobs: Any) -> float | None:
    result: float | None = rmbatch.reward(name, **knobs).evaluate({"response": response}).score
    return result


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("short", -0.05),
        ("x" * 1500, -5.0),
        ("x" * 10, 0.0),  # the bounds are inside
        ("x" * 1000, 0.0),
        ("x" * 1001, -0.01),
        (" " * 12, 0.0),  # white space counts
        ("é中文" * 4, 0.0),  # code points, not bytes
        ("👩‍👩‍👧" * 2, 0.0),  # five code points each
        ("", -0.1),
        (None, None),
    ],
)
def test_length_penalty(response: str | None, expected: float | None) -> None:
    assert score("length_penalty", response) == expected


def test_length_penalty_knobs() -> None:
    assert score("length_penalty", "abcd", min_length=0, max_length=2, penalty_rate=0.5) == -1.0
    with pytest.raises(UserError, match="min_length=3 is above max_length=2"):
        score("length_penalty", "a", min_length=3, max_length=2)


@pytest.mark.parametrize(
    ("response", "expected", "reason"),
    [
        ("<think>a</think><answer>b</answer>", 1.0, None),
        ("<answer>b</answer> <think>a\nb</think> more", 1.0, None),  # order and the rest do not matter
        ("<think><answer></think></answer>", 1.0, None),  # nor does nesting
        ("<think></think><answer></answer>", 1.0, None),
        ("</think><think><answer>b</answer>", 0.0, "missing <think></think>"),  # closed before it opens
        ("<think>a</think><Answer>b</Answer>", 0.0, "missing <answer></answer>"),
        ("", 0.0, "missing <think></think>; missing <answer></answer>"),
        (None, None, None),
    ],
)
def test_reasoning_format(response: str | None, expected: float | None, reason: str | None) -> None:
    result = rmbatch.reward("reasoning_format").evaluate({"response": response})
    assert (result.score, result.reason) == (expected, reason)


def test_tag_names_are_literal() -> None:
    assert score("reasoning_format", "<a.b>x</a.b><é >y</é >", think_token="a.b", answer_token="é ") == 1.0
    assert score("reasoning_format", "<axb>x</axb><c>y</c>", think_token="a.b", answer_token="c") == 0.0


@pytest.mark.parametrize("name", ["reasoning_format", "ngram_repetition_penalty"])
def test_tags_that_never_close_cost_linear_time(name: str) -> None:
    knobs = {"analyze_scope": "thought"} if name.startswith("ngram") else {}
    rm = rmbatch.reward(name, **knobs)
    started = time.process_time()
    assert rm.evaluate({"response": "<think>" * 200_000}).score == 0.0  # re.findall takes minutes
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("response", "knobs", "expected"),
    [
        ("a b a b a b a b", {"n": 2}, -0.4142857142857143),
        (
            "a b a b a b a b",
            {"n": 2, "use_soft_penalty": True, "max_penalty": -2, "min_scaling": 0.1},
            -1.3650793650793651,
        ),
        ("a a b b", {"n": 1, "use_soft_penalty": True, "min_scaling": 0.5}, -0.5),  # at the bound: not stretched
        ("a a b c", {"n": 1, "use_soft_penalty": True, "min_scaling": 0.5}, 0.0),
        ("<think>a a a</think> b <think>a</think>", {"n": 1, "analyze_scope": "thought"}, -0.45),
        ("<think>a a a", {"n": 1, "analyze_scope": "thought"}, 0.0),  # never closed: no thought
        ("A a A a", {"n": 1}, -0.45),  # lower-cased
        ("a b", {}, 0.0),  # fewer than n tokens
        ("", {}, 0.0),
        (None, {}, None),
        ("我爱我爱 hi Hi", {"n": 1, "tokenizer": "jieba", "chinese_only": True, "penalty_threshold": 0}, -0.5),
    ],
)
def test_ngram_repetition_penalty(response: str | None, knobs: dict[str, Any], expected: float | None) -> None:
    assert score("ngram_repetition_penalty", response, **knobs) == expected


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"max_penalty": 0.5}, "max_penalty: got 0.5; write 0.0 or less"),
        ({"n": 0}, "n: got 0; write 1 or more"),
        ({"analyze_scope": "thougt"}, "analyze_scope: got 'thougt'; write 'full' or 'thought'"),
        ({"tokenizer": "tiktoken", "encoding_name": "no_such_encoding"}, "no_such_encoding"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rmbatch.reward("ngram_repetition_penalty", **knobs)


def test_an_empty_batch() -> None:
    empty = pa.array([], pa.large_string())
    assert length_penalty(empty).to_pylist() == []
    assert reasoning_format(empty).score.to_pylist() == []
    assert NgramRepetitionPenalty()(empty).score.to_pylist() == []
