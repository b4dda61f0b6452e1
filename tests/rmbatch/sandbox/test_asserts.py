"""Assertions: what goes inside, what is decided outside, and that the result is what the assertion itself gives."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.sandbox.asserts import CannotReadError, parse_assertion
from rmbatch.sandbox.harness import encode, run_steps
from rmbatch.sandbox.values import OpaqueObject, ReprValue, UnreadableError, decode, format_value

PROGRAM = """
import math, datetime
from collections import Counter, OrderedDict, namedtuple, deque, defaultdict
from decimal import Decimal
from fractions import Fraction
Point = namedtuple('Point', 'x y')
class Own:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return isinstance(other, Own) and self.x == other.x
class Same:
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    def __lt__(self, other): return True
def same(x): return x
def fails(): raise KeyError('no')
"""
NAMES: dict[str, Any] = {}
exec(PROGRAM, NAMES)


def kind_of_failure(text: str) -> str | None:
    """The kind of failure that a test ends in, None if it passes; the inside steps run in this process."""
    assertion = parse_assertion(text)
    found: list[Any] = []
    run_steps(assertion.steps, dict(NAMES), found)
    wrong = assertion.find_failure(found)
    return None if wrong is None else wrong[0]


HOLD = [
    "assert same(3) == 3",
    "assert 3 == same(3), 'with a message'",
    "assert same(3) != 4",
    "assert same([1, (2, 3)]) == [1, (2, 3)]",
    "assert same(1.0) == 1",  # as Python has it
    "assert same(True) == 1",
    "assert same(None) is None and same(3) is not None",
    "assert same(True) is True",
    "assert not same([])",
    "assert same(0) or same(1)",
    "assert 1 < same(2) <= 2",
    "assert same(2) in [1, 2] and 'a' in same('cat') and same(9) not in (1, 2)",
    "assert abs(same(0.1) + same(0.2) - 0.3) < 1e-9",
    "assert math.isclose(same(0.3), 0.1 + 0.2)",
    "assert math.isclose(same(0.31), 0.3, abs_tol=0.1)",
    "assert isinstance(same({}), dict) and not isinstance(same(1), (str, list))",
    "assert type(same(1)) == int and type(same([])) is list",
    "assert set(same([2, 1, 2])) == {1, 2}",
    "assert sorted(same([2, 1])) == [1, 2]",
    "assert Counter(same('aab')) == {'a': 2, 'b': 1}",
    "assert same(OrderedDict(a=1)) == {'a': 1}",
    "assert Point(1, 2) == (1, 2)",
    "assert defaultdict(int, {1: 2}) == {1: 2}",
    "assert {'a': 1}.keys() == {'a'}",
    "assert same(Decimal(3)) == 3 and same(Fraction(1, 2)) == 0.5",
    "assert same(b'ab') == bytearray(b'ab')",
    "assert same(2 ** 100) == 1267650600228229401496703205376",
    "assert same(float('inf')) == float('inf') and same(-math.inf) == -math.inf",
    "assert same('\\ud800') == '\\ud800'",
    "assert same(1 + 2j) == 1 + 2j",
    "assert same(set()) == set() and same({1}) == frozenset([1])",
    "assert same(datetime.date(2020, 1, 2)) == datetime.date(2020, 1, 2)",
    "assert Own(1) == Own(1) and Own(1) != Own(2)",  # objects of the program's own type: its own comparison
    "assert same(3) == same(1) + same(2)",
    "assert deque([1]) == deque([1])",
    "x = same(3)\ny = x + 1\nassert y == 4\nassert x == 3",
    "def check(f):\n    assert f(1) == 1\ncheck(same)",
    "for n in range(3):\n    assert same(n) == n",
    "assert all(same(n) == n for n in range(3))",
    "assert fails if False else same(1)",
]
FAIL = [
    ("assert same(3) == 4", "wrong_answer"),
    ("assert same('3') == 3", "wrong_answer"),
    ("assert same((1, 2)) == [1, 2]", "wrong_answer"),  # a tuple is no list to an assertion
    ("assert same(float('nan')) == float('nan')", "wrong_answer"),
    ("assert same(1) is True", "wrong_answer"),
    ("assert Same() == 3", "wrong_answer"),
    ("assert [Same()] == [3]", "wrong_answer"),
    ("assert Same() == datetime.date(2020, 1, 2)", "wrong_answer"),
    ("assert Same() == Own(1)", "wrong_answer"),
    ("assert abs(Same() - 3) < 1e-6", "exception"),
    ("assert Same() < 3", "exception"),
    ("assert 3 in Same()", "exception"),
    ("assert isinstance(Same(), int)", "wrong_answer"),
    ("assert fails() == 3", "exception"),
    ("assert same(1) == 1 and fails()", "exception"),
    ("assert same([]) < 3", "exception"),
    ("assert same(10 ** 5000) == 3", "wrong_answer"),  # Python writes no number of that length
    ("x = same(1)\nassert x == 1\nassert x == 2", "wrong_answer"),
]


@pytest.mark.parametrize("text", HOLD)
def test_true_assertion_passes(text: str) -> None:
    exec(text, dict(NAMES))
    assert kind_of_failure(text) is None


@pytest.mark.parametrize(("text", "kind"), FAIL)
def test_false_assertion_fails(text: str, kind: str) -> None:
    assert kind_of_failure(text) == kind


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("assert f([1]) == [9, 8]", [["value", "f([1])"]]),
        ("assert {'a': 7} == f(1)", [["value", "f(1)"]]),
        ("assert abs(f(1) - 2.5) < 1e-3", [["value", "f(1)"]]),
        ("assert f(1) in (7, 8) or f(2) is None", [["value", "f(1)"], ["value", "f(2)"]]),
        ("assert f(1) == f(2)", [["equal", "f(1)", "f(2)"]]),
    ],
)
def test_expected_value_stays_outside(text: str, inside: list[list[str]]) -> None:
    assertion = parse_assertion(text)
    assert assertion.sealed
    assert assertion.steps == inside


def test_other_statements_run_unchanged() -> None:
    assert not parse_assertion("for n in range(3):\n    assert f(n) == n").sealed


@pytest.mark.parametrize("text", ["", "f(1) == 2", "assert f(1) ==", "assert\x00", "not python", "(" * 5000])
def test_non_assertion_is_refused(text: str) -> None:
    with pytest.raises(CannotReadError):
        parse_assertion(text)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_data_comes_out_as_it_was(value: Any) -> None:
    read = decode(encode(value))
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "item",
    [[], ["q", 1], ["i"], ["i", "zz"],
     ["l", 3], ["d", [[["l", []], 1]]], {"a": 1}, 1.5, ["f", "x"], ["F", "0x1", "0x0"],
     ["D", "1" * 20_001], ["s", [["D", "sNaN"]]],
     ["s", [["i", hex(n * (2**61 - 1))] for n in range(4000)]],  # all of one hash: for ever to be told apart
     ["x", "Point", "1"], ["b", "0"], ["D", "x"], ["c", "0x1p0"]],
)  # fmt: skip
def test_malformed_values_are_refused(item: Any) -> None:
    with pytest.raises(UnreadableError):
        decode(item)


def test_opaque_objects_show_their_type_and_equal_nothing() -> None:
    assert format_value(decode(encode(NAMES["Same"]()))).startswith("an object of type ")
    assert decode(["o", "x", True]) != decode(["o", "x", True])
    assert not OpaqueObject("x", None)
    assert decode(encode(range(3))) == ReprValue("range", "range(0, 3)")
    assert format_value("x" * 100).endswith("…")
    assert len(format_value(decode(["o", "x" * 1000, True]))) < 120


@pytest.mark.parametrize(
    "found", [[], [["v"]], [[]], [{}], [None], ["v"], [["e"]], [["v", ["l"]]], [["v", 1], ["v", 1]]]
)
def test_a_forged_reply_does_not_pass(found: Any) -> None:
    assert parse_assertion("assert f(1) == 2").find_failure(found) is not None
