"""A script that composes verl's configuration with overrides, and tells the environment; prints JSON, starts nothing.

    /envs/verl/bin/python -m rmbatch.training.on_verl.compose sft_trainer_engine < overrides.json

Its input is a JSON list of overrides. ``unknown``: keys that the installed verl does not have, each with the nearest
ones. ``error``: why it does not compose. ``config``: all of it, resolved. ``facts``: versions and devices.
verl itself is not imported, which would take half a minute; its configuration files are read where they are installed.
"""

import difflib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    "verl",
    "ray",
    "torch",
    "transformers",
    "vllm",
    "sglang",
    "tensorboard",
    "flash_attn",
    "TransferQueue",
    "rmbatch",
)


def main(config_name: str) -> int:
    """Print what is to be known; the status is 0 also where the overrides do not fit."""
    overrides = json.load(sys.stdin)
    found: dict[str, Any] = {"facts": read_facts(), "unknown": [], "error": None, "config": None}
    if found["facts"]["packages"]["verl"] is not None:
        found |= compose(config_name, overrides)
    print(json.dumps(found))
    return 0


def compose(config_name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose a configuration of the installed verl. The result has ``unknown``, ``error`` and ``config``."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    spec = find_spec("verl")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "trainer" / "config"
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        plain = OmegaConf.to_container(hydra_compose(config_name=config_name), resolve=False)
        known = list_keys(plain)
        unknown = [key for key in map(plain_key, overrides) if key is not None and key not in known]
        if unknown:
            return {"unknown": [{"key": key, "nearest": find_nearest(key, known)} for key in unknown]}
        try:
            composed = hydra_compose(config_name=config_name, overrides=overrides)
            return {"config": OmegaConf.to_container(composed, resolve=True)}
        except (HydraException, OmegaConfBaseException) as error:
            return {"error": " ".join(str(error).split())}


def plain_key(override: str) -> str | None:
    """The key that an override wants to be there; None for one that adds it (``+key=value``)."""
    key = override.split("=", 1)[0].strip()
    return None if key.startswith(("+", "~", "hydra.")) else key


def list_keys(config: Any, prefix: str = "") -> set[str]:
    """All keys of a nested configuration, dotted, those of inner nodes too."""
    found: set[str] = set()
    if isinstance(config, dict):
        for key, value in config.items():
            found |= {f"{prefix}{key}", *list_keys(value, f"{prefix}{key}.")}
    return found


def find_nearest(key: str, known: set[str]) -> list[str]:
    """The known keys that are most alike: first those with the same last part."""
    last = key.rpartition(".")[2]
    same_end = [each for each in known if each.rpartition(".")[2] == last]
    near = difflib.get_close_matches(key, sorted(same_end), n=3, cutoff=0.3)
    return near or difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.6)


def read_facts() -> dict[str, Any]:
    """Versions of packages (null: not installed), of Python, and the number of GPUs that torch sees."""
    found: dict[str, Any] = {"packages": {name: _find_version(name) for name in PACKAGES}}
    found["python"] = platform.python_version()
    found["gpus"] = 0
    if found["packages"]["torch"] is not None and "+cpu" not in found["packages"]["torch"]:
        import torch

        found["gpus"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return found


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
