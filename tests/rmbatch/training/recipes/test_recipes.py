"""Recipes: which rows they make of the input, what judges then see, and overrides that the installed verl composes."""

import json
from typing import Any

import pyarrow as pa
import pytest
import yaml

import rmbatch
from jobs.config.job_types import parse_job
from jobs.config.training import TrainJob
from rmbatch.judges.kinds.base import parse_judge
from rmbatch.rows.roles import flatten, guess_roles
from rmbatch.training import command
from rmbatch.training.overrides import render
from rmbatch.training.process import ask
from rmbatch.training.recipe import RECIPES, Places, Recipe, Rows, make_recipe
from rmbatch.training.recipes.bradley_terry import length_baseline
from rmbatch.training.spec import TrainSpec
from rmbatch.training.verdicts import Truth
from tests.on_verl import VERL_PYTHON, needs_verl

KINDS = {"grpo_pointwise": "pointwise", "grpo_pairwise": "pairwise", "grpo_first_error": "stepwise"}
PLACES = Places("/d/train.parquet", "/d/held out.parquet", "/o/checkpoints", "/o/scores.jsonl", "/o/rollouts")


def recipe_of(name: str, train: dict[str, Any] | None = None, **judge: Any) -> Recipe:
    kind = KINDS.get(name)
    made = kind and parse_judge({"judge": kind, "endpoint": "http://x", "model": "m", "structured": "text", **judge})
    return make_recipe(name, "org/base", TrainSpec(**(train or {})), made or None)


def read(recipe: Recipe, lines: list[dict[str, Any]], **columns: str) -> Rows:
    table = pa.Table.from_pylist(lines)
    return recipe.read_rows(table, guess_roles(table.schema, columns), 100)


def test_pairs_with_a_fault_are_counted_by_it() -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1.5}
    faults = [
        {**good, "prompt": None},
        {**good, "chosen": None},
        {**good, "rejected": " "},
        {**good, "rejected": "a"},
        {**good, "margin": None},
    ]
    found = read(recipe_of("bradley_terry"), [good, *faults])
    assert found.table["row"].to_pylist() == [100, 105]
    assert found.table["margin"].to_pylist() == [1.5, None]
    assert found.unusable == {"chosen_missing": 1, "equal_answers": 1, "prompt_missing": 1, "rejected_missing": 1}
    assert found.prompts.to_pylist() == [[{"role": "user", "content": "p"}]] * 2


def test_columns_have_the_names_that_the_job_gives() -> None:
    found = read(
        recipe_of("bradley_terry"), [{"q": "p", "good": "a", "bad": "b"}], prompt="q", chosen="good", rejected="bad"
    )
    assert found.table.select(["chosen", "rejected", "margin"]).to_pylist() == [
        {"chosen": "a", "rejected": "b", "margin": None}
    ]


def truths(rows: Rows) -> list[Truth]:
    return [Truth.from_json(row["reward_model"]["ground_truth"]) for row in rows.table.to_pylist()]


def questions(rows: Rows) -> list[str]:
    return [row["prompt"][-1]["content"] for row in rows.table.to_pylist()]


@pytest.mark.parametrize(
    ("name", "line", "row"),
    [
        ("grpo_pointwise", {"response": "r", "label": 3.0}, {"prompt": "p", "response": "r"}),
        ("grpo_first_error", {"steps": ["s", "t"], "error_steps": [1]}, {"prompt": "p", "response": "s\n\nt"}),
    ],
)
def test_question_is_the_one_that_a_judge_asks(name: str, line: dict[str, Any], row: dict[str, Any]) -> None:
    settings = {"principles": ["Be kind."], "structured": "text"}
    recipe = recipe_of(name, **settings)
    judge = rmbatch.judge(KINDS[name], endpoint="http://x", model="m", **settings)
    table = pa.Table.from_pylist([row])
    view = flatten(table, guess_roles(table.schema))
    asked = [question.text for question in judge.questions(view.column)]
    assert questions(read(recipe, [{"prompt": "p", **line}])) == asked


