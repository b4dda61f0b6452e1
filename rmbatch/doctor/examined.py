"""What checks of a served model look at, without its weights. The checks are elsewhere.

Of settings and checkpoint: ``doctor.py``; of written conversations: ``writing_checks.py``; of answers: ``probes.py``.
"""

from dataclasses import dataclass
from typing import Any

from rmbatch.reward_models.reward import ModelReward
from rmbatch.reward_models.spec import RewardModelSpec

NO_LIMIT = 1 << 24
"""Tokens that no model takes."""
_SCALED_ROPE = ("linear", "dynamic")
"""Rotary embeddings that reach further than max_position_embeddings, by their factor; for vLLM too."""


@dataclass(frozen=True)
class Examined:
    """What is known of a model without its weights."""

    reward: ModelReward
    tokenizer: Any
    config: Any
    """None: it is served elsewhere, and its configuration is not here."""

    @property
    def spec(self) -> RewardModelSpec:
        """Its settings."""
        return self.reward.spec


def positions(config: Any) -> int | None:
    """The positions that a model has, as vLLM counts them; None where nothing tells."""
    text = config.get_text_config() if config is not None else None
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [each for each in rope.values() if isinstance(each, dict)] or [rope]  # of all layers, or by kind of layer
    factors = [each.get("factor") or 1.0 for each in kinds if each.get("rope_type") in _SCALED_ROPE]
    return int(limit * max(factors, default=1.0))
