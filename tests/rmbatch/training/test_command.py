"""How verl is started, as text: command, environment, and what is refused before."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import UserError
from rmbatch.training import command
from rmbatch.training.command import Attempt
from rmbatch.training.recipe import Places, Resources, make_recipe
from rmbatch.training.spec import TrainSpec

PLACES = Places("/d/train.parquet", "/d/held_out.parquet", "/o/checkpoints", "/o/scores.jsonl", "/o/rollouts")
ATTEMPT = Attempt("/o/_rmbatch/attempts/2")
RECIPE = make_recipe("bradley_terry", "org/base", TrainSpec(gpus=8), None)
FACTS: dict[str, Any] = {"packages": {"verl": "0.9.1", "torch": "2", "rmbatch": "0.1.0", "tensorboard": "2.21.0"}}


def test_command_is_torchruns_with_all_overrides() -> None:
    overrides = command.all_overrides(RECIPE.overrides(PLACES), {"optim.weight_decay": 0.1}, FACTS, {})
    words = command.train_command(RECIPE, "/envs/verl/bin/python", overrides, ATTEMPT)
    assert words[:6] == ["/envs/verl/bin/python", "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"]
    assert words[6:10] == ["--nproc-per-node", "8", "-m", "rmbatch.training.on_verl.bradley_terry"]
    assert {"optim.lr=9e-06", "optim.weight_decay=0.1", "trainer.logger=[console,file,tensorboard]"} <= {*words}
    assert "hydra.run.dir=/o/_rmbatch/attempts/2" in words


def test_users_override_wins_over_the_recipes() -> None:
    made = {"a.b": 1, "+c.d": 2}
    found = command.all_overrides(made, {"a.b": 5, "c.d": 6, "+e": 7}, FACTS, {})
    assert {key: found[key] for key in ("a.b", "+c.d", "+e")} == {"a.b": 5, "+c.d": 6, "+e": 7}
    assert "c.d" not in found


def test_cluster_gets_verls_interpreter_by_ray_kwargs() -> None:
    of_a_new_ray = {"ray_kwargs.ray_init.num_cpus": 12, "+ray_kwargs.ray_init.num_gpus": 1}
    environment = command.environment({"HOME": "/root"}, "cuda", ATTEMPT)
    cluster = command.cluster_overrides("/envs/verl/bin/python", environment)
    found = command.all_overrides(of_a_new_ray, {}, {"packages": {}}, cluster)
    runtime_env = "ray_kwargs.ray_init.runtime_env"
    assert found == {
        "trainer.logger": ["console", "file"],
        f"{runtime_env}.py_executable": "/envs/verl/bin/python",
        f"+{runtime_env}.env_vars.VERL_FILE_LOGGER_PATH": ATTEMPT.metrics,
        f"+{runtime_env}.env_vars.TENSORBOARD_DIR": ATTEMPT.tensorboard,
    }


def test_environment_keeps_what_is_there_and_adds_its_own() -> None:
    own = {"PATH": "/bin", "VERL_FILE_LOGGER_PATH": "/elsewhere", "VERL_USE_EXTERNAL_MODULES": "mine"}
    found = command.environment(own, "cuda", ATTEMPT)
    assert found["VERL_FILE_LOGGER_PATH"] == "/o/_rmbatch/attempts/2/metrics.jsonl"
    assert (found["PATH"], found["VERL_USE_EXTERNAL_MODULES"], "VERL_PLATFORM" in found) == ("/bin", "mine", False)
    on_cpu = command.environment(own, "cpu", ATTEMPT)
    assert on_cpu["VERL_PLATFORM"] == "cpu"
    assert on_cpu["VERL_USE_EXTERNAL_MODULES"] == "rmbatch.training.on_verl.cpu_platform,mine"


def test_interpreter_is_the_named_one_or_the_environments() -> None:
    assert command.find_python(sys.executable, {}) == sys.executable
    assert command.find_python(None, {command.VERL_PYTHON: sys.executable}) == sys.executable
    with pytest.raises(
        UserError, match="there is no interpreter /nowhere/python; verl needs an environment of its own"
    ):
        command.find_python("/nowhere/python", {})


def test_base_that_is_not_there_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # `make demo-llm` leaves a model in this repository
    for base in ("/nowhere/model", "out/demo-llm/model"):
        with pytest.raises(UserError, match=f"base: there is no model in {base}; write a folder"):
            command.check_base(base)
    (tmp_path / "config.json").write_text("{}")
    command.check_base(str(tmp_path))
    command.check_base("Qwen/Qwen2.5-7B-Instruct")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ({"verl": None}, "has no package verl; pip install"),
        ({"verl": "0.9.1", "torch": "2.13", "rmbatch": None}, "has no package rmbatch"),
        ({"verl": "0.4.0", "torch": "2.13", "rmbatch": "0.1"}, r"has verl 0.4.0; this rmbatch knows 0.9"),
    ],
)
def test_environment_without_a_package_is_refused(packages: dict[str, str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.check_packages({"packages": packages}, "python", RECIPE)


def test_flash_attention_must_be_installed() -> None:
    recipe = make_recipe("bradley_terry", "b", TrainSpec(attention="flash_attention_2"), None)
    with pytest.raises(
        UserError, match="no package flash_attn; pip install flash-attn there, or write attention: sdpa"
    ):
        command.check_packages(FACTS, "python", recipe)


def test_unknown_key_is_told_with_the_nearest() -> None:
    unknown = [{"key": "optim.lrr", "nearest": ["optim.lr"]}]
    composed = {"facts": FACTS, "unknown": unknown, "error": None, "config": None}
    with pytest.raises(UserError, match=r"verl.optim.lrr: verl 0.9.1 has no such key; did you mean optim.lr\?"):
        command.check_unknown(composed, {"optim.lrr": 1})
    with pytest.raises(UserError, match=r"do not compose with verl 0\.9\.1: mismatched input"):
        command.check_unknown({**composed, "unknown": [], "error": "mismatched input"}, {})


@pytest.mark.parametrize(
    ("needed", "there", "message"),
    [
        (Resources(8, 0), Resources(1, 4), "needs 8 GPUs, and this machine has 1; write fewer, or device: cpu"),
        (Resources(2, 10), Resources(2, 8), "asks Ray for 10 CPUs .* has 8; without them it would wait for ever"),
    ],
)
def test_too_few_devices_are_refused_before_the_start(needed: Resources, there: Resources, message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.check_resources(needed, there, "this machine")
    command.check_resources(needed, needed, "this machine")


def test_runtime_env_that_collides_with_verls_is_refused() -> None:
    def job_config(**runtime_env: Any) -> dict[str, str]:
        return {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": runtime_env})}

    for wrong, name in (
        ({"py_executable": "python"}, "py_executable"),
        ({"env_vars": {"NCCL_ALGO": "x"}}, "NCCL_ALGO"),
    ):
        with pytest.raises(UserError, match=f"ray job submit: its runtime_env has .*{name}"):
            command.check_ray_job(job_config(**wrong))
    command.check_ray_job(job_config(working_dir=".", env_vars={"HF_HOME": "/x"}))
    command.check_ray_job({})
