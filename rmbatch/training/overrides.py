"""Overrides of verl's configuration as text: in hydra's grammar, from plain values; and old keys that verl ignores.

render({"optim.lr": 1e-06, "data.train_files": "/data/train.parquet", "+model.x": [1, None]})
# ["optim.lr=1e-06", "data.train_files='/data/train.parquet'", "+model.x=[1,null]"]
flatten_overrides({"actor_rollout_ref": {"rollout": {"n": 8}}})      # {"actor_rollout_ref.rollout.n": 8}
"""

import re
from collections.abc import Mapping
from typing import Any

from connectors.errors import UserError

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "inf", "nan"}
LEGACY = {
    "custom_reward_function": "reward.custom_reward_function",
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.model.path": "reward.reward_model.model_path",
    "reward_model.launch_reward_fn_async": None,
    "reward_model.reward_kwargs": "reward.reward_kwargs",
    "reward_model.sandbox_fusion": "reward.sandbox_fusion",
    "reward_model": "reward.reward_model",
    "sandbox_fusion": "reward.sandbox_fusion",
    "reward_manager": "reward.reward_manager.name",
    "data.val_batch_size": None,
}
"""Keys of former versions that verl 0.9 still parses and ignores, or refuses: the new key; None: there is none."""
LEGACY_VALUES = {
    ("actor_rollout_ref.rollout.mode", "sync"): "async",
    ("actor_rollout_ref.rollout.name", "hf"): "vllm",
}
"""Values of former versions that fail only when everything has been loaded, and what to write instead."""


def flatten_overrides(written: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values that are no mappings. ``{}`` stays a value."""
    found: dict[str, Any] = {}
    for key, value in written.items():
        if isinstance(value, Mapping) and value:
            found |= flatten_overrides(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def refuse_legacy(written: Mapping[str, Any]) -> None:
    """Raises UserError for a key of a former version, with the new one. ``written``: dotted keys, perhaps with a +."""
    for name, value in written.items():
        key = name.lstrip("+")
        old = next((each for each in LEGACY if key == each or key.startswith(f"{each}.")), None)
        if old is not None:
            new = LEGACY[old]
            cure = "leave it out" if new is None else f"write {new}{key.removeprefix(old)}"
            raise UserError(f"verl.{name}: verl 0.9 ignores this key of former versions; {cure}")
        if (key, value) in LEGACY_VALUES:
            raise UserError(f"verl.{name}: verl 0.9 has no {value!r} any more; write {LEGACY_VALUES[key, value]}")


def render(overrides: Mapping[str, Any]) -> list[str]:
    """Each override as hydra's command line takes it."""
    return [f"{key}={render_value(value)}" for key, value in overrides.items()]


def render_value(value: Any) -> str:
    """A plain value in hydra's grammar; text that could be read as something else is quoted."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(render_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{render_value(each)}" for key, each in value.items()) + "}"
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no plain value")
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", value)  # only backslashes before a quote have a meaning
    ends = len(quoted) - len(quoted.rstrip("\\"))
    return f"'{quoted}{chr(92) * ends}'"
