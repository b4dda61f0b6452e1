"""The page of rewards is what the command prints."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rmbatch
from rmbatch.rewards.page import render_page
from rmbatch.rewards.registry import BUILTIN

ROOT = Path(__file__).parents[3]


def test_the_committed_page_is_what_the_command_prints() -> None:
    committed = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert committed == render_page(), "run: python -m rmbatch.rewards.page > docs/rewards.md"
    command = [sys.executable, "-m", "rmbatch.rewards.page"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode() == committed


def test_docstrings_name_columns_range_nulls_and_source() -> None:
    entries = render_page().split("\n## ")[2:]
    assert [entry.split("\n")[0] for entry in entries] == sorted(BUILTIN)
    for entry in entries:
        for part in ("- reads: ", "- writes: ", "- range: ", "- nulls: ", "- source: "):
            assert part in entry, f"{entry.splitlines()[0]} does not say {part!r}"


@pytest.mark.parametrize(
    ("name", "knobs", "refused"),
    [
        ("accuracy", {"name": "a"}, "name"),
        ("math_verify_reward", {"timeout_score": 0.0}, "timeout_score"),
        ("f1_score", {"tokenizer_type": "simple"}, "tokenizer_type"),
        ("f1_score", {"tokenizer": "simple"}, "simple"),
        ("number_accuracy", {"tolerance": -1.0}, "tolerance"),
        ("length_penalty", {"min_length": 5, "max_length": 4}, "min_length"),
        ("reasoning_format", {"think_token": ""}, "think_token"),
        ("reasoning_format", {"answer_token": ""}, "answer_token"),
        ("ngram_repetition_penalty", {"tokenizer_type": "simple"}, "tokenizer_type"),
        ("ngram_repetition_penalty", {"tokenizer": "simple"}, "simple"),
        ("ngram_repetition_penalty", {"n": 0}, "n"),
        ("ngram_repetition_penalty", {"min_scaling": 1.0}, "min_scaling"),
        ("ngram_repetition_penalty", {"max_penalty": 0.5}, "max_penalty"),
        ("ngram_repetition_penalty", {"analyze_scope": "answer"}, "analyze_scope"),
        ("code_execution", {"continuous": True}, "continuous"),
        ("code_execution", {"timeout": 10}, "timeout"),
        ("code_execution", {"test_framework_available": True}, "test_framework_available"),
        ("code_execution", {"compute_score": None}, "compute_score"),
        ("detoxify_reward", {"model_name": "unbiased"}, "model_name"),
    ],
)
def test_knobs_of_rm_gallery_that_are_refused_are_named(name: str, knobs: dict[str, Any], refused: str) -> None:
    deviations = render_page().partition("## Where results differ")[2].partition("\n## ")[0]
    lines = [line for line in deviations.splitlines() if line.startswith(f"- `{name}`") or "`name` is refused" in line]
    assert any("refused" in line and refused in line for line in lines)
    with pytest.raises(rmbatch.UserError):
        rmbatch.reward(name, **knobs).evaluate({"response": "a", "reference": "1", "tests": "assert True"})
