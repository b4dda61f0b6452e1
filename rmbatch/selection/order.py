"""Candidates in the order of a key within each prompt: what ranks, thresholds and picks have in common.

sort_within(np.array([0, 1, 2]), key=np.array([3.0, 1.0, 2.0]), prompt=np.array([0, 0, 1]))    # [1, 0, 2]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PADDING = 4
"""Prompts of uneven sizes are sorted as rows of a grid while the grid has at most so many cells for each candidate."""


Keys = NDArray[np.float64] | NDArray[np.uint64] | NDArray[np.int64]


def sort_within(member: NDArray[np.intp], key: Keys, prompt: NDArray[np.int64]) -> NDArray[np.intp]:
    """The members ordered by their prompt, then by their key, the lowest first; equal keys stay as they stand.

    member[m]: places of candidates, ascending; key[n], no NaN among the members'; prompt[n], ascending -> member[m].
    """
    if len(member) == 0:
        return member
    keys, owner = key[member], prompt[member]
    starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    sizes = np.diff(np.append(starts, len(member)))
    width = int(sizes.max())
    if len(sizes) * width > MAX_PADDING * len(member):
        by_both: NDArray[np.intp] = member[np.lexsort((keys, owner))]
        return by_both
    inside = np.arange(width) < sizes[:, None]
    highest: Any = np.inf if keys.dtype.kind == "f" else np.iinfo(keys.dtype.name).max
    grid = np.full((len(sizes), width), highest, keys.dtype)  # stable sorting leaves the padding last
    grid[inside] = keys
    order = np.argsort(grid, axis=1, kind="stable") + starts[:, None]
    ordered: NDArray[np.intp] = member[order[inside]]
    return ordered
