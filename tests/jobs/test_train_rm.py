"""train_rm: what is refused before anything starts, and real verl on the CPU: trained, killed, resumed, served."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from connectors.errors import UserError
from jobs.config.job_types import parse_job
from jobs.config.training import TrainJob
from rmbatch.endpoints.connections import close_all
from rmbatch.rows.roles import guess_roles
from rmbatch.training.checkpoints import last_step
from rmbatch.training.verdicts import Truth, compare
from tests.cluster.head import RayHead
from tests.jobs.running import by, rows
from tests.jobs.running import run as run_here
from tests.on_verl import PLUGINS, VERL_PYTHON, needs_verl
from tests.servers.s3 import REPOSITORY

RMBATCH = str(Path(sys.executable).with_name("rmbatch"))
GOOD, BAD = "acegikmoqsuwy", "bdfhjlnprtvxz"
PAIRS = {
    "job": "train_rm",
    "recipe": "bradley_terry",
    "base": "tiny",
    "train": {
        **{"device": "cpu", "epochs": 3, "batch": 16, "learning_rate": 2e-3, "max_length": 256, "save_every": 6},
        **{"measure_every": 12, "warmup": 0.0},
    },
    "held_out": 0.2,
    "input": {"path": "pairs.jsonl"},
    "output": {"path": "out"},
}
RATINGS = {
    "job": "train_rm",
    "recipe": "grpo_pointwise",
    "base": "tiny",
    "judge": {"scale": [0, 4], "critique": False, "structured": "text"},
    "train": {
        **{"device": "cpu", "steps": 3, "batch": 4, "candidates": 4, "learning_rate": 3e-4, "max_length": 1024},
        **{"answer_tokens": 16, "save_every": 1, "measure_every": 3},
    },
    "held_out": 0.3,
    "verl": {"actor_rollout_ref.rollout.name": "hf_cpu"},
    "input": {"path": "ratings.jsonl"},
    "output": {"path": "out"},
}


def write_jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def pairs(num: int) -> list[dict[str, Any]]:
    """Pairs whose better answer has letters of one half of the alphabet; a good answer is no longer than a bad one."""
    draw = random.Random(0)
    lines: list[dict[str, Any]] = []
    for number in range(num):
        chosen, rejected = (
            " ".join(draw.choice(letters) for _ in range(draw.randint(2, 5))) for letters in (GOOD, BAD)
        )
        lines.append({"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected})
    return lines


def command(folder: Path, job: Mapping[str, Any]) -> list[str]:
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "verl_python": VERL_PYTHON}))
    return [RMBATCH, "run", "job.yaml", "--json"]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), str(PLUGINS)])
    found = {**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "hf_rollout", "OMP_NUM_THREADS": "1"}
    found.pop("RAY_ADDRESS", None)
    return found


def run(folder: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """The report of the job, run to its end as its users do."""
    ended = subprocess.run(command(folder, job), cwd=folder, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:] + read_log(folder)
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


def kill_in_the_middle(folder: Path, job: Mapping[str, Any], step: int) -> None:
    """Run the job, and kill it with SIGKILL as soon as a checkpoint of this step or a later one is complete."""
    with (folder / "killed.log").open("wb") as log:
        running = subprocess.Popen(command(folder, job), cwd=folder, env=environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + 400
        while (last_step(folder / "out/checkpoints") or 0) < step:
            assert running.poll() is None, (folder / "killed.log").read_text()[-3000:] + read_log(folder)
            assert time.monotonic() < deadline, read_log(folder)
            time.sleep(0.1)
        running.send_signal(signal.SIGKILL)
        running.wait()
    deadline = time.monotonic() + 30
    while left := [
        each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or ())
    ]:
        assert time.monotonic() < deadline, f"{left} outlived its job"
        time.sleep(0.2)


def read_log(folder: Path) -> str:
    logs = sorted((folder / "out/_rmbatch/attempts").glob("*/log"))
    return "" if not logs else logs[-1].read_text(errors="replace")[-4000:]


def refuse(job: Mapping[str, Any], **changes: Any) -> str:
    with pytest.raises(UserError) as mistake:
        parse_job({**job, **changes}, "job.yaml")
    return str(mistake.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "bradley_tery"}, "recipe: there is no recipe 'bradley_tery'; did you mean 'bradley_terry'?"),
        ({"train": {"epoch": 1}}, "train.epoch: unknown key; did you mean 'epochs'?"),
        ({"train": {"kl": 0.1}}, "train.kl: recipe bradley_terry does not read it; leave it out"),
        ({"judge": {"judge": "pointwise", "endpoint": "http://x", "model": "m"}}, "judge: bradley_terry asks no judge"),
        ({"input": {"path": "x", "split": {"validation": 0.1}}}, "input.split: held_out says which share"),
        ({"output": {"path": "s3://team/rm"}}, "output.path: verl writes to disks, not to s3://team/rm"),
        ({"verl": {"custom_reward_function": {"path": "x"}}}, "write reward.custom_reward_function.path"),
    ],
)
def test_mistake_in_the_file_is_one_line(changes: dict[str, Any], said: str) -> None:
    assert said in refuse(PAIRS, **changes)


def test_trained_judge_asks_nobody() -> None:
    assert "judge.by: the judge is what is trained" in refuse(RATINGS, judge={"by": "qwen"})
    assert "recipe grpo_pointwise trains a pointwise judge" in refuse(RATINGS, judge={"judge": "pairwise"})


def test_missing_interpreter_is_told_before_any_work(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", pairs(64))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**PAIRS, "verl_python": "/nowhere/python"}))
    ended = subprocess.run(
        [RMBATCH, "run", "job.yaml"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "verl_python: there is no interpreter /nowhere/python" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A scalar reward model, trained with a SIGKILL in the middle; the folder of its job, and its report."""
    pytest.importorskip("torch")
    from tests.tiny_models import make_model

    folder = tmp_path_factory.mktemp("pairs")
    make_model(folder / "tiny", "causal")  # vLLM's attention on a CPU has no heads smaller than its 32
    write_jsonl(folder / "pairs.jsonl", pairs(200))
    kill_in_the_middle(folder, PAIRS, 6)
    killed_at = last_step(folder / "out/checkpoints")
    report = run(folder, PAIRS)
    return folder, {**report, "killed_at": killed_at}


