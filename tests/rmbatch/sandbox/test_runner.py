"""The result of a program: how it ends is its own failure, legal programs pass, and a lost sandbox gives no result."""

import json
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmbatch
from rmbatch.rewards.evaluation import Result
from rmbatch.sandbox import pool, runner
from rmbatch.sandbox.cases import read_cases
from rmbatch.sandbox.pool import Level, RefusedError, Sandbox, SandboxError
from rmbatch.sandbox.runner import Limits, run_tests_in
from rmbatch.sandbox.zygote import _Server

RIGHT = "def f(x): return x + 1"
STDIN = {"inputs": ["1 2\n", "30 4\n"], "outputs": ["3\n", "34\n"]}


@pytest.fixture(scope="module")
def rm() -> Any:
    return rmbatch.reward("code_execution", timeout_s=0.5, memory_mb=256)


@contextmanager
def _lend_sandbox(level: str) -> Iterator[Sandbox]:
    """A warm sandbox of the level, or of the strongest that works here."""
    try:
        with pool.lend("auto") if level == "the best" else _start_sandbox("landlock") as sandbox:
            yield sandbox
    except RefusedError as reason:
        pytest.skip(str(reason))


@contextmanager
def _start_sandbox(level: Level) -> Iterator[Sandbox]:
    sandbox = Sandbox(level)
    try:
        yield sandbox
    finally:
        sandbox.stop()


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
def test_program_that_forges_its_end_fails(level: str, program: str, tests: Any) -> None:
    with _lend_sandbox(level) as sandbox:
        result = run_tests_in(sandbox, program, read_cases(tests), Limits(1.0, 256))
    assert result.share == 0.0
    assert result.failure is not None


def test_lack_of_processes_is_blamed_on_others_only_if_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmbatch.sandbox.zygote.tasks_of_descendants", lambda: 0)  # this process has tests' servers
    program = f"{FORGED}def f(x):\n    say(b'F', {{'error': ['a', 'b']}})\n    os._exit(0)"
    shared = types.SimpleNamespace(facts={"counts_alone": False}, as_user=None, tasks=10**6)
    assert not _Server._others_have_processes(shared)  # type: ignore[arg-type]  # there are processes: it lies
    shared.tasks = 1
    assert _Server._others_have_processes(shared)  # type: ignore[arg-type]
    with _lend_sandbox("the best") as sandbox:
        assert (
            run_tests_in(sandbox, program, read_cases(ONE), Limits()).failure
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
    st.sampled_from([ONE, STDIN, ["assert f(1) == 2"], ["assert f(1) in {1}"], "def test_f():\n    assert f(1) == 2"]),
)
def test_any_outcome_gives_a_result(end: str, status: int | None, cpu_s: float, value: bytes, tests: Any) -> None:
    cases = read_cases(tests)
    runner._find_failure(cases, 0, pool.Outcome(end, status, cpu_s, value, b""), "t", Limits())


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
    with _lend_sandbox(level) as sandbox:
        result = run_tests_in(sandbox, program, read_cases(THREE), Limits(2.0, 256))
    assert result.failure is None


def test_results_of_over_20_000_items_pass(rm: Any) -> None:
    program = "def f(n): return {str(i): i for i in range(n)}\ndef g(n): return set(range(n))"
    tests = {"inputs": ["30000"], "outputs": [json.dumps({str(i): i for i in range(30_000)})], "fn_name": "f"}
    assert rm.evaluate({"response": program, "tests": tests}).score == 1.0
    assert rm.evaluate({"response": program, "tests": ["assert g(30000) == set(range(30000))"]}).score == 1.0


def test_failed_sandbox_gives_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise SandboxError("it died")
        yield

    monkeypatch.setattr(Sandbox, "run", fails)
    result = rmbatch.reward("code_execution").evaluate({"response": "x", "tests": ["assert f(1) == 2"]})
    assert result == Result(None, "sandbox_failed: it died")
