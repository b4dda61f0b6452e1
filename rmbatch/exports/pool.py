"""The candidates of whole prompts as an export sees them: texts, scores, what was kept, and who may not be exported.

    pool = read_pool(table, roles, "score.total")              # rows of best_of_n, score or generate, nested or flat
    pool = read_corrections(table, roles)                     # rows of correct: the first answer and the corrected one
    pool.usable, pool.reasons()                               # which candidates may come out, and why others do not

A candidate is never usable where it has no text, was cut off or failed, is the reference itself, has no score, or where
its prompt cannot be read. No option changes that.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.errors import UserError
from rmbatch.correction import columns as corrected
from rmbatch.generation.candidates import GENERATION
from rmbatch.rows.messages import TEXT, MisfitError, combine_chunks, fit_lists, is_list, is_text, offsets_of
from rmbatch.rows.roles import Roles, flatten
from rmbatch.selection.rank import OUTRANKED, SelectionRule, select
from rmbatch.stages.select import RANK, REASON

REASONS = {
    "no_prompt": "the prompt, or one of its messages, is missing",
    "no_text": "the candidate has no text",
    "cut_off": "the candidate was cut off, or could not be generated",
    "is_reference": "the candidate is the reference, word for word",
    "no_score": "the candidate has no finite score",
}
"""Why a candidate is not usable, and what it means; of several reasons the first counts."""
_CODES = tuple(REASONS)
FINISH_REASON, LENGTH = "finish_reason", "length"
SOLUTION_WORDS = 3
"""A reference of so many words is a solution, and a candidate that equals it is a copy. A shorter one is an answer,
which any right candidate may equal."""
BETTER = ("improved", "target")
"""Outcomes of rows whose corrected response is better than the first."""


@dataclass(frozen=True)
class Pool:
    """Candidates, one after the other, and the prompts that they answer."""

    prompt: pa.Array
    """large_list<struct<role, content>> a prompt."""
    offsets: NDArray[np.int64]
    """Prompt i has the candidates offsets[i]:offsets[i + 1]."""
    response: pa.Array
    """large_string a candidate."""
    score: NDArray[np.float64]
    """NaN: no score."""
    rank: NDArray[np.int32]
    """1 for the best that was kept of its prompt, then 2, …; 0: not kept."""
    reason: NDArray[np.int8]
    """Index in ``REASONS`` of why it is not usable; -1: it is."""
    row: NDArray[np.int64]
    """The row of the table that holds a candidate."""
    prompt_row: NDArray[np.int64]
    """The row of the table that holds a prompt; of several the first."""
    reference: pa.Array | None
    """large_string a prompt, where a column plays that role."""
    passed: NDArray[np.bool_]
    """Which candidates the filters of the selection let through; the others (a veto, a cap, a lost vote) are nobody's
    good example, whatever their score."""
    model: pa.Array | None = None
    """text a candidate: the name of the model that generated it, where the rows say so."""

    @property
    def num_prompts(self) -> int:
        return len(self.offsets) - 1

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which candidates may come out."""
        return self.reason < 0

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The prompt of each candidate."""
        return np.repeat(np.arange(self.num_prompts), np.diff(self.offsets))

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which prompts have a candidate that was kept."""
        found = np.zeros(self.num_prompts, bool)
        found[self.owner[self.rank > 0]] = True
        return found

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """Which prompts can be read: none of their messages lacks its role or content."""
        return ~_has_no_prompt(self.prompt)

    def reasons(self) -> Counter[str]:
        """How many candidates are not usable, by the reason."""
        codes, counts = np.unique(self.reason[self.reason >= 0], return_counts=True)
        return Counter({_CODES[code]: int(count) for code, count in zip(codes, counts)})


