"""Each dataset's rows in standard columns, worked out by hand."""

from typing import Any

import pyarrow as pa
import pytest

from connectors.errors import UserError
from rmbatch.adapters.base import adapt
from tests.rmbatch.adapters.published import SYSTEM, published, said

NO_PAIR = {"prompt": None, "chosen": None, "rejected": None}


def pair(prompt: Any, chosen: str | None, rejected: str | None) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


CHOSEN_A = {"chosen": "a", "rejected": "b"}
CHOSEN_B = {"chosen": "b", "rejected": "a"}
NONE_CHOSEN: dict[str, Any] = {"chosen": None, "rejected": None}
TURNS = said("Hi", "Hello!", "Sum 2 and 2")
KEY, BREAK = "With its key.", "Break it."

EXPECTED: dict[str, list[dict[str, Any]]] = {
    "helpsteer2": [
        {"prompt": said("What is 2 + 2?"), "response": "4", "label": 3.0, "verbosity": 2.0},
        {"prompt": TURNS, "response": "4", "label": 3.0},
        {"response": None, "label": None, "correctness": None},
        {"prompt": None, "prompt_id": None, "response": ""},
    ],
    "helpsteer2_pairs": [
        {"responses": ["a", "b"], "preference": -3, "margin": 3.0, "subset": "train", **CHOSEN_A},
        {"prompt": TURNS, "preference": 1, "margin": 1.0, **CHOSEN_B},
        {"preference": 0, "margin": 0.0, **NONE_CHOSEN},
        {"prompt": None, "responses": [None, "b"], "preference": None, "margin": None, **NONE_CHOSEN},
        {"preference": None, **NONE_CHOSEN},
    ],
    "helpsteer3": [
        {"prompt": said("a", "b", "c"), "preference": 2, "chosen": "y", "rejected": "x", "subset": "code"},
        {"prompt": [SYSTEM, *said("a")], "responses": ["x", None], "preference": 0, **NONE_CHOSEN},
        {"prompt": None, "preference": -1, "chosen": "x", "rejected": "y", "language": "zh"},
    ],
    "ultrafeedback": [
        {"responses": ["4", "5"], "labels": [4.75, 2.0], "overall_scores": [7.5, 7.5], "subset": "sharegpt"},
        {"responses": [], "labels": [], "models": []},
        {"prompt": None, "responses": None, "labels": None, "models": None},
        {"responses": [None, ""], "labels": [None, 1.0], "overall_scores": [None, 7.5]},  # not a number is no rating
    ],
    "ultrafeedback_binarized": [
        {**pair(said("a"), "b", "c"), "margin": 2.5, "id": "77", "score_chosen": 8.5},
        {**pair(said("a"), "b", "b"), "margin": 0.0},
        {**pair(said("a"), None, "c"), "margin": None},
    ],
    "skywork_preference": [
        {**pair(said("a", "b", "c"), "d", "e"), "margin": None, "subset": "magpie_pro"},
        pair([SYSTEM, *said("a")], "b", "c"),
        NO_PAIR,
        NO_PAIR,
    ],
    "pku_safe_rlhf": [
        {"responses": [KEY, BREAK], "preference": -1, "chosen": KEY, "rejected": BREAK, "margin": None},
        {"preference": 1, "chosen": BREAK, "is_safe": [True, False], "severity": [0.0, 2.0]},
        {"preference": None, **NONE_CHOSEN},
        {"prompt": None, "responses": [KEY, None], "chosen": KEY, "rejected": None},
    ],
    "pku_safe_rlhf_safer": [
        {"preference": -1},
        {"preference": -1, "chosen": KEY},
        {"preference": None},
        {"preference": None},
    ],
    "hh": [
        pair(said("hi"), "hello", "go away"),
        pair(said("a", "b", "c"), "two\n\nlines", ""),
        NO_PAIR,
        NO_PAIR,
        NO_PAIR,
        pair(said("x"), None, None),
    ],
    "tulu3_preference": [
        {**pair(said("a", "b", "c"), "d", "e"), "id": "1", "subset": "ai2/wildchat"},
        {**pair([SYSTEM, *said("a")], "b", ""), "id": None},
        {**NO_PAIR, "id": "3"},
    ],
    "pairs": [
        {**pair(said("a"), "b", "c"), "margin": 0.5},
        {**pair(said("a"), None, "c"), "margin": None},
        {**pair(None, "b", "c"), "margin": -1.0},
    ],
    "sharegpt": [
        {"prompt": [SYSTEM, *said("a")], "response": "b"},
        {
            "prompt": [
                {"role": "system", "content": "s"},
                *said("a", "f()"),
                {"role": "tool", "content": "1"},
            ],
            "response": "b",
        },
        {"prompt": said("a"), "response": None},
        {"prompt": None, "response": None},
        {"prompt": None, "response": None},
    ],
    "alpaca": [
        {"prompt": [SYSTEM, *said("a", "b", "Add.\n2 and 2")], "response": "4"},
        {"prompt": said("Add."), "response": ""},
        {"prompt": said("Add."), "response": None},
        {"prompt": None, "response": None},
    ],
    "chat": [
        {"prompt": [SYSTEM, *said("a", "b", "c")], "response": "d"},
        {"prompt": said("a"), "response": None},
        {"prompt": None, "response": "b"},
        {"prompt": None, "response": None},
        {"prompt": None, "response": None},
    ],
    "bigbench_mistake": [
        {"prompt": said("q"), "steps": ["a", "b"], "error_steps": [1], "reference": "4", "answer": "5"},
        {"error_steps": []},
        {"error_steps": None},
        {"prompt": None, "steps": None, "error_steps": None},
        {"steps": [], "error_steps": []},
    ],
    "math_shepherd": [
        {
            "prompt": said("Ann has 3 eggs. She eats 1. How many?"),
            "steps": ["Step 1: 3 - 1 = 2.", "Step 2: The answer is: 2"],
            "error_steps": [],
            "subset": "GSM8K",
        },
        {"error_steps": [1]},
        {"steps": ["Step 1: 3 - 1 = 2.", "Step 2: The answer is: 2"], "error_steps": None},
        {"prompt": said("Mr. Rocky"), "steps": ["Step 1: a"], "error_steps": []},
        {"prompt": said("How many?"), "steps": ["First", "Then"], "error_steps": [1]},
        {"prompt": None, "steps": None, "error_steps": None},
        {"prompt": None, "steps": None, "error_steps": None},
    ],
    "prm800k": [
        {"prompt": said("What is 1 + 1?"), "steps": ["a", "c", "d"], "error_steps": [2], "reference": "2"},
        {"steps": ["a", "own"], "error_steps": []},
        {"steps": ["a"], "error_steps": None},
        {"steps": ["a"], "error_steps": []},  # 0: no progress, and not wrong
        {"prompt": None, "steps": []},
        {"prompt": None, "steps": None, "error_steps": None, "reference": None},
    ],
    "stepwise": [
        {"prompt": said("q"), "steps": ["a", "b", "c"], "error_steps": [1, 2]},
        {"error_steps": []},
        {"steps": ["a", "b"], "error_steps": None},
        {"prompt": None, "steps": None, "error_steps": None},
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_become_standard_columns(name: str) -> None:
    rows = adapt(published(name), name).to_pylist()
    assert [{key: row[key] for key in want} for row, want in zip(rows, EXPECTED[name], strict=True)] == EXPECTED[name]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            pair(said("The sky is"), " blue.", " green."),
        ),
        ({"chosen": "same", "rejected": "same"}, pair(said("same"), "", "")),
        ({"chosen": "a", "rejected": "b"}, pair(None, "a", "b")),
        ({"chosen": said("q", "a"), "rejected": said("q", "b")}, pair(said("q"), "a", "b")),
        (  # TRL's explicit prompt
            {"prompt": said("q"), "chosen": said("q", "a")[1:], "rejected": said("q", "b")[1:]},
            pair(said("q"), "a", "b"),
        ),
        ({"prompt": said("q", "r", "s"), "chosen": "a", "rejected": "b"}, pair(said("q", "r", "s"), "a", "b")),
        (  # one message, not a list
            {"prompt": "q", "chosen": said("q", "a")[1], "rejected": said("q", "b")[1]},
            pair(said("q"), "a", "b"),
        ),
        (  # they differ earlier than in the last answer
            {"chosen": said("q", "a", "r", "s"), "rejected": said("q", "b", "r", "t")},
            pair(said("q"), None, None),
        ),
        ({"chosen": said("q", "a", "r"), "rejected": said("q", "a", "t")}, pair(said("q", "a"), None, None)),
    ],
)
def test_pairs_are_read_in_all_shapes(row: dict[str, Any], expected: dict[str, Any]) -> None:
    (found,) = adapt(pa.Table.from_pylist([row]), "pairs").to_pylist()
    assert {key: found[key] for key in expected} == expected


def test_margin_is_the_difference_of_scores() -> None:
    table = pa.table({"chosen": ["a"], "rejected": ["b"], "chosen_score": [3], "rejected_score": ["1.5"]})
    assert adapt(table, "pairs")["margin"].to_pylist() == [1.5]


def test_columns_that_cannot_be_of_the_dataset_are_refused() -> None:
    table = pa.table({"instruction": ["p"], "completions": [1]})
    with pytest.raises(UserError, match=r"'completions' is int64; UltraFeedback's completions is a list"):
        adapt(table, "ultrafeedback")
