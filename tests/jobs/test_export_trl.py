"""TRL's own trainers take a step on exports. Needs the extra ``trl``, as ``make test`` installs it."""

from pathlib import Path
from typing import Any

import pytest

from tests.jobs.commands import Command, write_jsonl
from tests.tiny_models import make_model

pytest.importorskip("trl")
pytest.importorskip("torch")

JOB = """
job: best_of_n
input: {path: in/}
rewards: {short: {reward: length_penalty, max_length: 10, penalty_rate: 0.01}}
output: {path: out/}
"""
TRAINERS = {
    "sft": ("SFTTrainer", "SFTConfig", "causal"),
    "dpo": ("DPOTrainer", "DPOConfig", "causal"),
    "reward": ("RewardTrainer", "RewardConfig", "scalar"),
    "kto": ("KTOTrainer", "KTOConfig", "causal"),
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("to", TRAINERS)
def test_trl_takes_a_step(to: str, rmbatch: Command, here: None, tmp_path: Path) -> None:
    rows = [
        {"question": f"What is {n}?", "candidates": ["It is so.", "I do not know what that is.", None]}
        for n in range(8)
    ]
    write_jsonl(tmp_path / "in/a.jsonl", rows)
    (tmp_path / "job.yaml").write_text(JOB)
    assert rmbatch("run", "job.yaml").code == 0
    thresholds = ("--above", "0", "--below", "-0.1") if to == "kto" else ()
    assert rmbatch("export", "out", "--to", to, "--out", "made", *thresholds).code == 0
    trainer = make_trainer(to, tmp_path)
    loss = trainer.train().training_loss
    assert loss == loss > 0


def make_trainer(to: str, place: Path) -> Any:
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    name, config, family = TRAINERS[to]
    where = trl if hasattr(trl, name) else __import__("trl.experimental.kto", fromlist=[name])
    folder = make_model(place / "model", family)  # type: ignore[arg-type]
    kind = AutoModelForCausalLM if family == "causal" else AutoModelForSequenceClassification
    settings = {
        "output_dir": str(place / "trained"),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "report_to": "none",
    }
    return getattr(where, name)(
        model=kind.from_pretrained(folder),
        args=getattr(where, config)(**settings, use_cpu=True, bf16=False, max_length=128),
        train_dataset=load_dataset(str(place / "made"), split="train", cache_dir=str(place / "cache")),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
