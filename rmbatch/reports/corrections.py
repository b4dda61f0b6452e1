"""What correction has gained after each round, beside the control whose answers were only sampled anew.

gains = Corrections(replicates=1000)
gains.add(keys, table)          # rows of a job ``correct``
gains.plain()
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rmbatch.correction.columns import BY_ROUND, CONTROL, OUTCOME, SCORE_BEFORE
from rmbatch.evaluation.ragged import Floats
from rmbatch.reports.means import PromptMeans, describe_mean, plain
from rmbatch.rows.messages import combine_chunks, offsets_of

COLUMNS = (BY_ROUND, CONTROL, OUTCOME, SCORE_BEFORE)
ENTERED = ("target", "improved", "unchanged", "failed")
"""Outcomes of rows that were not good enough."""
MOST_ROUNDS = 20


class Corrections:
    """Sums over rows that entered, the corrected and the control apart."""

    def __init__(self, replicates: int = 1000) -> None:
        self._groups = {name: PromptMeans(2 * MOST_ROUNDS, replicates) for name in ("corrected", "control")}
        self._before = {name: PromptMeans(1, replicates) for name in self._groups}
        self._rounds = 0

    def add(self, keys: NDArray[Any], table: pa.Table) -> None:
        """Add rows. keys[rows] uint64."""
        outcome = combine_chunks(table[OUTCOME])
        entered = np.asarray(pc.fill_null(pc.is_in(outcome, value_set=pa.array(ENTERED, outcome.type)), False))
        is_control = np.zeros(table.num_rows, bool)
        if CONTROL in table.column_names:
            is_control = np.asarray(pc.fill_null(pc.cast(combine_chunks(table[CONTROL]), pa.bool_()), False))
        before = _floats(combine_chunks(table[SCORE_BEFORE]))
        score, tokens = self._after_rounds(combine_chunks(table[BY_ROUND]), before)
        for name, mask in (("corrected", entered & ~is_control), ("control", entered & is_control)):
            rows = np.flatnonzero(mask & ~np.isnan(before))
            self._groups[name].add(keys[rows], np.hstack([score[rows] - before[rows, None], tokens[rows]]))
            self._before[name].add(keys[rows], before[rows, None])

    def _after_rounds(self, rounds: pa.Array, before: Floats) -> tuple[Floats, Floats]:
        """The score and the tokens of each row after each round, [rows, MOST_ROUNDS]; a row that is done keeps them."""
        offsets = offsets_of(rounds)
        counts = np.diff(offsets)
        self._rounds = max(self._rounds, min(int(counts.max(initial=0)), MOST_ROUNDS))
        flat = rounds.flatten()
        by_round = _floats(pc.struct_field(flat, "score"))
        used = np.nan_to_num(_floats(pc.struct_field(flat, "tokens")))
        score, tokens = np.empty((len(counts), MOST_ROUNDS)), np.empty((len(counts), MOST_ROUNDS))
        last, total = before.copy(), np.zeros(len(counts))
        for number in range(MOST_ROUNDS):
            has = counts > number
            at = offsets[:-1][has] + number
            now = by_round[at]
            last[has] = np.where(np.isnan(now), last[has], now)
            total[has] += used[at]
            score[:, number], tokens[:, number] = last, total
        return score, tokens

    def plain(self) -> dict[str, Any] | None:
        """As plain values; None where no row entered. ``rounds``: by how much the score has risen over the first answer
        after each round, with its interval over rows, and the tokens of a row so far."""
        groups = {}
        for name, means in self._groups.items():
            if not means.counts[0]:
                continue
            found = means.replicates()
            groups[name] = {
                "rows": int(means.counts[0]),
                "before": describe_mean(self._before[name].replicates()[:, 0]),
                "rounds": [
                    {
                        "round": number + 1,
                        "gain": describe_mean(found[:, number]),
                        "tokens": plain(found[0, MOST_ROUNDS + number]),
                    }
                    for number in range(self._rounds)
                ],
            }
        return {"groups": groups, "apart": self._compare(groups)} if groups else None

    def _compare(self, groups: dict[str, Any]) -> dict[str, float | None] | None:
        """By how much corrected rows gained more than the control in the end."""
        if len(groups) < 2 or not self._rounds:
            return None
        ours, theirs = (self._groups[name].replicates()[:, self._rounds - 1] for name in ("corrected", "control"))
        return describe_mean(ours - theirs)


def _floats(values: pa.Array) -> Floats:
    return np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
