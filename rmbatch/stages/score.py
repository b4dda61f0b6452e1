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
from rmbatch.judges.reward import judge_rewards
from rmbatch.reward_models.reward import model_rewards
from rmbatch.rewards.contract import STEPS, Scores
from rmbatch.rewards.evaluation import Reward, column_of
from rmbatch.rewards.scores import RewardError
from rmbatch.rewards.totals import CombineRule, weighted_sum
from rmbatch.rows.roles import ALL_COLUMNS, FlatView, Roles, flatten
from rmbatch.stages.base import Needs, add_fields
from rmbatch.stages.tally import count_scores

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

    def added(self) -> dict[str, pa.DataType]:
        """The columns that are added, in order, and the type of each per response."""
        found: dict[str, pa.DataType] = {}
        for name, reward in self.rewards.items():
            found |= reward.column_types(name)
        if self.combine is not None:
            found |= {f"score.{TOTAL}": pa.float64(), f"error.{TOTAL}": pa.string()}
        return found

    def reads(self) -> dict[str, tuple[str, ...]]:
        """What each reward reads, by role or column name."""
        return {name: reward.columns for name, reward in self.rewards.items()}

    def columns(self, schema: pa.Schema) -> set[str]:
        """The columns behind the candidates and behind what the rewards read."""
        roles = self.roles
        read = {name for reward in self.rewards.values() for name in reward.columns}
        if ALL_COLUMNS in read:
            return {*schema.names}
        several = roles.responses if isinstance(roles.responses, tuple) else (roles.responses,)
        found = {roles.response, *several}
        found |= {roles.column_of(name) for name in read}
        return {name for name in found if name in schema.names}

    def check(self, schema: pa.Schema) -> None:
        """Raises UserError for a column that is not there, or of a type that cannot play its role."""
        view = flatten(schema.empty_table(), self.roles)
        if view.has("response"):
            view.column("response")
        for name, reward in self.rewards.items():
            for column in reward.columns:
                if view.has(column):
                    view.column(column)
                elif column not in reward.optional:
                    raise UserError(
                        f"reward {name!r} reads {column!r}, and no column plays that role; set "
                        f"input.columns.{column} to one of: {', '.join(schema.names)}"
                    )

    def needs(self) -> Needs:
        """The engines and chat clients of its rewards, those inside compositions too."""
        return needs_of(self.rewards)

    def flush(self) -> None:
        """Write new scores of reward models to their stores."""
        for reward in self.needs().models.values():
            reward.keep()

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this stage; raises UserError where one of them is there already."""
        nested = self.roles.responses is not None
        added = {name: pa.list_(kind) if nested else kind for name, kind in self.added().items()}
        return add_fields(schema, added, "give the reward another name")

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the scores added; raises JobError that names the reward and the row where a reward raises."""
        view = flatten(table, self.roles)
        scored = {name: self._score(name, table, view) for name in self.rewards}
        arrays: dict[str, pa.Array] = {}
        for name, parts in scored.items():
            arrays |= {column: column_of(parts, name, column) for column in self.rewards[name].column_types(name)}
        if self.combine is not None:
            total, error = weighted_sum({name: parts[""].score for name, parts in scored.items()}, self.combine)
            arrays |= {f"score.{TOTAL}": total, f"error.{TOTAL}": error}
        for column, kind in self.added().items():
            table = table.append_column(column, view.nest(arrays[column].cast(kind)))
        return table

    def _score(self, name: str, table: pa.Table, view: FlatView) -> dict[str, Scores]:
        try:
            return self._score_columns(name, table, view)
        except (UserError, JobError):
            raise
        except (Exception, SystemExit) as error:  # the boundary that owns whatever a reward's own code may raise
            if hasattr(error, "ray_terminate_msg"):  # Ray ends this process, wherever it was
                raise
            return self._score_around(name, table, error)

    def _score_columns(self, name: str, table: pa.Table, view: FlatView) -> dict[str, Scores]:
        offsets = view.offsets
        if offsets is None and self.group is not None:
            offsets = group_offsets(table, self.group)
        return self.rewards[name].score_parts(view.column, view.num_candidates, offsets)

    def _score_around(self, name: str, table: pa.Table, error: Exception | SystemExit) -> dict[str, Scores]:
        """Halve the table down to what raises; that stops the job, or gets nulls while the rest keeps its scores."""
        cuts = np.arange(table.num_rows + 1) if self.group is None else group_offsets(table, self.group)
        if len(cuts) > 2:
            middle = int(cuts[len(cuts) // 2])
            halves = (table.slice(0, middle), table.slice(middle))
            return _joined([self._score(name, half, flatten(half, self.roles)) for half in halves])
        if isinstance(error, RewardError) and self.roles.responses is None:
            error.where = ""  # the row's address says more
        what = " ".join(f"{type(error).__name__}: {error}".split())
        if self.on_error == "stop":
            raise JobError(
                f"reward {name!r} raised {what} on {_address(table)}; mend it, or set run.on_error: null to go on"
            ) from error
        view = flatten(table, self.roles)
        count = view.num_candidates
        message = pa.repeat(pa.scalar(f"reward_raised: {what}"), count)
        nothing = Scores(pa.nulls(count, pa.float64()), message, pa.nulls(count, pa.string()))
        return dict.fromkeys(self.rewards[name].part_names, nothing)

    def tally(self, table: pa.Table) -> Counter[str]:
        """Responses with each score, and those without by the code of their error."""
        counts: Counter[str] = Counter()
        for name in (column.removeprefix("score.") for column in self.added() if column.startswith("score.")):
            scored = len(_flat(table[f"score.{name}"]).drop_null())
            counts.update(count_scores(name, scored, _codes(_flat(table[f"error.{name}"]))))
        return counts


def needs_of(rewards: Mapping[str, Reward]) -> Needs:
    """The engines and chat clients of rewards, those inside compositions too."""
    return Needs(dict(model_rewards(rewards)), dict(judge_rewards(rewards)))


def _joined(halves: Sequence[Mapping[str, Scores]]) -> dict[str, Scores]:
    def join(part: str, pick: Callable[[Scores], pa.Array | None], kind: pa.DataType) -> pa.Array:
        arrays = [(pick(half[part]), len(half[part].score)) for half in halves]
        return pa.concat_arrays([pa.nulls(n, kind) if array is None else pc.cast(array, kind) for array, n in arrays])

    return {
        part: Scores(
            join(part, lambda scores: scores.score, pa.float64()),
            join(part, lambda scores: scores.error, pa.large_string()),
            join(part, lambda scores: scores.reason, pa.large_string()),
            join(part, lambda scores: scores.steps, STEPS),
        )
        for part in halves[0]
    }


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
