"""Every registered rule, ready to be tried: the knobs it cannot do without, and which columns it reads."""

from typing import Any

import rmbatch
from rmbatch.rewards.contract import GROUP_KINDS
from rmbatch.rewards.function import Reward
from rmbatch.rewards.registry import BUILTIN, resolve

NEEDED: dict[str, dict[str, Any]] = {
    "contains_all": {"substrings": ["the", "a"]},
    "contains_any": {"substrings": ["the", "a"]},
    "detoxify_reward": {"model": "no/such-model"},
    "pattern_match": {"pattern": "(a+)+$"},
    "text_constraints": {"max_words": 3, "keywords": ["the"], "casing": "lower"},
}
"""Knobs without a default that would do."""

RULES = sorted(set(BUILTIN) - {"detoxify_reward"})
"""All but the one that needs a model."""
READS_RESPONSE = [name for name in RULES if set(resolve(name).columns) <= {"response", "reference"}]
"""Rules that need no further column."""
POINTWISE = [name for name in READS_RESPONSE if resolve(name).kind not in GROUP_KINDS]


def made(name: str, **knobs: Any) -> Reward:
    """The reward with its defaults, or with what it cannot do without."""
    reward: Reward = rmbatch.reward(name, **{**NEEDED.get(name, {}), **knobs})
    return reward
