"""Overrides as hydra reads them, and keys of former versions of verl."""

import pytest

from connectors.errors import UserError
from rmbatch.training.overrides import LEGACY, flatten_overrides, refuse_legacy, render, render_value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "True"),
        (1e-06, "1e-06"),
        (3, "3"),
        ("vllm", "vllm"),
        ("null", "'null'"),  # text, not nothing
        ("", "''"),
        ("Qwen/Qwen2.5-7B", "'Qwen/Qwen2.5-7B'"),
        ("a b,c=[d]", "'a b,c=[d]'"),
        ("it's", r"'it\'s'"),
        (["console", None, 1], "[console,null,1]"),
        ({"a": 1}, "{a:1}"),
    ],
)
def test_value_in_hydras_grammar(value: object, text: str) -> None:
    assert render_value(value) == text


def test_nested_overrides_become_dotted_keys() -> None:
    nested = {"actor_rollout_ref": {"rollout": {"n": 8}}, "+data.x": {}, "trainer.nnodes": 2}
    assert flatten_overrides(nested) == {"actor_rollout_ref.rollout.n": 8, "+data.x": {}, "trainer.nnodes": 2}
    assert render({"optim.lr": 1e-6, "+x.y": "z"}) == ["optim.lr=1e-06", "+x.y=z"]


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("custom_reward_function.path", "write reward.custom_reward_function.path"),
        ("+custom_reward_function.name", "write reward.custom_reward_function.name"),
        ("reward_model.reward_manager", "write reward.reward_manager.name"),
        ("reward_model.model.path", "write reward.reward_model.model_path"),
        ("reward_model.enable", "write reward.reward_model.enable"),
        ("reward_model.launch_reward_fn_async", "leave it out"),
        ("reward_model.reward_kwargs.overlong_buffer_cfg", "write reward.reward_kwargs.overlong_buffer_cfg"),
        ("sandbox_fusion.url", "write reward.sandbox_fusion.url"),
        ("data.val_batch_size", "leave it out"),
    ],
)
def test_key_of_a_former_verl_is_refused(key: str, cure: str) -> None:
    with pytest.raises(UserError, match=cure):
        refuse_legacy({key: 1})


@pytest.mark.parametrize("key", LEGACY)
def test_every_former_key_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="ignores this key of former versions"):
        refuse_legacy({key: "x"})


@pytest.mark.parametrize(
    ("key", "value"), [("actor_rollout_ref.rollout.mode", "sync"), ("actor_rollout_ref.rollout.name", "hf")]
)
def test_value_of_a_former_verl_is_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"has no '{value}' any more"):
        refuse_legacy({key: value})


def test_keys_of_this_verl_pass() -> None:
    refuse_legacy({"reward.custom_reward_function.path": "x", "actor_rollout_ref.rollout.name": "vllm", "data.seed": 1})
