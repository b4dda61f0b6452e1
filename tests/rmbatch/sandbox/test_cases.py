"""The forms of tests, and when an answer counts as the expected one."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.sandbox.cases import NoTestsError, UnreadableTestsError, read_cases
from rmbatch.sandbox.compare import same_output, same_value, with_whole_keys

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
    for written in (value, json.dumps(value), json.dumps(json.dumps(value))):
        cases = read_cases(written)
        assert (cases.form, len(cases.tests)) == (form, 2)
        assert cases.request(0) == first
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
        {"assert_case": 5},
        [{"input": "1", "output": "2", "metadata": "text"}],
        [{"input": "1", "output": "2", "metadata": ["a"]}],
        {"inputs": ["1"], "outputs": ["2"], "fn_name": 5},
        {"inputs": ["9" * 5000], "outputs": ["1"], "fn_name": "f"},  # Python reads no number of over 4,300 digits
        "[" + "9" * 5000 + "]",
        ["assert f(0x" + "f" * 5000 + ") == 1"],
        "x = 0x" + "f" * 5000 + "\nassert f(x) == 1",
        {"inputs": [[b"x"]], "outputs": [1], "fn_name": "f"},  # bytes are no JSON
        {"inputs": [None], "outputs": ["1"]},
        {"inputs": [{"a": 1}], "outputs": ["1"]},
        {1: 2},
        ["assert True"],  # it asks nothing of the program
        "def test_f(x):\n    assert f(x) == 2",  # who says what x is?
        "class TestF:\n    def test_a(self, tmp_path):\n        assert f(1) == 2",
        "import numpy\nassert f(1) == numpy.int64(2)",  # programs have no packages
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
        ("3 2 1", "1 2 3", False),  # the order of words counts, and how often each is there
        ("1 1 2", "1 2", False),
        ("NO YES", "YES NO", False),
        ("b a\nc", "a b\nc", False),
        ("1  2\t3", "1 2 3", True),  # the width of blank space does not
        ("1\n2", "1 2", False),  # lines do
        ("yes", "Yes", False),
        ("Case 1: 0.333333", "Case 1: 0.33333333", True),  # numbers among words
        ("1 2 3.0000001", "1 2 3", True),
        ("500000003.5", "500000003", False),  # within 1e-5, but half a step from a whole number
        ("500000003.0", "500000003", True),
        ("-100000000", "-100000001", False),
        ("+3", "3", True),
        ("1_0", "10", False),  # Python's float() would have it
        ("-0", "0", True),
        ("nan", "nan", True),
        ("inf", "inf", True),
        ("1", "inf", False),
        ("9" * 5000, "1.5", False),
        ("0" + "9" * 5000, "9" * 5000, True),  # int() refuses 4,300 digits
        ("9" * 400 + ".5", "8" * 400 + ".5", False),  # both infinite as floats
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


def test_whole_numbers_as_keys() -> None:
    assert with_whole_keys({"1": 2}) == {1: 2}
    assert with_whole_keys({"a": 2}) == {"a": 2}


KEYS = ["input", "output", "inputs", "outputs", "fn_name", "metadata", "assert_case", "test"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["assert f(1) == 2", "[1]"]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["input", "output", "inputs", "outputs", "fn_name", "metadata", "assert_case", "test"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_tests_column_is_read_or_refused(value: Any) -> None:
    for written in (value, json.dumps(value)):
        with suppress(NoTestsError, UnreadableTestsError):
            read_cases(written)
