"""Rows of suites: what becomes an item, what is left out and why, which rows share a prompt; recorded verdicts."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from connectors.errors import UserError
from rmbatch.evaluation.base import load_suite
from rmbatch.evaluation.items import ITEM_SCHEMA, RECORDED, to_items, to_judged, to_recorded, to_rows
from rmbatch.evaluation.recorded import read_recorded

PAIR = {"id": "a", "prompt": "hi", "chosen": "yes", "rejected": "no", "subset": "Math"}


def rows_of(
    records: list[dict[str, Any]], suite: str = "preferences", subset: str = ""
) -> tuple[pa.Table, dict[str, int]]:
    found, left_out = to_rows(
        pa.Table.from_pylist(records), "mine", load_suite(suite), subset, np.arange(10, 10 + len(records))
    )
    assert found.schema == ITEM_SCHEMA
    return found, dict(left_out)


def test_pair_is_an_item_with_one_right_response() -> None:
    (row,) = rows_of([PAIR])[0].to_pylist()
    assert (row["id"], row["item"], row["row"], row["subset"]) == ("mine/Math/a", "a", 10, "Math")
    assert row["prompt"] == [{"role": "user", "content": "hi"}]
    assert (row["responses"], row["correct"], row["lengths"]) == (["yes", "no"], [True, False], [3, 2])


def test_row_without_id_is_named_by_its_number() -> None:
    found, _ = rows_of([{"question": "hi", "chosen": "a", "rejected": "b"}] * 2, subset="hard")
    assert found["id"].to_pylist() == ["mine/hard/10", "mine/hard/11"]
    assert found["prompt"].to_pylist()[0] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"chosen": None}, {"a response is missing": 1}),
        ({"chosen": ""}, {}),  # an empty response is one
    ],
)
def test_pair_without_a_response_is_left_out(change: dict[str, Any], why: dict[str, int]) -> None:
    found, left_out = rows_of([PAIR, PAIR | change])
    assert (found.num_rows, left_out) == (2 - len(why), why)


@pytest.mark.parametrize(
    ("correct", "kept"), [([True, False], 1), ([False, False], 0), ([True, True], 0), ([True], 0), (None, 0)]
)
def test_item_needs_something_to_tell_apart(correct: Any, kept: int) -> None:
    records = [{"prompt": "?", "responses": ["x", "y"], "correct": correct}]
    columns = {"responses": pa.list_(pa.string()), "correct": pa.list_(pa.bool_())}
    table = pa.table({"prompt": ["?"], **{name: pa.array([records[0][name]], kind) for name, kind in columns.items()}})
    found, _ = to_rows(table, "mine", load_suite("preferences"), "", np.arange(table.num_rows))
    assert found.num_rows == kept


@pytest.mark.parametrize(
    ("suite", "form", "kept"),
    [
        ("rm_bench", [1, 1, 1, 0, 0, 0], 1),
        ("rm_bench", [1, 1, 1, 0, 0], 0),  # a style is missing
        ("rm_bench", [0, 0, 0, 1, 1, 1], 0),
        ("judgebench", [0, 1], 1),
        ("judgebench", [1, 0, 0], 0),
        ("llmbar", [1, 0, 0], 0),
        ("rmb", [1, 0, 0], 1),
    ],
)
def test_item_of_another_form_is_left_out(suite: str, form: list[int], kept: int) -> None:
    """Before anything is scored: the metrics of these suites take no others."""
    row = {
        "prompt": "?",
        "responses": [str(place) for place in range(len(form))],
        "correct": [each == 1 for each in form],
    }
    found, left_out = rows_of([row], suite)
    assert found.num_rows == kept
    assert [why.startswith("other than") for why in left_out] == [True] * (1 - kept)


def test_preference_between_two_responses() -> None:
    records = [{"prompt": "?", "responses": ["x", "y"], "preference": each} for each in (-2, 1, 0)]
    found, left_out = rows_of(records)
    assert found["correct"].to_pylist() == [[True, False], [False, True]]
    assert left_out == {"no response is right, or all are": 1}  # a tie


def test_steps_become_paragraphs_of_one_response() -> None:
    records = [
        {"prompt": "?", "steps": ["one\n\nstill one", " two "], "error_steps": [1]},
        {"prompt": "?", "steps": [], "error_steps": []},
        {"prompt": "?", "steps": ["x"], "error_steps": None},
    ]
    found, left_out = rows_of(records, "first_error")
    assert found["responses"].to_pylist() == [["one\nstill one\n\ntwo"]]
    assert found["num_steps"].to_pylist() == [2]
    assert left_out == {"no steps": 1, "wrong steps unknown": 1}


@pytest.mark.parametrize("suite", ["preferences", "first_error"])
def test_columns_that_make_no_item_are_refused(suite: str) -> None:
    with pytest.raises(UserError, match="the rows have question, answer"):
        rows_of([{"question": "?", "answer": "4"}], suite)


def test_equal_prompts_share_a_key() -> None:
    keys = rows_of([PAIR, PAIR | {"id": "b"}, PAIR | {"prompt": "other"}])[0]["key"].to_pylist()
    assert keys[0] == keys[1] != keys[2]
    named = rows_of([PAIR | {"prompt_id": "1"}, PAIR | {"prompt": "other", "prompt_id": "1"}])[0]["key"].to_pylist()
    assert named[0] == named[1]


def test_both_prompts_of_a_tie_share_a_key() -> None:
    records = [
        {"id": name, "prompt": name, "responses": ["x", "y"], "correct": [True, False], "subset": subset}
        for name, subset in (("ref:7", "Ties"), ("tied:7", "Ties"), ("ref:7", "Math"))
    ]
    keys = rows_of(records, "rewardbench2")[0]["key"].to_pylist()
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("unknown", [{}, {"prompt": None}, {"prompt": "?", "prompt_id": None}])
def test_rows_without_a_prompt_are_drawn_apart(unknown: dict[str, Any]) -> None:
    """As one prompt they would get one weight, and each interval would have no width."""
    records = [{"id": name, "chosen": "yes", "rejected": "no", **unknown} for name in "abc"]
    assert len(set(rows_of(records)[0]["key"].to_pylist())) == 3


def test_empty_table_gives_no_item() -> None:
    empty = pa.Table.from_pylist([PAIR]).slice(0, 0)
    found, left_out = to_rows(empty, "mine", load_suite("preferences"), "", np.arange(0))
    assert (found.num_rows, left_out) == (0, {})
    assert to_items(found).num_items == 0


def test_scores_of_other_lengths_are_no_scores() -> None:
    found, _ = rows_of([PAIR, PAIR | {"id": "b"}])
    scores = pa.array([[1.0, None], [1.0]], pa.list_(pa.float64()))
    steps = pa.array([[[0.1, 0.2], None], [None, [1.0]]], pa.list_(pa.list_(pa.float64())))
    judged = to_judged(found.append_column("score.rm", scores).append_column("steps.rm", steps), "rm", compares=False)
    np.testing.assert_array_equal(judged.scores.values, [1.0, np.nan, np.nan, np.nan])
    assert judged.steps is not None
    assert judged.steps.counts.tolist() == [2, 0]


def test_recorded_games_become_scores_of_both_games() -> None:
    found, _ = rows_of([PAIR, PAIR | {"id": "b"}, PAIR | {"id": "c"}])
    games = pa.array([[1.0, 1.0], [1.0, 0.0], None], pa.list_(pa.float64()))
    judged = to_recorded(found.append_column(f"{RECORDED}x.games", games), "x")
    np.testing.assert_array_equal(judged.scores.values, [1.0, 0.0, 0.5, 0.5, np.nan, np.nan])


def test_block_without_a_verdict_is_unread() -> None:
    """Other blocks of the suite have games, so here both games of each item are unreadable."""
    found, _ = rows_of([PAIR, PAIR | {"id": "b"}])
    nothing = found.append_column(f"{RECORDED}x.games", pa.nulls(2, pa.list_(pa.float64())))
    judged = to_recorded(nothing, "x", ["games"])
    assert judged.games is not None
    assert np.isnan(judged.games).all()
    assert np.isnan(judged.scores.values).all()
    assert to_recorded(nothing, "x").games is None


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("scores", ["1,0", "0,1"], "the column scores is string; write list<"),
        ("first_error", [1.5, None], "the column first_error is double; write int32"),
        ("games", [[1.0, 0.0], [7.0, None]], "games has 7.0; write 1"),
        ("games", [[1.0, -1.0], None], "games has -1.0; write 1"),
    ],
)
def test_verdicts_of_another_kind_are_one_line(column: str, values: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        read_recorded(pa.table({column: values}), None)


GAME = {"swap = False": {"winner": "1"}, "swap = True": {"winner": "2"}}


def test_llmbar_results_are_the_last_ones() -> None:
    odd = {"swap = False": {"winner": "0"}, "swap = True": {"winner": "1"}}
    table = pa.Table.from_pylist([{"results": [odd, GAME]}, {"results": [odd]}, {"results": []}])
    assert read_recorded(table, "llmbar_results")["games"].to_pylist() == [[1.0, 0.0], [None, 1.0], [None, None]]


def test_judgebench_turns_the_second_game() -> None:
    table = pa.Table.from_pylist(
        [
            {"pair_id": "p", "judgments": [{"decision": "A>B"}, {"decision": "B>A"}]},
            {"pair_id": "q", "judgments": [{"decision": "B>A"}]},
            {"pair_id": "r", "judgments": [None, {"decision": "A=B"}]},
        ]
    )
    found = read_recorded(table, "judgebench_outputs")
    assert found["id"].to_pylist() == ["p", "q", "r"]
    assert found["games"].to_pylist() == [[1.0, 1.0], [0.0, 0.0], [None, 0.5]]


def test_processbench_prediction_is_the_first_wrong_step() -> None:
    table = pa.table({"id": ["a", "b"], "prediction": pa.array([-1, None], pa.int64())})
    assert read_recorded(table, "processbench_outputs").to_pylist() == [
        {"id": "a", "first_error": -1},
        {"id": "b", "first_error": None},
    ]


def test_reader_of_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import pyarrow as pa\ndef read(table):\n    return pa.table({'scores': [[1.0, 0.0]] * table.num_rows})\n"
    )
    assert read_recorded(pa.table({"x": [1]}), f"{file}:read")["scores"].to_pylist() == [[1.0, 0.0]]
    with pytest.raises(UserError, match="no function 'other'"):
        read_recorded(pa.table({"x": [1]}), f"{file}:other")


@pytest.mark.parametrize(
    ("ref", "says"), [("llmbar_result", "llmbar_results"), (None, "none of scores, games, steps, first_error")]
)
def test_file_without_verdicts_is_refused(ref: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_recorded(pa.table({"x": [1]}), ref)
