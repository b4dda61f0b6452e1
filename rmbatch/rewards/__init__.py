"""Rewards: what turns columns into scores. ``from rmbatch.rewards import reward, Scores`` declares one of your own.

``contract.py`` is what a reward is, ``registry.py`` where names lead, ``bound.py`` one with its knobs set, ready to
score; the others are the built-in rewards. No module here knows Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmbatch.rewards.bound import Candidate as Candidate
    from rmbatch.rewards.bound import Result as Result
    from rmbatch.rewards.bound import Reward as Reward
    from rmbatch.rewards.contract import RewardError as RewardError
    from rmbatch.rewards.contract import Scores as Scores
    from rmbatch.rewards.contract import reward as reward
    from rmbatch.rewards.registry import describe as describe
    from rmbatch.rewards.registry import list_rewards as list_rewards
    from rmbatch.rewards.registry import resolve as resolve

_HOME = {
    "Candidate": "bound",
    "Result": "bound",
    "Reward": "bound",
    "RewardError": "contract",
    "Scores": "contract",
    "reward": "contract",
    "describe": "registry",
    "list_rewards": "registry",
    "resolve": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