def read_pool(table: pa.Table, roles: Roles, by: str | None, group: str | None = None) -> Pool:
    """The candidates of rows; the column ``by`` holds their scores. Without ``by`` none has a score.

    ``group``: the column of flat rows that tells their prompts apart; rows of one prompt may stand anywhere in the
    table, and a prompt of which nothing was kept is left out, as nested rows that were rejected are not read. None:
    each row is a prompt of its own. Where no ``select.rank`` stands beside them, the best usable candidate
    of each prompt counts as kept. Raises UserError for columns that are not there.
    """
    if roles.responses is None and group is not None:
        table, cuts, order = gather_prompts(table, group)
        if RANK in table.column_names:
            table, cuts, order = _leave_out_rejected(table, cuts, order)
    else:
        cuts, order = np.arange(table.num_rows + 1), np.arange(table.num_rows)
    view = flatten(table, roles)
    offsets = cuts if view.offsets is None else view.offsets
    prompt, reference = _of_prompts(table, roles, cuts[:-1])
    response = view.column("response")
    score = np.full(len(response), np.nan) if by is None else _floats(table, by, offsets)
    row = order if view.offsets is None else np.repeat(np.arange(table.num_rows), np.diff(offsets))
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    reason = _find_reasons(prompt, reference, owner, response, score, _find_broken(table, offsets, len(response)))
    if RANK in table.column_names:
        rank = _ranks(table[RANK], len(response))
    else:
        allowed = pa.array(score, mask=(reason >= 0) | np.isnan(score))
        found = select(allowed, offsets, SelectionRule(keep=1), response).rank
        rank = np.asarray(pc.fill_null(found, 0)).astype(np.int32)
    model = _find_models(table, offsets)
    passed = _find_passed(table, len(response))
    return Pool(prompt, offsets, response, score, rank, reason, row, order[cuts[:-1]], reference, passed, model)


def read_corrections(table: pa.Table, roles: Roles) -> Pool:
    """Two candidates a row: its first answer, and behind it the corrected one where that is better.

    Of rows that were good enough or became better the best text counts as kept; of all others none does. Raises
    UserError for nested rows without ``correct.history``, which alone tells which candidate was corrected.
    """
    num_rows = table.num_rows
    every = np.arange(num_rows)
    prompt, reference = _of_prompts(table, roles, every)
    first = _first_answers(table, roles)
    outcome = combine_chunks(table[corrected.OUTCOME])
    better = np.asarray(pc.fill_null(pc.is_in(outcome, value_set=pa.array(BETTER, TEXT)), False))
    good = np.asarray(pc.fill_null(pc.equal(outcome, "untouched"), False))
    counts = 1 + better.astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(every, counts)
    is_second = np.zeros(len(owner), bool)
    is_second[offsets[1:][better] - 1] = True

    def weave(before: pa.Array, after: pa.Array) -> pa.Array:
        return pa.concat_arrays([before, after]).take(pa.array(owner + num_rows * is_second))

    response = weave(first, pc.cast(combine_chunks(table[corrected.RESPONSE]), TEXT))
    before, after = (
        pc.cast(combine_chunks(table[name]), pa.float64()) for name in (corrected.SCORE_BEFORE, corrected.SCORE)
    )
    score = np.asarray(weave(before, after).to_numpy(zero_copy_only=False), np.float64)
    broken = _find_broken_firsts(table, roles, first)[owner] & ~is_second
    reason = _find_reasons(prompt, reference, owner, response, score, broken)
    rank = np.zeros(len(owner), np.int32)
    rank[is_second] = 1
    rank[offsets[:-1][good]] = 1
    return Pool(prompt, offsets, response, score, rank, reason, owner, every, reference, np.ones(len(owner), bool))


def gather_prompts(table: pa.Table, group: str) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int64]]:
    """The table with the rows of each key together, where each key begins, and which rows these were."""
    if group not in table.column_names:
        raise UserError(f"the rows have no column {group!r}, which tells which of them answer the same prompt")
    keys = combine_chunks(table[group]).dictionary_encode().indices
    codes = np.asarray(pc.fill_null(keys, -1).to_numpy(zero_copy_only=False), np.int64)
    alone = codes < 0
    codes[alone] = codes.max(initial=0) + 1 + np.arange(np.count_nonzero(alone))  # a null key is a prompt of its own
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return table.take(pa.array(order)), np.append(starts, len(order)).astype(np.int64), order


def _leave_out_rejected(
    table: pa.Table, cuts: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int64]]:
    """The same as ``gather_prompts`` gives, without the prompts of which no row has a rank."""
    counts = np.diff(cuts)
    owner = np.repeat(np.arange(len(counts)), counts)
    is_kept = np.asarray(pc.is_valid(combine_chunks(table[RANK])))
    kept = np.bincount(owner[is_kept], minlength=len(counts)) > 0
    rows = kept[owner]
    return table.filter(pa.array(rows)), np.append(0, np.cumsum(counts[kept])), order[rows]


