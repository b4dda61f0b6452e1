"""Runs a program's tests in a sandbox: the share that passes, and why the first one fails that does not.

This is decided outside of the sandbox, from what came out of it. Where the sandbox itself fails, there is no result.

    run_tests("def f(x): return x + 1", read_cases(["assert f(1) == 2"]), Limits(), "auto")
    run_inputs("def f(x): return x + 1", read_cases(["assert f(1) == 0"]), Limits(), "auto")   # what it gives instead
"""

import json
import secrets
import signal
from dataclasses import dataclass
from typing import Any

from rmbatch.sandbox.asserts import UNREACHED, Assertion, describe_exception
from rmbatch.sandbox.cases import Cases, StdinTest, UnreadableTestsError
from rmbatch.sandbox.compare import split_words
from rmbatch.sandbox.pool import Outcome, Protection, Sandbox, SandboxError, lend
from rmbatch.sandbox.statements import stub_program
from rmbatch.sandbox.values import write_found

_MAX_TEXT = 200
_ENDED_EARLY = ("exit", "the program ended itself before its tests")


@dataclass(frozen=True)
class Limits:
    """What each test of a program may use."""

    timeout_s: float = 5.0
    """Processor seconds of a test, and of loading the program."""
    memory_mb: int = 512


@dataclass(frozen=True)
class ProgramResult:
    """Which tests passed, and the first that did not."""

    passed: tuple[bool, ...]
    failure: str | None
    """``test 3: wrong_answer: got 4``; None if all passed."""
    unreached: tuple[int, ...] = ()
    """The indices of the tests in which no assertion was reached."""

    @property
    def share(self) -> float:
        """Passed tests over tests."""
        return sum(self.passed) / len(self.passed)


@dataclass(frozen=True)
class Given:
    """What a program gives in each test, whatever the tests expect."""

    texts: tuple[str | None, ...]
    """Equal for equal values; None where it fails."""
    is_plain: bool
    """Whether all that it gives are plain values, which can be compared."""

    @property
    def has_any(self) -> bool:
        """Whether it gives something in any test."""
        return any(text is not None for text in self.texts)


def run_tests(
    program: str, cases: Cases, limits: Limits, protection: Protection = "auto", packages: bool = False
) -> ProgramResult:
    """Which tests the program passes.

    Raises UnreadableTestsError where a test reaches no assertion with any program, SandboxError where the sandbox
    fails, UserError where no protection works.
    """

    def run(program: str, cases: Cases) -> ProgramResult:
        return _judge(cases, _run_in_sandbox(program, cases, limits, protection, packages), limits)

    result = run(program, cases)
    if result.unreached:
        # The program may have steered past the assertions, or have lied. A stub does neither.
        doubtful = Cases(cases.form, tuple(cases.tests[index] for index in result.unreached))
        stub = stub_program(test.text for test in doubtful.tests if isinstance(test, Assertion))
        for index in run(stub, doubtful).unreached:
            raise UnreadableTestsError(f"test {result.unreached[index] + 1} reaches no assertion, whatever the program")
    return result


def run_inputs(
    program: str, cases: Cases, limits: Limits, protection: Protection = "auto", packages: bool = False
) -> Given:
    """What the program gives in each test: printed words, the value of a call, the values that an assertion compares.

    Of a test function only how many of its assertions hold. Raises SandboxError and UserError, as ``run_tests``.
    """
    found: list[str | None] = []
    is_plain = True
    for index, (outcome, token) in enumerate(_run_in_sandbox(program, cases, limits, protection, packages)):
        wrong = _find_failure(cases, index, outcome, token, limits)
        if wrong is not None and wrong[0] not in _JUDGED:
            found.append(None)
        elif cases.form == "stdin":
            found.append("\n".join(map(" ".join, split_words(outcome.printed.decode(errors="replace")))))
        else:
            text = write_found((_parse_report(outcome.value) or {}).get("found", []))
            is_plain &= text is not None
            found.append(text)
    return Given(tuple(found), is_plain)


_JUDGED = ("wrong_answer", UNREACHED)
"""Failures of programs that ran to their end."""


def _run_in_sandbox(
    program: str, cases: Cases, limits: Limits, protection: Protection, packages: bool
) -> list[tuple[Outcome, str]]:
    """What each test came to, and its token."""
    try:
        with lend(protection, packages) as sandbox:
            return _run(sandbox, program, cases, limits)
    except SandboxError:  # another process's memory use may have killed it: try once more, with a fresh sandbox
        with lend(protection, packages) as sandbox:
            return _run(sandbox, program, cases, limits)


def run_tests_in(sandbox: Sandbox, program: str, cases: Cases, limits: Limits) -> ProgramResult:
    """Which tests the program passes in this sandbox. Raises SandboxError."""
    return _judge(cases, _run(sandbox, program, cases, limits), limits)


