"""Programs that agree: hand-worked groups in each form of tests, and a best-of-80 whose pass rates are published."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from rmbatch.rewards.rules.code_agreement import ExecutionAgreement

ADD, ALSO_ADD = "def f(a, b): return a + b", "f = lambda a, b: sum((b, a))"
FIRST, RAISES, HALF = (
    "def f(a, b): return a",
    "def f(a, b): return 1 / 0",
    "def f(a, b): return a + b if a > 1 else b / 0",
)
CALLS = {"inputs": ["1\n2", "3\n4"], "outputs": ["0", "0"], "fn_name": "f"}
"""What is expected is wrong on purpose: it is not read."""
PRINT = "print(sum(map(int, input().split())))"


def agreement(responses: list[str | None], tests: Any, **knobs: Any) -> list[tuple[float | None, str | None]]:
    rm = rmbatch.reward("execution_agreement", timeout_s=1.0, memory_mb=256, **knobs)
    found = rm.evaluate({"responses": responses, "tests": tests})
    return [(each.score, each.error or each.reason) for each in found]


def test_programs_that_return_the_same_agree() -> None:
    found = agreement([ADD, ALSO_ADD, FIRST, RAISES, HALF, None, "no program"], CALLS)
    assert [score for score, _ in found] == [0.5, 0.5, 0.25, 0.0, 0.25, None, 0.0]
    assert [why for _, why in found[:4]] == [
        *["2 of 4 programs"] * 2,
        "1 of 4 programs",
        "it fails in every test",
    ]


@pytest.mark.parametrize(
    ("responses", "tests"),
    [
        (
            [PRINT, "a, b = input().split()\nprint(int(a) + int(b), ' ')", "print(0)"],
            {"inputs": ["1 2"], "outputs": [""]},
        ),
        ([ADD, ALSO_ADD, FIRST], ["assert f(1, 2) == 0", "assert f(5, 6) == 1"]),
        ([ADD, ALSO_ADD, FIRST], "assert f(1, 2) == 0\nassert f(3, 4) in (8, 9)"),
    ],
)
def test_each_form_of_tests_tells_what_programs_give(responses: list[str | None], tests: Any) -> None:
    assert [score for score, _ in agreement(responses, tests)] == pytest.approx([2 / 3, 2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("{'a', 'b', 'c'}", "{c for c in 'cba'}", True),
        ("{'x': 1, 'y': 2}", "{'y': 2, 'x': 1}", True),
        ("(1, 2)", "[1.0, True + 1]", True),
        ("2 ** 70", "float(2 ** 70)", True),
        ("0.5", "1 / 2", True),
        ("'1'", "1", False),
        ("[1, 2]", "[2, 1]", False),
    ],
)
def test_equal_values_agree_however_they_are_made(one: str, other: str, agree: bool) -> None:
    tests = {"inputs": ["1\n2"], "outputs": ["0"], "fn_name": "f"}
    scores = [score for score, _ in agreement([f"def f(a, b): return {each}" for each in (one, other)], tests)]
    assert (scores == [1.0, 1.0]) is agree


def test_objects_cannot_be_compared() -> None:
    tests = {"inputs": ["1\n2"], "outputs": ["0"], "fn_name": "f"}
    programs = ["def f(a, b): return iter('ab')", "def f(a, b): return iter('cd')", ADD]
    found = agreement(programs, tests)  # type: ignore[arg-type]
    assert [score for score, _ in found] == [None, None, 1.0]
    assert (found[0][1] or "").startswith("not_comparable: ")


def test_prompts_do_not_vote_for_each_other() -> None:
    response = pa.array([ADD, FIRST, ADD])
    tests = pa.array([json.dumps(CALLS)] * 3)
    offsets = pa.array([0, 2, 3]).to_numpy()
    assert ExecutionAgreement()(response, tests, offsets=offsets).score.to_pylist() == [0.5, 0.5, 1.0]


def test_tests_that_cannot_be_read_have_a_code() -> None:
    assert agreement([ADD, ADD], []) == [(None, "no_tests: the list is empty")] * 2


def test_the_largest_group_of_acecode_is_right(shared_data: Path) -> None:
    """80 solutions whose pass rates are published: 40 % are right; those that most agree on pass all tests."""
    row = json.loads((shared_data / "open_instruct" / "acecode_sample.jsonl").read_text().splitlines()[0])
    rates = [inference["pass_rate"] for inference in row["inferences"]]
    responses = [inference["completion"] for inference in row["inferences"]]
    rm = rmbatch.reward("execution_agreement", timeout_s=2, packages=True)
    scores = [each.score for each in rm.evaluate({"responses": responses, "tests": row["test_cases"]})]
    best = max(scores)
    assert {rate for rate, score in zip(rates, scores, strict=True) if score == best} == {1.0}
    right = Counter(score for rate, score in zip(rates, scores, strict=True) if rate == 1.0)
    assert right == {best: sum(rate == 1.0 for rate in rates)}  # all right ones agree
