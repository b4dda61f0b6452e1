"""Adapters of benchmarks: which response is right, which rows cannot be read, which subset a row is in."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rmbatch.adapters.base import adapt
from tests.rmbatch.adapters.published_benchmarks import BENCHMARKS


def adapted(name: str, *columns: str) -> list[tuple[Any, ...]]:
    table = adapt(pa.Table.from_pylist(BENCHMARKS[name]), name)
    return list(zip(*(table[each].to_pylist() for each in columns)))


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        (
            "rewardbench",
            ("id", "responses", "correct", "subset"),
            [
                ("0", ["yes", "no"], [True, False], "hep-go"),
                ("1", ["", "no"], [True, False], "hep-go"),
                ("2", [None, "no"], [True, False], "hep-go"),
            ],
        ),
        (
            "rewardbench2",
            ("id", "responses", "correct", "subset"),
            [
                ("tied:1", ["2", "two", "3"], [True, True, False], "Ties"),
                ("7", ["2", "3", "4", "5"], [True, False, False, False], "Math"),
                ("8", None, None, "Math"),
            ],
        ),
        (
            "rm_bench",
            ("responses", "subset"),
            [(["x", "y", "z", "p", "q", "r"], "safety-refuse"), (["x"], "chat")],
        ),
        (
            "rmb_pairs",
            ("id", "responses", "correct", "subset"),
            [
                ("1", ["yes", None], [True, False], "Helpfulness/Chat/Discussion"),
                ("2", ["a", "b"], [True, False], "Harmlessness/S1"),
            ],
        ),
        (
            "rmb_best_of_n",
            ("responses", "correct", "subset"),
            [
                (["best", "a", "b"], [True, False, False], "Harmlessness/multi"),
                (None, None, "Harmlessness/multi"),
            ],
        ),
        (
            "judgebench",
            ("id", "responses", "correct"),
            [
                ("p0", ["a", "b"], [True, False]),
                ("p1", ["a", "b"], [False, True]),
                ("p2", None, None),
                ("p3", None, None),
            ],
        ),
        (
            "llmbar",
            ("responses", "correct"),
            [(["hi", "no"], [True, False]), (["hi", "no"], [False, True]), (None, None)],
        ),
        (
            "ppe_correctness",
            ("id", "correct", "pairs"),
            [
                ("q1", [True, False, True], [0, 1, 1, 2]),
                ("q2", [False] * 3, []),
                ("q3", None, None),
                ("q4", [True, False, True], None),
                ("q5", [True, False, True], None),
            ],
        ),
        (
            "processbench",
            ("id", "error_steps", "subset"),
            [
                ("gsm8k-0", [], "gsm8k"),
                ("gsm8k-0", [1], "gsm8k"),
                ("gsm8k-0", None, "gsm8k"),  # there is no third step
                ("gsm8k-0", None, "gsm8k"),
            ],
        ),
        (
            "prmbench",
            ("id", "steps", "error_steps"),
            [
                ("circular_p_0", ["a", "b"], [1]),  # from 1 in the data
                ("circular_p_1", ["a"], []),
                ("circular_p_2", ["a"], None),
                ("circular_p_3", None, None),
            ],
        ),
        (
            "prmbench_correct",
            ("steps", "error_steps", "subset"),
            [(["one", "two"], [], "correct")] * 2,
        ),
    ],
)
def test_rows_of_a_benchmark(name: str, columns: tuple[str, ...], expected: list[tuple[Any, ...]]) -> None:
    assert adapted(name, *columns) == expected


def test_real_rows_of_llmbar(shared_data: Path) -> None:
    rows = json.loads((shared_data / "llmbar/Natural_dataset.json").read_text())
    found = adapt(pa.Table.from_pylist(rows), "llmbar").to_pylist()
    assert len(found) == 100
    for row, each in zip(rows, found):
        assert each["responses"] == [row["output_1"], row["output_2"]]
        assert each["correct"][row["label"] - 1] is True
        assert each["prompt"][0]["content"] == row["input"]


@pytest.mark.parametrize("kind", ["step_contradiction", "circular"])
def test_real_rows_of_prmbench(shared_data: Path, kind: str) -> None:
    rows = [json.loads(line) for line in (shared_data / f"prmbench/{kind}.jsonl").read_text().splitlines()]
    found = adapt(pa.Table.from_pylist(rows), "prmbench").to_pylist()
    assert len({each["id"] for each in found}) == len(rows)
    for row, each in zip(rows, found):
        assert each["steps"] == row["modified_process"]
        assert each["subset"] == kind
        if each["error_steps"] is None:  # it names a step that is not there
            assert max(row["error_steps"]) > len(row["modified_process"])
        else:
            assert each["error_steps"] == [place - 1 for place in row["error_steps"]]
