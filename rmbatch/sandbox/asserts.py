"""Parses an assertion into what the program computes, inside, and what is expected of it, outside.

``assert f([1, 2]) == 3`` becomes the expression ``f([1, 2])``, computed next to the program, and ``_ == 3``, decided
here on the plain data that came out. So a program cannot find the 3, cannot return an object that equals everything and
cannot patch the comparison. This module decides ==, !=, <, <=, >, >=, is, in with a literal on a side, ``not``,
``and``, ``or``, ``abs(x - 3) < 1e-6``, ``math.isclose(x, 3)``, ``isinstance`` of a built-in type, and truth. Any other
statement runs inside (``statements.py``), and its assertions are decided there (``sealed`` is False).

    test = parse_assertion("assert f([1, 2]) == 3")
    test.steps                          # [["value", "f([1, 2])"]], what goes inside
    test.find_failure([["v", 3]])       # None: passed; else (kind, text)
"""

import ast
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

from rmbatch.sandbox.statements import (
    CHECK,
    CannotCallError,
    has_assertion,
    imported_modules,
    read_statements,
    wrap_assertions,
)
from rmbatch.sandbox.values import OpaqueObject, UnreadableError, decode, format_value

_MAX_TEXT = 200
_KINDS = {"AssertionError": "wrong_answer", "MemoryError": "memory"} | dict.fromkeys(
    ("SyntaxError", "IndentationError", "TabError"), "syntax"
)
Values = Sequence[Any]
"""The result of each expression, in order, and of the assertions that are decided inside."""
UNREACHED = "unreached"
"""The kind of failure where no assertion was reached; a stub then shows whether the test or the program is at fault."""
_Check = Callable[[Values], Any]


class CannotReadError(ValueError):
    """The test is not Python, or asks nothing of the program."""


class RaisedError(Exception):
    """An expression raised inside: the type of the exception, and its text."""


@dataclass(frozen=True)
class Assertion:
    """One test: what to do inside, and how to decide outside."""

    text: str
    steps: list[list[str]]
    """["run", statements], ["check", function], ["value", expression], ["equal", expression, expression] and ["notes"]
    (the results of the assertions inside), in order."""
    sealed: bool
    """Whether everything is decided outside."""
    imports: frozenset[str]
    """The modules that it imports."""
    _checks: tuple[_Check, ...]

    def find_failure(self, found: Values) -> tuple[str, str] | None:
        """None if the test passed, else a kind of failure and a short text."""
        try:
            if len(found) != sum(step[0] not in ("run", "check") for step in self.steps):
                return "garbage", "not all of the test was done"
            for check in self._checks:
                if not check(found):
                    return "wrong_answer", _format_values(found)
            return None if self.sealed else self._find_inside_failure(found[-1])
        except RaisedError as fault:
            return describe_exception(*fault.args)
        except (UnreadableError, RecursionError, LookupError):
            return "garbage", "what came out cannot be read"
        except (TypeError, ValueError, ArithmeticError) as fault:  # as the assertion itself would have raised
            return "exception", f"{type(fault).__name__}: {fault}"

    def _find_inside_failure(self, notes: Any) -> tuple[str, str] | None:
        """The failure of the assertions that were decided inside, None if they held."""
        _, held, failed = notes
        if failed is not None:
            return describe_exception(*(str(part)[:_MAX_TEXT] for part in failed[:2]))
        if not held and not self._checks:
            return UNREACHED, "no assertion was reached"
        return None


def describe_exception(name: str, text: str) -> tuple[str, str]:
    """The kind of failure and the text of an exception that a program raised."""
    kind = _KINDS.get(name, "exception")
    return kind, f"{name}: {text}" if text else name


def parse_assertion(text: str) -> Assertion:
    """A test's text as an assertion. Raises CannotReadError where it does not parse or asserts nothing."""
    try:
        statements = read_statements(text)
    except CannotCallError as fault:
        raise CannotReadError(str(fault)) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        raise CannotReadError(f"{type(fault).__name__} in {text[:80]!r}") from None
    if not any(map(has_assertion, statements)):
        raise CannotReadError(f"it asserts nothing: {text[:80]!r}")
    modules = frozenset(imported_modules(statements))
    builder = _Builder()
    try:
        for statement in statements:
            builder.add(statement)
    except RecursionError:
        raise CannotReadError(f"nested too deeply: {text[:80]!r}") from None
    except ValueError as fault:  # ast.unparse writes no number of over 4,300 digits
        raise CannotReadError(f"{fault}: {text[:80]!r}") from None
    if not builder.sealed:
        builder.steps.append(["notes"])
    elif not any(step[0] in ("value", "equal") for step in builder.steps):
        raise CannotReadError(f"it asks nothing of the program: {text[:80]!r}")
    return Assertion(text, builder.steps, builder.sealed, modules, tuple(builder.checks))


