"""RM-Gallery's own results: golden vectors of its code (0.1.4), which ours equal to 1e-12, and where we differ."""

from typing import Any

import pytest

import rmbatch

CAT, MAT = "the cat sat on the mat", "the cat is on a mat"
LEAKS = "ID 110101199001011234 mail a@b.co ip 8.8.8.8 999.1.1.1 172.217.0.1 card 1234567890123456 tel 13812345678"
TWO_BLOCKS = "```python\nx = 1\n```\n```\nx = (\n```"
STYLE = "```\ndef Bad(x):\n    MAX = 1\n    if x == 1:\n        y += 2\n    return foo(a=1)\n```"
THINK = "<think>t</think>"
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'

GOLDEN: list[tuple[str, str, str | None, dict[str, Any], float]] = [
    ("f1_score", CAT, MAT, {}, 0.7272727272727272),
    ("rouge", CAT, MAT, {}, 0.6666666666666666),
    ("rouge", "a b c d", "d c b a", {}, 0.25),
    ("rouge", " \n", "", {}, 1.0),
    ("rouge", "", "a", {}, 0.0),
    ("number_accuracy", "1,000 and 3-4, 1e5", "1000 3 -4", {}, 0.0),  # 1, 0, 3, -4, 1, 5 against 1000, 3, -4
    ("number_accuracy", "7 8 9", "7", {}, 1.0),  # more numbers cost nothing
    ("number_accuracy", "7", "7 8", {}, 0.5),
    ("number_accuracy", "x 1. y", "1 9", {}, 0.5),
    ("number_accuracy", "3.14", "3.24", {"tolerance": 0.1}, 0.0),  # floats: the difference is just over 0.1
    ("number_accuracy", "no numbers", "7", {}, 0.0),
    ("number_accuracy", "9" * 400, "9" * 400, {}, 0.0),  # infinity - infinity is not a number
    ("number_accuracy", "7 \U0001ccf3", "7 8", {}, 0.5),  # a digit that Python's float does not know is no number
    ("number_accuracy", "\U00011f53", "3", {}, 0.0),
    ("number_accuracy", "٣", "3", {}, 1.0),  # \d and float() read all decimal digits
    ("accuracy", "", "", {}, 1.0),
    ("reasoning_format", "<answer>b</answer><think>a</think>", None, {}, 1.0),
    ("reasoning_tool_call_format", f"{THINK}<answer>a</answer> trailing", None, {}, 0.0),
    ("reasoning_tool_call_format", f" {THINK}\n<answer>a</answer>\n", None, {}, 1.0),
    ("reasoning_tool_call_format", f"x{THINK}<answer>a</answer>", None, {}, 0.0),
    ("reasoning_tool_call_format", f"{THINK}<answer>a</answer><answer>b</answer>", None, {}, 0.0),
    ("reasoning_tool_call_format", f"{THINK}{CALL}", None, {}, 1.0),
    ("reasoning_tool_call_format", f"{THINK}\n{CALL}\n{CALL}\n", None, {}, 1.0),
    ("reasoning_tool_call_format", f"{THINK}{CALL} words {CALL}", None, {}, 1.0),  # `.*?` runs over them
    ("reasoning_tool_call_format", f"{THINK}{CALL} words", None, {}, 0.0),
    ("reasoning_tool_call_format", f"{THINK}{CALL}<answer>a</answer>", None, {}, 0.0),  # both
    ("reasoning_tool_call_format", THINK, None, {}, 0.0),  # neither
    ("reasoning_tool_call_format", CALL, None, {}, 0.0),
    ("reasoning_tool_call_format", f"{THINK}<tool_call>{CALL}</tool_call>", None, {}, 0.0),  # doubled
    ("reasoning_tool_call_format", f"{THINK}<tool_call>{{}}</tool_call>", None, {}, 0.0),
    ("reasoning_tool_call_format", f"{THINK}<tool_call>{{</tool_call>", None, {}, 0.0),
    ("reasoning_tool_call_format", f"{THINK}<tool_call>[]</tool_call>", None, {}, 0.0),
    ("length_penalty", "short", None, {}, -0.05),
    ("length_penalty", "x" * 1500, None, {}, -5.0),
    ("ngram_repetition_penalty", "a b a b a b a b", None, {"n": 2}, -0.4142857142857143),
    ("ngram_repetition_penalty", "a a b b", None, {"n": 1, "use_soft_penalty": True, "min_scaling": 0.5}, -0.5),
    (
        "ngram_repetition_penalty",
        "<think>a a a</think> b <think>a</think>",
        None,
        {"n": 1, "analyze_scope": "thought"},
        -0.45,
    ),
    ("privacy_leakage", LEAKS, None, {}, -3.0),
    ("privacy_leakage", "call 555-123-4567 or (555) 123 4567", None, {}, -1.0),
    ("privacy_leakage", "中a@b.co", None, {}, 0.0),  # no word boundary between the two
    ("privacy_leakage", "a@b@c.com x.@y.co", None, {}, -1.0),
    ("privacy_leakage", "a@b.c.d1 a@b.co|rg", None, {}, -0.5),  # a bar counts as a letter of the domain
    ("privacy_leakage", "192.168.0.1 10.1.1.1 1.2.3.4", None, {"penalty_per_leak": -2}, -2.0),
    ("privacy_leakage", "", None, {}, 0.0),
    ("code_syntax_check", TWO_BLOCKS, None, {}, 0.0),
    ("code_syntax_check", "```python\nx = 1\n```", None, {}, 1.0),
    ("code_syntax_check", "```js\nx = (\n```", None, {}, 0.0),  # no block
    ("code_syntax_check", "no code", None, {}, 0.0),
    ("code_style", STYLE, None, {}, 0.75),
    ("code_style", "```\nif x:\n  y\n\tz\n```", None, {}, 0.5),
    ("code_style", "", None, {}, 0.0),
    ("code_patch_similarity", "abcdef", "abcxef", {}, 0.8333333333333334),
    ("code_patch_similarity", "ab" * 150, "ba" * 150, {}, 0.0),  # popular characters are ignored from 200 on
    ("code_patch_similarity", "ab", "ba", {}, 0.5),
    ("code_patch_similarity", " ", "", {}, 1.0),
]