def test_pair_is_asked_as_a_judge_asks_it_and_in_both_orders() -> None:
    judge = rmbatch.judge("pairwise", endpoint="http://x", model="m", structured="text")
    table = pa.table({"prompt": ["p"], "responses": [["good", "bad"]]})
    view = flatten(table, guess_roles(table.schema))
    asked = {question.text for question in judge.questions(view.column, view.offsets)}
    found = read(recipe_of("grpo_pairwise"), [{"prompt": "p", "chosen": "good", "rejected": "bad"}])
    assert {*questions(found)} == asked
    assert [truth.label for truth in truths(found)] == ["A", "B"]
    assert questions(found)[0].index("good") < questions(found)[0].index("bad")


@pytest.mark.parametrize(("preference", "labels"), [(-2, ["A", "B"]), (0, ["tie", "tie"]), (1, ["B", "A"])])
def test_preference_by_sign(preference: int, labels: list[str]) -> None:
    line = {"prompt": "p", "responses": ["x", "y"], "preference": preference}
    assert [truth.label for truth in truths(read(recipe_of("grpo_pairwise"), [line]))] == labels


def test_tie_is_no_row_where_the_judge_may_not_say_it() -> None:
    line = {"prompt": "p", "responses": ["x", "y"], "preference": 0}
    found = read(recipe_of("grpo_pairwise", ties=False), [line])
    assert (found.table.num_rows, found.unusable) == (0, {"tie_without_judge_ties": 1})


@pytest.mark.parametrize(
    ("steps", "errors", "label"),
    [
        (["a", "b", "c"], [], -1),
        (["a", "b", "c"], [2, 1], 1),
        (["a\n\nb", "c"], [1], 1),
    ],  # a step of two paragraphs is one
)
def test_first_wrong_step(steps: list[str], errors: list[int], label: int) -> None:
    found = read(recipe_of("grpo_first_error"), [{"prompt": "p", "steps": steps, "error_steps": errors}])
    (truth,) = truths(found)
    assert (truth.label, truth.form["num_steps"]) == (label, len(steps))


def test_rows_without_a_usable_label_are_counted() -> None:
    rated = read(recipe_of("grpo_pointwise", scale=[0, 4]), [
        {"prompt": "p", "response": "r", "label": 9.0},
        {"prompt": "p", "response": "r", "label": None},
        {"prompt": "p", "response": None, "label": 1.0},
    ])  # fmt: skip
    assert rated.unusable == {"label_missing": 1, "label_off_the_scale": 1, "missing_response": 1}
    stepped = read(recipe_of("grpo_first_error"), [
        {"prompt": "p", "steps": ["a"], "error_steps": [3]},
        {"prompt": "p", "steps": ["a"], "error_steps": None},
        {"prompt": "p", "steps": None, "error_steps": [0]},
        {"prompt": "p", "steps": ["a", " "], "error_steps": [0]},
    ])  # fmt: skip
    assert stepped.unusable == {"error_step_out_of_range": 1, "error_steps_missing": 1, "missing_response": 2}


def test_verls_row_has_what_verl_reads() -> None:
    line = {"prompt": "p", "response": "r", "label": 3}
    (row,) = read(recipe_of("grpo_pointwise", {"decay": 1.5}, system="You judge."), [line]).table.to_pylist()
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["extra_info"] == {"index": 100, "label": "3.0"}
    assert json.loads(row["reward_model"]["ground_truth"])["decay"] == 1.5
    assert row["data_source"] == "grpo_pointwise"


@pytest.mark.parametrize(
    ("train", "held_out", "accuracy"),
    [
        ([("long", "s")], [("long", "s"), ("s", "long")], 0.5),
        ([("long", "s")], [("long", "s")], 1.0),
        ([("s", "long")], [("s", "long")], 1.0),  # the shorter one, where training says so
        ([("s", "long")], [("same", "size")], 0.5),
        ([], [("a", "b")], None),
    ],
)
def test_length_alone(train: list[tuple[str, str]], held_out: list[tuple[str, str]], accuracy: float | None) -> None:
    def pairs(rows: list[tuple[str, str]]) -> pa.Table:
        return pa.table({"chosen": [a for a, _ in rows], "rejected": [b for _, b in rows]})

    assert length_baseline(pairs(train), pairs(held_out)) == accuracy


