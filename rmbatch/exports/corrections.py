"""Critiques and edits that made an answer better, out of the rounds of ``job: correct`` (``correct.history``).

Each accepted edit is one step from a text to a better one. The critique of its round is what the editor was shown.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.errors import UserError
from rmbatch.correction.columns import HISTORY
from rmbatch.exports.base import Block, Exported, ExportRule, as_struct, count_reasons
from rmbatch.exports.pool import is_copy
from rmbatch.exports.single import SingleExport
from rmbatch.rows.messages import TEXT, combine_chunks, offsets_of
from rmbatch.rows.roles import Roles


class Critiques(SingleExport):
    """prompt: list<struct<role, content>>; response, critique: text. An edit that answers the critique was accepted."""

    about = "critiques that led to a better answer, to train a critic"
    reads_candidates = False
    reasons: ClassVar[Mapping[str, str]] = {
        "not_improved": "no edit of the row was accepted",
        "no_critique": "edits were accepted without a critique (a control, or nothing was named)",
        "not_usable": "the prompt cannot be read, a text or score is missing, or a text is the reference",
    }
    shows_edit: ClassVar[bool] = False

    def check_columns(self, roles: Roles, names: Collection[str]) -> None:
        if HISTORY not in names:
            raise UserError("the rows have no correct.history: only job: correct with history: true writes it")

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        steps = read_steps(combine_chunks(block.table[HISTORY]))
        usable = pool.readable[steps.row] & steps.is_whole & ~_begins_broken(block)[steps.row]
        if pool.reference is not None:
            for text in (steps.before, steps.after):
                usable &= ~is_copy(text, pool.reference, steps.row)
        has_critique = np.asarray(pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(steps.critique), ""), False))
        good = np.flatnonzero(usable & has_critique)
        taken, row = pa.array(good), steps.row[good]
        columns = {
            "prompt": pool.prompt.take(pa.array(row)),
            "response": steps.before.take(taken),
            "critique": steps.critique.take(taken),
        }
        if self.shows_edit:
            columns["edit"] = steps.after.take(taken)
        scores = {"round": pa.array(steps.round[good], pa.int32()), "score_before": pa.array(steps.score_before[good])}
        scores["score"] = pa.array(steps.score_after[good])
        scores["candidates"] = pa.array(np.diff(pool.offsets)[row], pa.int32())
        columns["lineage"] = as_struct({**block.scored_origin(row), **scores})
        return Exported(pa.table(columns), self._count(block.table.num_rows, steps.row, row, steps.row[usable]))

    @staticmethod
    def _count(
        num_rows: int, stepped: NDArray[np.int64], written: NDArray[np.int64], usable: NDArray[np.int64]
    ) -> Counter[str]:
        every = np.arange(num_rows)
        has_step, has_row, has_usable = (np.isin(every, rows) for rows in (stepped, written, usable))
        return count_reasons(
            {
                "not_improved": ~has_step,
                "not_usable": has_step & ~has_usable,
                "no_critique": has_usable & ~has_row,
            }
        )


class Edits(Critiques):
    """The same, and ``edit``: the better text."""

    about = "answer, critique and the edit that was accepted, to train an editor"
    shows_edit = True


class Steps:
    """From one best text of a row to the next, in order."""

    def __init__(
        self, row: NDArray[np.int64], round_: NDArray[np.int64], text: pa.Array, score: pa.Array, critique: pa.Array
    ) -> None:
        is_step = np.zeros(len(row), bool)
        is_step[1:] = row[1:] == row[:-1]
        after = np.flatnonzero(is_step)
        self.row, self.round = row[after], round_[after]
        self.before, self.after = text.take(pa.array(after - 1)), text.take(pa.array(after))
        values = np.asarray(score.to_numpy(zero_copy_only=False), np.float64)
        self.score_before, self.score_after = values[after - 1], values[after]
        self.critique = critique.take(pa.array(after))

    @property
    def is_whole(self) -> NDArray[np.bool_]:
        """Whether both texts and both scores are there."""
        texts = pc.and_(
            *(
                pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(each), ""), False)
                for each in (self.before, self.after)
            )
        )
        found: NDArray[np.bool_] = np.asarray(texts) & ~np.isnan(self.score_before) & ~np.isnan(self.score_after)
        return found


def read_steps(history: pa.Array) -> Steps:
    """The accepted edits of all rows, from ``correct.history``."""
    rounds = history.flatten()
    row_of_round = np.repeat(np.arange(len(history)), np.diff(offsets_of(history)))
    edits = pc.struct_field(rounds, "edits")
    attempts = edits.flatten()
    round_of_attempt = np.repeat(np.arange(len(rounds)), np.diff(offsets_of(edits)))
    decision = pc.cast(pc.struct_field(attempts, "decision"), TEXT)
    best = np.flatnonzero(np.asarray(pc.fill_null(pc.match_substring_regex(decision, "^(first|accepted)(:|$)"), False)))
    taken, rounds_taken = pa.array(best), round_of_attempt[best]
    number = np.asarray(pc.fill_null(pc.cast(pc.struct_field(rounds, "round"), pa.int64()), 0))
    return Steps(
        row_of_round[rounds_taken],
        number[rounds_taken],
        pc.cast(pc.struct_field(attempts, "text"), TEXT).take(taken),
        pc.cast(pc.struct_field(attempts, "score"), pa.float64()).take(taken),
        pc.cast(pc.struct_field(rounds, "critique"), TEXT).take(pa.array(rounds_taken)),
    )


def _begins_broken(block: Block) -> NDArray[np.bool_]:
    """Which rows began with an answer that may not be exported, such as one that was cut off."""
    pool = block.pool
    found: NDArray[np.bool_] = pool.reason[pool.offsets[:-1]] >= 0
    return found
