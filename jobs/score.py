"""The score job: every response gets the scores of all rewards, and every row is kept.

job: score
input: {path: answers.jsonl}
rewards: {f1: {reward: f1_score}}
output: {path: scored/}
"""

from functools import partial
from typing import Literal

import pyarrow as pa

from connectors.errors import UserError
from jobs.config.sections import RewardJob
from jobs.generate import GeneratingJob, GeneratingRowJob
from jobs.run.prepare import group_key
from rmbatch.stages.base import Fit
from rmbatch.stages.score import ScoreStage


class ScoreJob(GeneratingJob):
    """Every response gets the scores of all rewards; every row is kept."""

    job: Literal["score"]


class Score(GeneratingRowJob[ScoreJob]):
    """The score job on its output."""

    config = ScoreJob

    def fits(self) -> list[Fit]:
        return [*self.generation_fits(), partial(fit_score, self.job)]


def fit_score(job: RewardJob, schema: pa.Schema) -> ScoreStage:
    """Fit the job's rewards to these columns. Raises UserError for an unknown reward or knob, and a missing column."""
    roles = job.guess_roles(schema)
    rewards = job.build_rewards()
    group = group_key(job, roles)
    comparing = [name for name, reward in rewards.items() if reward.takes_offsets]
    if comparing and roles.responses is None and group is None:
        raise UserError(
            f"reward {comparing[0]!r} compares the responses of one prompt; name the prompt's key in input.group.by"
        )
    stage = ScoreStage(rewards, roles, job.combine, group, job.run.on_error)
    stage.check(schema)
    return stage
