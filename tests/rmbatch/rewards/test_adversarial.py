"""Every rule on text that is made to break it: it answers within seconds, row for row, and nothing crashes."""

import random
import time
from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from rmbatch.rewards.registry import resolve
from tests.rmbatch.rewards.every import POINTWISE, RULES, made
from tests.rmbatch.rewards.test_every_rule import COLUMNS, table_of

LONG, BOMB = 10_000_000, 1_000_000
LIMIT_S = 30
"""Wall time on a machine that others use too; quadratic time would be hours for 1 MB, and weeks for 10."""

STRANGE = {
    "empty": "",
    "white space": " \t\r\n\u2003\u00a0",
    "null characters": "a\x00b\x00",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029",
    "right to left": "\u202eمرحبا\u202c שלום, 4 = ٤",
    "zero width": "a\u200bb\ufeff\u2060",
    "combining": "e" + "\u0301" * 500,
    "not a character": "\ufffe\uffff\U0010ffff",
    "emoji": "👩‍👩‍👧🏽🇫🇷" * 50,
    "deep brackets": "[" * 100_000,
    "deep json": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "deep json in a tool call": "<think>a</think><tool_call>" + "[" * 50_000 + "]" * 50_000 + "</tool_call>",
    "deep code": "```python\n" + "-" * 100_000 + "1\n```",
    "deep attribute": "```\na" + ".b" * 100_000 + "\n```",
    "deep LaTeX": r"\boxed{" + r"\frac{" * 500 + "1" + "}" * 501,
    "long number": "9" * 100_000,
    "number in a tool call": "<think>a</think><tool_call>" + "9" * 5_000 + "</tool_call>",
}
"""What each makes trouble for: parsers, recursion, character classes, conversions."""

WORDS = "the cat sat on 4 mats.\n" * (LONG // 23)
"""10 MB."""
BOMBS = {
    "one letter": "a" * BOMB,
    "line breaks": "\n" * BOMB,
    "spaces": "x" + " " * BOMB + "x",
    "opening tags": "<think>" * (BOMB // 7),
    "tool call tags": "<think>a</think>" + "<tool_call>" * (BOMB // 11),
    "fences": "```\n" * (BOMB // 4),
    "dots and letters": "a." * (BOMB // 2) + " @",
    "at signs": "a@" * (BOMB // 2),
    "digits and hyphens": "123-" * (BOMB // 4),
    "brackets": "[" * BOMB,
    "boxes": r"\boxed{" * (BOMB // 7),
    "stars": "*" * BOMB,
    "def": "```\n" + "def " * (BOMB // 4) + "\n```",
    "names": "```\n" + "a" * BOMB + "\n```",
}
"""1 MB each, and quadratic or worse for some regular expression that an obvious implementation has."""

SLOW_BOMBS = {"math_verify_reward"}
"""Its library's parser is not ours; it has a limit of its own, tested in test_math.py."""


def scored(name: str, texts: list[str | None], reference: str | None = "4", **knobs: Any) -> pa.Table:
    names = list(dict.fromkeys(["response", *resolve(name).columns]))
    others = {column: [None] * len(texts) if column.startswith("response") else None for column in names[1:]}
    given = {"reference": reference, "prompt": "What is this?"}
    row = {"responses": texts, **others, **{column: given[column] for column in given if column in names}}
    assert set(names) <= set(COLUMNS)
    return made(name, **knobs).score(table_of([row], names, nested=True))


@pytest.mark.parametrize("name", RULES)
def test_strange_text_is_scored_or_null_with_a_code(name: str) -> None:
    few = {"timeout_s": 1} if name == "math_verify_reward" else {}
    pairs: list[tuple[list[str | None], str | None]] = [(list(STRANGE.values()), "4"), ([None], "4"), (["4"], None)]
    if "reference" in resolve(name).columns and not few:
        pairs += [(["4", text], text) for text in STRANGE.values()]
    for texts, reference in pairs:
        table = scored(name, texts, reference, **few)
        (scores,), (errors,) = (table[f"{part}.{name}"].to_pylist() for part in ("score", "error"))
        assert len(scores) == len(texts)
        for score, error in zip(scores, errors):
            assert (score is None) == (error is not None)
            assert error is None or error.split(":")[0].replace("_", "").isalnum()
    (missing,) = scored(name, [None])[f"score.{name}"].to_pylist()
    assert missing == [None]


@pytest.mark.parametrize("name", sorted(set(RULES) - SLOW_BOMBS - {"code_execution"}))
def test_ten_megabytes_and_bombs_take_linear_time(name: str) -> None:
    for kind, text in {"10 MB of words": WORDS, **BOMBS}.items():
        started = time.perf_counter()
        table = scored(name, [text], "4" if name != "regex_match" else "(a+)+$")
        taken = time.perf_counter() - started
        assert len(table[f"score.{name}"][0]) == 1
        assert taken < LIMIT_S, f"{name} took {taken:.0f} s for {kind}"


@pytest.mark.parametrize(
    "name", ["rouge", "rougeL", "fuzzy_ratio", "edit_similarity", "code_patch_similarity", "f1_score"]
)
def test_a_long_reference_too(name: str) -> None:
    started = time.perf_counter()
    table = scored(name, [WORDS], WORDS[::-1])
    assert time.perf_counter() - started < LIMIT_S
    (error,) = table[f"error.{name}"][0].as_py()
    assert name == "f1_score" or error.startswith("too_long: ")


def test_the_worst_of_difflib_is_stopped() -> None:
    draw = random.Random(0)  # 150 characters, so that each is just rare enough for difflib to look at
    one, other = ("".join(chr(0x4E00 + draw.randrange(150)) for _ in range(30_000)) for _ in range(2))
    started = time.perf_counter()
    (errors,) = scored("code_patch_similarity", [one], other)["error.code_patch_similarity"].to_pylist()
    assert time.perf_counter() - started < LIMIT_S
    assert errors[0].startswith("too_long: ")


def test_a_pattern_that_would_explode() -> None:
    started = time.perf_counter()
    assert scored("pattern_match", ["a" * 1_000_000 + "!"], pattern="(a+)+$")["score.pattern_match"][0].as_py() == [0.0]
    schema = '{"pattern": "^(a+)+$"}'
    assert scored("json_schema_match", ['"' + "a" * 100_000 + '!"'], schema)["score.json_schema_match"][0].as_py() == [
        0.0
    ]
    big = scored("regex_match", ["a"], "a{1000}{1000}{1000}")["error.regex_match"][0].as_py()
    assert big[0].startswith("bad_pattern")
    assert time.perf_counter() - started < 5


def test_text_without_utf8_affects_its_own_row_only() -> None:
    samples = [{"response": "a\ud800b", "reference": "4"}, {"response": "4", "reference": "4"}]
    for name in POINTWISE:
        first, second = made(name).evaluate_batch(samples)
        assert second == made(name).evaluate(samples[1])
        assert first == made(name).evaluate({"response": "a\ufffdb", "reference": "4"})  # read as U+FFFD


def test_surrogates_never_reach_a_table() -> None:
    with pytest.raises(UnicodeEncodeError):
        pa.array(["\ud800"])  # so a column of text is UTF-8, and rules need not ask
    assert rmbatch.reward("json_valid").evaluate({"response": r'"\ud800"'}).score == 0.0  # nor does JSON bring them in
