"""Rewards that read code without running it: ``code_syntax_check``, ``code_style``, ``code_patch_similarity``.

What runs it is the sandbox.
"""

import ast
import difflib
import re
import warnings
from itertools import accumulate

import pyarrow as pa

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import Verdict, as_scores, per_different_pair, per_text, too_long

MAX_CODE = 1_000_000
"""Characters of code that are parsed; Python takes seconds for them, and gigabytes for ten times as many."""
MAX_STEPS = 20_000_000
"""Steps of difflib that one comparison may take; some seconds."""
MAX_PATCH = 1_000_000
"""Characters of a patch that are compared at all."""

_BLOCK = re.compile(r"```(?:python)?\n(.*?)\n```", re.DOTALL)
_FUNCTION = re.compile(r"def\s+([a-zA-Z_][a-zA-Z0-9_]*)\s*\(")
_NAME = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)(\s*)")
_SNAKE = re.compile(r"[a-z_][a-z0-9_]*")


@reward("code_syntax_check")
def code_syntax_check(response: pa.Array) -> Scores:
    """Share of the response's code blocks that parse as Python, less 0.5 where one does not.

    response[n] text -> score[n] float64 in [-0.5, 1]; the reason counts the blocks. Blocks are fenced by three
    backticks, bare or followed by ``python``, each fence on its own line; none: 0.0. The Python that runs this parses.
    Null response: null. Null with a code: ``unparsable_code``, Python's parser gave up on the depth of the code;
    ``too_long``, over 1,000,000 characters of code.
    Source: RM-Gallery, ``code_syntax_check``, https://github.com/modelscope/RM-Gallery.
    Deviation: code nested too deep for Python's parser, which raises in RM-Gallery, is null with a code.
    Deviation: over 1,000,000 characters of code are null with a code, where RM-Gallery takes minutes and gigabytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the code that is judged, not about us
        return as_scores(per_text(response, _syntax))


@reward("code_style")
def code_style(response: pa.Array) -> Scores:
    """Mean over the response's code blocks of 0.5 for consistent indentation plus 0.5 x the share of snake_case names.

    response[n] text -> score[n] float64 in [0, 1]; the reason says it for each block. Blocks as in
    ``code_syntax_check``; none: 0.0. Indentation fails where lines begin with spaces and with tabs, its width does not
    matter. Names are what follows ``def`` and what stands before ``=`` (also in ``==`` and in keyword arguments, not in
    ``+=``); no names: 1.0 of that half.
    Null response: null.
    Source: RM-Gallery, ``code_style``, https://github.com/modelscope/RM-Gallery.
    """
    return as_scores(per_text(response, _style))


@reward("code_patch_similarity", writes_reason=False)
def code_patch_similarity(response: pa.Array, reference: pa.Array) -> Scores:
    """Likeness of a patch and its reference by Python's difflib: 2 x matching characters / all characters.

    response[n] text, reference[n] text -> score[n] float64 in [0, 1]; white space at both ends aside, two empty texts
    1.0. difflib is not symmetric, and from 200 characters on it ignores characters that make up over 1 % of the
    reference: "ab" 150 times against "ba" 150 times is 0.0.
    Null response or reference: null. Null with a code: ``too_long``, over 1,000,000 characters or 20,000,000
    steps of difflib.
    Source: RM-Gallery, ``code_patch_similarity``, https://github.com/modelscope/RM-Gallery.
    Deviation: a missing reference is null; RM-Gallery compares with "".
    Deviation: over 1,000,000 characters or 20,000,000 steps are null with a code, where RM-Gallery takes up to hours.
    """
    return as_scores(per_different_pair(response, reference, _patch), reasons=False)


def _blocks(text: str) -> list[str]:
    # Without a closing fence, each opening one would have the rest of the text searched again.
    end = text.rfind("\n```")
    return _BLOCK.findall(text, 0, end + 4) if end >= 0 else []


def _syntax(text: str) -> Verdict:
    blocks = _blocks(text)
    if not blocks:
        return 0.0, None, "no code blocks"
    if (size := sum(map(len, blocks))) > MAX_CODE:
        return too_long("characters of code", size, MAX_CODE)
    num_valid = 0
    for block in blocks:
        try:
            ast.parse(block.strip())
            num_valid += 1
        except SyntaxError:
            continue
        except (RecursionError, MemoryError, ValueError) as fault:  # its depth; a null byte, before Python 3.11.4
            return None, f"unparsable_code: Python's parser raised {type(fault).__name__}", None
    score = num_valid / len(blocks)
    return score - 0.5 * (num_valid < len(blocks)), None, f"{num_valid} of {len(blocks)} blocks parse"


def _style(text: str) -> Verdict:
    blocks = _blocks(text)
    if not blocks:
        return 0.0, None, "no code blocks"
    total, notes = 0.0, []
    for number, block in enumerate(blocks, 1):
        consistent = _is_indented_alike(block)
        names = [*_FUNCTION.findall(block), *_assigned(block)]
        num_good = sum(_SNAKE.fullmatch(name) is not None for name in names)
        total += 0.5 * consistent + 0.5 * (num_good / len(names) if names else 1.0)
        notes.append(
            f"block {number}: {'' if consistent else 'spaces and tabs, '}{num_good} of {len(names)} names in snake_case"
        )
    return total / len(blocks), None, "; ".join(notes)


def _is_indented_alike(code: str) -> bool:
    lines = [line for line in code.split("\n") if line[:1] in (" ", "\t") and line.strip()]
    return len({line[0] for line in lines}) < 2


def _assigned(code: str) -> list[str]:
    """What ``([a-zA-Z_][a-zA-Z0-9_]*)\\s*=`` finds; searched for, that takes quadratic time on long names."""
    found = (name for name in _NAME.finditer(code) if code.startswith("=", name.end()))
    return [name[1] for name in found]


def _patch(text: str, gold: str) -> Verdict:
    if (longest := max(len(text), len(gold))) > MAX_PATCH:
        return too_long("characters", longest, MAX_PATCH)
    try:
        return _Counted(None, text.strip(), gold.strip()).ratio(), None, None
    except _TooManyStepsError as fault:
        return too_long("steps of difflib", fault.args[0], MAX_STEPS)


class _TooManyStepsError(Exception):
    """A comparison that would take too long."""


class _Counted(difflib.SequenceMatcher[str]):
    """A SequenceMatcher that stops when it has taken MAX_STEPS: it is quadratic, and cubic on bad days."""

    a: str  # typeshed leaves these three out
    b: str
    b2j: dict[str, list[int]]

    _steps = 0

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        if not self._steps:
            popular = [len(self.b2j.get(character, ())) + 1 for character in self.a]
            self._cost = [0, *accumulate(popular)]
        self._steps += self._cost[len(self.a) if ahi is None else ahi] - self._cost[alo]
        if self._steps > MAX_STEPS:
            raise _TooManyStepsError(self._steps)
        return super().find_longest_match(alo, ahi, blo, bhi)
