"""The reward for answers that are mathematics: ``math_verify_reward``, by Hugging Face's math-verify.

Long computations are stopped by a signal, which Python delivers to a main thread only. On the main thread math-verify
runs right here; on any other thread (an async actor, a thread pool) the same function runs in a helper process
(``math_process.py``), whose main thread it has.
"""

import logging
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from rmbatch.messages import TEXT
from rmbatch.rewards.contract import Scores, reward

Pair = tuple[str, str]
"""A response and its reference."""
Verdict = tuple[float | None, str | None, str | None]
"""Score, error, reason."""

_SHOWN_CHARACTERS = 200


@reward("math_verify_reward")
def math_verify_reward(
    response: pa.Array, reference: pa.Array, *, timeout_s: Annotated[int, Field(ge=1)] = 5
) -> Scores:
    r"""1.0 where the answer that the response ends on equals the reference as mathematics, else 0.0.

    response[n] text, reference[n] text -> score[n] float64 in {0, 1}; the reason shows what was compared. Answers are
    found as LaTeX (``\boxed{}``, ``$…$``) or plain expressions, the last one counts (boxes close together are one set),
    and only the first form that math-verify gives of it is compared. A response without such an answer: 0.0.
    Null response or reference: null. Null with a code: ``unparsable_reference``; ``timeout`` where parsing or comparing
    takes over ``timeout_s`` seconds of processor time each; ``verify_failed`` where the comparison raises.
    Source: RM-Gallery, ``math_verify_reward``, https://github.com/modelscope/RM-Gallery, and math-verify,
    https://github.com/huggingface/Math-Verify.
    Deviation: a reference without delimiters (``16\sqrt{3}``, ``y = -2x``), and a last line of the response that is
    nothing but such mathematics, is read as a whole, where RM-Gallery compares the 16, or the -2, in it.
    Deviation: a reference without mathematics is null, and so is what takes too long or raises; RM-Gallery gives 0.0,
    or its ``timeout_score``.
    Deviation: a thread that is not the main one gets the same scores, where RM-Gallery's time limit fails.
    """
    pairs = list(zip(response.to_pylist(), reference.to_pylist()))
    different = list(dict.fromkeys(pair for pair in pairs if None not in pair))
    found = dict(zip(different, verdicts_anywhere(different, timeout_s)))
    rows = [found.get(pair, (None, None, None)) for pair in pairs]
    score, error, reason = zip(*rows) if rows else ((), (), ())
    return Scores(pa.array(score, pa.float64()), pa.array(error, TEXT), pa.array(reason, TEXT))


def verdicts_anywhere(pairs: Sequence[Pair], timeout_s: int) -> list[Verdict]:
    """The verdict on each pair, in order: here on a main thread, by a helper process on any other."""
    if threading.current_thread() is threading.main_thread():
        return verdicts(pairs, timeout_s)
    from rmbatch.rewards.math_process import HELPER

    return HELPER.verdicts(pairs, timeout_s)


def verdicts(pairs: Iterable[Pair], timeout_s: int) -> list[Verdict]:
    """The verdict on each pair, in order. Main thread only."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it logs whole responses
    return [_verdict(response, reference, timeout_s) for response, reference in pairs]


def _verdict(response: str, reference: str, timeout_s: int) -> Verdict:
    from math_verify import verify
    from math_verify.errors import TimeoutException

    doing = "parsing the reference"
    try:
        gold = _parsed_reference(reference.strip(), timeout_s)
        if not gold:
            return None, f"unparsable_reference: no mathematics in {_shortened(reference)!r}", None
        doing = "parsing the response"
        answer = _parsed(_delimited(response.strip()), timeout_s)
        if not answer:
            return 0.0, None, f"no answer found in the response; the reference is {_shown(gold)}"
        doing = "comparing"
        with _limit(timeout_s):
            equal = verify(gold[0], answer[0], timeout_seconds=None, raise_on_error=True)
    except TimeoutException:  # a BaseException, so that sympy's own handlers let it pass
        return None, f"timeout: {doing} took over {timeout_s} s", None
    except Exception as fault:  # whatever sympy raises on these two says nothing about the response
        return None, f"verify_failed: {doing} raised {type(fault).__name__}", None
    return float(equal), None, f"found {_shown(answer)}; the reference is {_shown(gold)}"


def _parsed(text: str, timeout_s: int) -> list[Any]:
    """What math-verify finds, [] for nothing; one that raises has found nothing, as upstream has it."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    forms = [LatexExtractionConfig(), ExprExtractionConfig()]
    try:
        with _limit(timeout_s):
            found: list[Any] = parse(text, forms, parsing_timeout=None, raise_on_error=True)
    except Exception:
        return []
    return found


@lru_cache(maxsize=1024)  # the candidates of one prompt share it; timeouts are not kept
def _parsed_reference(text: str, timeout_s: int) -> list[Any]:
    r"""As ``_parsed``; mathematics without delimiters, as data sets hold references, is read whole.

    math-verify alone finds only a plain number in it: 16 in ``16\sqrt{3}``, -2 in ``y = -2x``, nothing in ``(-1,6)``.
    """
    if not text or any(mark in text for mark in _DELIMITERS):
        return _parsed(text, timeout_s)
    if "\\" in text or _is_symbolic(text):
        return _parsed(f"${text}$", timeout_s) or _parsed(text, timeout_s)
    return _parsed(text, timeout_s) or ([] if _WORD.search(text) else _parsed(f"${text}$", timeout_s))


def _delimited(response: str) -> str:
    """The response, with a last line that is nothing but mathematics put between delimiters, as its reference is."""
    line = response.rsplit("\n", 1)[-1].strip()
    if any(mark in line for mark in _DELIMITERS) or "\\boxed" in response:
        return response
    bare = not _WORD.search(_COMMAND.sub("", line)) if "\\" in line else _is_symbolic(line) or _NUMBER.fullmatch(line)
    return f"{response.removesuffix(line)}${line}$" if bare else response


def _is_symbolic(text: str) -> bool:
    """Whether a short text is a term or an equation in single letters, such as ``2k`` or ``y = -2x``."""
    return bool(_SYMBOL.search(text) and _DIGIT_OR_RELATION.search(text) and not _NOT_SYMBOLIC.search(text))


_DELIMITERS = ("$", "\\(", "\\[", "\\boxed", "\\begin{equation", "\\begin{align", "\\begin{gather", "\\begin{math")
_COMMAND = re.compile(r"\\(?:begin|end)\{[A-Za-z]+\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3}")  # prose, not symbols
_NUMBER = re.compile(r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?")
_SYMBOL = re.compile(r"[A-Za-z]")
_DIGIT_OR_RELATION = re.compile(r"[0-9=<>]")
_NOT_SYMBOLIC = re.compile(r"[A-Za-z]{2}|[0-9][eE][+-]?[0-9]|[^\x20-\x7e]|[.?!:;]\s*$")


def _shown(parsed: list[Any]) -> str:
    # The text that was matched: writing a sympy expression out can itself raise or take for ever.
    return _shortened(parsed[-1]) if isinstance(parsed[-1], str) else type(parsed[-1]).__name__


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutException after so much processor time of this process: a busy machine turns no answer wrong."""
    from math_verify.errors import TimeoutException

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutException

    before = signal.signal(signal.SIGVTALRM, stop)
    # Again each second: raised inside a finalizer or a callback of the garbage collector, an exception is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
