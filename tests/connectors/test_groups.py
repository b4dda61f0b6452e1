"""Adjacent groups: where they begin, and blocks that never cut one."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import JobError
from connectors.groups import group_offsets, whole_groups
from connectors.schema import DEAD, DEAD_TYPE


@pytest.mark.parametrize(
    ("keys", "offsets"),
    [
        ([], [0]),
        (["a"], [0, 1]),
        (["a", "a", "b", "b", "b"], [0, 2, 5]),
        (["a", "b", "a"], [0, 1, 2, 3]),
        ([None, None, "a", "a", None], [0, 1, 2, 4, 5]),  # a null belongs to no other row
        ([2**53, 2**53 + 1, None, 2**53 + 1], [0, 1, 2, 3, 4]),  # apart only beyond float64
    ],
)
def test_offsets_are_where_runs_of_equal_keys_begin(keys, offsets):
    assert group_offsets(pa.table({"k": pa.array(keys, None if keys else pa.string())}), "k").tolist() == offsets
    chunked = pa.chunked_array([[key] for key in keys], pa.array(keys).type if keys else pa.string())
    assert group_offsets(pa.table({"k": chunked}), "k").tolist() == offsets


def test_unreadable_row_goes_with_the_row_before_it():
    keys = pa.array([None, "a", None, "a", "b", None, "c"])
    letter = {"code": "invalid_json", "message": "", "line": 1, "offset": 0, "raw": b"{"}
    dead = pa.array([letter, None, letter, None, None, letter, None], DEAD_TYPE)
    table = pa.table({"k": keys, DEAD: dead})
    assert group_offsets(table, "k").tolist() == [0, 1, 4, 6, 7]
    blocks = list(whole_groups([table.slice(row, 1) for row in range(7)], "k"))
    assert [block["k"].to_pylist() for block in blocks] == [[None], ["a", None, "a"], ["b", None], ["c"]]


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12), st.integers(1, 5))
def test_blocks_end_where_a_group_ends_and_keep_every_row(groups, block_rows):
    keys = [None if null else index for index, (size, null) in enumerate(groups) for _ in range(size)]
    table = pa.table({"k": pa.array(keys, pa.int64()), "row": range(len(keys))})
    blocks = list(whole_groups((table.slice(at, block_rows) for at in range(0, len(keys), block_rows)), "k"))
    assert [row for block in blocks for row in block["row"].to_pylist()] == list(range(len(keys)))
    seen = [set(block["k"].drop_null().to_pylist()) for block in blocks]
    assert sum(len(found) for found in seen) == len(set().union(*seen))
    assert all(block.num_rows for block in blocks)


def test_a_key_that_comes_back_says_what_to_set():
    tables = [pa.table({"k": ["a", "b"]}), pa.table({"k": ["b", "a"]})]
    with pytest.raises(JobError, match=r"k = 'a' are not adjacent .* set input\.group\.rows: scattered"):
        list(whole_groups(tables, "k"))
