"""The code reward: programs found, tests of every form, codes for what has no score, a best-of-80 of known truth."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards.rules.code_execution import CodeExecution, extract_program

ASSERTS = ["assert double(2) == 4", "assert double('ab') == 'abab'", "assert double([1]) == [1, 1]"]
STDIN = {"inputs": ["1 2\n", "30 4\n"], "outputs": ["3\n", "34\n"]}
CALLS = {"inputs": ["1\n2", "3\n4"], "outputs": ["3", "7"], "fn_name": "add"}
SLOW = "import time\ndef double(x):\n    time.sleep(100)"

CASES: list[tuple[str | None, Any, float | None, str]] = [
    ("def double(x): return x * 2", ASSERTS, 1.0, "all 3 tests passed"),
    ("so:\n```python\ndef double(x): return x * 2\n```\nand no more", ASSERTS, 1.0, "all 3 tests passed"),
    ("def double(x): return x + x if x != 2 else 5", ASSERTS, 2 / 3, "test 1: wrong_answer: got 5"),
    ("def double(x): return x + 2", ASSERTS, 1 / 3, "test 2: exception: TypeError: can only concatenate str"),
    ("def double(x): return", ASSERTS, 0.0, "test 1: wrong_answer: got None"),
    ("def double(x):", ASSERTS, 0.0, "test 1: syntax: IndentationError"),
    ("I would double it.", ASSERTS, 0.0, "test 1: syntax: SyntaxError"),
    ("", ASSERTS, 0.0, "test 1: exception: NameError: name 'double' is not defined"),
    ("x = '\x00'", ASSERTS, 0.0, "test 1: syntax: "),
    ("def double(x): return [x] * (1 << 40)", ASSERTS[:1], 0.0, "test 1: memory: MemoryError"),
    ("def double(x):\n    while True: pass", ASSERTS[:1], 0.0, "test 1: timeout: over 0.5 s of processor time"),
    (SLOW, ASSERTS[:1], 0.0, "test 1: timeout: not done in time"),
    ("import os\ndef double(x): os._exit(0)", ASSERTS[:1], 0.0, "test 1: exit"),
    ("print(sum(map(int, input().split())))", STDIN, 1.0, "all 2 tests passed"),
    ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))\nsys.exit(0)", STDIN, 1.0, "all 2"),
    ("import os\nos.write(1, str(sum(map(int, os.read(0, 99).split()))).encode())\nos._exit(0)", STDIN, 1.0, "all 2"),
    ("if __name__ == '__main__':\n    print(3)", STDIN, 0.5, "test 2: wrong_answer: printed '3'"),
    ("print(3)\nraise ValueError('no')", STDIN, 0.0, "test 1: exception: ValueError: no"),
    ("while True: print('x' * 1000)", STDIN, 0.0, "test 1: output: it wrote more than 4 MiB"),
    ("input()\ninput()", STDIN, 0.0, "test 1: exception: EOFError"),
    ("def add(a, b): return a + b", CALLS, 1.0, "all 2 tests passed"),
    (
        "class Solution:\n    def add(self, a: int, b: int) -> List[int]: return a + b",
        CALLS,
        1.0,
        "all 2",
    ),  # no imports
    ("def add(a, b): return 3", CALLS, 0.5, "test 2: wrong_answer: returned 3"),
    ("def sub(a, b): return 3", CALLS, 0.0, "test 1: exception: AttributeError"),  # not operator.add of the prelude
    ("class Solution: pass\ndef add(a, b): return a + b", CALLS, 1.0, "all 2"),
    ("def add(a, b): return a + b", json.dumps(CALLS), 1.0, "all 2 tests passed"),
]


@pytest.fixture(scope="module")
def rm() -> Any:
    return rmbatch.reward("code_execution", timeout_s=0.5, memory_mb=256)


@pytest.mark.parametrize(("response", "tests", "score", "reason"), CASES)
def test_the_share_of_tests_and_the_first_failure(
    rm: Any, response: str, tests: Any, score: float, reason: str
) -> None:
    result = rm.evaluate({"response": response, "tests": tests})
    assert result.score == pytest.approx(score)
    assert result.error is None
    assert result.reason.startswith(reason)


@pytest.mark.parametrize(
    ("response", "tests", "code"),
    [
        (None, ASSERTS, "missing_response"),
        ("x", None, "missing_tests"),
        ("x", [], "no_tests"),
        ("x", "[]", "no_tests"),
        ("x", "", "no_tests"),
        ("x", ["def f(:"], "unreadable_tests"),
        ("x", {"inputs": ["1"], "outputs": []}, "unreadable_tests"),
        ("x", 3, "unreadable_tests"),
    ],
)
def test_rows_without_a_score_have_a_code(rm: Any, response: str | None, tests: Any, code: str) -> None:
    result = rm.evaluate({"response": response, "tests": tests})
    assert result.score is None
    assert result.error.split(":")[0] == code


def test_nested_rows_share_their_tests(rm: Any) -> None:
    table = pa.table(
        {
            "prompt": ["p", "q", "r"],
            "candidates": [["def double(x): return x * 2", None, "x"], [], ["def double(x): return 4"]],
            "checks": [ASSERTS, ASSERTS, ["assert double(1) == 4"]],
        }
    )
    scored = rm.score(table, columns={"tests": "checks"})
    assert scored["score.code_execution"].to_pylist() == [[1.0, None, 0.0], [], [1.0]]
    assert scored["error.code_execution"].to_pylist()[0][1].startswith("missing_response")


def test_structs_and_an_empty_batch(rm: Any) -> None:
    responses = pa.array(["print(3)"], pa.large_string())
    assert CodeExecution()(responses, pa.array([STDIN])).score.to_pylist() == [0.5]
    assert CodeExecution()(responses[:0], pa.array([STDIN])[:0]).score.to_pylist() == []
    assert rm.evaluate_batch([]) == []


def test_one_by_one_is_the_same_as_all_at_once(rm: Any) -> None:
    samples = [{"response": case[0], "tests": case[1]} for case in CASES if "timeout" not in case[3]]
    alone = [rm.evaluate(sample) for sample in samples]
    assert rm.evaluate_batch(samples) == alone
    several = rmbatch.reward("code_execution", timeout_s=0.5, memory_mb=256, workers=3)
    assert several.evaluate_batch(samples) == alone
    assert pickle.loads(pickle.dumps(several)).evaluate_batch(samples[:3]) == alone[:3]


def test_max_tests_and_packages(rm: Any) -> None:
    program = "def double(x): return 4"
    first: Any = rmbatch.reward("code_execution", max_tests=1)
    assert first.evaluate({"response": program, "tests": ASSERTS}).score == 1.0
    importing = {"response": "import pytest\ndef double(x): return x * 2", "tests": ASSERTS}
    assert rm.evaluate(importing).reason.startswith("test 1: exception: ModuleNotFoundError")
    installed: Any = rmbatch.reward("code_execution", packages=True)
    assert installed.evaluate(importing).score == 1.0


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\na\n```\n```python\nb\n```", "b"),  # the last counts, as in PRIME and LiveCodeBench
        ("```\na\n```\n```python\nb\n```", "b"),
        ("```python\na\n```\n```\n3\n```", "a"),  # what it prints is no program
        ("```python\na\n```\n```bash\nrun\n```", "a"),
        ("```\na\n```\n```\nb\n```", "b"),
        ("```py\na\n```", "a"),
        ("```python3\na\n```", "a"),
        ("```Python\na\n```", "a"),
        ('```{.python title="x"}\na\n```', "a"),
        ("~~~python\na\n~~~", "a"),
        ("````python\na\n```\nb\n````", "a\n```\nb"),
        ("so: ```python\na\n```", "a"),
        ("```python\na```", "a"),
        ("```python\r\na\r\nb\r\n```\r\n", "a\nb"),
        ("1. so:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b"),
        ("```python\na", "a"),  # cut off
        ("```python\na\n```python\nb\n```", "b"),  # never closed, begun again
        ("```python\na\n```\n```python\n```", "a"),  # an empty block is none
        ("```js\na\n```", "```js\na\n```"),
        ('```python\nx = """\n```json\n"""\n```', 'x = """\n```json\n"""'),
        ("\ufeff```python\na\n```", "a"),
        ("<think>\n```python\ndraft\n```\n</think>\nanswer", "\nanswer"),
        ("<think>\n```python\ndraft\n```\n</think>\n```\na\n```", "a"),
        ("```python\ndraft\n```\n</think>\n\n```\na\n```", "a"),  # the prompt opened the thought
        ("<think>```python\ndraft\n```", ""),  # cut off while thinking
        ("```python\nprint('</think>')\n```", "print('</think>')"),
        ("```python:main.py\na\n```", "a"),
        ("<answer>\n```python\na\n```</answer>", "a"),
        ('```python\na.split("```")\n```', 'a.split("```")'),
        ('```python\n"""\n    ```\n    f()\n    ```\n"""\n```', '"""\n    ```\n    f()\n    ```\n"""'),  # a docstring
        ("x```python\n" * 200_000, "x```python\n" * 199_999),  # linear
        ("`" * 2_000_000 + "x`", "`" * 2_000_000 + "x`"),
    ],
)
def test_the_program_in_a_response(response: str, program: str) -> None:
    assert extract_program(response) == program


