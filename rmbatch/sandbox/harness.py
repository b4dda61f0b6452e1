"""Runs inside the walls, in one process with the program: loads it, forks for each test, encodes values.

It does not know the expected values, so it decides nothing. A program can forge everything that it writes, so nothing
it writes makes a test pass unless the value is right.
Runs inside the sandbox, so it imports the standard library only. It keeps its own references to functions that programs
patch.

    run_stdin(program, names, results, cpu_s)                    # one test, over standard input and output
    serve_tests(program, form, names, requests, results, cpu_s)  # function calls and assertions, one fork per test
"""

import atexit
import builtins
import io
import json
import os
import random
import signal
import struct
import sys
import threading
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any, NoReturn

from rmbatch.sandbox.compare import with_whole_keys

PRELUDE = "\n".join(
    f"from {name} import *"
    for name in (
        *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
        *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
    )
) + (
    "\nimport string, re, datetime, collections, heapq, bisect, copy, math, random, statistics, itertools, functools"
    "\nimport operator, io, sys, json\n"
)
"""PRIME puts these imports before each program: solutions in such data sets are written without them."""
_RECURSION_LIMIT = 600_000  # PRIME's

_fork, _wait, _exit, _read, _write, _setitimer = os.fork, os.wait4, os._exit, os.read, os.write, signal.setitimer
_dumps, _loads, _eval, _exec, _compile, _len, _repr = json.dumps, json.loads, eval, exec, compile, len, repr
_pack, _unpack, _signal, _seed = struct.pack, struct.unpack, signal.signal, random.seed
_MAX_DEPTH = 300
_MAX_TEXT = 200
_SIGPROF, _SIG_DFL, _ITIMER_PROF = signal.SIGPROF, signal.SIG_DFL, signal.ITIMER_PROF
_shut_down_threads, _run_at_exit = threading._shutdown, atexit._run_exitfuncs  # type: ignore[attr-defined]
_STANDARD_FILES = {
    f"{folder}{name}": place
    for place, names in enumerate((("stdin", "fd/0"), ("stdout", "fd/1")))
    for folder, name in (("/dev/", names[0]), ("/dev/", names[1]), ("/proc/self/", names[1]))
}


def prelude_names() -> dict[str, Any]:
    """The names that PRIME's prelude gives a program; made once, copied for each."""
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    del names["__builtins__"]
    return names


class Notes:
    """The results of the assertions that run here: how many held, and the first that failed."""

    def __init__(self) -> None:
        self.held = 0
        self.failed: list[str] | None = None

    def __call__(self, narrow: bool) -> "_NotedAssertion":
        return _NotedAssertion(self, narrow)


class _NotedAssertion:
    """The context of one assertion; ``narrow``: only an AssertionError counts as its failure."""

    __slots__ = ("_narrow", "_notes")

    def __init__(self, notes: Notes, narrow: bool) -> None:
        self._notes, self._narrow = notes, narrow

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: object) -> None:
        if fault is None:
            self._notes.held += 1
        elif self._notes.failed is None and (isinstance(fault, AssertionError) or not self._narrow):
            self._notes.failed = _describe(fault)


def write_frame(descriptor: int, kind: bytes, content: Any) -> None:
    """Write one frame to the zygote: a letter, a length, JSON. C: confined, no program has run yet."""
    payload = _dumps(content).encode()
    data = memoryview(kind + _pack(">I", _len(payload)) + payload)
    while data:
        data = data[_write(descriptor, data) :]


def run_stdin(program: str, names: dict[str, Any], results: int, cpu_s: float) -> None:
    """Run the program as ``__main__`` over descriptors 0 and 1; SystemExit is a normal end, as in PRIME."""
    error = None
    try:
        _start_clock(cpu_s)
        _open_standard_files()
        module = _make_module("__main__", names)
        stdin, stdout = _make_streams()
        vars(sys).update(stdin=stdin, __stdin__=stdin, stdout=stdout, __stdout__=stdout)
        with suppress(SystemExit):
            _exec(_compile(program, "<program>", "exec"), vars(module))
        _end_as_python_does(stdout)
    except BaseException as fault:
        error = _describe(fault)
    write_frame(results, b"V", {"error": error})
    _exit(0)


