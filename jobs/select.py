"""The select job: keeps the best candidates of each prompt by scores that are stored already; no model is asked.

job: select
input: {path: scored/}
select: {by: {math: 1.0, length: 0.1}, keep: 2, duplicates: normalised}
output: {path: chosen/}
"""

from functools import partial
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from connectors.errors import UserError
from jobs.config.sections import RowJobConfig
from jobs.run.prepare import group_key
from jobs.run.rows import RowJob
from rmbatch.rewards.totals import CombineRule
from rmbatch.selection.choose import ChoiceRule
from rmbatch.settings.base import Settings
from rmbatch.stages.base import Fit
from rmbatch.stages.score import TOTAL
from rmbatch.stages.select import ControlRule, SelectStage


class ControlConfig(Settings):
    """What the selection is compared with. It changes no choice."""

    measure: str | None = None
    """The stored score by which the selected, a random pick of the same size and the oracle are compared: best one that
    is nearer to the truth than the score that selects. None: what select.by says."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Another seed draws another random pick."""


class StoredSelectConfig(ChoiceRule):
    """How many candidates are kept, by which stored score, and what is left out before."""

    by: str | CombineRule | None = None
    """The name of a stored score (score.NAME), or weights of several: {math: 1.0, length: 0.1, on_null: null}, as in
    combine. None: score.total, or the only score that there is."""
    cut_off: Literal["reject", "keep"] = "reject"
    """What becomes of generated candidates that ended at ``max_tokens``."""
    control: ControlConfig = ControlConfig()
    """What the selection is compared with."""

    @field_validator("by", mode="before")
    @classmethod
    def _names_a_score(cls, written: Any) -> Any:
        return written.removeprefix("score.") if isinstance(written, str) else written


class SelectJob(RowJobConfig):
    """The best candidates of each prompt are kept, by stored scores."""

    job: Literal["select"]
    select: StoredSelectConfig = StoredSelectConfig()
    """Which candidates are kept."""


class Select(RowJob[SelectJob]):
    """The select job on its output."""

    config = SelectJob

    def fits(self) -> list[Fit]:
        return [partial(_fit_choice, self.job)]


def _fit_choice(job: SelectJob, schema: pa.Schema) -> SelectStage:
    """Fit the choice to these columns. Raises UserError for a score that is not there, and for rows without prompts."""
    roles, rule = job.guess_roles(schema), job.select
    group = group_key(job, roles)
    if roles.responses is None and group is None:
        hint = f" (perhaps {roles.group!r})" if roles.group else ""
        raise UserError(
            "the input has one response per row; name the column that tells which rows answer the same prompt"
            f"{hint}: input.group: {{by: COLUMN}}; or the candidates' lists in input.columns.responses"
        )
    control = ControlRule(rule.control.measure, rule.control.seed)
    by = _default_score(schema) if rule.by is None else rule.by
    stage = SelectStage(rule, by, roles, group, rule.cut_off == "keep", control, replaces=True)
    stage.check(schema)
    return stage


def _default_score(schema: pa.Schema) -> str:
    scores = [name.removeprefix("score.") for name in schema.names if name.startswith("score.")]
    if TOTAL in scores or len(scores) == 1:
        return TOTAL if TOTAL in scores else scores[0]
    if not scores:
        raise UserError("the input has no scores (score.NAME); run job: score on it first")
    raise UserError(f"{len(scores)} scores, and nothing says which decides: select.by: one of {', '.join(scores)}")
