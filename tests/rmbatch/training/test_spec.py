"""The typed block: what each recipe fills in, and what it refuses."""

from typing import Any

import pytest

from connectors.errors import UserError
from rmbatch.training.recipe import RECIPES
from rmbatch.training.spec import GRPO_ONLY, SCALAR_ONLY, TrainSpec


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_fills_in_what_it_reads_and_no_more(recipe: str) -> None:
    filled = TrainSpec().for_recipe(recipe)
    others = GRPO_ONLY if recipe == "bradley_terry" else SCALAR_ONLY
    assert all(getattr(filled, name) is None for name in others)
    missing = {name for name in TrainSpec.model_fields if getattr(filled, name) is None}
    assert missing == {*others, "steps", *(() if recipe == "grpo_pointwise" else ("decay",))}


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("bradley_terry", {"kl": 0.1}, "train.kl: recipe bradley_terry does not read it"),
        ("grpo_pairwise", {"centring": 0.1}, "train.centring"),
        ("grpo_pairwise", {"decay": 1.0}, "train.decay"),
        ("bradley_terry", {"nodes": 2}, "train.nodes"),
        ("bradley_terry", {"device": "cpu", "gpus": 2}, "device: cpu has no GPUs"),
    ],
)
def test_setting_that_does_not_fit_is_refused(recipe: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainSpec(**settings).for_recipe(recipe)


def test_long_conversations_fit_on_a_device() -> None:
    assert TrainSpec(max_length=20_000).for_recipe("bradley_terry").device_tokens == 40_000
    assert TrainSpec(max_length=20_000, answer_tokens=500).for_recipe("grpo_pairwise").device_tokens == 20_500
