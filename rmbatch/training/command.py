"""The command line and the environment by which verl is started, as text; and what its environment must have.

command = train_command(recipe, "/envs/verl/bin/python", overrides, Attempt("/out/_rmbatch/attempts/1"))
environment(os.environ, recipe.train.device, attempt)["VERL_FILE_LOGGER_PATH"]
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.errors import UserError
from rmbatch.training.overrides import render
from rmbatch.training.recipe import Recipe, Resources

VERL_PYTHON = "RMBATCH_VERL_PYTHON"
"""The environment's variable that names verl's interpreter where the job file does not."""
DEFAULT_PYTHON = ".venv-verl/bin/python"
"""Where ``make`` puts it."""
INSTALL = 'pip install "verl==0.9.1" "TransferQueue>=0.1.10" fastapi uvicorn cachetools rmbatch'
SUPPORTED = "0.9."
"""The versions of verl that the overrides are made for."""
_RAY_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_ENV_VARS_OF_VERL = (
    *("VERL_FULL_DETERMINISM", "VLLM_BATCH_INVARIANT", "VERL_RL_INSIGHT_ENABLE", "PYTHONHASHSEED"),
    *("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC", "NCCL_DETERMINISTIC", "NCCL_ALGO"),
)
"""What verl gives its own Ray workers; Ray refuses a job whose runtime_env gives them too."""
_OF_A_NEW_RAY = {
    f"ray_kwargs.ray_init.{name}" for name in ("num_cpus", "num_gpus", "object_store_memory", "include_dashboard")
}
"""What only a Ray that is started takes; one that runs refuses it."""
_FOR_WORKERS = (
    *("VERL_FILE_LOGGER_PATH", "TENSORBOARD_DIR", "VERL_USE_EXTERNAL_MODULES", "VERL_PLATFORM", "VERL_ENGINE_DEVICE"),
)
"""Variables that verl's workers read; those of a Ray that verl starts itself inherit them."""
CPU_PLATFORM = "rmbatch.training.on_verl.cpu_platform"


@dataclass(frozen=True)
class Attempt:
    """One start of verl, and where it writes what belongs to it alone."""

    folder: str

    @property
    def metrics(self) -> str:
        """verl's metrics, a line each step. A resumed run would empty the file of the one before."""
        return f"{self.folder}/metrics.jsonl"

    @property
    def log(self) -> str:
        """All that verl says."""
        return f"{self.folder}/log"

    @property
    def tensorboard(self) -> str:
        """TensorBoard's events."""
        return f"{self.folder}/tensorboard"


def all_overrides(
    recipe_overrides: Mapping[str, Any], own: Mapping[str, Any], facts: Mapping[str, Any], cluster: Mapping[str, Any]
) -> dict[str, Any]:
    """The recipe's overrides and the user's, which win; and the loggers that the environment has.

    ``facts``: what ``on_verl/compose.py`` tells. ``cluster``: of ``cluster_overrides``; empty where verl starts a Ray.
    """
    loggers = ["console", "file", *(["tensorboard"] if facts["packages"].get("tensorboard") else [])]
    found: dict[str, Any] = {"trainer.logger": loggers, **recipe_overrides}
    if cluster:
        found = {key: value for key, value in found.items() if key.lstrip("+") not in _OF_A_NEW_RAY} | dict(cluster)
    for key, value in own.items():
        bare = key.lstrip("+")
        found = {name: each for name, each in found.items() if name.lstrip("+") != bare}
        found[f"+{bare}" if f"+{bare}" in recipe_overrides else key] = value
    return found


