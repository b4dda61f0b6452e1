"""Scores other texts in place of the responses of rows, by the same stage that scores the rows themselves.

scorer = TextScorer(rewards, roles, combine=None, by="math", on_error="stop")
scorer.score(table, [0, 0, 3], ["an edit", "another edit", "an edit of row 3"])      # Assessments
scorer.compare(table, [0], [("before", "after")])                                   # Preferences
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from connectors.schema import find_twins
from rmbatch.correction.history import Assessment
from rmbatch.correction.loop import Preference
from rmbatch.rewards.evaluation import Reward
from rmbatch.rewards.totals import CombineRule
from rmbatch.rows.messages import TEXT
from rmbatch.rows.roles import Roles
from rmbatch.stages.score import ScoreStage

_BESIDE = ("score.", "error.", "reason.", "steps.")


@dataclass(frozen=True)
class TextScorer:
    """Rewards, and the rows that they read."""

    rewards: Mapping[str, Reward]
    roles: Roles
    combine: CombineRule | None = None
    by: str = ""
    """Name of the score that counts, as in ``score.<by>``."""
    on_error: Literal["stop", "null"] = "stop"

    def score(self, table: pa.Table, places: Sequence[int], texts: Sequence[str]) -> list[Assessment]:
        """What the rewards say of a text for each place; a place may be there several times."""
        if not texts:
            return []
        rows, name = self._without_responses(table, places)
        rows = rows.append_column(name, pa.array(texts, TEXT))
        stage = self._stage(replace(self.roles, response=name, responses=None))
        return read_assessments(stage, stage(rows), self.by)

    def compare(self, table: pa.Table, places: Sequence[int], pairs: Sequence[tuple[str, str]]) -> list[Preference]:
        """Which of two texts is preferred for each place: by all rewards, or by none of them."""
        if not pairs:
            return []
        rows, name = self._without_responses(table, places)
        rows = rows.append_column(name, pa.array([list(pair) for pair in pairs], pa.list_(TEXT)))
        stage = self._stage(replace(self.roles, response=None, responses=name))
        scored = stage(rows)
        verdicts = [
            [
                _prefer(reward, *values)
                for values in zip(*(scored[f"{kind}.{reward}"].to_pylist() for kind in ("score", "error")))
            ]
            for reward in self.rewards
        ]
        return [_join(several) for several in zip(*verdicts)]

    def _stage(self, roles: Roles) -> ScoreStage:
        return ScoreStage(self.rewards, roles, self.combine, None, self.on_error)

    def _without_responses(self, table: pa.Table, places: Sequence[int]) -> tuple[pa.Table, str]:
        """The rows at these places without their responses and scores, and a name for other responses."""
        several = self.roles.responses if isinstance(self.roles.responses, tuple) else (self.roles.responses,)
        gone = {name for name in (self.roles.response, *several) if name is not None}
        gone |= {twin for name, twin in find_twins(table.schema).items() if name in gone}
        gone |= {name for name in table.column_names if name.startswith((*_BESIDE, "correct."))}
        rows = table.select([name for name in table.column_names if name not in gone])
        name = self.roles.response or "response"
        while name in rows.column_names:
            name = f"_{name}"
        return rows.take(pa.array(places, pa.int64())), name


def read_assessments(stage: ScoreStage, scored: pa.Table, by: str) -> list[Assessment]:
    """What a stage's rewards say of each row of a flat table that it has scored."""
    added = [name for name in stage.added() if name in scored.column_names]
    columns = {name: scored[name].to_pylist() for name in added if not name.startswith("steps.")}
    return assessments_of(columns, scored.num_rows, by)


def assessments_of(columns: Mapping[str, Sequence[Any]], num_rows: int, by: str) -> list[Assessment]:
    """The same from columns by name, ``score.math`` and so on."""
    kinds: dict[str, dict[str, Sequence[Any]]] = {"score": {}, "error": {}, "reason": {}}
    for column, values in columns.items():
        kind, _, name = column.partition(".")
        kinds[kind][name] = values
    return [
        Assessment(
            kinds["score"][by][place],
            *({name: values[place] for name, values in kinds[kind].items()} for kind in ("score", "error", "reason")),
        )
        for place in range(num_rows)
    ]


def _prefer(reward: str, scores: Sequence[float | None] | None, errors: Sequence[str | None] | None) -> Preference:
    first, second = scores or (None, None)
    if first is None or second is None:
        why = next((error for error in errors or () if error is not None), "no score")
        return Preference(None, f"{reward}: {why}", is_verdict=False)
    if first == second:
        return Preference(None, f"{reward} prefers neither")
    return Preference(second > first, f"{reward} prefers the {'edit' if second > first else 'best text so far'}")


def _join(several: Sequence[Preference]) -> Preference:
    """What several rewards come to: the second is preferred if all prefer it."""
    against = next((each for each in several if each.is_second is not True), None)
    return several[0] if against is None else against
