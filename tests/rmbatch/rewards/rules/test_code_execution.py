"""The code reward: programs found, tests of every form, codes for what has no score, a best-of-80 of known truth."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmbatch
from connectors.errors import UserError
from rmbatch.rewards.evaluation import Result
from rmbatch.rewards.rules.code_execution import CodeExecution, program_of
from rmbatch.sandbox import judging, pool
from rmbatch.sandbox.cases import read_cases
from rmbatch.sandbox.judging import Limits, judged
from rmbatch.sandbox.pool import Level, RefusedError, Sandbox, SandboxError
from rmbatch.sandbox.zygote import _Server

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
def test_what_has_no_score(rm: Any, response: str | None, tests: Any, code: str) -> None:
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


def test_the_same_program_gives_the_same_answer() -> None:
    program = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('x')]"
    rm: Any = rmbatch.reward("code_execution")
    reasons = set()
    for _ in range(3):
        reasons.add(rm.evaluate({"response": program, "tests": ["assert f() == 0"]}).reason)
        pool.close_idle()
    assert len(reasons) == 1


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
    assert program_of(response) == program


RIGHT, WRONG = "def f(x): return x + 1", "def f(x): return 99"
CALLED = {
    "a test function": "def test_f():\n    assert f(1) == 2",
    "one that is called by another": "def same(x, y):\n    assert x == y\ndef test_f():\n    same(f(1), 2)",
    "a function without the name of a test": "def verify():\n    assert f(1) == 2",
    "HumanEval's check": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1) == 2",
    "a check that is called": "def check(g):\n    assert g(1) == 2\ncheck(f)",
    "the main guard": "if __name__ == '__main__':\n    assert f(1) == 2",
    "a caught failure": "try:\n    assert f(1) == 2\nexcept Exception:\n    pass",
    "a failure caught by name": "try:\n    assert f(1) == 2\nexcept AssertionError:\n    print('no')",
    "a class for pytest": "class TestF:\n    def setup_method(self):\n        self.x = 1\n    def test_a(self):\n"
    "        assert f(self.x) == 2",
    "a class for unittest": "import unittest\nclass A(unittest.TestCase):\n    def test_a(self):\n"
    "        self.assertEqual(f(1), 2)\nif __name__ == '__main__':\n    unittest.main()",
    "a class of a class for unittest": "from unittest import TestCase\nclass Base(TestCase):\n    def setUp(self):\n"
    "        self.x = 1\nclass A(Base):\n    def test_a(self):\n        assert f(self.x) == 2",
    "the program by its module": "from solution import f as g\ndef test_f():\n    assert g(1) == 2",
    "a failure that is not reached": "def test_f():\n    if f(1) != 2:\n        assert False",
    "a failure that is raised": "for n in (1, 2):\n    if f(n) != n + 1:\n        raise AssertionError(n)\n"
    "assert f(1) > 0",
}


@pytest.mark.parametrize("tests", CALLED.values(), ids=CALLED)
@pytest.mark.parametrize("form", [str, lambda text: [text]], ids=["text", "list"])
def test_what_is_meant_to_be_called_is_called(rm: Any, tests: str, form: Any) -> None:
    scores = [rm.evaluate({"response": program, "tests": form(tests)}) for program in (RIGHT, WRONG)]
    assert scores[0] == Result(1.0, None, scores[0].reason)
    assert scores[1].score < 1.0
    assert scores[1].error is None


def test_check_finds_the_function_among_others(rm: Any) -> None:
    check = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(5) == 6"
    helped = f"def g(x): return x\n{RIGHT}\ndef helper(a, b, c): return a\ndef main(): exit()"
    assert rm.evaluate({"response": helped, "tests": check}).score == 1.0
    assert rm.evaluate({"response": "def g(x): return x", "tests": check}).score == 0.0
    assert rm.evaluate({"response": "x = 1", "tests": check}).score == 0.0
    assert rm.evaluate({"response": helped, "tests": {"test": check, "entry_point": "f"}}).score == 1.0
    assert rm.evaluate({"response": helped, "tests": {"test": check, "entry_point": "g"}}).score == 0.0


RAISES = "try:\n    f('x')\n    assert False\nexcept TypeError:\n    pass"


def test_an_expected_exception_passes(rm: Any) -> None:
    assert rm.evaluate({"response": RIGHT, "tests": [RAISES]}).score == 1.0
    assert rm.evaluate({"response": WRONG, "tests": [RAISES]}).score == 0.0
    case = (
        "import unittest\nclass A(unittest.TestCase):\n    def test_a(self):\n"
        "        with self.assertRaises(TypeError):\n            f('x')"
    )
    assert rm.evaluate({"response": RIGHT, "tests": case}).score == 1.0
    assert rm.evaluate({"response": WRONG, "tests": case}).score == 0.0


@pytest.mark.parametrize(
    "tests",
    [
        "for n in []:\n    assert f(n) == 2",
        "if False:\n    assert f(1) == 2",
        "def compare(x, y):\n    assert x == y",
        "while None:\n    assert f(1) == 2",
        "try:\n    import not_here\n    assert f(1) == 2\nexcept ImportError:\n    pass",
    ],
)
def test_a_test_that_reaches_no_assertion_is_no_test(rm: Any, tests: str) -> None:
    for program in (RIGHT, WRONG):
        result = rm.evaluate({"response": program, "tests": [tests]})
        assert result.score is None
        assert result.error.startswith("unreadable_tests: test 1 reaches no assertion")


def test_a_program_that_steers_past_the_assertions_fails(rm: Any) -> None:
    result = rm.evaluate({"response": "def f(x): return []", "tests": ["for y in f(1):\n    assert y == 2"]})
    assert result == Result(0.0, None, "test 1: unreached: no assertion was reached")
    quiet = (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if type(o).__name__ == 'Notes': o.held, o.failed = 0, None"
    )
    result = rm.evaluate(
        {"response": quiet, "tests": ["def test():\n    try:\n        assert f(1) == 2\n    except: 0"]}
    )
    assert result.score == 0.0


FORGED = """
import json, os, struct
def say(kind, content):
    text = json.dumps(content).encode()
    os.write(3, kind + struct.pack('>I', len(text)) + text)
