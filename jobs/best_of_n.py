"""The best-of-N job: scores every response and keeps the best of each prompt, with a reason for each that is not kept.

job: best_of_n
input: {path: candidates/}
rewards: {math: {reward: math_verify}, length: {reward: length_penalty}}
combine: {math: 1.0, length: 0.1}
select: {keep: 1, min_score: 0.5}
output: {path: best/}
"""

from functools import partial
from typing import Literal, Self

import pyarrow as pa
from pydantic import model_validator

from connectors.errors import UserError
from jobs.config.sections import RewardJob
from jobs.run.prepare import group_key
from jobs.run.rows import RowJob
from jobs.score import fit_score
from rmbatch.rows.roles import guess_roles
from rmbatch.selection.rank import SelectionRule
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Fit
from rmbatch.stages.score import TOTAL, ScoreStage
from rmbatch.stages.select import SelectStage


class SelectConfig(SelectionRule):
    """Which candidates are kept, and by which score."""

    by: str | None = None
    """Name of a reward or of one of its parts (score.NAME), or total. None: the total, or the only reward."""


class BestOfNJob(RewardJob):
    """Every response is scored, and the best of each prompt are kept."""

    job: Literal["best_of_n"]
    select: SelectConfig = SelectConfig()
    """Which candidates are kept."""

    @model_validator(mode="after")
    def _knows_what_to_select_by(self) -> Self:
        by = self.select.by
        if by is None and self.combine is None and len(self.rewards) > 1:
            raise ValueError(
                f"{len(self.rewards)} rewards and no say in which decides: give weights in combine: "
                f"{{{', '.join(f'{name}: 1.0' for name in self.rewards)}}}, or name one in select.by"
            )
        known = [*self.rewards, *([TOTAL] if self.combine else [])]
        of_a_part = by is not None and by.split(".")[0] in self.rewards  # which parts there are, the reward knows
        if by is not None and by not in known and not of_a_part:
            raise ValueError(f"select.by: no score is called {by!r}; {nearest(by, known)}")
        return self

    @property
    def chosen_score(self) -> str | None:
        return self.select.by


class BestOfN(RowJob[BestOfNJob]):
    """The best-of-N job on its output."""

    config = BestOfNJob

    def fits(self) -> list[Fit]:
        return [partial(_fit_candidates, self.job), partial(_fit_choice, self.job)]


def _fit_candidates(job: BestOfNJob, schema: pa.Schema) -> ScoreStage:
    """The scores of all candidates; raises UserError where prompts cannot be told apart."""
    roles = guess_roles(schema, job.input.columns)
    if roles.responses is None and group_key(job, roles) is None:
        hint = f" (perhaps {roles.group!r})" if roles.group else ""
        raise UserError(
            "the input has one response per row; name the column that tells which rows answer the same prompt"
            f"{hint}: input.group: {{by: COLUMN}}"
        )
    return fit_score(job, schema)


def _fit_choice(job: BestOfNJob, schema: pa.Schema) -> SelectStage:
    roles = guess_roles(schema, job.input.columns)
    by = job.select.by or (TOTAL if job.combine else next(iter(job.rewards)))
    scores = [name.removeprefix("score.") for name in schema.names if name.startswith("score.")]
    if by not in scores:
        raise UserError(f"select.by: no score is called {by!r}; {nearest(by, scores)}")
    return SelectStage(job.select, by, roles, group_key(job, roles))
