"""Rewrites the statements of a test so that they run by themselves and note the result of each assertion.

Tests are written for a runner that is not here. So this module adds calls of functions that assert, where the test does
not call them itself: ``check(candidate)`` of HumanEval with the functions that the program defines, and the methods of
pytest's and unittest's classes one by one. ``if __name__ == "__main__"`` holds. Assertions that run next to the program
are wrapped: so a failure inside ``try`` is seen, and also a test that reaches no assertion. This module runs nothing.

    read_statements("def test_f():\\n    assert f(1) == 2")     # [the function, its call]
    wrap_assertions(statement)                                 # the statement with its assertions wrapped
"""

import ast
import builtins
from collections.abc import Iterable, Iterator
from typing import Any

NOTE = "_rmbatch_note"
"""The name of the context manager around each assertion: a ``harness.Notes``."""
CHECK = "_rmbatch_check"
"""The name of the call that tries a check with each of the program's functions, until one passes."""
_WIDE = {"Exception", "BaseException", "AssertionError"}
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Loop = ast.For | ast.AsyncFor | ast.While
_Block = ast.If | ast.Try | ast.With | ast.AsyncWith | ast.Match
_UNITTEST = """
import unittest as {name}_unittest
{name}_result = {name}_unittest.TestResult()
{name}_unittest.defaultTestLoader.loadTestsFromTestCase({name}).run({name}_result)
for _, {name}_text in {name}_result.failures + {name}_result.errors:
    raise AssertionError({name}_text.strip().rpartition(chr(10))[2].removeprefix('AssertionError: '))
"""
_STUB = """
class _Stub:
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        return self
    def __call__(self, *_, **__): return self
    def __iter__(self): return iter((self,))
    __getitem__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __call__
    __floordiv__ = __mod__ = __pow__ = __neg__ = __abs__ = __round__ = __enter__ = __call__
    def __bool__(self, *_): return True
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__
    def __len__(self, *_): return 1
    __hash__ = __int__ = __index__ = __exit__ = __len__
    def __float__(self): return 1.0
_stub = _Stub()
def stub_function(*_, **__): return _stub
"""


class CannotCallError(ValueError):
    """There is a test, but nothing here can call it."""


def read_statements(text: str) -> list[ast.stmt]:
    """The statements of a test, and calls of test functions that it does not call; raises what ``ast.parse`` raises."""
    body = list(_drop_guard(ast.parse(text).body))
    return [*body, *_test_calls(body)]


def has_assertion(statement: ast.AST) -> bool:
    """Whether the statement holds an assertion."""
    return any(_is_assertion(node) for node in ast.walk(statement))


def wrap_assertions(statement: ast.stmt) -> str:
    """The statement as text, each of its assertions wrapped in ``with NOTE(narrow):``."""
    module = ast.Module(_wrap_in_body([statement], narrow=False, outermost=True), [])
    return ast.unparse(ast.fix_missing_locations(module))