def cluster_overrides(python: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What verl's workers on a running Ray cluster have to know: the interpreter and variables of the environment.

    In the runtime_env of `ray job submit` the interpreter would collide with verl's own.
    """
    runtime_env = "ray_kwargs.ray_init.runtime_env"
    variables = {name: environment[name] for name in _FOR_WORKERS if environment.get(name)}
    return {f"{runtime_env}.py_executable": python} | {
        f"+{runtime_env}.env_vars.{name}": value for name, value in variables.items()
    }


def train_command(recipe: Recipe, python: str, overrides: Mapping[str, Any], attempt: Attempt) -> list[str]:
    """The command that trains."""
    quiet = [f"hydra.run.dir={attempt.folder}", "hydra.output_subdir=null"]
    quiet += ["hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]
    return [*recipe.command(python), *quiet, *render(overrides)]


def convert_command(recipe: Recipe, python: str, checkpoint: str, folder: str) -> list[str]:
    """The command that makes a checkpoint a model folder."""
    precision = "float32" if recipe.train.device == "cpu" else "bfloat16"  # what its forward passes computed with
    return [python, "-m", "rmbatch.training.on_verl.convert", recipe.kind, precision, checkpoint, folder]


def compose_command(recipe: Recipe, python: str) -> list[str]:
    """The command that composes the configuration; its input is the list of overrides as JSON."""
    return [python, "-m", "rmbatch.training.on_verl.compose", recipe.config_name]


def environment(own: Mapping[str, str], device: str, attempt: Attempt) -> dict[str, str]:
    """The environment of verl's process."""
    found = {
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        **own,
        "VERL_FILE_LOGGER_PATH": attempt.metrics,
        "TENSORBOARD_DIR": attempt.tensorboard,
        "PYTHONUNBUFFERED": "1",
    }
    if device == "cpu":
        modules = [each for each in own.get("VERL_USE_EXTERNAL_MODULES", "").split(",") if each]
        found["VERL_USE_EXTERNAL_MODULES"] = ",".join(dict.fromkeys([CPU_PLATFORM, *modules]))
        found |= {"VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda"}
        # its processes are many and mostly wait, so Ray should start none before they are wanted
        found |= {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
    return found


def find_python(named: str | None, own: Mapping[str, str]) -> str:
    """verl's interpreter: the job file's, else the environment's, else make's. Raises UserError where there is none."""
    python = named or own.get(VERL_PYTHON) or DEFAULT_PYTHON
    found = os.path.abspath(python)
    if not os.access(found, os.X_OK):
        raise UserError(
            f"verl_python: there is no interpreter {python}; verl needs an environment of its own: make one with "
            f"`{INSTALL}`, and name its python in verl_python or {VERL_PYTHON}"
        )
    return found


def check_base(base: str) -> None:
    """Raises UserError for a path where no model is. A name on the hub has at most one slash."""
    is_path = base.startswith(("/", ".")) or base.count("/") > 1
    if is_path and not os.path.isfile(os.path.join(base, "config.json")):
        raise UserError(f"base: there is no model in {base}; write a folder with a config.json, or a name on the hub")


def check_packages(facts: Mapping[str, Any], python: str, recipe: Recipe) -> None:
    """Raises UserError where verl's environment lacks a package that this training needs."""
    packages = facts["packages"]
    for name in ("verl", "torch", "rmbatch", *(("TransferQueue",) if recipe.config_name == "ppo_trainer" else ())):
        if packages.get(name) is None:
            raise UserError(f"verl_python: {python} has no package {name}; {INSTALL}")
    if not packages["verl"].startswith(SUPPORTED):
        raise UserError(f"verl_python: {python} has verl {packages['verl']}; this rmbatch knows {SUPPORTED}*")
    if recipe.train.attention == "flash_attention_2" and packages.get("flash_attn") is None:
        raise UserError(
            f"train.attention: {python} has no package flash_attn; pip install flash-attn there, or write "
            "attention: sdpa"
        )


def check_unknown(composed: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises UserError for keys that the installed verl does not have, and for values that it does not take.

    ``composed``: what ``on_verl/compose.py`` printed. ``own``: the keys that the job file names.
    """
    version = composed["facts"]["packages"]["verl"]
    for each in composed["unknown"]:
        where = "verl" if each["key"] in own else "this recipe's"
        near = " or ".join(each["nearest"]) or "see its configuration"
        raise UserError(f"{where}.{each['key']}: verl {version} has no such key; did you mean {near}? +KEY adds one")
    if composed["error"] is not None:
        raise UserError(f"verl: the overrides do not compose with verl {version}: {composed['error']}")


def check_resources(needed: Resources, there: Resources, where: str) -> None:
    """Raises UserError where too few GPUs or CPUs are there. verl itself would wait for CPUs for ever."""
    if there.gpus < needed.gpus:
        raise UserError(
            f"train.gpus: the training needs {needed.gpus} GPUs, and {where} has {there.gpus}; write fewer, or "
            "device: cpu for a small model"
        )
    if there.cpus < needed.cpus:
        raise UserError(
            f"train: verl asks Ray for {needed.cpus} CPUs ({needed.gpus} GPUs with 3 each, its transfer queue and its "
            f"driver), and {where} has {there.cpus}; without them it would wait for ever. Give Ray more with "
            "verl: {ray_kwargs.ray_init.num_cpus: N}, or train on fewer GPUs"
        )


def check_ray_job(own: Mapping[str, str]) -> None:
    """Raises UserError where `ray job submit` was given a runtime_env that collides with the one verl gives Ray."""
    try:
        runtime_env = json.loads(own.get(_RAY_JOB_CONFIG) or "{}").get("runtime_env") or {}
    except ValueError:
        return
    names: Sequence[str] = [f"env_vars.{each}" for each in _ENV_VARS_OF_VERL if each in runtime_env.get("env_vars", {})]
    if runtime_env.get("py_executable"):
        names = ["py_executable", *names]
    if names:
        raise UserError(
            f"ray job submit: its runtime_env has {', '.join(names)}, which verl gives Ray too, and Ray refuses both; "
            "leave it out (verl_python says which interpreter verl's workers have)"
        )
