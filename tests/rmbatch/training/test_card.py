"""The model card, as text."""

from typing import Any

import yaml

from rmbatch.training.card import describe_accuracy, write_card

REPORT: dict[str, Any] = {
    "recipe": "bradley_terry",
    "base": "Qwen/Qwen2.5-0.5B",
    "noun": "pairs",
    "packages": {"verl": "0.9.1"},
    "rows": {"train": 9000, "held_out": 1000},
    "steps": 70,
    "train": {"batch": 128, "learning_rate": 9e-6, "seed": 0},
    "held_out": {"accuracy": 0.8, "before": 0.5, "low": 0.77, "high": 0.82, "rows": 1000, "length_alone": 0.61},
}


def test_card_tells_data_training_accuracy_and_use() -> None:
    card = write_card(REPORT, "rewards:\n  rm: {model: out/model}\n")
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert "9,000 pairs to train on, 1,000 held out; no prompt is in both" in card
    assert "80.0% (95 % interval 77.0% to 82.0%, 1,000 rows; before training 50.0%)" in card
    assert "length of the answer alone: 61.0%" in card
    assert "rm: {model: out/model}" in card


def test_folder_is_no_model_of_the_hub() -> None:
    assert "base_model" not in write_card({**REPORT, "base": "/models/x"}, "")


def test_accuracy_that_was_not_measured_is_no_number() -> None:
    assert describe_accuracy({"accuracy": None}) == "not measured"
