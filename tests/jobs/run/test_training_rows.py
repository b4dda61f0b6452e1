"""The rows of a training: split by prompts, published datasets as they are, what is told where there are too few."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from connectors.errors import UserError
from jobs.config.job_types import parse_job
from jobs.config.training import TrainJob
from jobs.run.input import list_job_input
from jobs.run.training_rows import RowCounts, read_counts, write_training_rows
from jobs.show.display import Display


def write(folder: Path, lines: list[dict[str, Any]], to: Path | None, **changes: Any) -> RowCounts:
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job: Mapping[str, Any] = {
        "job": "train_rm",
        "recipe": "bradley_terry",
        "base": "b",
        "input": {"path": str(folder / "in.jsonl")},
        "train": {"batch": 4},
        "held_out": 0.3,
        "output": {"path": str(folder / "out")},
    }
    parsed = parse_job({**job, **changes}, "job.yaml")
    assert isinstance(parsed, TrainJob)
    with Path("/dev/null").open("w") as nowhere:
        display = Display(Console(file=nowhere))
        return write_training_rows(parsed, parsed.make_recipe(), list_job_input(parsed), to, display)


def pairs(num_prompts: int, per_prompt: int = 3) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Question {n}?" if k else f"  question {n}? ", "chosen": f"good {k}", "rejected": f"bad {k}"}
        for n in range(num_prompts)
        for k in range(per_prompt)
    ]


def test_no_prompt_is_in_both_parts(tmp_path: Path) -> None:
    counts = write(tmp_path, pairs(40), tmp_path / "data")
    parts = {name: pq.read_table(tmp_path / f"data/{name}.parquet") for name in ("train", "held_out")}
    prompts = {
        name: {prompt[0]["content"].casefold().strip() for prompt in part["prompt"].to_pylist()}
        for name, part in parts.items()
    }
    assert prompts["train"].isdisjoint(prompts["held_out"])
    assert len(prompts["train"] | prompts["held_out"]) == 40
    assert (counts.train, counts.held_out) == (parts["train"].num_rows, parts["held_out"].num_rows)
    assert counts.train + counts.held_out == counts.read == 120
    rows = [row for part in parts.values() for row in part["row"].to_pylist()]
    assert sorted(rows) == list(range(120))
    assert read_counts(tmp_path / "data") == counts


def test_counting_writes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    assert write(tmp_path, pairs(40), None) == write(tmp_path, pairs(40), tmp_path / "data")
    assert read_counts(tmp_path / "nothing") is None


def test_published_dataset_is_read_as_it_is(tmp_path: Path) -> None:
    """UltraFeedback's conversations, by its adapter."""
    lines = []
    for number in range(40):
        asked = {"role": "user", "content": f"Question {number}?"}
        sides = {
            side: [asked, {"role": "assistant", "content": f"{side} answer {number}"}]
            for side in ("chosen", "rejected")
        }
        lines.append({"prompt": asked["content"], **sides, "score_chosen": 8.0, "score_rejected": 3.0})
    given = {"input": {"path": str(tmp_path / "in.jsonl"), "as": "ultrafeedback_binarized"}}
    write(tmp_path, lines, tmp_path / "data", **given)
    row = pq.read_table(tmp_path / "data/train.parquet").to_pylist()[0]
    assert row["prompt"] == [{"role": "user", "content": f"Question {row['row']}?"}]
    assert row["chosen"] == f"chosen answer {row['row']}"


def test_dialogues_in_one_string_need_their_adapter(tmp_path: Path) -> None:
    """Anthropic's form, whose columns hold prompt and answer together: without ``as`` there is no prompt."""
    lines = [
        {side: f"\n\nHuman: Question {number}?\n\nAssistant: {side} answer" for side in ("chosen", "rejected")}
        for number in range(40)
    ]
    write(tmp_path, lines, tmp_path / "data", input={"path": str(tmp_path / "in.jsonl"), "as": "hh"})
    for row in pq.read_table(tmp_path / "data/train.parquet").to_pylist():
        assert row["prompt"] == [{"role": "user", "content": f"Question {row['row']}?"}]
        assert (row["chosen"], row["rejected"]) == ("chosen answer", "rejected answer")


@pytest.mark.parametrize(
    ("num_prompts", "changes", "said"),
    [
        (1, {}, "both parts are needed, so give more prompts, or another share"),
        (40, {"train": {"batch": 500}}, "train.batch: 500 pairs are more than the"),
        (40, {"input": {"path": "IN", "columns": {"chosen": "better"}}}, "no column 'better'"),
    ],
)
def test_too_few_rows_are_told(tmp_path: Path, num_prompts: int, changes: dict[str, Any], said: str) -> None:
    if "input" in changes:
        changes = {"input": {**changes["input"], "path": str(tmp_path / "in.jsonl")}}
    with pytest.raises(UserError, match=said):
        write(tmp_path, pairs(num_prompts), None, **changes)