def _of_prompts(table: pa.Table, roles: Roles, rows: NDArray[np.int64]) -> tuple[pa.Array, pa.Array | None]:
    """The prompt, and the reference where there is one, of these rows."""
    alone = Roles(id=roles.id, prompt=roles.prompt, reference=roles.reference)
    view = flatten(table.select(alone.columns()).take(pa.array(rows)), alone)
    return view.column("prompt"), view.column("reference") if view.has("reference") else None


def _floats(table: pa.Table, name: str, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    if name not in table.column_names:
        known = ", ".join(each for each in table.column_names if each.startswith("score."))
        raise UserError(f"the rows have no column {name!r}; they have {known or 'no scores, so score them first'}")
    values = combine_chunks(table[name])
    if is_list(values.type):
        values = _fit(values, offsets, name)
    return np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), np.float64)  # null becomes NaN


def _fit(lists: pa.Array, offsets: NDArray[np.int64], name: str, cure: str = "") -> pa.Array:
    """The values of a column of lists, one for each candidate. Raises UserError for lists of other lengths."""
    try:
        return fit_lists(lists, offsets)
    except MisfitError:
        raise UserError(f"the lists in {name!r} are not as long as the lists of candidates{cure}") from None


def _ranks(column: pa.ChunkedArray, num_candidates: int) -> NDArray[np.int32]:
    ranks = _of_candidates(column, num_candidates)
    if ranks is None:
        return np.zeros(num_candidates, np.int32)
    return np.asarray(pc.fill_null(pc.cast(ranks, pa.int32()), 0))


def _of_candidates(column: pa.ChunkedArray, num_candidates: int) -> pa.Array | None:
    """A value a candidate, of nested or flat rows. None: the column says nothing of them."""
    values = combine_chunks(column)
    values = values.flatten() if is_list(values.type) else values
    return None if pa.types.is_null(values.type) or len(values) != num_candidates else values


def _find_passed(table: pa.Table, num_candidates: int) -> NDArray[np.bool_]:
    reasons = _of_candidates(table[REASON], num_candidates) if REASON in table.column_names else None
    if reasons is None:
        return np.ones(num_candidates, bool)
    found: NDArray[np.bool_] = np.asarray(pc.fill_null(pc.equal(pc.cast(reasons, TEXT), OUTRANKED), True))
    return found


def _find_reasons(
    prompt: pa.Array,
    reference: pa.Array | None,
    owner: NDArray[np.int64],
    response: pa.Array,
    score: NDArray[np.float64],
    broken: NDArray[np.bool_],
) -> NDArray[np.int8]:
    is_space = pc.or_(pc.utf8_is_space(response), pc.equal(response, ""))
    is_empty = np.asarray(pc.fill_null(is_space, True))
    is_reference = np.zeros(len(response), bool) if reference is None else is_copy(response, reference, owner)
    found = (_has_no_prompt(prompt)[owner], is_empty, broken, is_reference, ~np.isfinite(score))
    return np.select(found, range(len(_CODES)), -1).astype(np.int8)


