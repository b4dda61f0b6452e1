"""The story of a row knows every reason that a selection gives."""

import pyarrow as pa

from rmbatch.inspection.story import REASONS, tell_row
from rmbatch.rows.roles import Roles
from rmbatch.selection import choose, rank


def test_each_reason_of_a_selection_is_explained() -> None:
    filters = ("CUT_OFF", "VETO", "TOO_HARD", "TOO_EASY", "PERCENTILE", "Z", "BAND", "OUTVOTED", "DUPLICATE", "CAP")
    assert {*REASONS} == {getattr(choose, name) for name in filters} | {*rank.REASONS}


def test_candidate_that_a_tie_left_out_is_told_so() -> None:
    row = {
        "responses": [["a", "b", "c"]],
        "score.math": [[1.0, 1.0, 0.0]],
        "select.rank": [[None, 1, None]],
        "select.reason": [["outranked", None, "outranked"]],
    }
    job = {"select": {"by": "math", "keep": 1, "ties": "shortest"}}
    story = tell_row(pa.table(row), Roles(responses="responses"), job, "data")
    assert [each.meaning for each in story.candidates] == [
        "an equal candidate was preferred (select.ties: shortest)",
        None,
        "enough candidates of the prompt came before it (select.keep: 1)",
    ]
