"""How alike two texts are, as tables of (response, reference, expected), where possible from the library itself."""

import random
import sys
from typing import Any

import pyarrow as pa
import pytest
from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

import rmbatch
from connectors.errors import UserError

CAT, MAT = "The cat sat on the mat.", "the cat is on a mat"


def score(name: str, response: str | None, reference: str | None, **knobs: Any) -> float | None:
    given: float | None = rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference}).score
    return given


# precision, recall and F1 of rouge-score 0.1.2
@pytest.mark.parametrize(
    ("name", "response", "reference", "expected"),
    [
        ("rouge1", CAT, MAT, (0.6666666666666666, 0.6666666666666666, 0.6666666666666666)),
        ("rouge2", CAT, MAT, (0.2, 0.2, 0.20000000000000004)),
        ("rougeL", CAT, MAT, (0.6666666666666666, 0.6666666666666666, 0.6666666666666666)),
        ("rouge1", "a b a b", "a b", (0.5, 1.0, 0.6666666666666666)),  # counts, not sets
        ("rouge2", "a b a b", "a b", (0.3333333333333333, 1.0, 0.5)),
        ("rouge1", "don't stop-it", "dont stop it", (0.5, 0.6666666666666666, 0.5714285714285715)),
        ("rougeL", "naïve café 42", "naive cafe 42", (0.25, 0.3333333333333333, 0.28571428571428575)),
        ("rouge2", "a", "a", (0.0, 0.0, 0.0)),  # one word has no pair
        ("rouge1", "", "a", (0.0, 0.0, 0.0)),
        ("rouge1", "a", "中文", (None, None, None)),  # no word to compare with: no score
        ("rougeL", "a", "", (None, None, None)),
        ("rouge2", "a", None, (None, None, None)),
    ],
)
def test_rouge(name: str, response: str, reference: str | None, expected: tuple[float | None, ...]) -> None:
    measures = ("precision", "recall", "f1")
    assert tuple(score(name, response, reference, measure=measure) for measure in measures) == expected


@pytest.mark.parametrize("reference", ["the cat is on a mat", "", "猫 在 垫子上", "a"])
@pytest.mark.parametrize("response", ["The cat sat on the mat .", "", "猫在垫子上", "a", "the cat is on a mat"])
def test_bleu_and_chrf_are_sacrebleus(response: str, reference: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    bleu = sacrebleu.sentence_bleu(response, [reference]).score / 100
    assert score("bleu", response, reference) == pytest.approx(bleu, abs=1e-12)
    chrf = sacrebleu.sentence_chrf(response, [reference]).score / 100
    assert score("chrf", response, reference) == pytest.approx(chrf, abs=1e-12)
    plus = sacrebleu.sentence_chrf(response, [reference], word_order=2).score / 100
    assert score("chrf", response, reference, word_order=2) == pytest.approx(plus, abs=1e-12)


def test_chinese_bleu_needs_its_tokenizer() -> None:
    assert score("bleu", "猫在垫子上睡觉", "猫在垫子上") == 0.0  # one word each, and not the same
    assert score("bleu", "猫在垫子上睡觉", "猫在垫子上", tokenize="zh") > 0.5  # type: ignore[operator]


def test_without_sacrebleu_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for name in ("bleu", "chrf"):
        with pytest.raises(UserError, match=r"pip install 'rmbatch\[rules\]'"):
            rmbatch.reward(name)


@pytest.mark.parametrize(
    ("name", "response", "reference", "knobs", "expected"),
    [
        ("fuzzy_ratio", "abcd", "abcf", {}, 0.75),
        ("fuzzy_ratio", "", "", {}, 1.0),
        ("fuzzy_ratio", "", "a", {}, 0.0),
        ("fuzzy_ratio", "ABC", "abc", {}, 0.0),  # case counts
        ("fuzzy_ratio", "ABC!", "abc", {"normalise": True}, 1.0),
        ("fuzzy_ratio", "b a", "a b", {"method": "token_sort_ratio"}, 1.0),
        ("fuzzy_ratio", "xxabcxx", "abc", {"method": "partial_ratio"}, 1.0),
        ("token_set_ratio", "the cat sat", "cat", {}, 1.0),
        ("token_set_ratio", "", "", {}, 0.0),  # without words nothing is in common
        ("edit_similarity", "kitten", "sitting", {}, 1 - 3 / 7),
        ("edit_similarity", "", "", {}, 1.0),
        ("edit_similarity", "a", None, {}, None),
        ("edit_similarity", None, "a", {}, None),
    ],
)
def test_fuzzy(
    name: str, response: str | None, reference: str | None, knobs: dict[str, Any], expected: float | None
) -> None:
    given = score(name, response, reference, **knobs)
    assert given == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_fuzzy_ratios_are_rapidfuzz_s() -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choice("ab c") for _ in range(draw.randrange(80))) for _ in range(200)]
    table = pa.table({"response": texts, "reference": texts[1:] + texts[:1]})
    pairs = list(zip(*table.to_pydict().values()))
    ratios = rmbatch.reward("fuzzy_ratio").score(table)["score.fuzzy_ratio"].to_pylist()
    assert ratios == pytest.approx([fuzz.ratio(*pair) / 100 for pair in pairs], abs=1e-12)
    edits = rmbatch.reward("edit_similarity").score(table)["score.edit_similarity"].to_pylist()
    assert edits == pytest.approx([Levenshtein.normalized_similarity(*pair) for pair in pairs], abs=1e-12)


@pytest.mark.parametrize("tokenize", ["13a", "zh", "intl", "char"])
def test_bleu_keeps_no_text(tokenize: str) -> None:
    rm, texts = rmbatch.reward("bleu", tokenize=tokenize), [f"{number} a b, c." for number in range(50)]
    assert rm.evaluate({"response": "a b, c.", "reference": "a b, c."}).score == pytest.approx(1.0)
    rm.evaluate_batch([{"response": text, "reference": text} for text in texts])
    modules = [module for name, module in sys.modules.items() if name.startswith("sacrebleu.tokenizers.")]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    kept = [
        method.cache_info().currsize
        for kind in kinds
        for method in vars(kind).values()
        if hasattr(method, "cache_info")
    ]
    assert kept
    assert set(kept) == {0}


CAT = "The cat sat on the mat"


@pytest.mark.parametrize(
    ("name", "response", "reference", "knobs", "expected"),
    [
        ("word_overlap", "the dog sat on the rug", "the cat sat on the mat", {}, 3 / 5),
        ("word_overlap", "a", "...", {}, None),
        ("word_overlap", "", "a", {}, 0.0),
        ("char_overlap", "helo", "hello", {}, 1.0),
        ("char_overlap", "", "a", {}, 0.0),
        ("char_overlap", "a", "", {}, None),
        ("rouge3", CAT, CAT, {}, 1.0),
        ("rouge3", "a b c x", "a b c d", {}, 0.5),
        ("rouge4", "a b c d x", "a b c d e", {}, 0.5),
        ("rouge5", CAT, CAT, {}, 1.0),
        ("rouge5", "a b c d", "a b c d", {}, 0.0),  # too short for five words
    ],
)
def test_overlap(
    name: str, response: str | None, reference: str | None, knobs: dict[str, Any], expected: float | None
) -> None:
    given = rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference})
    assert given.score == (None if expected is None else pytest.approx(expected, abs=1e-12))
