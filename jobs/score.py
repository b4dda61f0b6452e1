"""The score job: every response gets the scores of all rewards, and every row is kept.

job: score
input: {path: answers.jsonl}
rewards: {f1: {reward: f1_score}}
output: {path: scored/}
"""

from connectors.errors import UserError
from jobs.config.sections import BestOfNJob, ScoreJob
from rmbatch.rewards.evaluation import Reward
from rmbatch.rows.roles import Roles
from rmbatch.stages.score import ScoreStage


def stages(job: ScoreJob, roles: Roles) -> list[ScoreStage]:
    """What the job does to each block of rows, in order."""
    return [score_stage(job, roles)]


def built_rewards(job: ScoreJob | BestOfNJob) -> dict[str, Reward]:
    """The job's rewards by name; raises UserError for an unknown reward or knob, or a weight without its reward."""
    rewards = {name: config.build() for name, config in job.rewards.items()}
    if job.combine is not None:
        job.combine.check(list(rewards))
    return rewards


def score_stage(job: ScoreJob | BestOfNJob, roles: Roles) -> ScoreStage:
    """The job's rewards, bound to their knobs; raises UserError for an unknown reward or knob."""
    rewards = built_rewards(job)
    group = job.input.group.by if job.input.group and roles.responses is None else None
    comparing = [name for name, reward in rewards.items() if reward.takes_offsets]
    if comparing and roles.responses is None and group is None:
        raise UserError(
            f"reward {comparing[0]!r} compares the responses of one prompt; name the prompt's key in input.group.by"
        )
    return ScoreStage(rewards, roles, job.combine, group, job.run.on_error)
