"""The reward for programs: ``code_execution``, the share of an exercise's tests that a program passes in a sandbox.

Finding the program in a response and bringing verdicts to columns is done here; running it is ``rmbatch/sandbox``.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from rmbatch.messages import TEXT
from rmbatch.rewards.contract import Scores, reward
from rmbatch.sandbox.cases import Cases, NoTestsError, UnreadableTestsError, read_cases
from rmbatch.sandbox.judging import Limits, judge
from rmbatch.sandbox.pool import Protection, SandboxError

_OPENINGS = ("```python\n", "```\n")
_CLOSING = "\n```"

_Result = tuple[float | None, str | None, str | None]
"""Score, error, reason."""


@reward("code_execution")
class CodeExecution:
    """The share of the tests that the program in the response passes, in a sandbox; 1.0 if all do.

    response[n] text; tests[n] a list of assert statements, ``{"inputs", "outputs", "fn_name"}`` or a list of
    ``{"input", "output"}``, as values or as JSON text -> score[n] float64 in [0, 1]. Without ``fn_name``, inputs and
    outputs are standard input and output, compared as PRIME compares them. The reason names the first failure: the
    number of the test, its kind (wrong_answer, timeout, memory, exception, syntax, exit, crash, output, …), a short
    text. The program is the first ```` ```python ```` block, else the first bare block, else the whole response.

    ``timeout_s``: processor seconds per test; a test that waits gets twice that, plus one, on the clock.
    ``memory_mb``: per process. ``max_tests``: only the first so many, None: all. ``protection``: the weakest level that
    will do (bubblewrap, namespaces, landlock, rlimits), auto: any but rlimits; docs/sandbox.md says what each holds.
    ``packages``: whether programs may import what is installed here, not only the standard library.
    ``workers``: sandboxes at work at a time.

    Null response or tests: null. Null with a code: ``no_tests``; ``unreadable_tests``; ``sandbox_failed`` where the
    sandbox itself did. Raises UserError where no protection that will do works on this machine.
    Source: RM-Gallery, ``code_execution``, https://github.com/modelscope/RM-Gallery, and PRIME's harness,
    https://github.com/PRIME-RL/PRIME, neither of whose code runs here.
    """

    def __init__(
        self,
        *,
        timeout_s: Annotated[float, Field(gt=0, le=3600)] = 5.0,
        memory_mb: Annotated[int, Field(ge=16)] = 512,
        max_tests: Annotated[int, Field(ge=1)] | None = None,
        protection: Protection = "auto",
        packages: bool = False,
        workers: Annotated[int, Field(ge=1, le=256)] = 1,
    ) -> None:
        self._limits = Limits(timeout_s, memory_mb)
        self._max_tests, self._protection, self._packages = max_tests, protection, packages
        self._workers = workers

    def __call__(self, response: pa.Array, tests: pa.Array) -> Scores:
        """As the class says; equal programs with equal tests are run once."""
        jobs: dict[tuple[str, int], Cases] = {}
        rows: list[tuple[str, int] | _Result] = []
        readable = _Reader(self._max_tests)
        for text, value in zip(response.to_pylist(), tests.to_pylist()):
            if text is None or value is None:
                rows.append((None, None, None))
                continue
            place, cases = readable(value)
            if isinstance(cases, str):
                rows.append((None, cases, None))
            else:
                job = (program_of(text), place)
                jobs[job] = cases
                rows.append(job)
        results = dict(zip(jobs, self._verdicts(jobs.items())))
        done = [results[row] if len(row) == 2 else row for row in rows]
        score, error, reason = zip(*done) if done else ((), (), ())
        return Scores(pa.array(score, pa.float64()), pa.array(error, TEXT), pa.array(reason, TEXT))

    def _verdicts(self, jobs: Iterable[tuple[tuple[str, int], Cases]]) -> list[_Result]:
        work = [(program, cases) for (program, _), cases in jobs]
        if self._workers == 1 or len(work) < 2:
            return [self._verdict(*item) for item in work]
        with ThreadPoolExecutor(min(self._workers, len(work))) as pool:
            return list(pool.map(lambda item: self._verdict(*item), work))

    def _verdict(self, program: str, cases: Cases) -> _Result:
        try:
            verdict = judge(program, cases, self._limits, self._protection, self._packages)
        except SandboxError as fault:
            return None, f"sandbox_failed: {fault}", None
        return verdict.share, None, verdict.failure or f"all {len(verdict.passed)} tests passed"


class _Reader:
    """Reads tests, those of the row before only once: the candidates of a prompt share them."""

    def __init__(self, max_tests: int | None) -> None:
        self._max_tests = max_tests
        self._before: Any = None
        self._place = 0
        self._cases: Cases | str = ""

    def __call__(self, value: Any) -> tuple[int, Cases | str]:
        """A number for the tests, and the tests or the error."""
        if self._place == 0 or value != self._before:
            self._before, self._place = value, self._place + 1
            try:
                self._cases = read_cases(value, self._max_tests)
            except NoTestsError:
                self._cases = "no_tests: the list is empty"
            except UnreadableTestsError as fault:
                self._cases = f"unreadable_tests: {fault}"
        return self._place, self._cases


def program_of(response: str) -> str:
    """The first ```` ```python ```` block, else the first bare block, else all of it, as RM-Gallery has it."""
    for opening in _OPENINGS:
        _, opened, rest = response.partition(opening)
        block, closed, _ = rest.partition(_CLOSING)
        if opened and closed:
            return block
    return response
