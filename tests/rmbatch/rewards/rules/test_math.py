"""The mathematics reward: what counts as equal, what is a null, and the same scores on and off the main thread."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from math_verify.errors import TimeoutException

import rmbatch
from rmbatch.rewards.evaluation import Result
from rmbatch.rewards.rules import math_comparison
from rmbatch.rewards.rules.math import math_verify_reward
from rmbatch.rewards.rules.math_comparison import _limit as limited
from rmbatch.rewards.rules.math_process import HELPER

CASES: list[tuple[str | None, str | None, float | None, str | None]] = [
    (r"so \boxed{4}", "4", 1.0, None),
    (r"\boxed{5} no: \boxed{ 4 }", "4", 0.0, None),  # boxes close together are one set to math-verify: {5, 4}
    (r"first I had 5, but it is \boxed{4}", "4", 1.0, None),
    (r"\boxed{4} and so 5", "4", 1.0, None),  # a box goes before what is not in one
    (r"\boxed{\frac{1}{2}}", "0.5", 1.0, None),
    (r"the answer is $x^2+2x+1$", "$(x+1)^2$", 1.0, None),
    (r"$\{1,2\}$", r"$\{2,1\}$", 1.0, None),
    ("it is 1,000", "1000", 1.0, None),
    (r"\boxed{16}", r"16\sqrt{3}", 0.0, None),  # bare LaTeX is read whole; math-verify alone would find the 16 in it
    ("So:\n\n# Answer\n\n16 \\sqrt{3}", r"16\sqrt{3}", 1.0, None),  # and so is a last line of it
    ("it is \\sqrt{3}, or so", r"\sqrt{3}", 0.0, None),  # but no line of prose
    ("$2^3\\cdot3^2=72$, so\n\n# Answer\n\n2\n", "2", 1.0, None),  # a last line of its own, not the formula above it
    ("$x$ is 72\nin all, 2 steps.", "72", 0.0, None),  # what ends a sentence is prose
    (r"\boxed{y = -2x}", "y = -2x", 1.0, None),  # not the -2 in it
    ("so\ny = -2x", "y = -2x", 1.0, None),
    (r"\boxed{-2}", "y = -2x", 0.0, None),
    (r"\boxed{5}", "x = 5", 1.0, None),
    (r"\boxed{2k}", "2k", 1.0, None),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", 1.0, None),
    (r"\boxed{\begin{pmatrix} 7 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", 0.0, None),  # not the 2
    (
        r"\boxed{\begin{pmatrix} 1 \\[8pt] 2 \end{pmatrix}}",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        1.0,
        None,
    ),  # row spacing
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", "\\begin{pmatrix} 1 \\\\*[ 2mm ] 2 \\end{pmatrix}", 1.0, None),
    (r"\boxed{\begin{pmatrix} 1 \\[8pt] 3 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", 0.0, None),
    (r"so \boxed{2√3}", "2", 0.0, None),  # not only what stands before the root
    (r"so \boxed{2√3}", r"2\sqrt{3}", 1.0, None),
    ("The answer is √2.", r"\sqrt{2}", 1.0, None),
    (r"The answer is $\sqrt{2}$.", "sqrt(2)", 1.0, None),
    (r"\sqrt(2)", r"\sqrt{2}", 1.0, None),
    (
        r"\boxed{\begin{pmatrix} 1 \\ [2] \end{pmatrix}}",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        1.0,
        None,
    ),  # no length
    (r"\boxed{\frac{5}{9}}", r"\frac 59", 1.0, None),
    (r"\boxed{(-1,6)}", "(-1,6)", 1.0, None),
    (r"\boxed{x^3-6+3x}", "x^3+3x-6", 1.0, None),
    (r"\boxed{5}", "4", 0.0, None),
    ("no idea", "4", 0.0, None),  # nothing to compare in the response: bad, not unknown
    ("", "4", 0.0, None),
    ("She has $9 and <<9*2=18>>18, $2 each.\nA: 18", "18", 1.0, None),  # as GSM8K's solutions end
    ("She has $9 and <<9*2=18>>18, $2 each.\nA: 26", "18", 0.0, None),
    ("A: 18", "He has 16 of 20.\nA: 18", 1.0, None),  # a reference is read as a response is
    ("The answer is 2x+3.", "2x+3", 1.0, None),
    ("The answer is 3.", "2x+3", 0.0, None),
    (r"\boxed{1000}", "10^{3}", 1.0, None),  # bare references are read whole, not as their first number
    (r"\boxed{10}", "10^{3}", 0.0, None),
    (r"\boxed{5040}", "7!", 1.0, None),
    (r"\boxed{7}", "7!", 0.0, None),
    (r"\boxed{-2, 1}", "1,-2", 1.0, None),
    (r"\boxed{1}", "1,-2", 0.0, None),
    (r"\boxed{[-1,1]}", "[-1, 1]", 1.0, None),
    (r"\boxed{-1}", "[-1, 1]", 0.0, None),
    (r"\boxed{100000}", "1e5", 1.0, None),
    (r"\boxed{2ab}", "2ab", 1.0, None),
    ("1.22", "1,22", 1.0, None),  # a decimal comma, or two numbers
    (r"\boxed{22, 1}", "1,22", 1.0, None),
    (r"\boxed{6}", r"\$6", 1.0, None),
    ("# Answer\n\n(5, infinity)", r"(5,\infty)", 1.0, None),
    ("# Answer\n\n12 pi", r"12\pi", 1.0, None),
    ("It is\n- 5", "5", 1.0, None),  # a bullet is no minus
    ("Answer \\[ \n 9 \n \\]", "9", 1.0, None),
    (r"\boxed{\text{even}}", "even", 1.0, None),  # a word, and the answer repeats it
    (r"\boxed{4}", "cat", None, "unparsable_reference"),
    (r"\boxed{4}", "", None, "unparsable_reference"),
    (r"\boxed{4}", None, None, "missing_reference"),
    (None, "4", None, "missing_response"),
]
DIED = Result(None, "verify_failed: the helper process died")
TOWER = "$9^{9^{9^9}}$"  # comparing it with a number never ends


def columns(cases: list[Any]) -> tuple[pa.Array, pa.Array]:
    return pa.array([case[0] for case in cases], pa.large_string()), pa.array(
        [case[1] for case in cases], pa.large_string()
    )


def evaluate(cases: list[Any]) -> list[Any]:
    samples = [{"response": response, "reference": reference} for response, reference, *_ in cases]
    return rmbatch.reward("math_verify_reward", timeout_s=1).evaluate_batch(samples)


@pytest.mark.parametrize(("response", "reference", "expected", "code"), CASES)
def test_math_verify_reward(
    response: str | None, reference: str | None, expected: float | None, code: str | None
) -> None:
    (result,) = evaluate([(response, reference)])
    assert result.score == expected
    assert (None if result.error is None else result.error.split(":")[0]) == code


@pytest.mark.parametrize(
    "text", ["(1,2)", "[0,1)", "A", "x", "i", r"\text{Evelyn}", "cat", "2, 3", "1e5", "10^{3}", "no number in it"]
)
def test_a_response_identical_to_its_reference_is_right(text: str) -> None:
    given = evaluate([(text, text), (f"  {text}.\n", text), (f"${text}$", text), (rf"so \boxed{{{text}}}", text)])
    assert [result.score for result in given] == [1.0] * 4


@pytest.mark.parametrize(
    "last",
    ["</answer>", "---", ")", "Q.E.D.", r"\blacksquare", "<|im_end|>", "[EOS]", "...", r"\end{proof}", "x", ":)"],
)
def test_line_below_an_answer_is_no_answer(last: str) -> None:
    given = evaluate([(f"The answer is 42.\n{last}", "42"), (f"The answer is 41.\n{last}", "42")])
    assert [result.score for result in given] == [1.0, 0.0]


@pytest.mark.parametrize("text", ["2x+3", "B", "x = y", r"\sqrt{a}", "16"])
def test_a_last_line_that_is_the_answer_is_read_whole(text: str) -> None:
    given = evaluate([(f"It costs $9.\n{text}", text), (f"<answer>\n{text}\n</answer>", text)])
    assert [result.score for result in given] == [1.0, 1.0]


def test_white_space_separates_numbers_but_not_digit_groups() -> None:
    given = evaluate([("31/2", "3 1/2"), ("12", "1 2"), ("4\n2", "42"), ("3125/200", "3 125/200"), ("1000", "1 000")])
    assert [result.score for result in given] == [0.0, 0.0, 0.0, 0.0, 1.0]


def test_the_reason_says_what_was_compared() -> None:
    found, nothing = evaluate([(r"so \boxed{\frac{1}{2}}", "0.5"), ("no idea", "4")])
    assert found.reason == r"found \frac{1}{2}; the reference is 0.5"
    assert nothing.reason == "no answer found in the response; the reference is 4"


def test_endless_computation_is_null(caplog: pytest.LogCaptureFixture) -> None:
    slow, fast = evaluate([("0.5", TOWER), ("0.5", "1/2")])
    assert (slow.score, slow.error) == (None, "timeout: comparing took over 1 s")
    assert fast.score == 1.0
    assert caplog.records == []


def test_what_raises_is_a_null(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> bool:
        raise RecursionError

    monkeypatch.setattr("math_verify.verify", fails)
    (result,) = evaluate([("4.0", "4")])
    assert result.error == "verify_failed: comparing raised RecursionError"


def test_off_the_main_thread_scores_are_the_same() -> None:
    cases = [*CASES, ("0.5", TOWER)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(evaluate, [cases, cases[::-1]])
    assert first == second[::-1] == evaluate(cases)
    assert HELPER._child is not None


def test_a_helper_that_dies_costs_one_pair_at_most() -> None:
    with ThreadPoolExecutor(1) as pool:
        for doomed, expected in [(("1", "1"), Result(1.0)), (("0.5", TOWER), DIED)]:
            pool.submit(evaluate, [("4", "4")]).result()
            child = HELPER._child
            assert child is not None
            if expected is DIED:  # while it is at work
                threading.Timer(0.3, child.kill).start()
            else:  # while it is idle
                child.kill()
                child.wait()
            first, second = pool.submit(evaluate, [doomed, ("2", "2")]).result()
            assert (first.score, first.error) == (expected.score, expected.error)
            assert second.score == 1.0


def test_the_helper_ends_with_its_parent() -> None:
    script = (
        "import threading, rmbatch\n"
        "from rmbatch.rewards.rules.math_process import HELPER\n"
        "rm = rmbatch.reward('math_verify')\n"
        "thread = threading.Thread(target=rm.evaluate, args=({'response': '4', 'reference': '4'},))\n"
        "thread.start(); thread.join(); print(HELPER._child.pid)\n"
    )  # no `if __name__` guard, no file: as in a notebook
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_the_callers_alarm_goes_on() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        evaluate([("4", "4")])
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_equal_pairs_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threading.current_thread() is threading.main_thread()
    asked: list[Any] = []
    compare_pair = math_comparison._compare_pair
    monkeypatch.setattr(math_comparison, "_compare_pair", lambda *pair: asked.append(pair) or compare_pair(*pair))
    given = math_verify_reward(*columns([("4", "4")] * 50 + [("5", "4")] * 50))
    assert given.score.to_pylist() == [1.0] * 50 + [0.0] * 50
    assert len(asked) == 2


def test_an_empty_batch() -> None:
    assert math_verify_reward(*columns([])).score.to_pylist() == []


class Busy:
    """Burns processor time where Python loses every exception."""

    def __del__(self) -> None:
        until = time.process_time() + 1.5
        while time.process_time() < until:
            sum(range(1_000_000))


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_limit_repeats_if_a_finalizer_swallows_it() -> None:
    def never_ends() -> None:
        Busy()
        while True:
            pass

    with pytest.raises(TimeoutException), limited(1):
        never_ends()
