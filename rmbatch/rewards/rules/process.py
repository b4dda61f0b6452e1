"""Rewards for the steps of a response: their number, and the place of the first error.

Steps are numbered from 0, and -1 means that none is wrong, as in ProcessBench.
"""

import math
import re
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from connectors.errors import UserError
from rmbatch.rewards.contract import Scores, reward
from rmbatch.rewards.rules.texts import RowScore, series, to_scores
from rmbatch.rows.messages import is_list

_INDEX = re.compile(r"\s*(-?\d{1,9})(?:\.0)?\s*")
_STEPS = {
    "paragraphs": r"(?m)(?:\A|\n[ \t]*\n)\s*\S",
    "lines": r"(?m)^[^\n]*\S",
    "numbered": r"(?mi)^[ \t#*]*step[ \t]*\d{1,4}\b|^[ \t]*\d{1,4}[.)][ \t]",
}


@reward("step_count", kind="stepwise")
def step_count(response: pa.Array, *, steps: Literal["paragraphs", "lines", "numbered"] = "paragraphs") -> pa.Array:
    """The number of steps of the response.

    response[n] text -> score[n] float64, a whole number from 0 on. ``paragraphs`` are separated by blank lines,
    ``lines`` are those that are not blank, ``numbered`` are lines that begin with "Step 1" or "1." Steps in a column
    of lists arrive joined by newlines: count them as ``lines``.
    Null response: null.
    Source: the step separators of process reward data, e.g. Math-Shepherd, arXiv 2312.08935 (lines).
    """
    return series(response).str.count_matches(_STEPS[steps]).cast(pl.Float64).to_arrow()


@reward("first_error_match", kind="stepwise", writes_reason=True)
def first_error_match(response_step_scores: pa.Array, reference: pa.Array, *, threshold: float = 0.5) -> Scores:
    """1.0 where the first step that a process reward model finds wrong is the reference's, else 0.0.

    response_step_scores[n] list of numbers, one per step; reference[n] index of the first wrong step, -1 for none ->
    score[n] float64 in {0, 1}; the reason names the step. A step counts as wrong below ``threshold``; no steps: -1.
    Null response_step_scores or reference: null. Null with a code: ``unparsable_reference``, it is no whole number;
    ``unparsable_steps``, a step's score is null or no number.
    Source: ProcessBench, arXiv 2412.06559.
    """
    rows = zip(_step_lists(response_step_scores), reference.to_pylist())
    return to_scores([_score_first_error(steps, gold, threshold) for steps, gold in rows])


@reward("critic_first_error_match", kind="pointwise")
def critic_first_error_match(response: pa.Array, reference: pa.Array) -> Scores:
    r"""1.0 where the step that a critic's text names in its last ``\boxed{}`` is the reference's, else 0.0.

    response[n] text, reference[n] index of the first wrong step, -1 for none -> score[n] float64 in {0, 1}; the reason
    names the step. No such box, or no whole number in it: 0.0.
    Null response or reference: null. Null with a code: ``unparsable_reference``, it is no whole number.
    Source: ProcessBench, arXiv 2412.06559, as its critic models are evaluated.
    """
    boxed = r"\\boxed\{([^{}]*)\}"
    texts = series(response)
    inside = texts.str.extract_all(boxed).list.last().str.extract(boxed).to_list()

    def score_row(said: str | None, gold: str | None, is_null: bool) -> RowScore | None:
        if is_null or gold is None:
            return None
        return _compare_index(_parse_index(said), gold)

    return to_scores(map(score_row, inside, reference.to_pylist(), texts.is_null().to_list()))


def _step_lists(column: pa.Array) -> list[list[Any] | None]:
    if pa.types.is_null(column.type) or column.null_count == len(column):
        return [None] * len(column)
    if not is_list(column.type):
        raise UserError(
            f"first_error_match: response_step_scores is {column.type}; a list of numbers per response is needed"
        )
    return list(column.to_pylist())


def _score_first_error(steps: list[Any] | None, gold: Any, threshold: float) -> RowScore | None:
    if steps is None or gold is None:
        return None
    if not all(isinstance(step, int | float) and not math.isnan(step) for step in steps):
        return None, "unparsable_steps: a step's score is no number", None
    return _compare_index(next((index for index, step in enumerate(steps) if step < threshold), -1), gold)


def _compare_index(found: int | None, gold: str) -> RowScore:
    right = _parse_index(gold)
    if right is None:
        return None, "unparsable_reference: the index of a step, or -1, is needed", None
    said = "no step named" if found is None else f"step {found}" if found >= 0 else "no step wrong"
    return float(found == right), None, said


def _parse_index(text: str | None) -> int | None:
    match = _INDEX.fullmatch(text) if text else None
    return int(match[1]) if match else None
