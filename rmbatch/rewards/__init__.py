"""Rewards turn columns into scores. ``from rmbatch.rewards import reward, Scores`` declares one of your own.

``contract.py`` says what a reward is, ``registry.py`` finds one by name, ``function.py`` binds its knobs,
``composition.py`` makes one of others, and ``evaluation.py`` applies it to samples and tables. ``rules/`` holds the
built-in rewards. No module here knows Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmbatch.rewards.composition import Cascade as Cascade
    from rmbatch.rewards.composition import Gate as Gate
    from rmbatch.rewards.composition import Router as Router
    from rmbatch.rewards.composition import WeightedSum as WeightedSum
    from rmbatch.rewards.composition import When as When
    from rmbatch.rewards.contract import RewardError as RewardError
    from rmbatch.rewards.contract import Scores as Scores
    from rmbatch.rewards.contract import reward as reward
    from rmbatch.rewards.evaluation import Candidate as Candidate
    from rmbatch.rewards.evaluation import Result as Result
    from rmbatch.rewards.evaluation import Reward as Reward
    from rmbatch.rewards.registry import describe as describe
    from rmbatch.rewards.registry import list_rewards as list_rewards
    from rmbatch.rewards.registry import resolve as resolve
    from rmbatch.rewards.totals import CombineRule as CombineRule

_HOME = {
    "Candidate": "rmbatch.rewards.evaluation",
    "Cascade": "rmbatch.rewards.composition",
    "CombineRule": "rmbatch.rewards.totals",
    "Gate": "rmbatch.rewards.composition",
    "Result": "rmbatch.rewards.evaluation",
    "Reward": "rmbatch.rewards.evaluation",
    "RewardError": "rmbatch.rewards.contract",
    "Router": "rmbatch.rewards.composition",
    "Scores": "rmbatch.rewards.contract",
    "WeightedSum": "rmbatch.rewards.composition",
    "When": "rmbatch.rewards.composition",
    "describe": "rmbatch.rewards.registry",
    "list_rewards": "rmbatch.rewards.registry",
    "resolve": "rmbatch.rewards.registry",
    "reward": "rmbatch.rewards.contract",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
