"""Programs per second of ``code_execution`` against a plain ``subprocess.run([python, file])`` per test, in one run.

The plain way has no sandbox, no limit but a timeout, and believes what the program's exit code says; it is what one
writes first. The same programs and tests go through both, and the scores are compared. Runs alternate.

    python -m tests.bench.code_execution --programs 100 --repeats 3
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

import rmbatch
from rmbatch.sandbox import pool
from tests.bench.measuring import median, print_table

Exercise = tuple[str, Any]
"""A program and its tests."""


def exercises(form: str, count: int, num_tests: int) -> list[Exercise]:
    """Programs of a few lines, all different, every fifth of them wrong."""
    made: list[Exercise] = []
    for number in range(count):
        wrong = "+ 1" if number % 5 == 0 else ""
        inputs = [number + step for step in range(num_tests)]
        outputs = [value * value for value in inputs]
        if form == "assert":
            program = f"# {number}\ndef square(x):\n    return sum(x for _ in range(x)) {wrong}\n"
            made.append((program, [f"assert square({x}) == {y}" for x, y in zip(inputs, outputs)]))
        else:
            program = f"# {number}\nx = int(input())\nprint(sum(x for _ in range(x)) {wrong})\n"
            made.append((program, {"inputs": list(map(str, inputs)), "outputs": list(map(str, outputs))}))
    return made


def plain(given: Sequence[Exercise]) -> list[float]:
    """One process per test, in a folder of its own."""
    scores = []
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "program.py"
        for program, tests in given:
            if isinstance(tests, list):
                runs = [(f"{program}\n{test}\n", "", None) for test in tests]
            else:
                runs = [(program, typed, wanted) for typed, wanted in zip(tests["inputs"], tests["outputs"])]
            passed = 0
            for text, typed, wanted in runs:
                file.write_text(text)
                done = subprocess.run(
                    [sys.executable, "-I", "-S", str(file)], input=typed, capture_output=True, text=True, timeout=5
                )
                passed += done.returncode == 0 and (wanted is None or done.stdout.strip() == wanted)
            scores.append(passed / len(runs))
    return scores


def sandboxed(rm: Any, given: Sequence[Exercise]) -> list[float]:
    """All of them as one batch."""
    columns = {"response": pa.array([program for program, _ in given], pa.large_string())}
    columns["tests"] = pa.array([tests for _, tests in given])
    scores: list[float] = rm.score_columns(columns.__getitem__, len(given)).score.to_pylist()
    return scores


def timed(run: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Seconds of one call, and what it gave."""
    began = time.monotonic()
    given = run()
    return time.monotonic() - began, given


def main() -> None:
    """Run both in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--tests", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="10 programs, one run")
    given = parser.parse_args()
    if given.quick:
        given.programs, given.repeats = 10, 1
    logging.getLogger("rmbatch.sandbox").setLevel(logging.ERROR)
    levels = [level for level in pool.LEVELS if works(level)]
    lines: list[list[Any]] = []
    for form in ("assert", "stdin"):
        lines += compare(form, levels, exercises(form, given.programs, given.tests), given.repeats)
    title = f"code_execution: {given.programs} programs of {given.tests} tests, one worker, {given.repeats} runs each"
    print_table(title, ["tests", "how", "programs/s", "ms a test", "programs/s, times plain"], lines)


def works(level: pool.Level) -> bool:
    """Whether this machine can protect programs so."""
    try:
        pool.Sandbox(level).stop()
    except pool.RefusedError as reason:
        print(f"{level} does not work here: {reason}")
        return False
    return True


def compare(form: str, levels: Sequence[pool.Level], work: Sequence[Exercise], repeats: int) -> list[list[Any]]:
    """Lines of the table."""
    seconds: dict[str, list[float]] = {"plain": [], **{level: [] for level in levels}}
    for _ in range(repeats):
        took, expected = timed(lambda: plain(work))
        seconds["plain"].append(took)
        for level in levels:
            pool._POOL.close()
            pool._POOL._refused = dict.fromkeys(set(pool.LEVELS) - {level}, "not measured")
            rm = rmbatch.reward("code_execution", protection=level)
            sandboxed(rm, work[:1])  # the pool is warm, as it is in a job
            took, scores = timed(partial(sandboxed, rm, work))
            seconds[level].append(took)
            if scores != expected:
                raise SystemExit(f"{form}, {level}: the scores differ")
    pool._POOL.close()
    num_tests = sum(len(tests) if isinstance(tests, list) else len(tests["inputs"]) for _, tests in work)
    slow = median(seconds["plain"])
    middles = {how: median(taken) for how, taken in seconds.items()}
    return [[form, how, len(work) / s, 1e3 * s / num_tests, slow / s] for how, s in middles.items()]


if __name__ == "__main__":
    main()
