"""Words as numbers: what is counted is what Python's own splitting, sets and difflib give."""

import difflib
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rmbatch.rewards.rules import code, words
from rmbatch.rewards.rules.words import Words, count_shared, letter_words, number_words, pair_words, white_space_words
from rmbatch.rows.messages import TEXT

SPACES = " \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000"
TEXTS = st.one_of(st.text(max_size=30), st.text(alphabet=f"abAB1é\x00ΣσİK\u200b{SPACES}", max_size=40))
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)
NEWER_THAN_PYTHON = re.compile("[\u1c89\ua7cb-\ua7dc\U00010d50-\U00010d65\U00016ea0-\U00016eb8]")
"""Capitals that Rust's Unicode knows and Python 3.11's does not."""


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, TEXT)


def ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(n))))


def per_text(cut: Words) -> list[list[int]]:
    return [cut.ids[begin:end].tolist() for begin, end in zip(cut.ends, cut.ends[1:])]


def same_partition(ours: list[list[int]], theirs: list[list[object]]) -> bool:
    """Whether both number the same things alike."""
    assert list(map(len, ours)) == list(map(len, theirs))
    pairs = {(one, other) for row, right in zip(ours, theirs) for one, other in zip(row, right)}
    return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(1, 5))
@example(["\x00", "a\x00 a", "", "  ", "a  b"], 1)
def test_words_and_ngrams_are_those_of_python(texts: list[str], n: int) -> None:
    texts = [NEWER_THAN_PYTHON.sub("", text) for text in texts]
    split = [ngrams(text.lower().split(), n) for text in texts]
    assert same_partition(per_text(white_space_words(column(texts)).ngrams(n)), split)  # type: ignore[arg-type]
    letters = [ngrams(re.findall("[a-z0-9]+", text.lower()), n) for text in texts]
    assert same_partition(per_text(letter_words(column(texts)).ngrams(n)), letters)  # type: ignore[arg-type]


@given(PAIRS)
def test_counts_are_those_of_sets_and_counters(pairs: list[tuple[str, str]]) -> None:
    mine, theirs = ([re.findall("[a-z0-9]+", pair[side].lower()) for pair in pairs] for side in (0, 1))
    cut = pair_words(*(column([pair[side] for pair in pairs]) for side in (0, 1)), letter_words)
    num_mine, num_theirs, common = count_shared(*cut)
    assert num_mine.tolist() == [len(set(row)) for row in mine] == cut[0].count_different().tolist()
    assert num_theirs.tolist() == [len(set(row)) for row in theirs]
    assert common.tolist() == [len(set(one) & set(other)) for one, other in zip(mine, theirs)]
    repeated = count_shared(*cut, repeats=True)[2]
    assert repeated.tolist() == [(Counter(one) & Counter(other)).total() for one, other in zip(mine, theirs)]


def test_many_kinds_of_ngrams_are_numbered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [str(number % 50) for number in range(300)]
    monkeypatch.setattr(words, "_MOST_KINDS", 100)
    assert same_partition(per_text(number_words([tokens]).ngrams(4)), [ngrams(tokens, 4)])  # type: ignore[list-item]


def test_words_become_characters_or_lists_when_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Words(np.array([0, 0xD7FF, 0xD800, 1]), np.array([0, 3, 3, 4]), 0xD801)
    assert cut.as_strings() == ["\0\ud7ff\ue000", "", "\x01"]
    monkeypatch.setattr(words, "_CHARACTERS", 10)
    assert cut.as_strings() == [[0, 0xD7FF, 0xD800], [], [1]]


def test_chunks_are_joined_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CHUNK_BYTES", 64)
    texts = ["a b", None, "c " * 200, "", "d"]
    sizes = words.score_in_chunks(lambda part: white_space_words(part).num_words, pa.array(texts, TEXT))
    assert sizes.tolist() == [2, 0, 200, 0, 1]


NAMES = st.sampled_from(
    ["foo", "Foo", "x1", "aB", "é", "9b", "def", "def ", "=", "==", " = ", "(", "\n", "\x1c", "\t", " "]
)


def plain_style(block: str) -> float:
    kinds = {line[0] for line in block.split("\n") if line.strip() and line[0] in " \t"}
    names = re.findall(r"def\s+([a-zA-Z_][a-zA-Z0-9_]*)\s*\(", block)
    names += re.findall(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*=", block)
    good = sum(bool(re.match(r"^[a-z_][a-z0-9_]*$", name)) for name in names)
    return 0.5 * (len(kinds) < 2) + 0.5 * (good / len(names) if names else 1.0)


@given(st.lists(NAMES, max_size=40).map("".join))
@example("python\n= 1")
def test_code_style_counts_names_as_python_does(block: str) -> None:
    (score,) = code.code_style(column([f"```python\n{block}\n```"])).score.to_pylist()
    assert score == pytest.approx(plain_style(block), abs=1e-12)


@given(st.text(alphabet="abcd\n é𝒳", max_size=400), st.text(alphabet="abcd\n é𝒳", max_size=400))
def test_patch_similarity_is_that_of_difflib(text: str, gold: str) -> None:
    (score,) = code.code_patch_similarity(column([text]), column([gold])).score.to_pylist()
    assert score == difflib.SequenceMatcher(None, text.strip(), gold.strip()).ratio()


def test_difflib_scores_what_is_too_slow_for_cydifflib(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = column(["abcdef"]), column(["abcxef"])
    for steps in (0, 10**9):
        monkeypatch.setattr(code, "MAX_FAST_STEPS", steps)
        assert code.code_patch_similarity(*asked).score.to_pylist() == [0.8333333333333334]
    monkeypatch.setattr(code, "MAX_STEPS", 3)
    assert code.code_patch_similarity(*asked).error.to_pylist() == [
        "too_long: 11 steps of difflib, over the limit of 3"
    ]
