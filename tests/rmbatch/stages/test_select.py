"""The stage that selects: generated candidates that were cut off are left out, however their rows came here."""

from typing import Any

import pyarrow as pa
import pytest

from connectors.errors import UserError
from rmbatch.rows.roles import guess_roles
from rmbatch.selection.choose import ChoiceRule
from rmbatch.stages.select import SelectStage

CUT = {"error": "cut_off: the answer ended at max_tokens: 9"}


def choose(generation: Any, keep_cut_off: bool = False) -> Any:
    """The rank and reason of two candidates, the first with the better score."""
    rows = {"prompt": ["q"], "responses": [["a", "b"]], "generation": generation, "score.math": [[1.0, 0.5]]}
    table = pa.table(rows)
    stage = SelectStage(ChoiceRule(), "math", guess_roles(table.schema), keep_cut_off=keep_cut_off)
    (row,) = stage(table).to_pylist()
    return row["select.rank"], row["select.reason"]


@pytest.mark.parametrize(
    "first", [CUT, {**CUT, "model": "m"}, {"model": "m", **CUT, "tokens": 9}], ids=["alone", "first", "in the middle"]
)
def test_a_candidate_that_was_cut_off_is_not_chosen(first: dict[str, Any]) -> None:
    second = dict.fromkeys(first)
    assert choose([[first, second]]) == ([None, 1], ["cut_off", None])
    assert choose([[first, second]], keep_cut_off=True) == ([1, None], [None, "outranked"])


def test_errors_that_are_all_null_have_no_type() -> None:
    assert choose([[{"error": None}, {"error": None}]]) == ([1, None], [None, "outranked"])


def test_a_column_of_another_kind_says_nothing() -> None:
    assert choose(["the third generation"]) == ([1, None], [None, "outranked"])


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="are not as long as those in 'responses'"):
        choose([[CUT]])
