"""Tests that nobody calls are called, expected exceptions pass, and a test must reach an assertion."""

from typing import Any

import pytest

import rmbatch
from rmbatch.rewards.evaluation import Result


@pytest.fixture(scope="module")
def rm() -> Any:
    return rmbatch.reward("code_execution", timeout_s=0.5, memory_mb=256)


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
def test_test_functions_are_called(rm: Any, tests: str, form: Any) -> None:
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
def test_test_that_reaches_no_assertion_is_unreadable(rm: Any, tests: str) -> None:
    for program in (RIGHT, WRONG):
        result = rm.evaluate({"response": program, "tests": [tests]})
        assert result.score is None
        assert result.error.startswith("unreadable_tests: test 1 reaches no assertion")


def test_program_that_avoids_the_assertions_fails(rm: Any) -> None:
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
