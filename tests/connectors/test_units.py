import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.units import Coverage, Range, Unit, pack, to_ranges, total_rows

INTERVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (min(pair), max(pair))))


@given(INTERVALS, st.integers(1, 40))
def test_coverage_is_a_set_of_rows(intervals, num_rows):
    coverage = Coverage()
    rows: set[int] = set()
    for start, stop in intervals:
        new = Range(0, start, stop)
        assert coverage.overlap(new) == len(rows & set(range(start, stop)))
        coverage.add(new)
        rows |= set(range(start, stop))
        assert coverage.num_rows == len(rows)
        left = coverage.subtract(Range(0, 5, 30))
        assert {row for piece in left for row in range(piece.start, piece.stop)} == set(range(5, 30)) - rows
    assert coverage.overlap(Range(1, 0, 40)) == 0  # another unit
    missing = coverage.missing(Unit(0, 0, 0, num_rows, num_rows))
    assert {row for piece in missing for row in range(piece.start, piece.stop)} == set(range(num_rows)) - rows
    assert missing == sorted(missing)
    assert total_rows(missing) == len(set(range(num_rows)) - rows)


@pytest.mark.parametrize(
    ("units", "rows", "expected"),
    [
        ([], [], []),
        ([3], [7], [Range(3, 7, 8)]),
        ([0, 0, 0], [1, 2, 3], [Range(0, 1, 4)]),
        ([0, 0, 1, 1], [4, 5, 6, 7], [Range(0, 4, 6), Range(1, 6, 8)]),  # the unit changes, the ordinal goes on
        ([0, 0, 0], [2, 1, 0], [Range(0, 2, 3), Range(0, 1, 2), Range(0, 0, 1)]),
    ],
)
def test_ranges_keep_the_order_of_the_rows(units, rows, expected):
    assert to_ranges(np.array(units), np.array(rows)) == expected


def test_pack_fills_tasks_and_keeps_every_piece():
    units = {index: Unit(index, 0, 0, 10, 100) for index in range(10)}
    pieces = [Range(index, 0, 10) for index in range(10)]
    tasks = list(pack(pieces, units, 250))
    assert [len(task) for task in tasks] == [2, 2, 2, 2, 2]
    assert [piece for task in tasks for piece in task] == pieces
    assert [len(task) for task in pack(pieces, units, 1)] == [1] * 10  # a piece is never cut, however small the target