DIFFERENT: list[tuple[str, str, str | None, str]] = [
    ("number_accuracy", "7", "none", "unparsable_reference"),  # 0.0 there
    ("number_accuracy", "7", None, "missing_reference"),
    ("rouge", "a", None, "missing_reference"),  # compares with "" there
    ("code_patch_similarity", "a", None, "missing_reference"),
    ("code_syntax_check", "```\n" + "-" * 100_000 + "1\n```", None, "unparsable_code"),  # raises there
    ("reasoning_tool_call_format", f'{THINK}<tool_call>["name", "arguments"]</tool_call>', None, "malformed_tool_call"),
    ("reasoning_tool_call_format", f"{THINK}<tool_call>4</tool_call>", None, "malformed_tool_call"),  # both raise there
]


def test_a_call_in_the_wrapper_of_openai_is_one() -> None:  # 0.0 there
    wrapped = f'{THINK}<tool_call>{{"type": "function", "function": {{"name": "f", "arguments": {{}}}}}}</tool_call>'
    form = rmbatch.reward("reasoning_tool_call_format")
    assert form.evaluate({"response": wrapped}).score == 1.0
    assert form.evaluate({"response": wrapped.replace('"arguments"', '"x"')}).score == 0.0


@pytest.mark.parametrize(("name", "response", "reference", "knobs", "expected"), GOLDEN)
def test_as_upstream(name: str, response: str, reference: str | None, knobs: dict[str, Any], expected: float) -> None:
    given = rmbatch.reward(name, **knobs).evaluate({"response": response, "reference": reference})
    assert given.score == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "response", "reference", "code"), DIFFERENT)
def test_deviations_from_upstream_are_null(name: str, response: str, reference: str | None, code: str) -> None:
    given = rmbatch.reward(name).evaluate({"response": response, "reference": reference})
    assert given.score is None
    assert given.error.split(":")[0] == code
