"""Adds to a table what its rewards say: ``score.<name>``, ``error.<name>``, ``reason.<name>``, and the weighted total.

A ``ScoreStage`` is the one way in which jobs score: a plan's first rows in-process, a block in a worker, both the same
call. It knows rows only as Arrow columns; where they come from is not its business.

    stage = ScoreStage({"math": rmbatch.reward("math_verify")}, roles=guess_roles(table.schema))
    scored = stage(table)                     # row for row, columns added
    stage.output_schema(table.schema)         # what it will add, known before any row
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import JobError, UserError
from connectors.groups import group_offsets
from connectors.schema import ORIGIN_ROW, ORIGIN_URI
from rmbatch.combine import CombineRule, weighted_sum
from rmbatch.rewards.bound import Reward
from rmbatch.rewards.contract import Scores
from rmbatch.rows import FlatView, Roles, flatten

TOTAL = "total"
"""Name of the weighted sum among the scores."""


@dataclass(frozen=True)
class ScoreStage:
    """Rewards, and what to do with their scores; picklable, each process builds the rewards' state for itself."""

    rewards: Mapping[str, Reward]
    """By the name that the columns get."""
    roles: Roles
    combine: CombineRule | None = None
    """None: no total."""
    group: str | None = None
    """Key column of flat rows whose groups are whole in every table; needed by rewards that compare responses."""
    on_error: Literal["stop", "null"] = "stop"
    """What an exception in a reward does: stop the job, or null with the code ``reward_raised``."""

    @property
    def score_names(self) -> list[str]:
        """The scores that are added, in the order of their columns."""
        return [*self.rewards, *([TOTAL] if self.combine else [])]

    def reads(self) -> dict[str, tuple[str, ...]]:
        """What each reward reads, by role or column name."""
        return {name: reward.spec.columns for name, reward in self.rewards.items()}

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this stage; raises UserError where one of them is there already."""
        nested = self.roles.responses is not None
        for name in self.score_names:
            reward = self.rewards.get(name)
            kinds = {"score": pa.float64(), "error": pa.string()}
            if reward is not None and reward.spec.writes_reason:
                kinds["reason"] = pa.string()
            for part, kind in kinds.items():
                column = f"{part}.{name}"
                if column in schema.names:
                    raise UserError(f"the input has a column {column!r} already; give the reward another name")
                schema = schema.append(pa.field(column, pa.list_(kind) if nested else kind))
        return schema

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the scores added; raises JobError that names the reward and the row where a reward raises."""
        scores = {name: self._score(name, table) for name in self.rewards}
        if self.combine is not None:
            total, error = weighted_sum({name: part.score for name, part in scores.items()}, self.combine)
            scores[TOTAL] = Scores(total, error)
        view = flatten(table, self.roles)
        for name, part in scores.items():
            columns = {"score": part.score, "error": part.error}
            if name in self.rewards and self.rewards[name].spec.writes_reason:
                columns["reason"] = part.reason
            for kind, array in columns.items():
                values = array if kind == "score" else pc.cast(array, pa.string())
                table = table.append_column(f"{kind}.{name}", view.nest(values))
        return table

    def _score(self, name: str, table: pa.Table) -> Scores:
        try:
            return self._score_columns(name, table)
        except (UserError, JobError):
            raise
        except Exception as error:  # the boundary that owns whatever a reward's own code may raise
            return self._score_around(name, table, error)

    def _score_columns(self, name: str, table: pa.Table) -> Scores:
        view = flatten(table, self.roles)
        offsets = view.offsets
        if offsets is None and self.group is not None:
            offsets = group_offsets(table, self.group)
        return self.rewards[name].score_columns(view.column, view.num_candidates, offsets)

    def _score_around(self, name: str, table: pa.Table, error: Exception) -> Scores:
        """Halve the table down to what raises; that stops the job, or gets nulls while the rest keeps its scores."""
        cuts = np.arange(table.num_rows + 1) if self.group is None else group_offsets(table, self.group)
        if len(cuts) > 2:
            middle = int(cuts[len(cuts) // 2])
            return _joined([self._score(name, table.slice(0, middle)), self._score(name, table.slice(middle))])
        what = " ".join(f"{type(error).__name__}: {error}".split())
        if self.on_error == "stop":
            raise JobError(
                f"reward {name!r} raised {what} on {_address(table)}; mend it, or set run.on_error: null to go on"
            ) from error
        view = flatten(table, self.roles)
        message = pa.repeat(pa.scalar(f"reward_raised: {what}"), view.num_candidates)
        return Scores(pa.nulls(view.num_candidates, pa.float64()), message, pa.nulls(view.num_candidates, pa.string()))

    def tally(self, table: pa.Table) -> Counter[str]:
        """Counts over scored rows: ``scored.<name>`` responses with a score, ``null.<name>.<code>`` those without."""
        counts: Counter[str] = Counter()
        for name in self.score_names:
            counts[f"scored.{name}"] += len(_flat(table[f"score.{name}"]).drop_null())
            for code, number in _codes(_flat(table[f"error.{name}"])).items():
                counts[f"null.{name}.{code}"] += number
        return counts


def _joined(parts: Sequence[Scores]) -> Scores:
    def join(pick: Callable[[Scores], pa.Array | None], kind: pa.DataType) -> pa.Array:
        arrays = [pick(part) for part in parts]
        return pa.concat_arrays([pa.nulls(0, kind) if array is None else pc.cast(array, kind) for array in arrays])

    return Scores(
        join(lambda part: part.score, pa.float64()),
        join(lambda part: part.error, pa.large_string()),
        join(lambda part: part.reason, pa.large_string()),
    )


def _address(table: pa.Table) -> str:
    if ORIGIN_URI not in table.column_names:
        return "a row"
    return f"row {table[ORIGIN_ROW][0].as_py()} of {table[ORIGIN_URI][0].as_py()}"


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.list_flatten(column) if pa.types.is_list(column.type) else column


def _codes(errors: pa.ChunkedArray) -> dict[str, int]:
    """How often each code occurs; the code is what stands before the first colon."""
    present = errors.drop_null()
    if len(present) == 0:
        return {}
    counted = pc.value_counts(present).to_pylist()
    codes: Counter[str] = Counter()
    for item in counted:
        codes[item["values"].split(":", 1)[0]] += item["counts"]
    return codes


def candidates(table: pa.Table, roles: Roles, group: str | None) -> tuple[FlatView, np.ndarray]:
    """The candidates of a table, and where each prompt's begin: from its lists, or from its runs of equal keys."""
    view = flatten(table, roles)
    if view.offsets is not None:
        return view, view.offsets
    if group is None:
        raise UserError("flat rows have no prompts to choose within; name a group column in input.group.by")
    return view, group_offsets(table, group)
