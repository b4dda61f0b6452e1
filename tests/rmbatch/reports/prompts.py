"""Prompts with scored candidates, drawn by hypothesis and as the reports take them."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from rmbatch.evaluation.ragged import Floats

Lists = list[list[float | None]]
SCORE = st.one_of(st.none(), st.integers(0, 3).map(float))


@st.composite
def score_lists(draw: st.DrawFn, names: int = 1, most: int = 6) -> list[Lists]:
    """Of each of some scores the lists of the same prompts."""
    sizes = draw(st.lists(st.integers(0, most), min_size=1, max_size=5))
    return [[draw(st.lists(SCORE, min_size=size, max_size=size)) for size in sizes] for _ in range(names)]


def flat(lists: Lists) -> Floats:
    """The values one after the other, NaN for None."""
    return np.array([np.nan if each is None else each for some in lists for each in some], np.float64)


def offsets_of(lists: Lists) -> Any:
    return np.cumsum([0, *(len(each) for each in lists)]).astype(np.int64)