def imported_modules(statements: Iterable[ast.stmt]) -> set[str]:
    """The modules that these statements import, by the first part of their names.

    Imports inside blocks do not count: the test may catch their errors.
    """
    found = set()
    for statement in statements:
        if isinstance(statement, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            found.add(str(statement.module).partition(".")[0])
    return found


def stub_program(texts: Iterable[str]) -> str:
    """A program that defines every name the tests use; its values can be called, iterated and compared.

    A test that reaches no assertion with this program reaches none with any.
    """
    names = set()
    for node in (node for text in texts for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom) and node.module == "solution":
            names |= {alias.name for alias in node.names}
    return _STUB + "\n".join(f"{name} = _stub" for name in sorted(names - {"*"}))


# ---- calls of test functions -----------------------------------------------------------------------------------------


def _drop_guard(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in (
            "__name__ == '__main__'",
            "'__main__' == __name__",
        ):
            yield from _drop_guard(statement.body)
        elif not (isinstance(statement, ast.Expr) and _starts_test_runner(statement)):
            yield statement


def _starts_test_runner(statement: ast.Expr) -> bool:
    called = [ast.unparse(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return any(name in ("unittest.main", "pytest.main") for name in called)


def _test_calls(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Calls of the functions and classes that hold tests, in their order."""
    asserting, cases = _asserting_functions(body), _test_cases(body)
    for statement in body:
        elsewhere = {name for other in body if other is not statement for name in _loaded_names(other)}
        if isinstance(statement, ast.FunctionDef):
            if statement.name not in elsewhere and (statement.name in asserting or _is_test_name(statement.name)):
                yield from ast.parse(_test_call(statement)).body
        elif isinstance(statement, ast.ClassDef):
            text = _UNITTEST.format(name=statement.name) if statement.name in cases else _method_calls(statement)
            yield from ast.parse(text).body


def _asserting_functions(body: list[ast.stmt]) -> set[str]:
    """The functions that assert, or that use one that asserts."""
    functions = {statement.name: statement for statement in body if isinstance(statement, _Function)}
    found = {name for name, function in functions.items() if has_assertion(function)}
    while more := {name for name in functions.keys() - found if found & set(_loaded_names(functions[name]))}:
        found |= more
    return found


def _test_call(function: ast.FunctionDef) -> str:
    needed = _required_parameters(function)
    if not needed:
        return f"{function.name}()"
    if needed in (["candidate"], ["Candidate"]) or (function.name == "check" and len(needed) == 1):
        return f"{CHECK}({function.name})"
    if _is_test_name(function.name):
        raise CannotCallError(f"nobody here can say what {', '.join(needed)} of {function.name} is")
    return ""


def _test_cases(body: list[ast.stmt]) -> set[str]:
    """The classes that are derived from unittest's TestCase."""
    found: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            bases = [ast.unparse(base) for base in statement.bases]
            if any(base in found or base.endswith("TestCase") for base in bases):
                found.add(statement.name)
    return found


def _method_calls(node: ast.ClassDef) -> str:
    methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
    tests = [method for name, method in methods.items() if _is_test_name(name)]
    if not node.name.startswith("Test") and not any(map(has_assertion, tests)):
        return ""
    lines = []
    for method in tests:
        lines.append(f"{NOTE}_instance = {node.name}()")
        for setup in (methods[name] for name in ("setup_class", "setup_method", "setup") if name in methods):
            nothing = ", ".join(["None"] * (len(_required_parameters(setup)) - 1))
            lines += [f"{NOTE}_instance.{setup.name}({nothing})"]
        is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in method.decorator_list)
        if needed := _required_parameters(method)[0 if is_static else 1 :]:
            raise CannotCallError(f"nobody here can say what {', '.join(needed)} of {node.name}.{method.name} is")
        lines.append(f"{NOTE}_instance.{method.name}()")
    return "\n".join(lines)


def _required_parameters(function: ast.FunctionDef) -> list[str]:
    """The parameters that have no default."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    needed = positional[: len(positional) - len(given.defaults)]
    needed += [argument for argument, default in zip(given.kwonlyargs, given.kw_defaults) if default is None]
    return [argument.arg for argument in needed]


def _is_test_name(name: str) -> bool:
    return name.startswith("test")


def _loaded_names(node: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load))


# ---- notes on assertions ---------------------------------------------------------------------------------------------


def _is_assertion(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        name = _called_name(node.value)
        return name.startswith("assert") or name == "fail"
    if isinstance(node, ast.With | ast.AsyncWith):
        return any(_expects_exception(item) for item in node.items)
    return isinstance(node, ast.Assert) or _forbids(node)


def _forbids(node: ast.AST) -> bool:
    """Whether it is ``assert False`` or the like, which must not be reached."""
    if isinstance(node, ast.Assert):
        return isinstance(node.test, ast.Constant) and not node.test.value
    if isinstance(node, ast.Raise):
        return node.exc is not None and (_called_name(node.exc) or ast.unparse(node.exc)) == "AssertionError"
    return isinstance(node, ast.Expr) and _called_name(node.value) == "fail"


def _expects_exception(item: ast.withitem) -> bool:
    name = _called_name(item.context_expr)
    return name.startswith("assert") or name == "raises"


def _called_name(node: ast.AST) -> str:
    """The last part of the name of the called function; "" for any other expression."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
        return ""
    return node.func.id if isinstance(node.func, ast.Name) else node.func.attr


def _wrap_in_body(body: list[ast.stmt], narrow: bool, outermost: bool) -> list[ast.stmt]:
    """The statements with each assertion wrapped.

    ``narrow``: the code around expects an exception other than a failed assertion. ``outermost``: only loops and
    functions are around, so a block that holds an ``assert False`` counts as reached here.
    """
    done: list[ast.stmt] = []
    for statement in body:
        if outermost and any(map(_forbids, _in_blocks(statement))):
            done.append(_wrap([ast.Pass()], narrow))
        is_assertion = _is_assertion(statement)
        _wrap_in_blocks(statement, narrow)
        done.append(_wrap([statement], narrow) if is_assertion else statement)
    return done


def _wrap_in_blocks(node: ast.stmt, narrow: bool) -> None:
    is_function, is_block = isinstance(node, _Function), isinstance(node, _Block)
    inner = narrow and not is_function
    if isinstance(node, ast.With | ast.AsyncWith):
        inner = inner or any(
            _expects_exception(item) or _called_name(item.context_expr) == "suppress" for item in node.items
        )
    guarded = inner or (isinstance(node, ast.Try) and any(map(_is_narrow, node.handlers)))
    for field in ("body", "orelse", "finalbody"):
        part: Any = getattr(node, field, None)
        if isinstance(part, list) and part and isinstance(part[0], ast.stmt):
            setattr(node, field, _wrap_in_body(part, guarded if field == "body" else inner, outermost=not is_block))
    for part in [*getattr(node, "handlers", ()), *getattr(node, "cases", ())]:
        part.body = _wrap_in_body(part.body, inner, outermost=False)


def _in_blocks(statement: ast.stmt) -> Iterator[ast.stmt]:
    """The statement and the statements inside it, without those in loops, functions and classes."""
    yield statement
    if isinstance(statement, _Block):
        for node in ast.iter_child_nodes(statement):
            inside = [node] if isinstance(node, ast.stmt) else getattr(node, "body", [])
            for part in inside if isinstance(inside, list) else ():
                yield from _in_blocks(part)


def _is_narrow(handler: ast.ExceptHandler) -> bool:
    """Whether an ``except`` names particular exceptions."""
    if handler.type is None:
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return not {ast.unparse(kind) for kind in kinds} <= _WIDE


def _wrap(body: list[ast.stmt], narrow: bool) -> ast.With:
    context = ast.Call(ast.Name(NOTE, ast.Load()), [ast.Constant(narrow)], [])
    return ast.With([ast.withitem(context, None)], body)
