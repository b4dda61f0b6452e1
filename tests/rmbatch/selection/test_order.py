"""Sorting within prompts equals sorting by two keys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbatch.selection.order import sort_within

SIZES = st.lists(st.integers(0, 6), max_size=8).map(lambda sizes: [*sizes, 40] if len(sizes) == 8 else sizes)
"""Candidates of each prompt; now and then a crowd beside small ones, which takes the other way."""


@given(sizes=SIZES, data=st.data())
def test_equals_a_sort_by_two_keys(sizes: list[int], data: st.DataObject) -> None:
    num = sum(sizes)
    prompt = np.repeat(np.arange(len(sizes)), sizes)
    values = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, np.inf]), min_size=num, max_size=num)
    key = np.array(data.draw(values), float)
    member = np.flatnonzero(np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)), bool))
    expected = sorted(member.tolist(), key=lambda at: (prompt[at], key[at]))  # stable
    assert sort_within(member, key, prompt).tolist() == expected


@pytest.mark.parametrize("kind", [np.uint64, np.int64])
def test_highest_whole_number_is_no_padding(kind: type) -> None:
    highest = np.iinfo(kind).max
    key = np.array([highest, 3, highest, 1], kind)
    assert sort_within(np.arange(4), key, np.array([0, 0, 0, 1])).tolist() == [1, 0, 2, 3]
