"""The verdict on a program: the share of its tests that pass, and what went wrong with the first that does not.

Decided here, outside of the sandbox, from what came out of it. A sandbox that fails gives no verdict.

    judge("def f(x): return x + 1", read_cases(["assert f(1) == 2"]), Limits(), "auto")
"""

import json
import secrets
import signal
from dataclasses import dataclass
from typing import Any

from rmbatch.sandbox.asserts import UNREACHED, Assertion, described
from rmbatch.sandbox.cases import Cases, StdinTest, UnreadableTestsError
from rmbatch.sandbox.pool import Outcome, Protection, Sandbox, SandboxError, lend
from rmbatch.sandbox.statements import stub_program

_MAX_TEXT = 200
_ENDED_EARLY = ("exit", "the program ended itself before its tests")


@dataclass(frozen=True)
class Limits:
    """What each test of a program may use."""

    timeout_s: float = 5.0
    """Processor seconds of a test, and of loading the program."""
    memory_mb: int = 512


@dataclass(frozen=True)
class Verdict:
    """Which tests passed, and the first that did not."""

    passed: tuple[bool, ...]
    failure: str | None
    """``test 3: wrong_answer: got 4``; None if all passed."""
    unreached: tuple[int, ...] = ()
    """The places of the tests in which no assertion was reached."""

    @property
    def share(self) -> float:
        """Passed tests over tests."""
        return sum(self.passed) / len(self.passed)


def judge(
    program: str, cases: Cases, limits: Limits, protection: Protection = "auto", packages: bool = False
) -> Verdict:
    """The verdict on a program.

    Raises UnreadableTestsError where a test reaches no assertion whatever the program, SandboxError where there is no
    verdict, UserError where protection is missing.
    """

    def run(tried: str, tests: Cases) -> Verdict:
        try:
            with lend(protection, packages) as sandbox:
                return judged(sandbox, tried, tests, limits)
        except SandboxError:  # it may have been killed for the memory of somebody else: once more, with a fresh one
            with lend(protection, packages) as sandbox:
                return judged(sandbox, tried, tests, limits)

    verdict = run(program, cases)
    if verdict.unreached:
        # The program may have steered past the assertions, or have lied. It has no say in what becomes of a stub.
        doubtful = Cases(cases.form, tuple(cases.tests[place] for place in verdict.unreached))
        stub = stub_program(test.text for test in doubtful.tests if isinstance(test, Assertion))
        for place in run(stub, doubtful).unreached:
            raise UnreadableTestsError(
                f"test {verdict.unreached[place] + 1} reaches no assertion, whatever the program"
            )
    return verdict


def judged(sandbox: Sandbox, program: str, cases: Cases, limits: Limits) -> Verdict:
    """The verdict on a program that runs in this sandbox. Raises SandboxError."""
    tokens = [secrets.token_hex(16) for _ in cases.tests]
    request = {
        "form": cases.form,
        "program": program.removeprefix("\ufeff"),
        "tests": [{**cases.asked(place), "token": token} for place, token in enumerate(tokens)],
        "cpu_s": limits.timeout_s,
        "memory_mb": limits.memory_mb,
    }
    passed, unreached, failure = [], [], None
    for place, outcome in enumerate(sandbox.run(request)):
        wrong = _wrong(cases, place, outcome, tokens[place], limits)
        passed.append(wrong is None)
        if wrong is not None and wrong[0] == UNREACHED:
            unreached.append(place)
        if wrong is not None and failure is None:
            text = f": {wrong[1]}" if wrong[1] else ""
            failure = f"test {place + 1}: {wrong[0]}{text}".encode(errors="replace").decode()
    if len(passed) != len(cases.tests):
        raise SandboxError(f"it gave {len(passed)} outcomes for {len(cases.tests)} tests")
    return Verdict(tuple(passed), failure, tuple(unreached))


def _wrong(cases: Cases, place: int, outcome: Outcome, token: str, limits: Limits) -> tuple[str, str] | None:
    """None if the test passed, else a kind and a short text."""
    if outcome.end != "ended":
        return _unfinished(outcome, limits)
    signalled = (outcome.status or 0) & 0x7F
    if signalled:
        return _killed(signalled, outcome.cpu_s, limits)
    test = cases.tests[place]
    said = _said(outcome.value)
    if isinstance(test, StdinTest):
        if said is not None and said.get("error") is not None:
            return _raised(said["error"])
        if said is None and outcome.status != 0:
            return "exit", f"the program ended itself with {(outcome.status or 0) >> 8}"
        return test.verdict(outcome.printed)
    if said is None:
        return "exit", "the program ended itself during the test"
    if said.get("token") != token or not isinstance(said.get("found"), list):
        return "garbage", "what came out cannot be read"
    if said.get("error") is not None:
        return _raised(said["error"])
    return test.verdict(said["found"])


def _unfinished(outcome: Outcome, limits: Limits) -> tuple[str, str]:
    if outcome.end == "not_loaded":
        return _raised((_said(outcome.value) or {}).get("error"))
    if outcome.end == "died":
        signalled = (outcome.status or 0) & 0x7F
        return _killed(signalled, outcome.cpu_s, limits) if signalled else _ENDED_EARLY
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


def _killed(number: int, cpu_s: float, limits: Limits) -> tuple[str, str]:
    if number in (signal.SIGPROF, signal.SIGXCPU) or cpu_s >= limits.timeout_s:
        return "timeout", f"over {limits.timeout_s:g} s of processor time"
    if number == signal.SIGXFSZ:
        return "files", "a file grew beyond its limit"
    known = signal.strsignal(number) if number < signal.NSIG else None  # the program may have said any number
    return "crash", known or f"signal {number}"


def _raised(error: Any) -> tuple[str, str]:
    if not isinstance(error, list) or len(error) != 2 or not all(isinstance(part, str) for part in error):
        return "garbage", "what came out cannot be read"
    return described(*(part[:_MAX_TEXT] for part in error))


def _said(value: bytes) -> dict[str, Any] | None:
    """The JSON object that came out, {} for what is none; None where nothing came."""
    if not value:
        return None
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
