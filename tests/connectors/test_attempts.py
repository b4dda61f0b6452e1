"""A row that kills its process is found and buried; a range that only looks suspicious is worked off whole."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.attempts import CHUNKS, DEATHS_TO_BURY, DEATHS_TO_NARROW, Attempts, narrow
from connectors.storage import Folder
from connectors.units import Range

ROWS = Range(7, 0, 1000)
EVERY_ROW = range(1000)


def test_only_a_death_leaves_a_marker(folder: Folder):
    attempts = Attempts(folder, "run1")
    with attempts.attempt(ROWS):
        pass
    with pytest.raises(ZeroDivisionError), attempts.attempt(ROWS):
        raise ZeroDivisionError  # an error that can be caught is no death
    assert attempts.deaths(ROWS) == {}
    for rows in (ROWS, ROWS, Range(7, 0, 10), Range(7, 900, 1100), Range(8, 0, 5)):
        attempts.mark(rows)
    assert attempts.deaths(ROWS) == {ROWS: {"run1": 2}, Range(7, 0, 10): {"run1": 1}}
    assert attempts.deaths(Range(8, 0, 5)) == {Range(8, 0, 5): {"run1": 1}}


def test_death_counts_only_if_its_driver_saw_it(folder: Folder):
    first, second = Attempts(folder, "run1"), Attempts(folder, "run2")
    first.mark(ROWS)
    assert second.deaths(ROWS) == {}  # the driver was killed with its worker, or before it could look
    first.mark(ROWS)
    assert first.deaths(ROWS) == {ROWS: {"run1": 2}}
    first.mark(ROWS)
    second.mark(ROWS)
    assert second.deaths(ROWS) == {ROWS: {"run1": 2, "run2": 1}}  # what the first run saw is still known


@pytest.mark.parametrize(
    ("deaths", "narrowed"),
    [
        ({}, False),
        ({ROWS: DEATHS_TO_NARROW - 1}, False),
        ({ROWS: DEATHS_TO_NARROW}, True),
        ({Range(7, 10, 20): DEATHS_TO_NARROW}, True),  # found by an earlier block that was cut differently
        ({Range(7, 500, 1500): 9}, False),  # not inside this block: another block's affair
        ({Range(8, 0, 10): 9}, False),
    ],
)
def test_a_range_is_narrowed_after_deaths_inside_it(deaths: dict, narrowed: bool):
    chunks = narrow(ROWS, {rows: {"run": count} for rows, count in deaths.items()}, EVERY_ROW)
    assert (len(chunks) > 1, len(chunks) >= CHUNKS) == (narrowed, narrowed)


@given(
    st.integers(1, 300),
    st.sets(st.integers(0, 400)),
    st.dictionaries(st.tuples(st.integers(0, 300), st.integers(1, 30)), st.integers(1, 5), max_size=8),
)
def test_chunks_keep_rows_in_order_and_cut_only_where_allowed(size, cuts, deaths):
    rows = Range(0, 5, 5 + size)
    found = narrow(
        rows, {Range(0, start, start + n): {"run": count} for (start, n), count in deaths.items()}, sorted(cuts)
    )
    assert [found[0].rows.start, *(chunk.rows.stop for chunk in found)] == [
        *(chunk.rows.start for chunk in found),
        rows.stop,
    ]
    assert {chunk.rows.start for chunk in found[1:]} <= cuts


def test_one_row_is_buried_by_deaths_that_one_run_has_seen():
    row, killed_in_each_run = Range(7, 3, 4), {f"run{number}": DEATHS_TO_BURY - 1 for number in range(9)}
    assert not narrow(row, {row: killed_in_each_run}, EVERY_ROW)[0].dead
    assert narrow(row, {row: killed_in_each_run | {"last": DEATHS_TO_BURY}}, EVERY_ROW)[0].dead
    assert len(narrow(ROWS, {ROWS: {"run1": 1, "run2": 1}}, EVERY_ROW)) > 1  # to narrow, all deaths count


@pytest.mark.parametrize("cuts", [EVERY_ROW, range(0, 1000, 10)], ids=["rows", "groups of ten"])
@pytest.mark.parametrize("killers", [{613}, {0, 999}, {3, 4, 5}])
def test_killers_are_buried_and_every_other_row_gets_through(cuts: range, killers: set[int]):
    """What the pipeline does with a block, each process dying on a killer and the block coming back."""
    deaths: defaultdict[Range, Counter[str]] = defaultdict(Counter)

    def process() -> tuple[set[int], set[int]] | None:
        done: set[int] = set()
        buried: set[int] = set()
        for chunk in narrow(ROWS, deaths, cuts):
            rows = set(range(chunk.rows.start, chunk.rows.stop))
            if chunk.dead:
                buried |= rows
            elif rows & killers:
                deaths[chunk.rows]["run"] += 1
                return None
            else:
                done |= rows
        return done, buried

    lives = 1
    while (ended := process()) is None:
        lives += 1
    done, buried = ended
    expected = {row // cuts.step * cuts.step + beside for row in killers for beside in range(cuts.step)}
    assert (buried, done) == (expected, set(EVERY_ROW) - expected)
    assert lives <= 1 + len(killers) * (2 * DEATHS_TO_NARROW + DEATHS_TO_BURY)