def _run(sandbox: Sandbox, program: str, cases: Cases, limits: Limits) -> list[tuple[Outcome, str]]:
    """What each test of the program comes to in this sandbox, and its token. Raises SandboxError."""
    tokens = [secrets.token_hex(16) for _ in cases.tests]
    request = {
        "form": cases.form,
        "program": program.removeprefix("\ufeff"),
        "tests": [{**cases.request(index), "token": token} for index, token in enumerate(tokens)],
        "cpu_s": limits.timeout_s,
        "memory_mb": limits.memory_mb,
    }
    outcomes = list(sandbox.run(request))
    if len(outcomes) != len(cases.tests):
        raise SandboxError(f"it gave {len(outcomes)} outcomes for {len(cases.tests)} tests")
    return [*zip(outcomes, tokens)]


def _judge(cases: Cases, outcomes: list[tuple[Outcome, str]], limits: Limits) -> ProgramResult:
    passed, unreached, failure = [], [], None
    for index, (outcome, token) in enumerate(outcomes):
        wrong = _find_failure(cases, index, outcome, token, limits)
        passed.append(wrong is None)
        if wrong is not None and wrong[0] == UNREACHED:
            unreached.append(index)
        if wrong is not None and failure is None:
            text = f": {wrong[1]}" if wrong[1] else ""
            failure = f"test {index + 1}: {wrong[0]}{text}".encode(errors="replace").decode()
    return ProgramResult(tuple(passed), failure, tuple(unreached))


def _find_failure(cases: Cases, index: int, outcome: Outcome, token: str, limits: Limits) -> tuple[str, str] | None:
    """None if the test passed, else a kind of failure and a short text."""
    if outcome.end != "ended":
        return _describe_end(outcome, limits)
    signalled = (outcome.status or 0) & 0x7F
    if signalled:
        return _describe_signal(signalled, outcome.cpu_s, limits)
    test = cases.tests[index]
    report = _parse_report(outcome.value)
    if isinstance(test, StdinTest):
        if report is not None and report.get("error") is not None:
            return _describe_error(report["error"])
        if report is None and outcome.status != 0:
            return "exit", f"the program ended itself with {(outcome.status or 0) >> 8}"
        return test.find_failure(outcome.printed)
    if report is None:
        return "exit", "the program ended itself during the test"
    if report.get("token") != token or not isinstance(report.get("found"), list):
        return "garbage", "what came out cannot be read"
    if report.get("error") is not None:
        return _describe_error(report["error"])
    return test.find_failure(report["found"])


def _describe_end(outcome: Outcome, limits: Limits) -> tuple[str, str]:
    if outcome.end == "not_loaded":
        return _describe_error((_parse_report(outcome.value) or {}).get("error"))
    if outcome.end == "died":
        signalled = (outcome.status or 0) & 0x7F
        return _describe_signal(signalled, outcome.cpu_s, limits) if signalled else _ENDED_EARLY
    if outcome.end == "unconfined":
        raise SandboxError("a process could not be confined")
    if outcome.end == "no_process":
        raise SandboxError("others of this user have the processes that a test needs")
    known = {
        "wall": ("timeout", "not done in time"),
        "output": ("output", "it wrote more than 4 MiB"),
        "memory": ("memory", f"its processes held more than {limits.memory_mb} MiB"),
        "processes": ("processes", "no process left for the test"),
        "files": ("files", "its files took more than 32 MiB, or were more than 1,024"),
        "garbage": ("garbage", "what came out cannot be read"),
        "not_run": ("not_run", "three tests before it ended with their process"),
    }
    if outcome.end not in known:
        raise SandboxError(f"unknown end {outcome.end!r}")
    return known[outcome.end]


def _describe_signal(number: int, cpu_s: float, limits: Limits) -> tuple[str, str]:
    if number in (signal.SIGPROF, signal.SIGXCPU) or cpu_s >= limits.timeout_s:
        return "timeout", f"over {limits.timeout_s:g} s of processor time"
    if number == signal.SIGXFSZ:
        return "files", "a file grew beyond its limit"
    known = signal.strsignal(number) if number < signal.NSIG else None  # the program may have said any number
    return "crash", known or f"signal {number}"


def _describe_error(error: Any) -> tuple[str, str]:
    if not isinstance(error, list) or len(error) != 2 or not all(isinstance(part, str) for part in error):
        return "garbage", "what came out cannot be read"
    return describe_exception(*(part[:_MAX_TEXT] for part in error))


def _parse_report(value: bytes) -> dict[str, Any] | None:
    """The JSON object that came out; {} for anything else, None where nothing came."""
    if not value:
        return None
    try:
        report = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}
