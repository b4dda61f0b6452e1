"""Rewards that read code without running it: ``code_syntax_check``, ``code_style``, ``code_patch_similarity``.

``code_execution.py`` runs programs, in the sandbox.
"""

import ast
import difflib
import re
import symtable
import warnings
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any

import polars as pl
import pyarrow as pa

from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import RowScore, map_different_pairs, map_texts, score_too_long, series, to_scores

try:
    import cydifflib
except ImportError:  # the same ratios, in four times the time
    cydifflib = None

MAX_CODE = 1_000_000
"""Characters of code that are parsed; Python takes seconds for them, and gigabytes for ten times as many."""
MAX_STEPS = 20_000_000
"""Steps of difflib that one comparison may take; some seconds."""
MAX_FAST_STEPS = 500_000_000
"""Steps that cydifflib may take at worst; a second or two."""
MAX_PATCH = 1_000_000
"""Characters up to which a patch is compared."""

_BLOCK = re.compile(r"```(?:python)?\n(.*?)\n```", re.DOTALL)
_FENCED = r"(?s)```(?:python)?\n.*?\n```"
_SPACE = r"[\s\x1c-\x1f]"
r"""White space to Python's ``\s``, which knows four characters more than Rust's."""
_FUNCTION = rf"def{_SPACE}+[a-zA-Z_][a-zA-Z0-9_]*{_SPACE}*\("
_SNAKE_FUNCTION = rf"def{_SPACE}+[a-z_][a-z0-9_]*{_SPACE}*\("
_ASSIGNED = rf"[a-zA-Z_][a-zA-Z0-9_]*{_SPACE}*="
_CAPITAL_ASSIGNED = rf"[a-z0-9_]*[A-Z][a-zA-Z0-9_]*{_SPACE}*="
"""A name before ``=`` with a capital in it; all others are snake_case."""
_INDENTED = r"(?m)^{}[^\n]*[^\s\x1c-\x1f]"


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
        warnings.simplefilter("ignore")  # they concern the response's code, not ours
        return to_scores(map_texts(response, _score_syntax))


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
    block, mixed, good, names = pl.col("block").str, pl.col("mixed"), pl.col("good"), pl.col("names")
    rows = pl.DataFrame({"block": series(response).str.extract_all(_FENCED)}).with_row_index("row")
    blocks = (
        rows.filter(pl.col("block").list.len() > 0)
        .explode("block")
        .with_columns(block.strip_prefix("```").str.strip_prefix("python"))
        .select(
            "row",
            mixed=block.contains(_INDENTED.format(" ")) & block.contains(_INDENTED.format("\t")),
            good=block.count_matches(_SNAKE_FUNCTION)
            + block.count_matches(_ASSIGNED)
            - block.count_matches(_CAPITAL_ASSIGNED),
            names=block.count_matches(_FUNCTION) + block.count_matches(_ASSIGNED),
        )
    )
    number = pl.int_range(1, pl.len() + 1).over("row")
    tabs = pl.when(mixed).then(pl.lit("spaces and tabs, ")).otherwise(pl.lit(""))
    scored = blocks.select(
        "row",
        score=0.5 * ~mixed + 0.5 * pl.when(names > 0).then(good / names).otherwise(1.0),
        reason=pl.format("block {}: {}{} of {} names in snake_case", number, tabs, good, names),
    )
    by_row = scored.group_by("row").agg(pl.col("score").mean(), pl.col("reason").str.join("; "))
    found = rows.join(by_row, on="row", how="left", maintain_order="left").select(
        pl.when(pl.col("block").is_not_null()).then(pl.col(name).fill_null(empty)).alias(name)
        for name, empty in (("score", 0.0), ("reason", "no code blocks"))
    )
    return Scores(found["score"].to_arrow(), reason=found["reason"].to_arrow())


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
    # The matcher keeps its index of a reference for the next candidates of the prompt.
    matcher = lru_cache(maxsize=1)(lambda gold: cydifflib.SequenceMatcher(None, "", gold))
    scored = map_different_pairs(response, reference, lambda text, gold: _score_patch(text, gold, matcher))
    return to_scores(scored, reasons=False)


def _find_blocks(text: str) -> list[str]:
    # Without a closing fence, each opening one would have the rest of the text searched again.
    end = text.rfind("\n```")
    return _BLOCK.findall(text, 0, end + 4) if end >= 0 else []


def _score_syntax(text: str) -> RowScore:
    blocks = _find_blocks(text)
    if not blocks:
        return 0.0, None, "no code blocks"
    if (size := sum(map(len, blocks))) > MAX_CODE:
        return score_too_long("characters of code", size, MAX_CODE)
    num_valid = 0
    for block in blocks:
        try:
            _parse(block.strip())
            num_valid += 1
        except SyntaxError:
            continue
        except (RecursionError, MemoryError, ValueError) as fault:  # its depth; a null byte, before Python 3.11.4
            return None, f"unparsable_code: Python's parser raised {type(fault).__name__}", None
    score = num_valid / len(blocks)
    return score - 0.5 * (num_valid < len(blocks)), None, f"{num_valid} of {len(blocks)} blocks parse"


def _parse(code: str) -> None:
    """Raise what ``ast.parse`` raises."""
    try:
        symtable.symtable(code, "<response>", "exec")  # the same parser; up to twice as fast, for no tree is made of it
    except Exception:  # it refuses more: a name that is global too late
        ast.parse(code)


def _score_patch(text: str, gold: str, matcher: Callable[[str], Any]) -> RowScore:
    if (longest := max(len(text), len(gold))) > MAX_PATCH:
        return score_too_long("characters", longest, MAX_PATCH)
    text, gold = text.strip(), gold.strip()
    ratio = _fast_ratio(text, gold, matcher) if cydifflib else None
    try:
        return _BoundedMatcher(None, text, gold).ratio() if ratio is None else ratio, None, None
    except _TooManyStepsError as fault:
        return score_too_long("steps of difflib", fault.args[0], MAX_STEPS)


def _fast_ratio(text: str, gold: str, matcher: Callable[[str], Any]) -> float | None:
    """The ratio by cydifflib; None where difflib might take over MAX_STEPS, which cydifflib cannot count."""
    # All comparisons of one depth together look at most once at each place where the reference has a character of the
    # text, and the depth is at most one more than the number of blocks found.
    known = matcher(gold)
    widest = len(text) * (1 + max(map(len, known.b2j.values()), default=0))
    if widest * (min(len(text), len(gold)) + 1) > MAX_FAST_STEPS:
        return None
    known.set_seq1(text)
    ratio: float = known.ratio()
    return ratio if widest * len(known.get_matching_blocks()) <= MAX_STEPS else None


class _TooManyStepsError(Exception):
    """A comparison that would take too long."""


class _BoundedMatcher(difflib.SequenceMatcher[str]):
    """A SequenceMatcher that stops after MAX_STEPS: it takes quadratic time, and cubic at worst."""

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