def _end_as_python_does(stdout: io.TextIOWrapper) -> None:
    """Wait for threads, run exit functions, flush standard output."""
    _shut_down_threads()
    _run_at_exit()
    if sys.stdout is not stdout:
        with suppress(Exception):  # the program's own, of which Python itself does not complain either
            sys.stdout.flush()
    if not stdout.closed:
        stdout.flush()


def _open_standard_files() -> None:
    """Let ``open("/dev/stdin")`` open descriptor 0, though no /dev or /proc leads there."""
    plain, plain_os = open, os.open

    def open_file(file: Any, *arguments: Any, **options: Any) -> Any:
        return plain(_resolve_path(file), *arguments, **options)

    def open_descriptor(path: Any, *arguments: Any, **options: Any) -> int:
        known = _resolve_path(path)
        return known if isinstance(known, int) else plain_os(path, *arguments, **options)

    builtins.open = io.open = open_file
    os.open = open_descriptor


def _resolve_path(path: Any) -> Any:
    """A new descriptor for the name of a standard file; any other path unchanged."""
    try:
        place = _STANDARD_FILES.get(os.fspath(path))
    except TypeError:  # a descriptor already, or nothing that can be opened
        return path
    return path if place is None else os.dup(place)


def serve_tests(program: str, form: str, names: dict[str, Any], requests: int, results: int, cpu_s: float) -> None:
    """Load the program once, then run each requested test in a fork of this process."""
    module = _make_module("solution", names if form == "call" else {})
    error = None
    try:
        _start_clock(cpu_s)
        _exec(_compile(program, "<program>", "exec"), vars(module))
        _setitimer(_ITIMER_PROF, 0)
    except BaseException as fault:
        error = _describe(fault)
    write_frame(results, b"L", {"error": error})
    if error is not None:
        _exit(0)
    while True:
        test = _next_test(requests)
        try:
            child = _fork()
        except OSError as fault:
            write_frame(results, b"F", {"error": _describe(fault)})
            continue
        if child == 0:
            _run_test(module, form, test, results, cpu_s)
        write_frame(results, b"S", {"pid": child})
        status, usage = _wait(child, 0)[1:]
        write_frame(results, b"E", {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime})


def _next_test(requests: int) -> dict[str, Any]:
    def exactly(size: int) -> bytes:
        data = b""
        while _len(data) < size:
            more = _read(requests, size - _len(data))
            if not more:
                _exit(0)
            data += more
        return data

    test: dict[str, Any] = _loads(exactly(_unpack(">I", exactly(4))[0]))
    return test


def _run_test(module: ModuleType, form: str, test: dict[str, Any], results: int, cpu_s: float) -> None:
    token = test["token"]
    found: list[Any] = []
    error = None
    try:
        _start_clock(cpu_s)
        if form == "call":
            arguments = test["arguments"]
            first = [with_whole_keys(argument) for argument in arguments[:1]]
            found.append(["v", encode(_find_function(module, test["fn_name"])(*first, *arguments[1:]))])
        else:
            run_steps(test["steps"], vars(module), found)
    except BaseException as fault:
        error = _describe(fault)
    write_frame(results, b"V", {"token": token, "found": found, "error": error})
    _exit(0)


def run_steps(steps: list[list[str]], names: dict[str, Any], found: list[Any]) -> None:
    """Run the steps of a test, and append their results to ``found``."""
    defined = [value for name, value in names.items() if not name.startswith("_")]
    notes = names["_rmbatch_note"] = Notes()
    for step in steps:
        if step[0] == "run":
            _exec(_compile(step[1], "<test>", "exec"), names)
        elif step[0] == "check":
            _check_one_of(names[step[1]], defined, notes)
        elif step[0] == "notes":
            found.append(["n", notes.held, notes.failed])
        else:
            _evaluate(step, names, found)


def _check_one_of(check: Any, defined: list[Any], notes: Notes) -> None:
    """Call ``check`` with each function of the program, the last first, until one passes."""
    faults: list[BaseException] = []
    own = [value for value in defined if getattr(value, "__module__", None) == "solution" and callable(value)]
    own = [value for value in own if type(value) is not type] + [
        getattr(value(), name)
        for value in own
        if type(value) is type and value.__name__ == "Solution"
        for name in vars(value)
        if not name.startswith("_")
    ]
    for candidate in reversed(own):
        notes.held, notes.failed = 0, None
        try:
            check(candidate)
            if notes.failed is None:
                return
        except BaseException as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    if not own:
        raise NameError("the program defines no function")