"""
UNCOMPARABLE = "from decimal import Decimal\ndef f(x): return Decimal('sNaN')"
ONE = {"inputs": ["1"], "outputs": ["2"], "fn_name": "f"}
FAILING = {
    "a result that cannot be compared": (UNCOMPARABLE, ONE),
    "one in an assertion": (UNCOMPARABLE, ["assert f(1) == 2"]),
    "status 127": (f"{FORGED}def f(x):\n    say(b'E', {{'status': 127, 'cpu_s': 0}})\n    os._exit(0)", ONE),
    "status of a text": (f"{FORGED}def f(x):\n    say(b'E', {{'status': '1', 'cpu_s': []}})", ONE),
    "no process": (f"{FORGED}def f(x):\n    say(b'F', {{'error': ['a', 'b']}})\n    os._exit(0)", ONE),
    "no process while loading": (f"{FORGED}say(b'F', 1)\nos._exit(0)", ONE),
    "a number of 5,000 digits": (f"{FORGED}os.write(3, b'V' + struct.pack('>I', 5000) + b'9' * 5000)", ONE),
    "exit 99 while loading": ("import os\nos._exit(99)", ["assert f(1) == 2"]),
    "exit 99 while loading a function": ("import os\nos._exit(99)", ONE),
    "exit 99 of a program": ("import os\nos._exit(99)", STDIN),
    "exit 99 in a test": ("import os\ndef f(x): os._exit(99)", ["assert f(1) == 2"]),
    "killed while loading": ("import os\nos.kill(os.getpid(), 9)", ["assert f(1) == 2"]),
}


@pytest.mark.parametrize("level", ["the best", "landlock"])
@pytest.mark.parametrize(("program", "tests"), FAILING.values(), ids=FAILING)
def test_what_a_program_makes_of_its_end_is_its_own_failure(level: str, program: str, tests: Any) -> None:
    with _lent(level) as sandbox:
        verdict = judged(sandbox, program, read_cases(tests), Limits(1.0, 256))
    assert verdict.share == 0.0
    assert verdict.failure is not None


def test_a_process_that_others_took_is_not_the_programs_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmbatch.sandbox.zygote.tasks_of_descendants", lambda: 0)  # this process has tests' servers
    program = f"{FORGED}def f(x):\n    say(b'F', {{'error': ['a', 'b']}})\n    os._exit(0)"
    shared = types.SimpleNamespace(facts={"counts_alone": False}, as_user=None, tasks=10**6)
    assert not _Server._others_have_processes(shared)  # type: ignore[arg-type]  # there are processes: it lies
    shared.tasks = 1
    assert _Server._others_have_processes(shared)  # type: ignore[arg-type]
    with _lent("the best") as sandbox:
        assert (
            judged(sandbox, program, read_cases(ONE), Limits()).failure
            == "test 1: processes: no process left for the test"
        )


@given(
    st.sampled_from(["ended", "died", "not_loaded", "wall", "garbage", "processes"]),
    st.none() | st.integers(-10, 1 << 17),
    st.floats(),
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.sampled_from("vpeolsdDFixn") | st.integers(),
        lambda inner: st.lists(inner, max_size=4),
    ).map(lambda found: json.dumps({"token": "t", "found": found, "error": None}).encode()),
    st.sampled_from([ONE, STDIN, ["assert f(1) == 2"], ["assert f(1) in {1}"], CALLED["a test function"]]),
)
def test_whatever_comes_out_of_a_sandbox_is_judged(
    end: str, status: int | None, cpu_s: float, value: bytes, tests: Any
) -> None:
    cases = read_cases(tests)
    judging._wrong(cases, 0, pool.Outcome(end, status, cpu_s, value, b""), "t", Limits())


def test_one_bad_row_does_not_stop_the_others(rm: Any) -> None:
    bad = [
        *FAILING.values(),
        (RIGHT, {"assert_case": 5}),
        (RIGHT, '{"inputs": ["' + "9" * 5000 + '"], "outputs": ["2"], "fn_name": "f"}'),
        (RIGHT, '[{"input": "1", "output": "2", "metadata": "text"}]'),
        (RIGHT, ["assert f(0x" + "f" * 5000 + ") == 2"]),
    ]
    rows = [{"response": response, "tests": tests} for response, tests in [(RIGHT, ONE), *bad, (RIGHT, ONE)]]
    results = rm.evaluate_batch(rows)
    assert [result.score for result in results] == [1.0, *[0.0] * len(FAILING), *[None] * 4, 1.0]
    assert {result.error.split(":")[0] for result in results if result.score is None} == {"unreadable_tests"}


THREE = {"inputs": ["2\n"], "outputs": ["3"]}
LEGAL = {
    "output at exit": "import atexit\natexit.register(print, 3)",
    "a thread that is not joined": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print(3))).start()",
    "sys.__stdout__": "import sys\nsys.__stdout__.write('3')",
    "sys.__stdin__": "import sys\nprint(int(sys.__stdin__.readline()) + 1)",
    "quit()": "print(3)\nquit()",
    "exit() in a function": "def main():\n    print(3)\n    exit(0)\nmain()",
    "open('/dev/stdin')": "print(int(open('/dev/stdin').read()) + 1)",
    "a path of /dev/stdin": "from pathlib import Path\nprint(int(Path('/dev/stdin').read_text()) + 1)",
    "os.open('/dev/stdin')": "import os\nprint(int(os.read(os.open('/dev/stdin', os.O_RDONLY), 9)) + 1)",
    "open(0)": "print(int(open(0).read()) + 1)",
    "open('/dev/stdout')": "open('/dev/stdout', 'w').write('3')",
    "a closed stdout": "import sys\nprint(3)\nsys.stdout.close()",
    "a stdout of its own": "import io, sys\nsys.stdout = io.TextIOWrapper(open(1, 'wb'))\nprint(3)",
    "a byte order mark": "\ufeffprint(3)",
    "a temporary file": "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as file:\n"
    "    file.write('3')\n    file.flush()\n    print(open(file.name).read())",
    "a temporary folder": "import os, tempfile\nwith tempfile.TemporaryDirectory() as folder:\n"
    "    open(os.path.join(folder, 'x'), 'w').write('3')\n    print(open(os.path.join(folder, 'x')).read())",
    "a file of its own": "open('x', 'w').write('3')\nprint(open('x').read())",
}


@pytest.mark.parametrize("level", ["the best", "landlock"])
@pytest.mark.parametrize("program", LEGAL.values(), ids=LEGAL)
def test_legal_programs_pass(level: str, program: str) -> None:
    with _lent(level) as sandbox:
        verdict = judged(sandbox, program, read_cases(THREE), Limits(2.0, 256))
    assert verdict.failure is None


def test_results_of_over_20_000_items_pass(rm: Any) -> None:
    program = "def f(n): return {str(i): i for i in range(n)}\ndef g(n): return set(range(n))"
    tests = {"inputs": ["30000"], "outputs": [json.dumps({str(i): i for i in range(30_000)})], "fn_name": "f"}
    assert rm.evaluate({"response": program, "tests": tests}).score == 1.0
    assert rm.evaluate({"response": program, "tests": ["assert g(30000) == set(range(30000))"]}).score == 1.0


def test_an_argument_has_whole_numbers_as_keys(rm: Any) -> None:
    tests = {"inputs": ['{"1": 2}'], "outputs": ["2"], "fn_name": "f"}
    assert rm.evaluate({"response": "def f(numbers): return numbers[1]", "tests": tests}).score == 1.0


@contextmanager
def _lent(level: str) -> Iterator[Sandbox]:
    """A warm sandbox of the level, or of the strongest that works here."""
    try:
        with pool.lend("auto") if level == "the best" else _one("landlock") as sandbox:
            yield sandbox
    except RefusedError as reason:
        pytest.skip(str(reason))


@contextmanager
def _one(level: Level) -> Iterator[Sandbox]:
    sandbox = Sandbox(level)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def test_a_sandbox_that_fails_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise SandboxError("it died")
        yield

    monkeypatch.setattr(Sandbox, "run", fails)
    result = rmbatch.reward("code_execution").evaluate({"response": "x", "tests": ASSERTS})
    assert result == Result(None, "sandbox_failed: it died")


def test_a_sandbox_that_is_killed_is_replaced(rm: Any) -> None:
    right = {"response": "def double(x): return x * 2", "tests": ASSERTS}
    assert rm.evaluate(right).score == 1.0
    for sandbox in pool._POOL._idle:
        os.killpg(sandbox._process.pid, signal.SIGKILL)
    assert rm.evaluate(right).score == 1.0


def test_without_protection_nothing_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Unprotected(Sandbox):
        def __init__(self, level: Level, packages: bool = False) -> None:
            if level != "rlimits":
                raise RefusedError("not here")
            super().__init__(level, packages)

    monkeypatch.setattr(pool, "Sandbox", Unprotected)
    monkeypatch.setattr(pool, "_POOL", pool._Pool())
    sample = {"response": "def double(x): return x * 2", "tests": ASSERTS}
    for protection in ("auto", "bubblewrap", "landlock"):
        with pytest.raises(UserError, match=r"not here.*protection: rlimits"):
            rmbatch.reward("code_execution", protection=protection).evaluate(sample)
    with caplog.at_level(logging.INFO, "rmbatch.sandbox"):
        named: Any = rmbatch.reward("code_execution", protection="rlimits")
        assert named.evaluate(sample).score == 1.0
    assert "programs run behind rlimits" in caplog.text  # the user is told which protection it is
    pool.close_idle()


def test_knobs_are_checked() -> None:
    for knobs in ({"protection": "hope"}, {"timeout_s": 0}, {"workers": 0}, {"memory_mb": 1}, {"max_tests": 0}):
        with pytest.raises(UserError):
            rmbatch.reward("code_execution", **knobs)


START = """
import os, rmbatch
rm = rmbatch.reward("code_execution")
assert rm.evaluate({"response": "f = abs", "tests": ["assert f(-1) == 1"]}).score == 1.0
from rmbatch.sandbox import pool
print(pool._POOL._idle[0]._process.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_nothing_is_left_behind(end: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", START + end], capture_output=True, text=True, env=environment)
    session = done.stdout.strip()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (left := _of_session(session)):
        time.sleep(0.05)
    assert session.isdigit(), done.stderr
    assert left == []


def _of_session(session: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[3] == session and fields[0] != "Z":
            found.append(pid)
    return found


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
