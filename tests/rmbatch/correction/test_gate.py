"""Which rows enter, when one is good enough, and which are asked about first."""

import pytest

from rmbatch.correction.gate import decide_entry, has_reached_target, order_by_gain
from rmbatch.correction.history import Assessment, Attempt, Row
from rmbatch.correction.spec import GateSpec


@pytest.mark.parametrize(
    ("gate", "score", "scores", "entry", "is_enough"),
    [
        ({}, 1.0, {}, "enters", False),  # without a target nothing is ever good enough
        ({}, None, {}, "no_score", False),
        ({"below": 0.5}, 0.5, {}, "untouched", True),  # the target itself is good enough
        ({"below": 0.5}, 0.49, {}, "enters", False),
        ({"below": 0.5, "on_null": "enter"}, None, {}, "enters", False),
        ({"failing": ["math"]}, -3.0, {"math": 1.0}, "untouched", True),
        ({"failing": ["math"]}, 9.0, {"math": 0.9}, "enters", False),
        ({"failing": {"math": 0.9}}, 9.0, {"math": 0.9}, "untouched", True),
        ({"failing": ["math"]}, 9.0, {"math": None}, "enters", False),  # no score does not pass
        ({"failing": ["math"], "below": 0.5}, 0.1, {"math": 1.0}, "enters", False),
    ],
)
def test_rows_enter_below_the_target_or_failing(
    gate: dict[str, object], score: float | None, scores: dict[str, float | None], entry: str, is_enough: bool
) -> None:
    spec = GateSpec.model_validate(gate)
    assert decide_entry(spec, Assessment(score, scores)) == entry
    assert has_reached_target(spec, score, scores) is is_enough


def test_rows_with_the_most_to_gain_for_their_length_come_first() -> None:
    def row(place: int, score: float | None, text: str | None) -> Row:
        return Row(
            place, [{"role": "user", "content": "Say it."}], Attempt("first", text, 0, Assessment(score), "first")
        )

    rows = [
        row(0, 0.9, "short"),
        row(1, 0.0, "long " * 99),
        row(2, 0.0, "short"),
        row(3, None, None),
        row(4, 0.0, "short"),
    ]
    assert [each.place for each in order_by_gain(GateSpec(below=1.0), rows)] == [3, 2, 4, 0, 1]
    assert [each.place for each in order_by_gain(GateSpec(), rows)] == [3, 0, 2, 4, 1]
