"""Figures that others have published or recorded, found again from their data."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rmbatch.adapters.base import adapt
from rmbatch.evaluation.base import Judged, load_suite
from rmbatch.evaluation.best_of_n import best_of_n, best_of_n_curve, decided_by_tie, pass_at_k
from rmbatch.evaluation.items import to_items, to_rows
from rmbatch.evaluation.tally import SuiteTally
from tests.rmbatch.evaluation import slow

CURVE = [91, 92.786, 93.393, 93.614, 93.714, 93.786, 93.875, 94.0]
"""Best of N by the recorded reward, N = 1 to 8, in percent, ties shared: as published beside the data."""


@pytest.fixture(scope="module")
def solutions(shared_data: Path) -> list[dict[str, Any]]:
    """100 competition problems with eight solutions each, whether each is right, and a reward model's scores."""
    lines = (shared_data / "qwen_math_bon/math_cot_100.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row | {"pred_score": [score for (score,) in row["pred_score"]]} for row in rows]


def test_best_of_n_of_recorded_rewards(solutions: list[dict[str, Any]]) -> None:
    scores = slow.ragged([row["pred_score"] for row in solutions])
    gold = slow.ragged([row["score"] for row in solutions])
    curve = 100 * best_of_n_curve(scores, gold, range(1, 9))
    assert curve == pytest.approx(CURVE, abs=5e-4)  # published with three decimals
    brute = [
        np.mean([slow.best_of_n(row["pred_score"], row["score"], n) for row in solutions]) * 100 for n in range(1, 9)
    ]
    assert curve == pytest.approx(brute, abs=1e-9)
    assert best_of_n(scores, gold, 8).mean() == pytest.approx(0.94)
    assert int(decided_by_tie(scores).sum()) == 20


def test_pass_at_k_of_recorded_solutions(solutions: list[dict[str, Any]]) -> None:
    gold = slow.ragged([row["score"] for row in solutions])
    assert (pass_at_k(gold, 1).mean(), pass_at_k(gold, 8).mean()) == pytest.approx((0.91, 0.96))
    majority = [row["score"][row["pred"].index(Counter(row["pred"]).most_common(1)[0][0])] for row in solutions]
    assert np.mean(majority) == pytest.approx(0.93)


@pytest.mark.parametrize("task", ["logical_deduction", "multistep_arithmetic"])
def test_first_wrong_steps_of_recorded_traces(shared_data: Path, task: str) -> None:
    """Verdicts drawn at random on 300 real traces: as a slow statement counts them, subset by subset."""
    lines = (shared_data / f"big_bench_mistake/{task}.jsonl").read_text().splitlines()
    traces = [json.loads(line) for line in lines]
    columns = {name: [row.get(name) for row in traces] for name in ("input", "steps", "mistake_index")}
    adapted = adapt(pa.table(columns), "bigbench_mistake")
    suite = load_suite("first_error")
    rows, left_out = to_rows(adapted, "traces", suite, task, np.arange(adapted.num_rows))
    assert (rows.num_rows, left_out) == (300, {})
    draw = np.random.default_rng(3)
    said = [None if draw.random() < 0.1 else int(draw.integers(-1, len(row["steps"]))) for row in traces]
    said = [row["mistake_index"] if draw.random() < 0.3 else each for row, each in zip(traces, said)]
    cases = [
        {
            "subset": task,
            "num_steps": len(row["steps"]),
            "errors": [] if row["mistake_index"] is None else [row["mistake_index"]],
            "first_error": each,
        }
        for row, each in zip(traces, said)
    ]
    items = to_items(rows)
    verdicts = np.array([np.nan if each is None else each for each in said], dtype=float)
    tally = SuiteTally(suite, ["critic"], replicates=100)
    tally.add(items, {"critic": Judged(slow.ragged([[None]] * 300), first_error=verdicts)})
    found = tally.result().figures["critic"]
    kinds = [slow.match_rate([case for case in cases if bool(case["errors"]) is error]) for error in (True, False)]
    for name, expected in (
        (f"{task} error accuracy", kinds[0]),
        (f"{task} correct accuracy", kinds[1]),
        ("overall", slow.harmonic(*kinds)),
        ("accuracy", slow.match_rate(cases)),
    ):
        value = found[name]
        places = [value.official[0], value.fair[0], value.worst[0], value.best[0], value.coverage[0]]
        assert places == pytest.approx(list(expected), abs=1e-12)


def test_steps_survive_being_joined(shared_data: Path) -> None:
    """Each trace becomes one response whose paragraphs are its steps, as step rewards and judges read them."""
    from rmbatch.judges.kinds.stepwise import split_steps

    lines = (shared_data / "big_bench_mistake/logical_deduction.jsonl").read_text().splitlines()
    traces = [json.loads(line) for line in lines]
    columns = {name: [row.get(name) for row in traces] for name in ("input", "steps", "mistake_index")}
    rows, _ = to_rows(
        adapt(pa.table(columns), "bigbench_mistake"), "traces", load_suite("first_error"), "", np.arange(len(traces))
    )
    for (response,), trace in zip(rows["responses"].to_pylist(), traces):
        assert len(split_steps(response, "paragraphs")) == len(trace["steps"])