class _Builder:
    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.checks: list[_Check] = []
        self.sealed = True
        self._values = 0

    def add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assert):
            self.checks.append(self._truth(statement.test))
            return
        if (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and ast.unparse(statement.value.func) == CHECK
        ):
            self.steps.append(["check", ast.unparse(statement.value.args[0])])
            return
        source = ast.unparse(statement)
        if has_assertion(statement):
            self.sealed = False
            source = wrap_assertions(statement)
        if self.steps and self.steps[-1][0] == "run":
            self.steps[-1][1] += f"\n{source}"
        else:
            self.steps.append(["run", source])

    def _truth(self, node: ast.expr) -> _Check:
        if isinstance(node, ast.BoolOp):
            parts = [self._truth(value) for value in node.values]
            every = all if isinstance(node.op, ast.And) else any
            return lambda found: every(part(found) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._truth(node.operand)
            return lambda found: not inner(found)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call):
            return self._known_call(node) or self._value(node)
        return self._value(node)

    def _comparison(self, node: ast.Compare) -> _Check:
        sides = [node.left, *node.comparators]
        literals = [_literal(side) for side in sides]
        one_operator = node.ops[0] if len(node.ops) == 1 else None
        if all(literal is None for literal in literals):
            same = isinstance(one_operator, ast.Eq | ast.Is)
            if isinstance(one_operator, ast.Eq | ast.NotEq | ast.Is | ast.IsNot) and _asks_for_type(sides):
                return self._type_is(sides, same)
            if isinstance(one_operator, ast.Eq | ast.NotEq):
                return self._compare_computed(sides, same)
            return self._value(node)
        parts = [
            self._number(side) if literal is None else _constant(literal) for side, literal in zip(sides, literals)
        ]
        holds = [_COMPARISONS[type(op)] for op in node.ops]

        def check(found: Values) -> bool:
            values = [part(found) for part in parts]
            return all(hold(*pair) for hold, pair in zip(holds, pairwise(values)))

        return check

    def _compare_computed(self, sides: Sequence[ast.expr], equal: bool) -> _Check:
        """Compare two computed sides. For two opaque objects of one type, the comparison made inside counts."""
        place = self._place(["equal", *map(ast.unparse, sides)])

        def check(found: Values) -> bool:
            item = found[place]
            if item[0] == "e":
                raise RaisedError(str(item[1])[:_MAX_TEXT], str(item[2])[:_MAX_TEXT])
            left, right = decode(item[1]), decode(item[2])
            if isinstance(left, OpaqueObject) and isinstance(right, OpaqueObject):
                same = left.kind == right.kind and item[3] is True
            else:
                same = left == right
            return same is equal

        return check

    def _type_is(self, sides: Sequence[ast.expr], equal: bool) -> _Check:
        """``type(x) == list``."""
        asked = sides[0] if _call_of(sides[0]) == "type" else sides[1]
        named = sides[1] if asked is sides[0] else sides[0]
        assert isinstance(asked, ast.Call)
        value, kind = self._value(asked.args[0]), _TYPES[ast.unparse(named)]
        return lambda found: (type(_unfreeze(value(found))) is kind) is equal

    def _number(self, node: ast.expr) -> _Check:
        """A side of a comparison. ``abs(x - 3)`` is computed outside, so that no object can forge the difference."""
        if _call_of(node) == "abs":
            assert isinstance(node, ast.Call)
            (inner,) = node.args
            if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
                left, right = (
                    self._value(side) if (literal := _literal(side)) is None else _constant(literal)
                    for side in (inner.left, inner.right)
                )
                return lambda found: abs(_check_number(left(found)) - _check_number(right(found)))
        return self._value(node)

    def _known_call(self, node: ast.Call) -> _Check | None:
        if _call_of(node) == "isinstance" and len(node.args) == 2:
            types = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            names = [ast.unparse(kind) for kind in types]
            if all(name in _TYPES for name in names):
                value, kinds = self._value(node.args[0]), tuple(_TYPES[name] for name in names)
                return lambda found: isinstance(_unfreeze(value(found)), kinds)
        if ast.unparse(node.func) in ("math.isclose", "isclose") and len(node.args) == 2:
            options = {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
            sides = [_literal(side) for side in node.args]
            if None not in options and None not in options.values() and sides != [None, None]:
                known = {str(name): literal[0] for name, literal in options.items() if literal is not None}
                left, right = (
                    self._value(side) if literal is None else _constant(literal)
                    for side, literal in zip(node.args, sides)
                )
                return lambda found: math.isclose(_check_number(left(found)), _check_number(right(found)), **known)
        return None

    def _value(self, node: ast.expr) -> _Check:
        literal = _literal(node)
        if literal is not None:
            return _constant(literal)
        return partial(_read_value, self._place(["value", ast.unparse(node)]))

    def _place(self, step: list[str]) -> int:
        self.steps.append(step)
        self._values += 1
        return self._values - 1


def _read_value(place: int, found: Values) -> Any:
    item = found[place]
    if item[0] == "e":
        raise RaisedError(str(item[1])[:_MAX_TEXT], str(item[2])[:_MAX_TEXT])
    return decode(item[1])


def _constant(literal: tuple[Any]) -> _Check:
    return lambda found: literal[0]


def _literal(node: ast.expr) -> tuple[Any] | None:
    """The value of a literal, in a tuple; None for an expression that has to be computed."""
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    if isinstance(node, ast.Call) and not node.keywords and len(node.args) <= 1:
        name = ast.unparse(node.func)
        if name == "float" and node.args and (text := _literal(node.args[0])) is not None and isinstance(text[0], str):
            return (float(text[0]),) if text[0].strip().lstrip("+-").lower() in ("inf", "infinity", "nan") else None
        if name in ("set", "frozenset", "dict", "list", "tuple"):
            inner = _literal(node.args[0]) if node.args else ((),)
            try:
                return None if inner is None else (_TYPES[name](inner[0]),)
            except (TypeError, ValueError):
                return None
    if ast.unparse(node) in ("math.inf", "-math.inf", "-float('inf')"):
        return (-math.inf if isinstance(node, ast.UnaryOp) else math.inf,)
    return None


def _call_of(node: ast.expr) -> str | None:
    """The name of the built-in function (abs, type, isinstance) that is called with plain arguments only; else None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        wanted = {"abs": 1, "type": 1, "isinstance": 2}.get(node.func.id)
        return node.func.id if len(node.args) == wanted and not starred else None
    return None


def _asks_for_type(sides: Sequence[ast.expr]) -> bool:
    return [_call_of(side) for side in sides].count("type") == 1 and any(ast.unparse(side) in _TYPES for side in sides)


def _unfreeze(value: Any) -> Any:
    return set(value) if isinstance(value, frozenset) else value


def _check_number(value: Any) -> Any:
    if isinstance(value, int | float | complex | Decimal | Fraction):
        return value
    raise TypeError(
        f"a number is needed, not {value.kind if isinstance(value, OpaqueObject) else type(value).__name__}"
    )


def _is(left: Any, right: Any) -> bool:
    singletons = (None, True, False)
    if any(left is one or right is one for one in singletons):
        return left is right
    return bool(type(left) is type(right) and left == right)


def _is_in(left: Any, right: Any) -> bool:
    if isinstance(right, str | list | tuple | dict | set | frozenset | bytes):
        return left in right
    raise TypeError(f"nothing is in {right.kind if isinstance(right, OpaqueObject) else type(right).__name__}")


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: _is,
    ast.IsNot: lambda left, right: not _is(left, right),
    ast.In: _is_in,
    ast.NotIn: lambda left, right: not _is_in(left, right),
}
_TYPES: dict[str, Any] = {
    kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
}


def _format_values(found: Values) -> str:
    """The first values that came out, shortened."""
    texts = [format_value(decode(item[1])) for item in found[:2] if item[0] in ("v", "p")]
    return "got " + ", ".join(texts) if texts else "the assertion does not hold"
