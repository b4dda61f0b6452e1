"""The story of a row knows every reason that a selection gives."""

from rmbatch.inspection.story import REASONS
from rmbatch.selection import choose, rank


def test_each_reason_of_a_selection_is_explained() -> None:
    filters = ("CUT_OFF", "VETO", "TOO_HARD", "TOO_EASY", "PERCENTILE", "Z", "BAND", "OUTVOTED", "DUPLICATE", "CAP")
    assert {*REASONS} == {getattr(choose, name) for name in filters} | {*rank.REASONS}
