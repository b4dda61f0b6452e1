"""The forms of tests, and when an answer counts as the expected one."""

import json
from typing import Any

import pytest

from rmbatch.sandbox.cases import NoTestsError, UnreadableTestsError, read_cases
from rmbatch.sandbox.compare import call_arguments, same_output, same_value

STDIN = {"inputs": ["1 2", "3 4"], "outputs": ["3", "7"]}
CALLS = {"inputs": ["[1, 2]\n3", '"a"\nnull'], "outputs": ["6", "[]"], "fn_name": "f"}


@pytest.mark.parametrize(
    ("value", "form", "first"),
    [
        (["assert f(1) == 2", "assert f(2) == 3"], "assert", {"steps": [["value", "f(1)"]]}),
        ("assert f(1) == 2\nassert f(2) == 3", "assert", {"steps": [["value", "f(1)"]]}),
        ("x = 1\nassert f(x) == 2\nassert f(2) == 3", "assert", {"steps": [["run", "x = 1"], ["value", "f(x)"]]}),
        ({"assert_case": ["assert f(1) == 2", "assert f(2)"]}, "assert", {"steps": [["value", "f(1)"]]}),
        (STDIN, "stdin", {"input": "1 2"}),
        ({"inputs": [["1", "2"], "3"], "outputs": ["3", "7"], "fn_name": None}, "stdin", {"input": "1\n2"}),
        (CALLS, "call", {"fn_name": "f", "arguments": [[1, 2], 3]}),
        ({"inputs": [[1, 2], [3]], "outputs": [3, [4]], "fn_name": "f"}, "call", {"fn_name": "f", "arguments": [1, 2]}),
        ([{"input": "1", "output": "2", "testtype": "stdin"}] * 2, "stdin", {"input": "1"}),
        (
            [{"input": "1", "output": "2", "testtype": "functional", "metadata": {"func_name": "g"}}] * 2,
            "call",
            {"fn_name": "g", "arguments": [1]},
        ),
        (
            [{"input": [1, 2], "output": 3, "type": "function_call", "fn_name": "g"}] * 2,
            "call",
            {"fn_name": "g", "arguments": [1, 2]},
        ),
    ],
)
def test_the_forms_of_data_sets(value: Any, form: str, first: dict[str, Any]) -> None:
    for given in (value, json.dumps(value), json.dumps(json.dumps(value))):
        cases = read_cases(given)
        assert (cases.form, len(cases.tests)) == (form, 2)
        assert cases.asked(0) == first
    assert len(read_cases(value, max_tests=1).tests) == 1


@pytest.mark.parametrize("value", [[], "", "[]", "  ", {"inputs": [], "outputs": []}, '{"inputs": [], "outputs": []}'])
def test_no_tests(value: Any) -> None:
    with pytest.raises(NoTestsError):
        read_cases(value)


@pytest.mark.parametrize(
    "value",
    [
        3,
        "not a test at all",
        "def f(): pass",  # Python, but it asserts nothing
        ["assert f(1) ==", "assert f(2) == 3"],  # one that cannot be read makes the share meaningless
        [1, 2],
        {"inputs": ["1"]},
        {"inputs": ["1"], "outputs": []},
        {"inputs": ["not json"], "outputs": ["1"], "fn_name": "f"},
        [{"input": "1"}],
        [{"input": "1", "output": "1"}, {"input": "1", "output": "1", "fn_name": "f"}],
        "[" * 100_000,
    ],
)
def test_unreadable_tests(value: Any) -> None:
    with pytest.raises(UnreadableTestsError):
        read_cases(value)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("3\n", "3", True),
        ("", "", True),
        ("", "3", False),
        ("1 \n 2\n\n3", "1\n2\n3\n", True),  # line by line, stripped, empty lines out
        ("3.0000001", "3", True),  # as numbers, a line each
        ("0.5\n1e3", "0.5000001\n1000", True),
        ("3.1", "3", False),
        ("4", "3", False),  # whole numbers are compared as text
        ("100000000", "100000001", False),
        ("b a\nc", "a b\nc", True),  # PRIME: the words of a line as a set
        ("a a b", "a b", True),
        ("yes", "Yes", False),
        ("1 2 3.0000001", "1 2 3", False),  # numbers only where a line is one
        ("nan", "nan", True),
        ("inf", "inf", True),
        ("1", "inf", False),
        ("9" * 5000, "1.5", False),
        ("1\n2", "1", False),
    ],
)
def test_printed_text(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected) is same


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        (3, 3, True),
        (3, [3], True),  # APPS wraps values in a list
        ((1, 2), [1, 2], True),
        ([(1, 2)], [[1, 2]], True),
        ([(1, 2)], [[[1, 2]]], True),
        ({1: 2}, {"1": 2}, True),  # JSON has no whole numbers as keys
        ({1: 2}, [{"1": 2}], True),
        (3, "3", False),
        (0.1 + 0.2, 0.3, False),  # exact, as PRIME
        ({1, 2}, [1, 2], False),
        (None, None, True),
        (None, [], False),
    ],
)
def test_returned_values(returned: Any, expected: Any, same: bool) -> None:
    assert same_value(returned, expected) is same


def test_arguments_with_whole_numbers_as_keys() -> None:
    assert call_arguments([{"1": 2}, {"1": 2}]) == [{1: 2}, {"1": 2}]
    assert call_arguments([{"a": 2}]) == [{"a": 2}]
