"""Finds groups of adjacent rows with the same key (usually the same prompt), and makes blocks that never cut a group.

A row with a null key is a group of its own. A row that could not be read (``DEAD``) has no known key. It counts to the
group of the row before it, so a broken line does not cut the group around it.

    for block in whole_groups(tables, "prompt_id"):
        offsets = group_offsets(block, "prompt_id")     # numpy int64 [groups + 1], from 0 to the number of rows
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import JobError
from connectors.schema import DEAD


def group_offsets(table: pa.Table, key: str) -> np.ndarray:
    """Find where each group begins: int64 [groups + 1], the last is the number of rows. A null key is its own group."""
    num_rows = table.num_rows
    if num_rows == 0:
        return np.zeros(1, np.int64)
    keys = _known_keys(table, key)
    same = pc.fill_null(pc.equal(keys.slice(1), keys.slice(0, num_rows - 1)), False)
    starts = np.flatnonzero(~np.asarray(same)) + 1
    return np.concatenate(([0], starts, [num_rows])).astype(np.int64)


def _known_keys(table: pa.Table, key: str) -> pa.Array:
    """Get the key of each row. A dead row gets the key of the row before it."""
    keys = table[key].combine_chunks()
    if DEAD not in table.column_names or table[DEAD].null_count == table.num_rows:
        return keys
    alive = ~np.asarray(table[DEAD].is_valid())
    return keys.take(pa.array(np.maximum.accumulate(np.where(alive, np.arange(len(alive)), 0))))


def whole_groups(tables: Iterable[pa.Table], key: str) -> Iterator[pa.Table]:
    """Cut the rows into blocks that end where a group ends. Raises JobError where a key comes back after other keys."""
    seen: set[object] = set()
    rest: pa.Table | None = None
    for table in tables:
        if rest is not None:
            table = pa.concat_tables([rest, table])
        cut = int(group_offsets(table, key)[-2]) if table.num_rows else 0
        if cut:
            yield _check_adjacent(table.slice(0, cut), key, seen)
        rest = table.slice(cut)
    if rest is not None and rest.num_rows:
        yield _check_adjacent(rest, key, seen)


def _check_adjacent(block: pa.Table, key: str, seen: set[object]) -> pa.Table:
    firsts = pc.drop_null(_known_keys(block, key).take(pa.array(group_offsets(block, key)[:-1]))).to_pylist()
    for value in firsts:
        if value in seen:
            raise JobError(
                f"rows with {key} = {value!r} are not adjacent in the input; set input.group.rows: scattered"
            )
        seen.add(value)
    return block