def test_knobs_are_checked() -> None:
    for knobs in ({"protection": "hope"}, {"timeout_s": 0}, {"workers": 0}, {"memory_mb": 1}, {"max_tests": 0}):
        with pytest.raises(UserError):
            rmbatch.reward("code_execution", **knobs)


def test_the_pass_rates_of_acecode_come_out(shared_data: Path) -> None:
    row = json.loads((shared_data / "open_instruct" / "acecode_sample.jsonl").read_text().splitlines()[0])
    inferences = row["inferences"]
    responses = [inference["completion"] for inference in inferences]
    # Three of the solutions that the data calls right import pytest, which the machine behind the data had.
    rm = rmbatch.reward("code_execution", timeout_s=2, packages=True)
    sample = {"responses": responses, "tests": row["test_cases"]}
    ranked = rm.best_of_n(sample, n=80)
    assert {candidate.index: candidate.score for candidate in ranked} == {
        index: inference["pass_rate"] for index, inference in enumerate(inferences)
    }
    assert inferences[ranked[0].index]["pass_rate"] == 1.0


def test_an_argument_has_whole_numbers_as_keys(rm: Any) -> None:
    tests = {"inputs": ['{"1": 2}'], "outputs": ["2"], "fn_name": "f"}
    assert rm.evaluate({"response": "def f(numbers): return numbers[1]", "tests": tests}).score == 1.0
