"""A served model without its weights: its settings, tokenizer and configuration.

The checks of these are in ``reward_models.py``, those of its conversations in ``conversations.py``, and those of the
loaded model's answers in ``model_probes.py``.
"""

from dataclasses import dataclass
from typing import Any

from rmbatch.reward_models.reward import ModelReward
from rmbatch.reward_models.spec import RewardModelSpec

NO_LIMIT = 1 << 24
"""More tokens than any model takes."""
_SCALED_ROPE = ("linear", "dynamic")
"""Rotary embeddings that reach further than max_position_embeddings, by their factor; for vLLM too."""


@dataclass(frozen=True)
class ModelFiles:
    """A model's settings, tokenizer and configuration."""

    reward: ModelReward
    tokenizer: Any
    config: Any
    """None: the model is served elsewhere, and its configuration is not here."""

    @property
    def spec(self) -> RewardModelSpec:
        """Its settings."""
        return self.reward.spec


def max_positions(config: Any) -> int | None:
    """The number of positions of a model, as vLLM counts them; None where it is unknown."""
    text = config.get_text_config() if config is not None else None
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [each for each in rope.values() if isinstance(each, dict)] or [rope]  # of all layers, or by kind of layer
    factors = [each.get("factor") or 1.0 for each in kinds if each.get("rope_type") in _SCALED_ROPE]
    return int(limit * max(factors, default=1.0))
