"""Reads the forms in which data sets write tests, as one form: what goes inside, and what decides outside.

It reads, as values or as JSON text: a list of assert statements (AceCode, MBPP), Python text with assertions,
``{"inputs": [...], "outputs": [...], "fn_name": ...}`` (PRIME, APPS, TACO; without ``fn_name`` they are standard input
and output), ``{"assert_case": [...]}``, ``{"test", "entry_point"}`` (HumanEval), and a list of ``{"input", "output",
"type" or "testtype", "fn_name"}`` (LiveCodeBench, SYNTHETIC). Nothing here runs anything.

    cases = read_cases('{"inputs": ["1 2"], "outputs": ["3"]}')
    cases.form, cases.request(0), cases.tests[0].find_failure(outcome)
"""

import ast
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from rmbatch.sandbox.asserts import Assertion, CannotReadError, parse_assertion
from rmbatch.sandbox.compare import same_output, same_value
from rmbatch.sandbox.statements import CannotCallError, has_assertion, read_statements
from rmbatch.sandbox.values import UnreadableError, decode, format_value

Form = Literal["assert", "call", "stdin"]


class NoTestsError(ValueError):
    """There is no test."""


class UnreadableTestsError(ValueError):
    """The tests are in none of the forms; the message says what is wrong."""


@dataclass(frozen=True)
class StdinTest:
    """The program's input, and what it has to print."""

    given: str
    expected: str

    def find_failure(self, printed: bytes) -> tuple[str, str] | None:
        """None if the test passed, else a kind of failure and a short text."""
        text = printed.decode(errors="replace")
        if same_output(text, self.expected):
            return None
        return "wrong_answer", f"printed {format_value(text.strip())}"


@dataclass(frozen=True)
class CallTest:
    """A function call, and what it has to return."""

    fn_name: str
    arguments: list[Any]
    expected: Any

    def find_failure(self, found: Sequence[Any]) -> tuple[str, str] | None:
        """None if the test passed, else a kind of failure and a short text."""
        try:
            (item,) = found
            value = decode(item[1])
        except (ValueError, TypeError, LookupError, UnreadableError):
            return "garbage", "what came out cannot be read"
        try:
            if same_value(value, self.expected):
                return None
        except RecursionError:
            return "garbage", "what came out is nested too deeply"
        except ArithmeticError as fault:  # Decimal("sNaN") cannot be compared
            return "exception", f"{type(fault).__name__}: what came out cannot be compared"
        return "wrong_answer", f"returned {format_value(value)}"


Test = StdinTest | CallTest | Assertion


@dataclass(frozen=True)
class Cases:
    """The tests of one exercise, all of one form."""

    form: Form
    tests: tuple[Test, ...]

    def request(self, index: int) -> dict[str, Any]:
        """What the sandbox gets of a test."""
        test = self.tests[index]
        if isinstance(test, StdinTest):
            return {"input": test.given}
        if isinstance(test, CallTest):
            return {"fn_name": test.fn_name, "arguments": test.arguments}
        return {"steps": test.steps}


