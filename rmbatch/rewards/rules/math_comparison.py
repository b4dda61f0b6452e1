"""Compares a response's answer with its reference as mathematics, pair by pair, by Hugging Face's math-verify.

A signal stops long computations. Python delivers signals to the main thread only, so these functions run there.

    compare_pairs([("so 4", "4")], timeout_s=5)      # [(1.0, None, "found …")]
"""

import logging
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

Pair = tuple[str, str]
"""A response and its reference."""
Comparison = tuple[float | None, str | None, str | None]
"""Score, error and reason of one pair."""

_SHOWN_CHARACTERS = 200


def compare_pairs(pairs: Iterable[Pair], timeout_s: int) -> list[Comparison]:
    """The comparison of each pair, in order. Main thread only."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it logs whole responses
    return [_compare_pair(response, reference, timeout_s) for response, reference in pairs]


def _compare_pair(response: str, reference: str, timeout_s: int) -> Comparison:
    from math_verify import verify
    from math_verify.errors import TimeoutException

    if _strip_markup(reference) and _strip_markup(response) == _strip_markup(reference):
        return 1.0, None, "the response is the reference"
    doing = "parsing the reference"
    try:
        gold = _read_reference(reference, timeout_s)
        doing = "parsing the response"
        answer = _read(response, timeout_s)
        if answer and _strip_markup(_text_of(answer)) in {_strip_markup(reference), _strip_markup(_text_of(gold))} - {
            ""
        }:
            return 1.0, None, f"found {_format_answer(answer)}, the reference"
        if not gold:
            return None, f"unparsable_reference: no mathematics in {_shorten(reference)!r}", None
        if not answer:
            return 0.0, None, f"no answer found in the response; the reference is {_format_answer(gold)}"
        doing = "comparing"
        with _limit(timeout_s):
            equal = verify(gold, answer, timeout_seconds=None, raise_on_error=True)
    except TimeoutException:  # a BaseException, so that sympy's own handlers let it pass
        return None, f"timeout: {doing} took over {timeout_s} s", None
    except Exception as fault:  # whatever sympy raises on these two says nothing about the response
        return None, f"verify_failed: {doing} raised {type(fault).__name__}", None
    return float(equal), None, f"found {_format_answer(answer)}; the reference is {_format_answer(gold)}"


def _read(text: str, timeout_s: int) -> list[Any]:
    """The answer in a text as math-verify gives it: its value, then the words it was found in; [] for none."""
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", _ROW_SPACING.sub(r"\\\\", text))
    bare = _bare_answer(text.strip())
    if bare is None:
        return _parse(text, timeout_s)
    # math-verify alone finds only a number in it: 16 in ``16\sqrt{3}``, -2 in ``y = -2x``, nothing in ``(-1,6)``.
    number = _parse(bare, timeout_s) if _NUMBER.fullmatch(bare) or _TWO_READINGS.fullmatch(bare) else []
    whole = [] if number and _NUMBER.fullmatch(bare) else _parse(f"${bare}$", timeout_s)
    return number[:1] + whole if whole else number or _parse(text, timeout_s)


_read_reference = lru_cache(maxsize=1024)(_read)  # the candidates of one prompt share it; timeouts are not kept


def _parse(text: str, timeout_s: int) -> list[Any]:
    """What math-verify finds; [] where it finds nothing or raises, as upstream has it."""
    from math_verify import parse

    try:
        with _limit(timeout_s):
            found: list[Any] = parse(text, parsing_timeout=None, raise_on_error=True)
    except Exception:
        return []
    return found


def _bare_answer(text: str) -> str | None:
    """The last line, as LaTeX without delimiters, if it is nothing but mathematics; None for any other text."""
    if "\\boxed" in text:
        return None
    line = text.rsplit("\n", 1)[-1].strip()
    if line != text and _TAG.fullmatch(line):  # </answer>
        text = text.removesuffix(line).rstrip()
        line = text.rsplit("\n", 1)[-1].strip()
    if line != text and line.startswith(_BULLETS):  # a minus, or a bullet?
        return None
    said = _LEAD.sub("", line, count=1)
    answer = said.strip(" \t*_`").removesuffix(".").rstrip(" *_`").replace("\\$", "")
    if not _SIGN.search(answer) or _DELIMITER.search(answer):
        return None
    if said == line != text and not _VALUE.search(answer):  # Q.E.D., \blacksquare: the answer stands above
        return None
    answer = _POWER.sub(r"\1\\times10^{\2}", _NAME.sub(lambda name: _NAMES.get(name[0], f"\\{name[0]}"), answer))
    rest = _COMMAND.sub(" ", answer)
    return answer if (rest.strip() or "\\" in answer) and not _PROSE.search(rest) else None


def _strip_markup(text: str) -> str:
    r"""The text without ``$``, ``\text{}``, white space and a full stop at its end: what makes no difference.

    ``3 1/2`` keeps its space, for it is not ``31/2``; ``1 000`` does not.
    """
    bare = _WRAPPER.sub(r"\1", text.replace("$", ""))
    kept = _WHITE.sub(lambda white: " " if _PARTS.match(bare, white.start() - 1) else "", bare)
    return kept.removesuffix(".")


_DELIMITER = re.compile(r"\$|(?<!\\)\\[()\[\]]|\\begin\{(?:equation|align|gather|math)")
_LEAD = re.compile(r"^(?:.*\banswer(?:\s+is)?\s*[:=]?|A:|####)[\s*]*", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z|][^<>]*>")
_SIGN = re.compile(r"[0-9A-Za-zπ\\]")
# Of a last line below others: a digit, an operator at a letter, a command that is a value, the letter of a choice.
_VALUE = re.compile(r"[0-9π]|[A-Za-z}]\s*[-=+*^/]\s*[\\A-Za-z(-]|\\(?:[dt]?frac|sqrt|pi|infty)|^\(?[A-Z]\)?$")
_BULLETS = ("- ", "* ", "+ ", "• ")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_TWO_READINGS = re.compile(r"-?[0-9]+,[0-9]+")  # two numbers, or one with a decimal comma
_NAME = re.compile(r"(?<![\\A-Za-z])(?:sin|cos|tan|cot|sec|csc|log|ln|pi|infinity)(?![A-Za-z{])")
_NAMES = {"infinity": r"\infty"}
_POWER = re.compile(r"([0-9])[eE]([+-]?[0-9]+)(?![0-9A-Za-z.])")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
_COMMAND = re.compile(rf"{_WRAPPER.pattern}|\\(?:begin|end)\{{[A-Za-z]+\}}|\\[A-Za-z]+|\\.|\b(?:and|or)\b")
# Three letters that touch no digit or operator, four in a row, two that stand alone, what latex2sympy does not know.
_PROSE = re.compile(r"(?<![^\s,])[A-Za-z]{2,}(?![^\s,.])|[A-Za-z]{4}|[^\x20-\x7eπ−]|[?:;]\s*$")
_WHITE = re.compile(r"\s+")
_PARTS = re.compile(r"[0-9](?![ \t\xa0\u2009\u202f]?[0-9]{3}(?![0-9/]))\s+[0-9]")
"""Two numbers, which the white space between them keeps apart; before three digits it only groups them."""
# latex2sympy takes it for factors.
_ROW_SPACING = re.compile(r"\\\\\*?\s*\[\s*-?[0-9.]+\s*(?:pt|pc|in|cm|mm|em|ex|mu|bp|sp|dd|cc)\s*\]")
# √3, √(x+1), sqrt(2): of these math-verify reads what stands before the root, or inside it.
_ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])\\?sqrt(?=\s*\())\s*(?:\(([^()]*)\)|([0-9]+(?:\.[0-9]+)?|[A-Za-z]))")


def _text_of(parsed: list[Any]) -> str:
    """The words that the answer was found in, "" where math-verify gives none."""
    return parsed[-1] if parsed and isinstance(parsed[-1], str) else ""


def _format_answer(parsed: list[Any]) -> str:
    # The text that was matched: writing a sympy expression out can itself raise or take for ever.
    return _shorten(parsed[-1]) if isinstance(parsed[-1], str) else type(parsed[-1]).__name__


def _shorten(text: str) -> str:
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
