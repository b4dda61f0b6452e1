"""The rewards that compare texts, as tables of (response, reference, expected), and their tokenizers."""

import sys
from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards.rules.general import F1Score, accuracy
from rmbatch.rewards.rules.tokenizers import load_tokenizer


def result(name: str, response: str | None, reference: str | None, **knobs: Any) -> Any:
    return rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference})


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        ("4", "4", 1.0),
        ("\u2003 4\n", "\t4\x1f", 1.0),  # what Python's strip strips
        ("Yes", "yes", 0.0),  # case counts
        ("4.0", "4", 0.0),  # text, not numbers
        ("", "", 1.0),
        (" ", "", 1.0),
        ("", "4", 0.0),
        ("4", None, None),  # RM-Gallery compares with "" here
        (None, "4", None),
        (None, None, None),
    ],
)
def test_accuracy(response: str | None, reference: str | None, expected: float | None) -> None:
    assert result("accuracy", response, reference).score == expected


@pytest.mark.parametrize(
    ("response", "reference", "knobs", "expected"),
    [
        ("the cat sat on the mat", "the cat is on a mat", {}, 0.7272727272727272),
        ("The CAT", "the cat", {}, 1.0),
        ("a a a a b", "a b", {}, 1.0),  # sets: saying it often changes nothing
        ("a b", "c d", {}, 0.0),
        ("", "", {}, 1.0),
        (" \n", "", {}, 1.0),
        ("", "a", {}, 0.0),
        ("a", " ", {}, 0.0),
        ("a", None, {}, None),
        (None, "a", {}, None),
        ("我爱北京", "北京", {"tokenizer": "jieba"}, 0.5),  # 我 爱 北京
        ("我爱北京 yes", "我爱北京 no", {"tokenizer": "jieba", "chinese_only": True}, 1.0),
        ("yes", "no", {"chinese_only": True}, 1.0),  # nothing Chinese in either: both empty
    ],
)
def test_f1_score(response: str | None, reference: str | None, knobs: dict[str, Any], expected: float | None) -> None:
    assert result("f1_score", response, reference, **knobs).score == expected


@pytest.mark.parametrize("name", ["accuracy", "f1_score"])
def test_a_missing_text_is_named(name: str) -> None:
    assert result(name, "a", None).error == "missing_reference: reference is null"
    assert result(name, None, "a").error == "missing_response: response is null"


def test_missing_tokenizer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no_such_encoding"):
        rmbatch.reward("f1_score", tokenizer="tiktoken", encoding_name="no_such_encoding")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    monkeypatch.setitem(sys.modules, "jieba", None)
    for name in ("tiktoken", "jieba"):
        with pytest.raises(UserError, match=r"pip install 'rmbatch\[tokenizers\]'"):
            rmbatch.reward("f1_score", tokenizer=name)


def test_tiktoken_without_a_network_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    registry = pytest.importorskip("tiktoken.registry")
    monkeypatch.setattr(registry, "ENCODINGS", {})
    with pytest.raises(UserError, match="cannot load encoding_name='cl100k_base'"):
        load_tokenizer("tiktoken")


def test_an_empty_batch() -> None:
    empty = pa.array([], pa.large_string())
    assert accuracy(empty, empty).to_pylist() == []
    assert F1Score()(empty, empty).to_pylist() == []