def read_cases(value: Any, max_tests: int | None = None, packages: bool = False) -> Cases:
    """The tests that a value holds, the first ``max_tests`` of them; ``packages``: they may import what is installed.

    Raises NoTestsError and UnreadableTestsError.
    """
    if isinstance(value, str):
        value = _read_text(value)
    if isinstance(value, Mapping):
        cases = _read_mapping(value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        cases = _read_list(list(value))
    else:
        raise UnreadableTestsError(f"a {type(value).__name__} is no list of tests")
    if not cases.tests:
        raise NoTestsError
    tests = cases.tests[:max_tests]
    _check_imports({name for test in tests if isinstance(test, Assertion) for name in test.imports}, packages)
    return Cases(cases.form, tests)


def _check_imports(modules: Iterable[str], packages: bool) -> None:
    for name in sorted(modules):
        if name in sys.stdlib_module_names or name == "solution":  # what the program's own module is called
            continue
        if not packages:
            raise UnreadableTestsError(f"they import {name}; programs have what is installed only with packages: true")
        if find_spec(name) is None:
            raise UnreadableTestsError(f"they import {name}, which is not installed here")


def _read_text(text: str) -> Any:
    text = text.removeprefix("\ufeff")
    if not text.strip():
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or a number of over 4,300 digits
        return _split_assertions(text)
    return _read_text(value) if isinstance(value, str) and value != text else value


def _split_assertions(text: str) -> list[str]:
    """Python text as one test per assertion, each with the statements before it; one test if blocks hold assertions."""
    try:
        body = read_statements(text)
    except CannotCallError as fault:
        raise UnreadableTestsError(str(fault)) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UnreadableTestsError(f"neither JSON nor Python: {format_value(text)}") from None
    if not all(isinstance(statement, ast.Assert) for statement in body if has_assertion(statement)):
        return [text]
    before: list[str] = []
    tests = []
    for statement in body:
        try:
            source = ast.unparse(statement)
        except (ValueError, RecursionError) as fault:  # a number of over 4,300 digits
            raise UnreadableTestsError(str(fault)) from None
        if isinstance(statement, ast.Assert):
            tests.append("\n".join([*before, source]))
        else:
            before.append(source)
    return tests or [text]


def _read_mapping(value: Mapping[str, Any]) -> Cases:
    if value.get("assert_case"):
        asserted = value["assert_case"]
        return read_cases(asserted) if isinstance(asserted, str) else _read_list(_check_list(asserted, "assert_case"))
    if isinstance(value.get("test"), str):
        entry = value.get("entry_point")
        return _read_list([f"{value['test']}\ncheck({entry})" if isinstance(entry, str) and entry else value["test"]])
    inputs, outputs, fn_name = (value.get(name) for name in ("inputs", "outputs", "fn_name"))
    if inputs is None or outputs is None:
        there = ", ".join(map(str, value)) or "nothing"
        raise UnreadableTestsError(f"lists `inputs` and `outputs` are needed; there is {there[:80]}")
    inputs, outputs = _check_list(inputs, "inputs"), _check_list(outputs, "outputs")
    if len(inputs) != len(outputs):
        raise UnreadableTestsError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    pairs = zip(inputs, outputs)
    if fn_name:
        return Cases("call", tuple(_read_call(fn_name, given, expected) for given, expected in pairs))
    return Cases("stdin", tuple(_read_stdin(given, expected) for given, expected in pairs))


def _check_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise UnreadableTestsError(f"`{name}` is a list, not {format_value(value)}")
    return list(value)


def _read_list(items: list[Any]) -> Cases:
    if all(isinstance(item, str) for item in items):
        try:
            return Cases("assert", tuple(map(parse_assertion, items)))
        except CannotReadError as fault:
            raise UnreadableTestsError(str(fault)) from None
    if not all(isinstance(item, Mapping) and "input" in item and "output" in item for item in items):
        raise UnreadableTestsError("a list of tests holds assert statements, or objects with `input` and `output`")
    named = [item.get("fn_name") or _read_metadata(item).get("func_name") for item in items]
    calls = [bool(name) and (item.get("testtype") or item.get("type")) != "stdin" for item, name in zip(items, named)]
    if any(calls) != all(calls):
        raise UnreadableTestsError("function calls and standard input in one list")
    if all(calls) and items:
        return Cases("call", tuple(_read_call(name, item["input"], item["output"]) for name, item in zip(named, items)))
    return Cases("stdin", tuple(_read_stdin(item["input"], item["output"]) for item in items))


def _read_metadata(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """A test's metadata: an object, or the JSON text of one."""
    value = item.get("metadata") or {}
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, Mapping):
        raise UnreadableTestsError(f"`metadata` is an object, not {format_value(value)}")
    return value


def _read_call(name: Any, given: Any, expected: Any) -> CallTest:
    """A call. Text holds JSON, an argument a line, as in LiveCodeBench and PRIME; other values stand for themselves."""
    if not isinstance(name, str):
        raise UnreadableTestsError(f"the name of a function is text, not {format_value(name)}")
    try:
        if isinstance(given, str):
            arguments = [json.loads(line) for line in given.split("\n")]
            expected = json.loads(expected) if isinstance(expected, str) else expected
        else:
            arguments = _check_list(given, "input")
        json.dumps(arguments)  # as which they go inside
    except (ValueError, TypeError, RecursionError):
        raise UnreadableTestsError(f"the arguments or the value of a call are no JSON: {format_value(given)}") from None
    return CallTest(name, arguments, expected)


def _read_stdin(given: Any, expected: Any) -> StdinTest:
    return StdinTest(_join_lines(given), _join_lines(expected))


def _join_lines(value: Any) -> str:
    if not isinstance(value, list):
        value = [value]
    if not all(isinstance(line, str | int | float) for line in value):
        raise UnreadableTestsError(f"standard input and output are text, or lists of lines, not {format_value(value)}")
    try:
        return "\n".join(map(str, value))
    except ValueError as fault:  # Python writes no number of over 4,300 digits
        raise UnreadableTestsError(str(fault)) from None
