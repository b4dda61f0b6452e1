"""Chooses the best candidates of each prompt and says of every other why it was not chosen.

Nested rows (a list of candidates) stay whole: a row is kept if at least one of its candidates is, with
``select.rank`` and ``select.reason`` as lists aligned with the candidates, and the winner as ``select.response`` and
``select.score``. Of flat rows each is a candidate: it is kept with its rank, or rejected with its reason.
The choice itself is ``selection.py``.

    stage = SelectStage(SelectionRule(keep=1), by="total", roles=roles)
    chosen = stage(scored)          # with the hidden column OUTCOME, by which the writer routes the rows
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from connectors.schema import KEPT, OUTCOME, REJECTED
from rmbatch.rows.roles import Roles
from rmbatch.selection.rank import SelectionRule, select
from rmbatch.stages.base import Needs
from rmbatch.stages.score import candidates
from rmbatch.stages.tally import count_choices

RANK, REASON = "select.rank", "select.reason"
RESPONSE, SCORE = "select.response", "select.score"


@dataclass(frozen=True)
class SelectStage:
    """A rule, and the score that it reads."""

    rule: SelectionRule
    by: str
    """Name of the score, as in ``score.<by>``."""
    roles: Roles
    group: str | None = None
    """Key column of flat rows, whose groups are whole in every table."""

    def reads(self) -> dict[str, tuple[str, ...]]:
        """Nothing that people have to be told: the score is named in the job."""
        return {}

    def columns(self, schema: pa.Schema) -> set[str]:
        """The columns of the candidates, which its choice is written for."""
        several = self.roles.responses if isinstance(self.roles.responses, tuple) else (self.roles.responses,)
        return {name for name in (self.roles.response, *several) if name in schema.names}

    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def flush(self) -> None:
        """Nothing is kept back."""

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this stage; raises UserError where one of them is there already."""
        if self.roles.responses is None:
            added = {RANK: pa.int32(), REASON: pa.string()}
        else:
            added = {
                RANK: pa.list_(pa.int32()),
                REASON: pa.list_(pa.string()),
                RESPONSE: pa.string(),
                SCORE: pa.float64(),
            }
        for name, kind in added.items():
            if name in schema.names:
                raise UserError(f"the input has a column {name!r} already; rename it")
            schema = schema.append(pa.field(name, kind))
        return schema

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the choice and its reasons added, and OUTCOME set."""
        view, offsets = candidates(table, self.roles, self.group)
        column = table[f"score.{self.by}"]
        score = (pc.list_flatten(column) if view.offsets is not None else column).combine_chunks()
        response = view.column("response") if view.has("response") else None
        chosen = select(score, offsets, self.rule, response)
        table = table.append_column(RANK, view.nest(chosen.rank)).append_column(REASON, view.nest(chosen.reason))
        if view.offsets is None:
            kept = np.asarray(chosen.rank.is_valid())
        else:
            winner, kept = _winners(chosen.rank, offsets)
            texts = pa.nulls(len(score), pa.string()) if response is None else response
            table = table.append_column(RESPONSE, pc.cast(texts.take(winner), pa.string()))
            table = table.append_column(SCORE, score.take(winner))
        outcome = np.where(kept, KEPT, REJECTED).astype(np.int8)
        return table.append_column(OUTCOME, pa.array(outcome))

    def tally(self, table: pa.Table) -> Counter[str]:
        """Candidates that were kept, and the others by the reason."""
        reasons, ranks = table[REASON], table[RANK]
        if pa.types.is_list(reasons.type):
            reasons, ranks = pc.list_flatten(reasons), pc.list_flatten(ranks)
        counted = {item["values"]: item["counts"] for item in pc.value_counts(reasons.drop_null()).to_pylist()}
        return count_choices(len(ranks.drop_null()), counted)


def _winners(rank: pa.Array, offsets: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """For each prompt the index of its best candidate (null if none is kept), and whether there is one."""
    num_prompts = len(offsets) - 1
    best = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(rank, 1), False)))
    prompt_of = np.repeat(np.arange(num_prompts), np.diff(offsets))[best]
    winner = np.zeros(num_prompts, np.int64)
    kept = np.zeros(num_prompts, bool)
    winner[prompt_of[::-1]] = best[::-1]  # should two ever share the first rank, the first stands
    kept[prompt_of] = True
    return pa.array(winner, mask=~kept), kept
