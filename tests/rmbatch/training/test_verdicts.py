"""Verdicts against labels: readable or not, near or far, as RM-Gallery and FAPO reward them."""

import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.training.verdicts import Truth, compare, compute_score, verdict_agreement
from tests.jobs.running import by, rows, run

SCALE = {"low": 0, "high": 4, "whole": True, "critique": False}
BETTER = {"ties": True, "critique": False}


def steps_form(num_steps: int) -> dict[str, Any]:
    return {"num_steps": num_steps, "low": 0, "high": 1, "whole": True, "critique": False}


@pytest.mark.parametrize(
    ("answer", "label", "score", "is_right"),
    [
        ("<score>3</score>", 3, 1.0, True),
        ("<score>1</score>", 3, math.exp(-2 * 2 / 4), False),
        ("<score>4</score>", 0, math.exp(-2), False),  # the worst readable answer still gets more than none
        ("<score>9</score>", 3, None, False),  # off the scale
        ("I would say 3", 3, None, False),  # no tag: nothing is searched for in text
        ("<score>3</score> <score>4</score>", 3, None, False),
        ("", 3, None, False),
        ("<think>4?</think>\n<score>3</score>", 3, 1.0, True),
        ('{"score": 3}', 3, 1.0, True),  # some models answer in JSON whatever they are told
    ],
)
def test_rating_against_label(answer: str, label: float, score: float | None, is_right: bool) -> None:
    found = compare(answer, Truth("scale", label, SCALE, "text"))
    assert found.score == pytest.approx(score) if score is not None else found.score is None
    assert (found.is_right, bool(found.error)) == (is_right, score is None)


@pytest.mark.parametrize(
    ("answer", "label", "score"),
    [
        ("<better>A</better>", "A", 1.0),
        ("<better>B</better>", "A", 0.0),
        ("<better>tie</better>", "tie", 1.0),
        ("<better>tie</better>", "A", 0.0),
        ("<better>both</better>", "A", None),
        ("A", "A", None),
    ],
)
def test_preference_against_label(answer: str, label: str, score: float | None) -> None:
    assert compare(answer, Truth("better", label, BETTER, "text")).score == score


def official_fapo(said: int, label: int, num_steps: int) -> float:
    """As the critic of FAPO is rewarded (verl's recipe/fapo/reward_fn_genrm.py): indices from 0, -1 for no error."""
    if label == -1:
        return 1.0 if said == -1 else -1.0
    return -1.0 if said == -1 else 1.0 - abs(said - label) / num_steps


@given(st.data())
def test_first_error_is_rewarded_as_fapo_does(data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(1, 12))
    numbers = data.draw(st.lists(st.integers(0, 1), min_size=num_steps, max_size=num_steps))
    label = data.draw(st.integers(-1, num_steps - 1))
    said = numbers.index(0) if 0 in numbers else -1
    answer = f"<steps>{', '.join(map(str, numbers))}</steps>"
    found = compare(answer, Truth("steps", label, steps_form(num_steps), "text"))
    assert found.score == pytest.approx((official_fapo(said, label, num_steps) + 1) / 2)
    assert found.is_right == (said == label)


@given(st.text(), st.sampled_from(["text", "json_schema"]))
def test_no_text_makes_verls_function_raise(answer: str, structured: str) -> None:
    for truth in (
        Truth("scale", 2, SCALE, structured),
        Truth("better", "B", BETTER, structured),
        Truth("steps", 1, steps_form(3), structured),
    ):
        found = compute_score("any", answer, truth.to_json(), {"index": 0})
        assert set(found) == {"score", "acc", "parse_ok"}
        assert 0 <= found["score"] <= 1
        assert found["parse_ok"] == 1 or found["score"] == found["acc"] == 0


def test_verdict_that_may_be_a_quotation_is_none() -> None:
    answer, form = "<critique>good</critique><score>4</score>", {**SCALE, "critique": True}
    assert compare(answer, Truth("scale", 4, form, "text")).score == 1.0
    assert compare(answer, Truth("scale", 4, form, "text", quotable="say </critique><score>4</score>")).score is None


def test_job_scores_judgements_as_training_does(here: None, tmp_path: Any) -> None:
    truth = Truth("scale", 3, SCALE, "text").to_json()
    answers = ["<score>3</score>", "<score>1</score>", "three", None]
    lines = [{"id": n, "response": a, "reference": truth} for n, a in enumerate(answers)]
    lines.append({"id": 4, "response": "<score>3</score>", "reference": "3"})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(
        {
            "job": "score",
            "input": {"path": str(tmp_path / "in.jsonl")},
            "rewards": {"agrees": {"reward": "rmbatch.training.verdicts:verdict_agreement"}},
            "output": {"path": str(tmp_path / "out")},
        }
    )
    found = by("id", rows(tmp_path / "out"))
    scores = [row["score.agrees"] for row in found]
    assert scores == [1.0, pytest.approx(math.exp(-1)), None, None, None]
    assert scores[:2] == [compute_score("", str(a), truth)["score"] for a in answers[:2]]
    codes = [(row["error.agrees"] or "").partition(":")[0] for row in found]
    assert codes == ["", "", "verdict_missing", "missing_response", "malformed_reference"]


def test_no_rows_have_no_scores() -> None:
    empty = pa.array([], pa.large_string())
    assert len(verdict_agreement(empty, empty).score) == 0
