"""Preferences out of the forms in which data sets write them; what cannot be used; and rows held out."""

from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from connectors.errors import UserError
from rmbatch.discovery.preferences import Preference, PreferenceColumns, read_preferences, split_by_prompt
from rmbatch.rows.roles import JSON_MARK, Roles
from tests.rmbatch.discovery.scripted import preferences

PAIR = PreferenceColumns(chosen="chosen", rejected="rejected")
ASSISTANT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}]


def read(table: pa.Table, columns: PreferenceColumns = PAIR) -> Any:
    return read_preferences(table, Roles(prompt="prompt"), columns, [str(row) for row in range(table.num_rows)])


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("good", "bad", ("good", ("bad",))),
        ("good", ["bad", "worse"], ("good", ("bad", "worse"))),
        ("good", ["bad", None, "bad", " ", "good"], ("good", ("bad",))),  # nulls, repeats, and the chosen one itself
        (ASSISTANT, [{"role": "assistant", "content": "bad"}], ("good", ("bad",))),  # a conversation is one answer
        ("good", [[{"role": "assistant", "content": "bad"}]], ("good", ("bad",))),  # a list of them is several
        ("good", None, "rejected_missing"),
        ("good", [], "rejected_missing"),
        ("good", "good", "equal_answers"),
        (None, "bad", "chosen_missing"),
        ("\n", "bad", "chosen_missing"),
    ],
)
def test_pairs(chosen: Any, rejected: Any, expected: Any) -> None:
    found = read(pa.table({"prompt": ["q"], "chosen": [chosen], "rejected": [rejected]}))
    if isinstance(expected, str):
        assert (found.preferences, found.unusable) == ([], {expected: 1})
    else:
        (only,) = found.preferences
        assert (only.chosen, only.rejected) == expected
        assert (only.prompt, only.row, found.unusable) == ("[user]\nq", "0", {})


def test_a_column_of_mixed_json_has_one_answer_or_several() -> None:
    field = pa.field("rejected", pa.string(), metadata=dict([JSON_MARK]))
    texts = ['"bad"', '["bad","worse"]', '[{"role":"assistant","content":"bad"}]', None]
    schema = pa.schema([("prompt", pa.string()), ("chosen", pa.string()), field])
    found = read(pa.table([list("abcd"), ["good"] * 4, texts], schema=schema))
    assert [each.rejected for each in found.preferences] == [("bad",), ("bad", "worse"), ("bad",)]
    assert found.unusable == {"rejected_missing": 1}


@pytest.mark.parametrize("best", [1, 0, None, 2, -1])
def test_the_place_of_the_best(best: int | None) -> None:
    columns = PreferenceColumns(responses="answers", best="best")
    table = pa.table({"prompt": ["q"], "answers": [["a", "b"]], "best": pa.array([best], pa.int64())})
    found = read(table, columns)
    if best in (0, 1):
        assert (found.preferences[0].chosen, found.preferences[0].rejected) == (
            ("b", ("a",)) if best else ("a", ("b",))
        )
    else:
        assert found.unusable == {"chosen_missing": 1}


def test_several_columns_of_answers() -> None:
    table = pa.table({"prompt": ["q"], "one": ["a"], "two": ["b"], "best": [1]})
    (only,) = read(table, PreferenceColumns(responses=("one", "two"), best="best")).preferences
    assert (only.chosen, only.rejected) == ("b", ("a",))


def test_what_is_missing_or_there_twice_is_counted() -> None:
    prompts = ["q", None, "", "q", "q"]
    chosen = ["good", "good", "good", "good", "better"]
    found = read(pa.table({"prompt": prompts, "chosen": chosen, "rejected": ["bad"] * 5}))
    assert [each.row for each in found.preferences] == ["0", "4"]
    assert found.unusable == {"prompt_missing": 2, "repeated": 1}
    empty = pa.table(
        {"prompt": pa.array([], pa.string()), "chosen": pa.array([], pa.string()), "rejected": pa.nulls(0)}
    )
    assert read(empty).preferences == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"chosen": "winner", "rejected": "rejected"}, "no column 'winner'"),
        ({"responses": "chosen", "best": "rejected"}, "the place of the best answer is a whole number|not a list"),
    ],
)
def test_columns_that_do_not_fit(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(pa.table({"prompt": ["q"], "chosen": ["a"], "rejected": ["b"]}), PreferenceColumns(**columns))


@pytest.mark.parametrize(
    "columns", [{}, {"chosen": "a"}, {"chosen": "a", "rejected": "b", "best": "c"}, {"chosen": "a", "best": "b"}]
)
def test_one_whole_way_is_needed(columns: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"write {chosen: COLUMN, rejected: COLUMN} or"):
        PreferenceColumns(**columns)


def test_no_prompt_is_on_both_sides() -> None:
    rows = preferences(40)
    again = [Preference(f"x{each.row}", each.messages, "other", each.rejected) for each in rows[:20]]
    shouted = Preference("loud", ({"role": "user", "content": "MY device  number 3 is broken."},), "a", ("b",))
    train, held_out = split_by_prompt([*rows, *again, shouted], 0.3, seed=5)
    sides = [{each.prompt.casefold().replace("  ", " ") for each in side} for side in (train, held_out)]
    assert not sides[0] & sides[1]
    assert (len(sides[1]), len(train) + len(held_out)) == (12, 61)
    assert split_by_prompt([*rows, *again, shouted], 0.3, seed=5) == (train, held_out)
    assert split_by_prompt([*rows, *again, shouted], 0.3, seed=6) != (train, held_out)
    assert {each.row for each in split_by_prompt(rows[::-1], 0.3, 5)[1]} == {
        each.row for each in split_by_prompt(rows, 0.3, 5)[1]
    }


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"held_out: 0.3 of 1 different prompts leaves 2 rows to learn from and 0"):
        split_by_prompt([*preferences(1), *preferences(1)], 0.3, seed=0)


def test_the_order_of_answers_says_nothing() -> None:
    first = [each.shown(seed=0).index(each.chosen) for each in preferences(200, num_rejected=3)]
    assert all(30 < first.count(place) < 75 for place in range(4))
    one = preferences(1, num_rejected=3)[0]
    turned = Preference(one.row, one.messages, one.rejected[0], (one.rejected[2], one.chosen, one.rejected[1]))
    assert turned.shown(seed=0) == one.shown(seed=0)