def _evaluate(step: list[str], names: dict[str, Any], found: list[Any]) -> None:
    kind, source = step[0], step[1]
    try:
        value = _eval(_compile(source, "<test>", "eval"), names)
        if kind == "value":
            found.append(["v", encode(value)])
        else:  # "equal": two values, both of which the program may have a hand in
            other = _eval(_compile(step[2], "<test>", "eval"), names)
            found.append(["p", encode(value), encode(other), bool(value == other)])
    except Exception as fault:  # an `or` may not need it
        found.append(["e", *_describe(fault)])


def _find_function(module: ModuleType, name: str) -> Any:
    solution = getattr(module, "Solution", None)
    if solution is not None and hasattr(solution, name):
        return getattr(solution(), name)
    return getattr(module, name)


def _make_module(name: str, names: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    # As built-in names, so that a function that the program does not define is not found in the prelude (operator.add).
    vars(module)["__builtins__"] = {**vars(builtins), **names, "open": open, "exit": _quit, "quit": _quit}
    sys.modules[name] = module  # dataclasses and pickle look it up
    sys.argv = [name]
    if names:
        sys.setrecursionlimit(_RECURSION_LIMIT)
    return module


def _quit(code: object = None) -> NoReturn:
    """``exit`` and ``quit``, as Python's ``site`` defines them."""
    raise SystemExit(code)


def _make_streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    stdin, stdout = io.FileIO(0, closefd=False), io.FileIO(1, "w", closefd=False)
    return (
        io.TextIOWrapper(io.BufferedReader(stdin), "utf-8", "surrogateescape"),
        io.TextIOWrapper(io.BufferedWriter(stdout), "utf-8", "surrogateescape"),
    )


def _start_clock(cpu_s: float) -> None:
    _seed(0)  # the same program gives the same answer; Python seeds anew in each fork
    _signal(_SIGPROF, _SIG_DFL)
    _setitimer(_ITIMER_PROF, cpu_s)


def _describe(fault: BaseException) -> list[str]:
    """The type of an exception and its text."""
    try:
        return [str(type(fault).__name__)[:_MAX_TEXT], str(fault)[:_MAX_TEXT]]
    except BaseException:
        return [str(type(fault).__name__)[:_MAX_TEXT], ""]


def encode(value: Any, depth: int = 0) -> Any:
    """The value as JSON, exactly, by its built-in type: a subclass counts as its base.

    What is no plain data becomes an opaque object, ["o", type, truth].
    """
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
        kind = type(value)
    if depth > _MAX_DEPTH:
        return _encode_opaque(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, bool | int):
        number = int.__int__(value)
        return number if -(2**53) < number < 2**53 else ["i", hex(number)]
    if issubclass(kind, float):
        return ["f", float.hex(value)]
    if issubclass(kind, list):
        return ["l", [encode(item, depth + 1) for item in list.__iter__(value)]]
    if issubclass(kind, tuple):
        return ["t", [encode(item, depth + 1) for item in tuple.__iter__(value)]]
    if issubclass(kind, dict):
        pairs = dict.items(value)
        return ["d", [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in pairs]]
    if issubclass(kind, set):
        return ["s", [encode(item, depth + 1) for item in set.__iter__(value)]]
    if issubclass(kind, frozenset):
        return ["s", [encode(item, depth + 1) for item in frozenset.__iter__(value)]]
    return _encode_rare(value, kind, depth)


def _encode_rare(value: Any, kind: type, depth: int) -> Any:
    if kind in (type({}.keys()), type({}.items())):
        return ["s", [encode(item, depth + 1) for item in value]]
    if kind in (bytes, bytearray):
        return ["b", value.hex()]
    if kind is complex:
        return ["c", float.hex(value.real), float.hex(value.imag)]
    if kind is Decimal:
        return ["D", str(value)]
    if kind is Fraction:
        return ["F", hex(value.numerator), hex(value.denominator)]
    if kind in (date, datetime, time, timedelta, range, deque):
        return ["x", kind.__name__, _repr(value)]
    return _encode_opaque(value)


def _encode_opaque(value: Any) -> list[Any]:
    try:
        truth = bool(value)
    except Exception:
        truth = None
    kind = type(value)
    return ["o", f"{kind.__module__}.{kind.__qualname__}"[:_MAX_TEXT], truth]


WARM = (ChainMap, Counter, OrderedDict, defaultdict)  # imported so that each fork has them already
