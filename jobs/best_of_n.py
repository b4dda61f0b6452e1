"""The best-of-N job: scores every response and keeps the best of each prompt, with a reason for each that is not kept.

job: best_of_n
input: {path: candidates/}
rewards: {math: {reward: math_verify}, length: {reward: length_penalty}}
combine: {math: 1.0, length: 0.1}
select: {keep: 1, min_score: 0.5}
output: {path: best/}
"""

from connectors.errors import UserError
from jobs.config.sections import BestOfNJob
from jobs.score import score_stage
from rmbatch.rows.roles import Roles
from rmbatch.settings.names import nearest
from rmbatch.stages.score import TOTAL, ScoreStage
from rmbatch.stages.select import SelectStage


def stages(job: BestOfNJob, roles: Roles) -> list[ScoreStage | SelectStage]:
    """What the job does to each block of rows, in order; raises UserError where prompts cannot be told apart."""
    group = job.input.group.by if job.input.group else None
    if roles.responses is None and group is None:
        hint = f" (perhaps {roles.group!r})" if roles.group else ""
        raise UserError(
            "the input has one response per row; name the column that tells which rows answer the same prompt"
            f"{hint}: input.group: {{by: COLUMN}}"
        )
    if roles.responses is not None:
        group = None
    by = job.select.by or (TOTAL if job.combine else next(iter(job.rewards)))
    scoring = score_stage(job, roles)
    scores = [name.removeprefix("score.") for name in scoring.added() if name.startswith("score.")]
    if by not in scores:
        raise UserError(f"select.by: no score is called {by!r}; {nearest(by, scores)}")
    return [scoring, SelectStage(job.select, by, roles, group)]