def is_copy(response: pa.Array, reference: pa.Array, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a candidate is the reference of its prompt but for space at its ends, and that is a solution."""
    expected = pc.utf8_trim_whitespace(reference)
    is_solution = pc.fill_null(pc.greater_equal(pc.count_substring_regex(expected, r"\s+"), SOLUTION_WORDS - 1), False)
    width = np.where(np.asarray(is_solution), np.asarray(pc.fill_null(pc.binary_length(expected), 0)), np.inf)
    likely = np.flatnonzero(np.asarray(pc.fill_null(pc.binary_length(response), 0)) >= width[owner])
    text = pc.utf8_trim_whitespace(response.take(pa.array(likely)))
    found = np.zeros(len(response), bool)
    found[likely] = np.asarray(pc.fill_null(pc.equal(text, expected.take(pa.array(owner[likely]))), False))
    return found


def _has_no_prompt(prompt: pa.Array) -> NDArray[np.bool_]:
    """Whether a conversation is null or empty, or one of its messages has no role or content."""
    offsets, said = offsets_of(prompt), prompt.flatten()
    missing = np.asarray(
        pc.or_(pc.is_null(pc.struct_field(said, "role")), pc.is_null(pc.struct_field(said, "content")))
    )
    before = np.concatenate([[0], np.cumsum(missing)])
    found: NDArray[np.bool_] = (before[offsets[1:]] > before[offsets[:-1]]) | (np.diff(offsets) == 0)
    return found


def _find_broken(table: pa.Table, offsets: NDArray[np.int64], num_candidates: int) -> NDArray[np.bool_]:
    """Which candidates were cut off or could not be generated, by ``generation`` and ``finish_reason``."""
    broken = np.zeros(num_candidates, bool)
    for values in _details(table, offsets):
        kind = values.type
        if pa.types.is_struct(kind):
            if kind.get_field_index("error") >= 0:
                broken |= np.asarray(pc.is_valid(pc.struct_field(values, "error")))
            if kind.get_field_index(FINISH_REASON) >= 0:
                broken |= _is_length(pc.struct_field(values, FINISH_REASON))
        else:
            broken |= _is_length(values)
    return broken


def _find_models(table: pa.Table, offsets: NDArray[np.int64]) -> pa.Array | None:
    """The model of each candidate, by ``generation``; a candidate without one has an unknown one."""
    for values in _details(table, offsets):
        if pa.types.is_struct(values.type) and values.type.get_field_index("model") >= 0:
            return pc.fill_null(pc.cast(pc.struct_field(values, "model"), TEXT), "unknown")
    return None


def _details(table: pa.Table, offsets: NDArray[np.int64]) -> list[pa.Array]:
    """The columns that say how candidates ended, one value a candidate. Raises UserError for lists of other lengths."""
    found = []
    for name in (GENERATION, FINISH_REASON):
        if name not in table.column_names:
            continue
        values = combine_chunks(table[name])
        if is_list(values.type):
            values = _fit(values, offsets, name, "; rename the column")
        if len(values) == offsets[-1] and (pa.types.is_struct(values.type) or is_text(values.type)):
            found.append(values)
    return found


def _is_length(reasons: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(pc.cast(reasons, TEXT), LENGTH), False))


def _first_answers(table: pa.Table, roles: Roles) -> pa.Array:
    """The answer of each row that correction began with."""
    if roles.responses is None:
        return flatten(table, roles).column("response")
    if corrected.HISTORY not in table.column_names:
        raise UserError(
            "the rows have several candidates and no correct.history, so nothing tells which was corrected; "
            "run the job with correct.history: true"
        )
    history = combine_chunks(table[corrected.HISTORY])
    firsts, rows = first_of_each(history)
    edits = pc.struct_field(firsts, "edits")
    texts, places = first_of_each(edits)
    found = np.full(table.num_rows, -1)
    found[rows[places]] = np.arange(len(texts))
    text = pc.cast(pc.struct_field(texts, "text"), TEXT)
    begun = text.take(pa.array(found, mask=found < 0))
    return pc.coalesce(begun, pc.cast(combine_chunks(table[corrected.RESPONSE]), TEXT))  # it did not enter


def first_of_each(lists: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """The first value of each list that has one, and the places of these lists."""
    offsets = offsets_of(lists)
    filled = np.flatnonzero(np.diff(offsets) > 0)
    return lists.flatten().take(pa.array(offsets[filled])), filled


def _find_broken_firsts(table: pa.Table, roles: Roles, first: pa.Array) -> NDArray[np.bool_]:
    """Which first answers were cut off: those whose text is that of a candidate that was."""
    view = flatten(table, roles)
    offsets: NDArray[Any] = np.arange(table.num_rows + 1) if view.offsets is None else view.offsets
    response = view.column("response")
    owner = np.repeat(np.arange(table.num_rows), np.diff(offsets))
    same = np.asarray(pc.fill_null(pc.equal(response, first.take(pa.array(owner))), False))
    found = np.zeros(table.num_rows, bool)
    found[owner[same & _find_broken(table, offsets, len(response))]] = True
    return found
