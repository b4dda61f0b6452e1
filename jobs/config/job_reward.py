"""The rewards of a job file, or of a dict as its ``rewards:`` is, and the one that is the score.

name, reward = load_rewards("job.yaml").choose()
load_rewards({"math": {"reward": "math_verify"}, "form": {"reward": "reasoning_format"}}).choose(by="math")
load_rewards({"rewards": {...}, "combine": {"math": 1.0, "form": 0.1}})
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, model_validator

from connectors.errors import UserError
from jobs.config.file import read_job_file
from jobs.config.job_types import parse_job
from jobs.config.rewards import COMPOSITIONS, Name, RewardConfig
from jobs.config.sections import RewardJob
from rmbatch.rewards.composition import WeightedSum
from rmbatch.rewards.evaluation import Reward
from rmbatch.rewards.totals import CombineRule
from rmbatch.settings.base import Settings
from rmbatch.settings.mistakes import validate
from rmbatch.settings.names import nearest
from rmbatch.stages.score import TOTAL


@dataclass(frozen=True)
class JobRewards:
    """A job's rewards, and which of them is its score."""

    rewards: Mapping[str, Reward]
    combine: CombineRule | None = None
    by: str | None = None
    """``select.by``."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """``input.columns``."""

    def choose(self, by: str | None = None) -> tuple[str, Reward]:
        """The score and its name: ``by``, else what the job selects by, its total, or its only reward.

        Raises UserError where nothing says which one, or there is none of this name.
        """
        rewards, name = {**self.rewards}, by or self.by
        if self.combine is not None:
            rewards[TOTAL] = WeightedSum(self.rewards, self.combine)
            name = name or TOTAL
        if name is None and len(rewards) > 1:
            raise UserError(
                f"{len(rewards)} rewards and no say in which is the score: give weights in combine: "
                f"{{{', '.join(f'{each}: 1.0' for each in rewards)}}}, or name one: by={next(iter(rewards))!r}"
            )
        name = name or next(iter(rewards))
        if name not in rewards:
            raise UserError(f"by: no score is called {name!r}; {nearest(name, rewards)}")
        return name, rewards[name]


class _Rewards(Settings):
    """What a dict says: ``rewards:`` and ``combine:`` of a job file."""

    rewards: Annotated[dict[Name, RewardConfig], Field(min_length=1)]
    combine: CombineRule | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, written: Any) -> Any:
        if isinstance(written.get("rewards"), Mapping):
            return written
        return {"rewards": {"reward": written} if _is_one(written) else written}


def _is_one(written: Mapping[str, Any]) -> bool:
    """Whether this is one entry of ``rewards:``, not several by name."""
    if any(isinstance(written.get(key), str) for key in ("reward", "model", "judge")):
        return True
    name, value = next(iter(written.items()), ("", None))
    return len(written) == 1 and name in COMPOSITIONS and isinstance(value, Mapping) and not _PARTS.isdisjoint(value)


_PARTS = {"parts", "require", "to"}
"""Keys of compositions, one of which each has."""


def load_rewards(written: str | Mapping[str, Any]) -> JobRewards:
    """The rewards of a job file (a path or a URL) or of a dict; raises UserError for what cannot be read."""
    if isinstance(written, str):
        job = parse_job(read_job_file(written, [], os.environ), written)
        if not isinstance(job, RewardJob):
            raise UserError(f"{written}: a job of the kind {job.job} has no rewards")
        return JobRewards(job.build_rewards(), job.combine, job.chosen_score, job.input.columns)
    given = validate(_Rewards, {**written}, where="rewards")
    rewards = {name: config.build() for name, config in given.rewards.items()}
    if given.combine is not None:
        given.combine.check(list(rewards))
    return JobRewards(rewards, given.combine)