@pytest.mark.verl
@needs_verl
@pytest.mark.timeout(900)
def test_accuracy_rises_and_a_killed_training_goes_on(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, report = trained
    held_out = report["held_out"]
    assert 0.2 < held_out["before"] < 0.8
    assert held_out["accuracy"] >= 0.95
    assert held_out["low"] > held_out["length_alone"]
    assert report["attempts"] == 2
    log = (folder / "out/_rmbatch/attempts/2/log").read_text()
    assert f"global_step_{report['killed_at']}" in log  # it has begun there
    first = [json.loads(line)["step"] for line in (folder / "out/_rmbatch/attempts/2/metrics.jsonl").open()]
    assert first[0] == report["killed_at"]
    assert first[-1] == report["steps"] == report["rows"]["train"] // 16 * 3
    prompts = {
        name: {
            row[0]["content"]
            for row in pq.read_table(folder / f"out/_rmbatch/data/{name}.parquet")["prompt"].to_pylist()
        }
        for name in ("train", "held_out")
    }
    assert prompts["train"].isdisjoint(prompts["held_out"])
    status = subprocess.run(
        [RMBATCH, "status", "out", "--json"],
        cwd=folder, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(status.stdout)["phase"] == "done"
    assert "rm: {model:" in (folder / "out/model/README.md").read_text()
    assert (folder / "out/curves.png").exists() == report["curves"]


@pytest.mark.verl
@needs_verl
@pytest.mark.timeout(900)
def test_converted_model_scores_as_the_trainer_did(trained: tuple[Path, dict[str, Any]]) -> None:
    """transformers gives, on the converted folder, the scores that verl's engine wrote for the held-out pairs."""
    pytest.importorskip("transformers")
    folder, _ = trained
    expected = [json.loads(line) for line in (folder / "out/_rmbatch/held_out_scores.jsonl").open()]
    rows = pq.read_table(folder / "out/_rmbatch/data/held_out.parquet").to_pylist()
    texts = [(row["prompt"][0]["content"], row[side]) for side in ("chosen", "rejected") for row in rows]
    measured = [each[side] for side in ("chosen", "rejected") for each in expected]
    shift = np.array(score_with_transformers(folder / "out/model", texts)) - measured
    assert np.ptp(shift) < 2e-4
    assert abs(shift).max() < 0.02  # the bias of the head, which the converted model has not


def score_with_transformers(model: Path, texts: list[tuple[str, str]]) -> list[float]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    found = []
    for prompt, response in texts:
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(said, tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            found.append(loaded(ids).logits.item())
    return found


@pytest.mark.verl
@pytest.mark.served
@pytest.mark.ray
@needs_verl
@pytest.mark.timeout(900)
def test_vllm_serves_the_model_with_the_same_scores(
    trained: tuple[Path, dict[str, Any]], local_ray: None, tmp_path: Path
) -> None:
    """A job scores by ``{model: FOLDER}`` on vLLM; transformers gives the same numbers, and the better letters win."""
    pytest.importorskip("vllm")
    folder, _ = trained
    lines = [
        {"id": n, "prompt": row["prompt"], "responses": [row["chosen"], row["rejected"]]}
        for n, row in enumerate(pairs(40))
    ]
    write_jsonl(tmp_path / "in.jsonl", lines)
    engine = {"gpus": 0, "cpus": 0.4, "dtype": "float32"}
    engine["engine_args"] = {"enforce_eager": True, "kv_cache_memory_bytes": 256 << 20}
    run_here(
        {
            "job": "score",
            "input": {"path": str(tmp_path / "in.jsonl")},
            "rewards": {"rm": {"model": str(folder / "out/model"), **engine}},
            "output": {"path": str(tmp_path / "out")},
        }
    )
    close_all()
    found = [row["score.rm"] for row in by("id", rows(tmp_path / "out"))]
    texts = [(line["prompt"], text) for line in lines for text in line["responses"]]
    expected = score_with_transformers(folder / "out/model", texts)
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-3)
    assert np.mean([good > bad for good, bad in found]) >= 0.95


def teach_verdicts(model: Path, prompts: list[Any], answers: list[str], steps: int = 150) -> None:
    """Teach a tiny model to say one of these answers to these prompts, the first mostly: then rewards differ."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    draw = random.Random(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # many threads on busy cores take many times as long
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=3e-3)
    for _ in range(steps):
        batch, labels = [], []
        for _ in range(4):
            asked = tokenizer.apply_chat_template(draw.choice(prompts), tokenize=False, add_generation_prompt=True)
            before = tokenizer(asked, add_special_tokens=False)["input_ids"]
            said = draw.choice([answers[0], *answers]) + "<|im_end|>"
            after = tokenizer(said, add_special_tokens=False)["input_ids"]
            batch.append(before + after)
            labels.append([-100] * len(before) + after)
        width = max(map(len, batch))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        wanted = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
        optimizer.zero_grad()
        loaded(input_ids=ids, attention_mask=mask, labels=wanted).loss.backward()
        optimizer.step()
    loaded.save_pretrained(model)


def prepare_judge(folder: Path, job: Mapping[str, Any], answers: list[str], lines: list[dict[str, Any]]) -> None:
    """The model and the input of a job, in a folder."""
    from tests.tiny_models import make_model

    make_model(folder / "tiny", "causal", hidden=64)
    parsed = parse_job(job, "job.yaml")
    assert isinstance(parsed, TrainJob)
    table = pa.Table.from_pylist(lines)
    rows = parsed.make_recipe().read_rows(table, guess_roles(table.schema), 0)
    teach_verdicts(folder / "tiny", rows.table["prompt"].to_pylist(), answers)
    write_jsonl(folder / Path(job["input"]["path"]).name, lines)


def check_judge(folder: Path, report: dict[str, Any], since: int = 0) -> None:
    """What all finished GRPO trainings have in common. ``since``: its metrics are whole after this step.

    verl tells a step's metrics after its checkpoint, so a kill in between loses those of one step.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from jobs.train_rm import _read_points

    points = _read_points(folder / "out/_rmbatch/attempts")
    recipe = report["recipe"]
    assert points[0][f"val-aux/{recipe}/parse_ok/mean@1"] > 0.5
    assert last_step(folder / "out/checkpoints") == report["steps"]
    trained_steps = [step for step, values in points.items() if "critic/score/mean" in values]
    assert {*trained_steps} >= {*range(since + 1, report["steps"] + 1)}
    assert any(points[step]["critic/score/mean"] > 0.1 for step in trained_steps)
    assert any(points[step]["actor/grad_norm"] > 0 for step in trained_steps)
    assert all(points[step]["training/rollout_actor_probs_pearson_corr"] > 0.99 for step in trained_steps)
    before = AutoModelForCausalLM.from_pretrained(folder / "tiny", dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder / "out/model", dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name].bfloat16(), after[name].bfloat16()) for name in before)  # as merged


