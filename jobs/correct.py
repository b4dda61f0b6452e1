"""The correct job: responses that are not good enough are edited in rounds, and the best of all texts is given out.

job: correct
input: {path: answers.jsonl}
rewards: {math: {reward: math_verify}, help: {judge: pointwise, principles: helpfulness, by: qwen}}
combine: {math: 1.0, help: 0.1}
correct: {gate: {below: 1.5}, editor: {by: qwen, edits: 2}, accept: {never_lower: [math]}}
output: {path: corrected/}
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import model_validator

from jobs.config.rewards import RewardConfig
from jobs.config.sections import RewardJob
from jobs.run.rows import RowJob
from rmbatch.correction.spec import CorrectSpec
from rmbatch.rows.roles import Roles, guess_roles
from rmbatch.stages.base import Fit, Needs
from rmbatch.stages.correct import CorrectStage
from rmbatch.stages.correction import make_correction, why_stop_correcting
from rmbatch.stages.score import ScoreStage
from rmbatch.stages.tally import Tally


class CorrectConfig(CorrectSpec):
    """How responses are corrected."""

    held_out: RewardConfig | None = None
    """A judge that takes no part in decisions and only watches: of each accepted edit it is asked whether it is better
    than what it replaced. None: nobody watches."""

    def identity(self) -> dict[str, Any]:
        """All that decides the result, as plain values."""
        plain = super().identity()
        if self.held_out is not None and hasattr(self.held_out, "identity"):
            plain["held_out"] = self.held_out.identity()
        return plain


class CorrectJob(RewardJob):
    """Responses that are not good enough are edited in rounds; every row is kept."""

    job: Literal["correct"]
    correct: CorrectConfig
    """How responses are corrected."""

    @model_validator(mode="after")
    def _check_rows_are_alone(self) -> Self:
        if self.input.group is not None:
            raise ValueError("input.group: each row is corrected by itself; leave it out")
        return self

    @property
    def chosen_score(self) -> str | None:
        return self.correct.score


class Correct(RowJob[CorrectJob]):
    """The correct job on its output."""

    config = CorrectJob
    num_waves = 4

    def fits(self) -> list[Fit]:
        return [partial(_fit_scores, self.job), partial(_fit_correction, self.job)]

    def why_stop(self, counts: Mapping[str, int]) -> str:
        return why_stop_correcting(self.job.correct.stop, Tally(counts).rounds())

    def needs(self) -> Needs:
        return _make_correction(self.job, Roles()).needs()


def _fit_scores(job: CorrectJob, schema: pa.Schema) -> ScoreStage:
    stage = _make_correction(job, guess_roles(schema, job.input.columns)).scored
    stage.check(schema)
    return stage


def _fit_correction(job: CorrectJob, schema: pa.Schema) -> CorrectStage:
    stage = _make_correction(job, guess_roles(schema, job.input.columns))
    stage.check(schema)
    return stage


def _make_correction(job: CorrectJob, roles: Roles) -> CorrectStage:
    held_out = None if job.correct.held_out is None else job.correct.held_out.build()
    return make_correction(
        job.correct, job.build_rewards(), roles, combine=job.combine, held_out=held_out, on_error=job.run.on_error
    )
