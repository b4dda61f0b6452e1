"""The best-of-N job: scores every response and keeps the best ones of each prompt. Each other response gets a reason.

job: best_of_n
input: {path: candidates/}
rewards: {math: {reward: math_verify}, length: {reward: length_penalty}}
combine: {math: 1.0, length: 0.1}
select: {keep: 1, min_score: 0.5}
output: {path: best/}
"""

from functools import partial
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import model_validator

from connectors.errors import UserError
from jobs.generate import GeneratingJob, GeneratingRowJob
from jobs.run.prepare import group_key
from jobs.score import fit_score
from rmbatch.selection.choose import ChoiceRule
from rmbatch.selection.rank import SelectionRule
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Fit
from rmbatch.stages.score import TOTAL, ScoreStage
from rmbatch.stages.select import SelectStage


class SelectConfig(ChoiceRule):
    """How many candidates are kept, and by which score."""

    by: str | None = None
    """The name of a reward or of one of its parts (score.NAME), or total. None: the total, or the only reward."""
    cut_off: Literal["reject", "keep"] = "reject"
    """What becomes of generated candidates that ended at ``max_tokens``."""

    def identity(self) -> dict[str, Any]:
        """What decides the choice, as plain values."""
        fields = self.model_dump(mode="json")
        old = {*SelectionRule.model_fields, "by"}
        for name, field in type(self).model_fields.items():
            if name not in old and getattr(self, name) == field.default:
                del fields[name]  # jobs that were planned before there was this key are the same jobs
        return fields


class BestOfNJob(GeneratingJob):
    """Every response is scored, and the best ones of each prompt are kept."""

    job: Literal["best_of_n"]
    select: SelectConfig = SelectConfig()
    """Which candidates are kept."""

    @model_validator(mode="after")
    def _check_select_by(self) -> Self:
        by = self.select.by
        if by is None and self.combine is None and len(self.rewards) > 1:
            raise ValueError(
                f"{len(self.rewards)} rewards, and nothing says which decides: give weights in combine: "
                f"{{{', '.join(f'{name}: 1.0' for name in self.rewards)}}}, or name one in select.by"
            )
        known = [*self.rewards, *([TOTAL] if self.combine else [])]
        is_part = by is not None and by.split(".")[0] in self.rewards  # its reward checks the rest of the name
        if by is not None and by not in known and not is_part:
            raise ValueError(f"select.by: no score is called {by!r}; {nearest(by, known)}")
        return self

    @property
    def chosen_score(self) -> str | None:
        return self.select.by


class BestOfN(GeneratingRowJob[BestOfNJob]):
    """The best-of-N job on its output."""

    config = BestOfNJob

    def fits(self) -> list[Fit]:
        return [*self.generation_fits(), partial(_fit_candidates, self.job), partial(_fit_choice, self.job)]


def _fit_candidates(job: BestOfNJob, schema: pa.Schema) -> ScoreStage:
    """Fit the stage that scores all candidates. Raises UserError where nothing tells which rows share a prompt."""
    roles = job.guess_roles(schema)
    if roles.responses is None and group_key(job, roles) is None:
        hint = f" (perhaps {roles.group!r})" if roles.group else ""
        raise UserError(
            "the input has one response per row; name the column that tells which rows answer the same prompt"
            f"{hint}: input.group: {{by: COLUMN}}"
        )
    return fit_score(job, schema)


def _fit_choice(job: BestOfNJob, schema: pa.Schema) -> SelectStage:
    roles = job.guess_roles(schema)
    by = job.select.by or (TOTAL if job.combine else next(iter(job.rewards)))
    scores = [name.removeprefix("score.") for name in schema.names if name.startswith("score.")]
    if by not in scores:
        raise UserError(f"select.by: no score is called {by!r}; {nearest(by, scores)}")
    stage = SelectStage(job.select, by, roles, group_key(job, roles), keep_cut_off=job.select.cut_off == "keep")
    stage.check(schema)
    return stage