@pytest.mark.verl
@needs_verl
@pytest.mark.timeout(900)
def test_judge_is_trained_by_main_ppo_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    draw = random.Random(0)
    lines = [
        {"prompt": f"Question {n}?", "response": "ok " * (label + 1), "label": label}
        for n in range(30)
        for label in [draw.randint(0, 4)]
    ]
    prepare_judge(tmp_path, RATINGS, [f"<score>{n}</score>" for n in (2, 0, 1, 3, 4)], lines)
    kill_in_the_middle(tmp_path, RATINGS, 1)
    killed_at = last_step(tmp_path / "out/checkpoints")
    assert killed_at is not None
    report = run(tmp_path, RATINGS)
    check_judge(tmp_path, report, killed_at)
    assert report["attempts"] == 2
    first = json.loads((tmp_path / "out/_rmbatch/attempts/2/metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == killed_at
    rollouts = [json.loads(line) for line in (tmp_path / "out/rollouts/3.jsonl").open()]
    assert {row["parse_ok"] for row in rollouts} <= {0.0, 1.0}
    for row in rollouts:  # what verl trained on is what a job scores
        truth = Truth.from_json(row["gts"])
        assert row["score"] == pytest.approx(compare(row["output"], truth).score or 0.0)
        label = json.loads(row["gts"])["label"]
        said = compare(row["output"], truth).said
        assert said is None or row["score"] == pytest.approx(math.exp(-2 * abs(said - label) / 4))


COMPARISONS = {
    **RATINGS,
    "recipe": "grpo_pairwise",
    "judge": {"critique": False, "structured": "text"},
    "input": {"path": "pairs.jsonl"},
}
SOLUTIONS = {
    **RATINGS,
    "recipe": "grpo_first_error",
    "judge": {"critique": False, "structured": "text"},
    "train": {**RATINGS["train"], "answer_tokens": 24},  # type: ignore[dict-item]
    "input": {"path": "solutions.jsonl"},
}


@pytest.mark.verl_full
@needs_verl
@pytest.mark.timeout(900)
def test_pairwise_judge_is_trained_by_main_ppo(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    answers = ["<better>A</better>", "<better>B</better>", "<better>tie</better>"]
    prepare_judge(tmp_path, COMPARISONS, answers, pairs(12))
    check_judge(tmp_path, run(tmp_path, COMPARISONS))


@pytest.mark.verl_full
@needs_verl
@pytest.mark.timeout(1200)
def test_submitted_training_works_on_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``ray job submit`` verl attaches to the cluster, and its workers there have its interpreter."""
    pytest.importorskip("torch")
    lines = [{"prompt": f"Question {n}?", "response": "ok", "label": n % 5} for n in range(24)]
    prepare_judge(tmp_path, RATINGS, [f"<score>{n}</score>" for n in (2, 0, 1, 3, 4)], lines)
    job = {**RATINGS, "base": str(tmp_path / "tiny"), "input": {"path": str(tmp_path / "ratings.jsonl")}}
    job["output"] = {"path": str(tmp_path / "out")}
    command(tmp_path, job)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    with RayHead(num_cpus=12, num_gpus=1) as head:
        submit = [str(Path(RMBATCH).with_name("ray")), "job", "submit", "--address", head.dashboard, "--"]
        run_job = [RMBATCH, "run", str(tmp_path / "job.yaml")]
        ended = subprocess.run([*submit, *run_job], env=head.environment(), capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-2000:] + read_log(tmp_path)
    started = json.loads((tmp_path / "out/_rmbatch/attempts/1/command.json").read_text())
    assert f"ray_kwargs.ray_init.runtime_env.py_executable='{VERL_PYTHON}'" in started
    check_judge(tmp_path, json.loads((tmp_path / "out/report.json").read_text()))


@pytest.mark.verl_full
@needs_verl
@pytest.mark.timeout(900)
def test_judge_of_steps_is_trained_by_main_ppo(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    draw = random.Random(0)
    lines = [
        {"prompt": f"Problem {n}", "steps": ["one", "two"], "error_steps": draw.choice([[], [0], [1], [1, 0]])}
        for n in range(24)
    ]
    answers = ["<steps>1, 0</steps>", "<steps>1, 1</steps>", "<steps>0, 1</steps>"]
    prepare_judge(tmp_path, SOLUTIONS, answers, lines)
    check_judge(tmp_path, run(tmp_path, SOLUTIONS))