@pytest.mark.parametrize("name", KINDS)
def test_card_names_the_judge_that_was_trained(name: str) -> None:
    recipe = recipe_of(name, critique=False)
    job = {"job": "score", "input": {"path": "x"}, "output": {"path": "o"}}
    used = yaml.safe_load(recipe.describe_use("/models/trained"))
    parsed = parse_job({**job, **used}, "job.yaml")
    assert parsed.rewards["judge"].root.critique is False  # type: ignore[attr-defined]
    assert parsed.rewards["judge"].root.structured == "text"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "cpus"), [("grpo_pointwise", 8 * 3 + 2 + 1 + 1), ("grpo_pairwise", 28), ("bradley_terry", 0)]
)
def test_cpus_of_a_node_with_eight_gpus(name: str, cpus: int) -> None:
    trainer = {"device": "cuda", "n_gpus_per_node": 8, "nnodes": 1}
    config = {"trainer": trainer, "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 2}}}}
    found = recipe_of(name).resources(config)
    assert (found.gpus, found.cpus) == (8, cpus)


@pytest.mark.verl
@needs_verl
@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("name", RECIPES)
def test_overrides_compose_with_the_installed_verl(name: str, device: str) -> None:
    recipe = recipe_of(name, {"device": device, "epochs": 2})
    compose = command.compose_command(recipe, VERL_PYTHON)
    facts = {"packages": {"tensorboard": "2"}}
    environment = command.environment({}, device, command.Attempt("/o/attempts/1"))
    cluster = command.cluster_overrides("/envs/verl/bin/python", environment) if "grpo" in name else {}
    overrides = command.all_overrides(recipe.overrides(PLACES), {}, facts, cluster)
    composed = ask(compose, json.dumps(render(overrides)))
    assert (composed["unknown"], composed["error"]) == ([], None)
    config = composed["config"]
    assert config["trainer"]["total_epochs"] == 2
    assert config["trainer"]["default_local_dir"] == "/o/checkpoints"
    lr = config["optim"]["lr"] if name == "bradley_terry" else config["actor_rollout_ref"]["actor"]["optim"]["lr"]
    assert lr == recipe.train.learning_rate
    if name != "bradley_terry":
        assert config["reward"]["custom_reward_function"]["path"] == "pkg://rmbatch.training.verdicts"
        runtime_env = config["ray_kwargs"]["ray_init"]["runtime_env"]
        assert runtime_env["py_executable"] == "/envs/verl/bin/python"
        assert runtime_env["env_vars"]["VERL_FILE_LOGGER_PATH"] == "/o/attempts/1/metrics.jsonl"


@pytest.mark.verl
@needs_verl
def test_unknown_key_is_found_by_composing() -> None:
    recipe = recipe_of("grpo_pointwise")
    wrong = ["actor_rollout_ref.rollout.gpu_memory_utilisation=0.5", "trainer.nnodes=1", "+anything.new=1"]
    composed = ask(command.compose_command(recipe, VERL_PYTHON), json.dumps(wrong))
    assert [each["key"] for each in composed["unknown"]] == ["actor_rollout_ref.rollout.gpu_memory_utilisation"]
    assert composed["unknown"][0]["nearest"][0] == "actor_rollout_ref.rollout.gpu_memory_utilization"
    assert ask(command.compose_command(recipe, VERL_PYTHON), json.dumps(["trainer.nnodes=[1"]))["error"]


def test_job_file_makes_the_recipe() -> None:
    job = parse_job(
        {
            "job": "train_rm",
            "recipe": "grpo_pairwise",
            "input": {"path": "x"},
            "base": "b",
            "verl": {"actor_rollout_ref": {"rollout": {"n": 8}}},
            "output": {"path": "o"},
        },
        "job.yaml",
    )
    assert isinstance(job, TrainJob)
    assert job.verl == {"actor_rollout_ref.rollout.n": 8}
    assert job.make_recipe().judge is not None
    assert job.identity()["judge"]["judge"] == "pairwise"
