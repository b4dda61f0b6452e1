"""The reward for programs: ``code_execution``, the share of an exercise's tests that a program passes in a sandbox.

This module finds the program in a response and brings its results to columns; ``rmbatch/sandbox`` runs it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import pyarrow as pa
from pydantic import Field

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import NO_SCORE, RowScore, to_scores
from rmbatch.sandbox.cases import Cases, NoTestsError, UnreadableTestsError, read_cases
from rmbatch.sandbox.pool import Protection, SandboxError
from rmbatch.sandbox.runner import Limits, run_tests

_THOUGHT = re.compile(r"\s*<think>.*?(?:</think>|\Z)|.*?^[ \t]*</think>", re.DOTALL | re.MULTILINE | re.IGNORECASE)
"""A thought at the beginning; its opening tag may stand in the prompt, then the closing one begins a line."""
_PYTHON = re.compile(r"py(?:thon)?[0-9.]*")
_LANGUAGE = re.compile(r"[\s{.]*([^\W_][^\s:,{}]*)")
"""The language of ```` ```python:main.py ```` and ```` ```{.python} ````."""


R = TypeVar("R")
Run = Callable[[str, Cases, Limits, Protection, bool], R]
"""What is done with a program and its tests: a function of ``rmbatch/sandbox/runner.py``."""


class ProgramRunner:
    """How programs are run; the knobs are those of ``code_execution``."""

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

    def run_each(self, response: pa.Array, tests: pa.Array, run: Run[R]) -> list[R | RowScore]:
        """What ``run`` gives for the program in each response, or the row of a null or an error.

        Equal programs with equal tests are run once.
        """
        jobs: dict[tuple[str, int], Cases] = {}
        rows: list[tuple[str, int] | RowScore] = []
        readable = _Reader(self._max_tests, self._packages)
        for text, value in zip(response.to_pylist(), tests.to_pylist()):
            if text is None or value is None:
                rows.append(NO_SCORE)
                continue
            place, cases = readable(value)
            if isinstance(cases, str):
                rows.append((None, cases, None))
            else:
                job = (extract_program(text), place)
                jobs[job] = cases
                rows.append(job)
        results = dict(zip(jobs, self._run_jobs(jobs.items(), run)))
        return [results[row] if len(row) == 2 else row for row in rows]

    def _run_jobs(self, jobs: Iterable[tuple[tuple[str, int], Cases]], run: Run[R]) -> list[R | RowScore]:
        def run_job(item: tuple[tuple[str, int], Cases]) -> R | RowScore:
            (program, _), cases = item
            try:
                return run(program, cases, self._limits, self._protection, self._packages)
            except SandboxError as fault:
                return None, f"sandbox_failed: {fault}", None
            except UnreadableTestsError as fault:
                return None, f"unreadable_tests: {fault}", None

        work = list(jobs)
        if self._workers == 1 or len(work) < 2:
            return [run_job(item) for item in work]
        with ThreadPoolExecutor(min(self._workers, len(work))) as pool:
            return list(pool.map(run_job, work))


@reward("code_execution")
class CodeExecution(ProgramRunner):
    """The share of the tests that the program in the response passes, in a sandbox; 1.0 if all do.

    response[n] text; tests[n] a list of assert statements, Python text with test functions or classes,
    ``{"inputs", "outputs", "fn_name"}``, ``{"test", "entry_point"}`` or a list of ``{"input", "output"}``, as values
    or as JSON text -> score[n] float64 in [0, 1]. Without ``fn_name``, inputs and outputs are standard input and
    output, compared word by word in order, numbers within 1e-5. The reason names the first failure: the number of the
    test, its kind (wrong_answer, timeout, memory, exception, syntax, exit, crash, output, …), a short text. The
    program is the last ```` ```python ```` block, else the last bare block, else the whole response, without a thought
    at its beginning.

    ``timeout_s``: processor seconds per test; a test that waits gets twice that, plus one, on the clock.
    ``memory_mb``: per process. ``max_tests``: only the first so many, None: all. ``protection``: the weakest level that
    will do (bubblewrap, namespaces, landlock, rlimits), auto: any but rlimits; docs/sandbox.md says what each holds.
    ``packages``: whether programs may import what is installed here, not only the standard library.
    ``workers``: sandboxes at work at a time.

    Null response or tests: null. Null with a code: ``no_tests``; ``unreadable_tests``, also for a test that reaches no
    assertion; ``sandbox_failed`` where the sandbox itself did. Raises UserError where no protection that will do works
    on this machine.
    Source: RM-Gallery, ``code_execution``, https://github.com/modelscope/RM-Gallery, and PRIME's harness,
    https://github.com/PRIME-RL/PRIME, neither of whose code runs here; docs/sandbox.md names each difference.
    Deviation: the last block counts, also unclosed, indented or of ``py``; RM-Gallery takes the first that is closed.
    Deviation: the knobs ``continuous``, ``timeout``, ``test_framework_available`` and ``compute_score`` are refused;
    the score is always a share, and ``timeout_s`` is the limit.
    Deviation: the share of all tests; RM-Gallery's is of the first 10, where not all pass.
    Deviation: assertions, test functions and classes are tests too; RM-Gallery knows calls and standard input.
    Deviation: printed words are compared in order and as numbers each; PRIME compares lines, or lines of one number.
    Deviation: no tests, or tests that cannot be read, are null with a code; RM-Gallery gives 0.
    Deviation: ``timeout_s`` is processor time; RM-Gallery's is 5 s for all tests, then 10 s each, on the clock.
    """

    def __call__(self, response: pa.Array, tests: pa.Array) -> Scores:
        """As the class says."""
        return to_scores(
            (each.share, None, each.failure or f"all {len(each.passed)} tests passed")
            if not isinstance(each, tuple)
            else each
            for each in self.run_each(response, tests, run_tests)
        )


class _Reader:
    """Reads tests, and those of the previous row only once: the candidates of a prompt share them."""

    def __init__(self, max_tests: int | None, packages: bool) -> None:
        self._max_tests, self._packages = max_tests, packages
        self._before: Any = None
        self._place = 0
        self._cases: Cases | str = ""

    def __call__(self, value: Any) -> tuple[int, Cases | str]:
        """A number for the tests, and the tests or the error."""
        if self._place == 0 or value != self._before:
            self._before, self._place = value, self._place + 1
            try:
                self._cases = read_cases(value, self._max_tests, self._packages)
            except NoTestsError:
                self._cases = "no_tests: the list is empty"
            except UnreadableTestsError as fault:
                self._cases = f"unreadable_tests: {fault}"
        return self._place, self._cases


def extract_program(response: str) -> str:
    """The last fenced block marked as Python, else the last one without a language, else the whole text.

    A thought (``<think>``) at the beginning is left out. A block may be indented, and the last one unclosed.
    """
    text = response.removeprefix("\ufeff").replace("\r\n", "\n")
    if thought := _THOUGHT.match(text):
        text = text[thought.end() :]
    blocks = [(language, block) for language, block in _find_blocks(text) if block.strip()]
    python = [block for language, block in blocks if _PYTHON.fullmatch(language)]
    bare = [block for language, block in blocks if not language]
    return (python or bare or [text])[-1]


@dataclass(frozen=True)
class _Fence:
    """A line that begins or ends a block."""

    before: str
    marks: str
    language: str

    @property
    def is_python(self) -> bool:
        return _PYTHON.fullmatch(self.language) is not None


def _find_blocks(text: str) -> Iterator[tuple[str, str]]:
    """The language of each fenced block, in lower case, and its content."""
    opened: _Fence | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _parse_fence(line)
        if opened is None:
            # Behind other words only a fence with a language begins a block.
            if fence and (not fence.before.strip() or fence.is_python):
                opened, lines = fence, []
        elif fence and fence.marks.startswith(opened.marks) and _ends_block(fence, opened):
            if fence.before.strip():  # the end stands behind the last line of code
                lines.append(fence.before)
            yield opened.language, _dedent(lines, opened.before)
            opened, lines = (fence if fence.is_python else None), []
        else:
            lines.append(line)
    if opened is not None:
        yield opened.language, _dedent(lines, opened.before)


def _ends_block(fence: _Fence, opened: _Fence) -> bool:
    """Whether a fence ends the open block, or begins the next one because the open one was never closed.

    A fence indented by four more than the block does neither, as in Markdown: it stands in a docstring.
    """
    is_alone = not fence.before.strip()
    if is_alone and not opened.before.strip() and _width(fence) >= _width(opened) + 4:
        return False
    return not fence.language or (fence.is_python and is_alone)


def _width(fence: _Fence) -> int:
    return len(fence.before.expandtabs(4))


def _parse_fence(line: str) -> _Fence | None:
    mark = "~" if line.lstrip().startswith("~~~") else "`"
    if mark * 3 not in line:
        return None
    head, _, info = line.rpartition(mark)
    before = head.rstrip(mark)
    marks = mark * (len(head) - len(before) + 1)
    info = info.strip().lower()
    if info.startswith("<") and not before.strip():  # a tag that ends the answer: ```</answer>
        info = ""
    language = _LANGUAGE.match(info)
    return _Fence(before, marks, language[1] if language else info) if len(marks) >= 3 else None


def _dedent(lines: list[str], before: str) -> str:
    """The lines without the blank space that stands before the fence."""
    width = len(before) if not before.strip() else 0
    return "\n".join(line[min(width, len(line) - len(line.lstrip(" \t"))) :] for line in lines)
