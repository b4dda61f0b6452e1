"""``rmbatch plan``: what it shows of a job, and that it writes nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.commands import FLAT, NESTED, Command, write_jsonl, write_parquet


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
@pytest.mark.parametrize("verb", [["plan"], ["run", "--dry-run"]])
def test_plan_shows_all_and_writes_nothing(
    rmbatch: Command, best: str, tmp_path: Path, verb: list[str], write: Callable[..., None]
) -> None:
    suffix = write.__name__.removeprefix("write_")
    write(tmp_path / f"nested.{suffix}", NESTED)
    before = sorted(tmp_path.rglob("*"))
    outcome = rmbatch(*verb, best, f"input.path=nested.{suffix}")
    shown = outcome.out + outcome.err
    assert outcome.code == 0
    for mistake_of in (
        *("question", "candidates", "answer"),  # the roles that were guessed
        *("score.exact", "select.rank", "outranked", "missing_reference: reference is null"),  # the first rows
        f"1 {suffix} files",
    ):
        assert mistake_of in shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_ray")
def test_plan_of_flat_rows(rmbatch: Command, best: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "flat.parquet", FLAT)
    outcome = rmbatch("plan", best, "input.path=flat.parquet", "input.group.by=uid", "--limit", "2")
    assert outcome.code == 0
    assert "outranked" in outcome.out
    assert "uid" in outcome.out
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
def test_plan_of_no_rows(rmbatch: Command, best: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(NESTED).slice(0, 0), tmp_path / "empty.parquet")
    assert rmbatch("plan", best, "input.path=empty.parquet").code == 0


@pytest.mark.usefixtures("no_ray")
def test_plan_as_json(rmbatch: Command, best: str) -> None:
    outcome = rmbatch("plan", best, "--json")
    found = json.loads(outcome.out)
    assert (found["num_rows"], found["estimated"], found["format"]) == (4, True, "jsonl")
    assert found["roles"] == {"id": "uid", "prompt": "question", "responses": "candidates", "reference": "answer"}
    assert found["reads"] == {"exact": ["response", "reference"]}
    assert [row["score.exact"] for row in found["first_rows"]] == [[1.0, 0.0], [0.0, None, 1.0], [], [None]]


@pytest.mark.usefixtures("no_ray")
def test_square_brackets_are_no_markup(rmbatch: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "flat.jsonl", [{"response": "[INST] hi [/INST] [b]", "answer": "[/x]"}])
    (tmp_path / "score.yaml").write_text(
        "job: score\ninput: {path: flat.jsonl}\nrewards: {exact: accuracy}\noutput: {path: out}\n"
    )
    assert "[INST] hi [/INST] [b]" in rmbatch("plan", "score.yaml").out


def test_json_leaves_out_what_rewards_print(rmbatch: Command, three_files: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def said(response: str) -> float:\n    print(response)\n    return 1.0\n")
    found = json.loads(rmbatch("plan", three_files, "rewards.exact.reward=own.py:said", "--json").out)
    assert found["reads"] == {"exact": ["response"]}
