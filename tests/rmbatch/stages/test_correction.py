"""When a correction stops on its way, by what its rounds have come to."""

import pytest

from rmbatch.correction.spec import StopSpec
from rmbatch.stages.correction import why_stop_correcting
from rmbatch.stages.tally import CorrectionCount, RoundCount, Tally, count_correction


@pytest.mark.parametrize(
    ("better", "worse", "stops"),
    [
        (10, 30, True),
        (15, 25, False),
        (0, 29, False),
        (0, 30, True),
        (500, 560, False),
        (500, 600, True),
        (30, 10, False),
    ],
)
def test_stops_where_the_held_out_judge_prefers_the_old(better: int, worse: int, stops: bool) -> None:
    rounds = [CorrectionCount(rows=100, gain=40.0, held_out={"better": better, "worse": worse, "tie": 50})]
    why = why_stop_correcting(StopSpec(), rounds)
    assert bool(why) is stops
    if stops:
        assert f"{worse:,} worse and {better:,} better" in why
        assert "correct.stop.held_out: false" in why
    assert not why_stop_correcting(StopSpec(held_out=False), rounds)


@pytest.mark.parametrize(
    ("rows", "gain", "tokens", "stops"),
    [(200, 1.0, 100_000, False), (200, 0.9, 100_000, True), (199, 0.0, 100_000, False), (200, 0.0, 0, False)],
)
def test_stops_where_tokens_gain_too_little(rows: int, gain: float, tokens: int, stops: bool) -> None:
    rounds = [CorrectionCount(rows=rows, gain=gain / 2, tokens=tokens), CorrectionCount(gain=gain / 2)]
    assert bool(why_stop_correcting(StopSpec(gain_per_1k_tokens=0.01), rounds)) is stops
    assert not why_stop_correcting(StopSpec(), rounds)


def test_counts_of_rows_add_up_by_round() -> None:
    first = RoundCount(0.5, 100, {"accepted": 1, "copy": 1}, "better")
    second = RoundCount(0.0, None, {"not_better": 2})
    counts = count_correction("improved", [first, second]) + count_correction("target", [first])
    counts += count_correction("untouched", []) + count_correction("improved", [first], is_control=True)
    tally = Tally(counts)
    assert tally.outcomes() == {"improved": 1, "target": 1, "untouched": 1}
    assert tally.decisions() == {"accepted": 2, "copy": 2, "not_better": 2}
    assert tally.rounds() == [
        CorrectionCount(2, 4, 2, 1.0, 200, 0, {"better": 2}),
        CorrectionCount(1, 2, 0, 0.0, 0, 1, {}),
    ]
    assert tally.rounds(is_control=True) == [CorrectionCount(1, 2, 1, 0.5, 100, 0, {"better": 1})]
    assert Tally({}).rounds() == []
    assert why_stop_correcting(StopSpec(gain_per_1k_tokens=1.0), []) == ""
