"""What the adapters to trainers share: a reward of any kind, and its results for samples, whatever one of them does.

``trl.py`` and ``verl.py`` are the two; both call what this module makes. Like ``rmbatch/__init__.py`` it is part of the
face, which stands above all floors: a trainer may name a job file.

    made = TrainerReward.make("job.yaml")
    made.results([{"response": "4", "reference": "4"}])
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import rmbatch
from connectors.errors import JobError, UserError
from rmbatch.rewards.composition import leaf_rewards
from rmbatch.rewards.evaluation import Result, Reward
from rmbatch.rewards.function import BoundReward
from rmbatch.rewards.scores import RewardError
from rmbatch.rows.roles import ROLES
from rmbatch.settings.names import nearest

RAISED = "reward_raised"
"""The code of a sample on which the reward's own code raised."""


@dataclass(frozen=True)
class TrainerReward:
    """A reward, and where it reads what."""

    name: str
    reward: Reward
    columns: Mapping[str, Any]
    """Role, or parameter of a reward, to column."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """Those of them that the caller has named: they have to be there, the job file's need not."""

    def __post_init__(self) -> None:
        """Raises UserError for a column that is named for what the reward does not read."""
        known = (*ROLES, *self.reward.columns)
        for role in self.said:
            if role not in known:
                raise UserError(f"columns: reward {self.name!r} reads no {role!r}; {nearest(role, known)}")

    @classmethod
    def make(
        cls,
        reward: Any,
        *,
        columns: Mapping[str, Any] | None = None,
        knobs: Mapping[str, Any] | None = None,
        by: str | None = None,
    ) -> "TrainerReward":
        """Of a ``Reward``, a function or class, a reward's name, a job file or a dict; raises UserError."""
        if isinstance(reward, Reward):
            return cls(reward.name, reward, columns or {}, columns or {})
        if isinstance(reward, Mapping) or (isinstance(reward, str) and reward.endswith((".yaml", ".yml"))):
            from jobs.config.job_reward import load_rewards

            job = load_rewards(reward)
            return cls(*job.choose(by), {**job.columns, **(columns or {})}, columns or {})
        bound = rmbatch.reward(reward, **(knobs or {}))
        return cls(bound.name, bound, columns or {}, columns or {})

    def check(self) -> None:
        """Ask every rule about a response that is null, so that knobs that do not fit are a UserError now."""
        for _, rule in leaf_rewards({self.name: self.reward}):
            if isinstance(rule, BoundReward) and not rule.takes_offsets:
                with suppress(RewardError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                    rule.evaluate(dict.fromkeys(("response", *rule.columns)))

    def results(self, samples: Sequence[Mapping[str, Any]], *, contain_mistakes: bool = False) -> list[Any]:
        """``Reward.evaluate_batch``; a sample on which the reward raises gets no score, and the others keep theirs.

        ``contain_mistakes``: a UserError too is an error of its sample. A JobError (no server answers any more, the
        budget is used up) comes through: it says nothing about a response.
        """
        roles = {role: role for role in ("prompt", "response", "responses", "reference") if role in samples[0]}
        try:
            return self.reward.evaluate_batch(samples, columns=roles)
        except JobError:
            raise
        except UserError as mistake:
            if not contain_mistakes:
                raise
            error: Exception = mistake
        except Exception as fault:  # the boundary that owns whatever a reward's own code may raise
            error = fault
        if len(samples) > 1:
            middle = len(samples) // 2
            halves = (samples[:middle], samples[middle:])
            return [result for half in halves for result in self.results(half, contain_mistakes=contain_mistakes)]
        what = " ".join(f"{RAISED}: {type(error).__name__}: {error}".split())
        nothing = Result(None, what)
        return [[nothing] * len(samples[0]["responses"]) if "responses" in samples[0] else nothing]
