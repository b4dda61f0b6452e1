"""Rewards of one's own in real jobs, run from Python: every form gives the same scores as in-process."""

import json
from pathlib import Path

import pytest

import rmbatch
from tests.jobs.running import by, rows

pytestmark = pytest.mark.usefixtures("here")

MINE = """
def polite(response: str) -> float:
    return float("please" in response)

def listed(response: list[str], reference: list[str]) -> list[float]:
    return [float(r == t) for r, t in zip(response, reference)]

def trl(completions, **kwargs):
    return [None if w is None else len(c[0]["content"]) * w for c, w in zip(completions, kwargs["weight"])]

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str == ground_truth)}

async def awaited(response: str, nowhere: float = 2.0) -> float:
    return nowhere

def picky(response: str) -> float:
    return "high" if response == "please" else 1.0
"""
FORMS = ("polite", "listed", "trl", "compute_score", "awaited")


def job_file(folder: Path, *names: str) -> str:
    (folder / "mine.py").write_text(MINE)
    asked = [{"role": "user", "content": "hi"}]
    data = [
        {"id": n, "prompt": asked, "response": text, "reference": "no", "weight": w, "data_source": "d"}
        for n, (text, w) in enumerate([("please", 2.0), ("no", None), ("no", 1.0)])
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    rewards = {name: {"reward": f"{folder}/mine.py:{name}"} for name in names}
    path = folder / "job.yaml"
    path.write_text(
        json.dumps(
            {
                "job": "score",
                "input": {"path": str(folder / "in.jsonl")},
                "rewards": rewards,
                "output": {"path": str(folder / "out"), "columns": ["id"]},
            }
        )
    )
    return str(path)


def test_every_form_scores_in_job(tmp_path: Path) -> None:
    summary = rmbatch.run(job_file(tmp_path, *FORMS))
    assert summary.rows["data"] == 3
    found = by("id", rows(summary.output))
    scores = {name: [row[f"score.{name}"] for row in found] for name in FORMS}
    assert scores == {
        "polite": [1.0, 0.0, 0.0],
        "listed": [0.0, 1.0, 1.0],
        "trl": [12.0, None, 2.0],
        "compute_score": [0.0, 1.0, 1.0],
        "awaited": [2.0, 2.0, 2.0],
    }
    data = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
    for name in FORMS:
        rm = rmbatch.reward(f"{tmp_path}/mine.py:{name}")
        assert [result.score for result in rm.evaluate_batch(data)] == scores[name]  # type: ignore[union-attr]


def test_result_that_is_no_number_names_row(tmp_path: Path) -> None:
    with pytest.raises(rmbatch.JobError, match=r"gave 'high' \(a str\).* on row 0 of .*in\.jsonl"):
        rmbatch.run(job_file(tmp_path, "picky"))


def test_mistake_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(rmbatch.UserError, match=r"output\.pth: unknown key; did you mean"):
        rmbatch.run(job_file(tmp_path, "polite"), "output.pth=x")
