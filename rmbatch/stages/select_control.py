"""Compares what a selection kept with a random pick of the same size and with the oracle, row by row.

The sums stand in a column of the output, so they are counted from what was written, whoever wrote it.

    picked, sums = compare(chosen, measure, cut_off, offsets, address, seed=0)    # one entry per candidate
    count_control(sum_by_row(sums, offsets))                                      # a Counter, as a stage's tally gives
"""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rmbatch.selection.choose import Choice, to_floats
from rmbatch.selection.control import oracle_pick, random_pick
from rmbatch.selection.filters import Offsets, prompt_of
from rmbatch.stages.tally import Comparison, count_comparison

COUNTS, SUMS = ("kept", "measured", "tied"), ("selected", "random", "oracle")
CONTROL_TYPE = pa.struct([*((name, pa.int32()) for name in COUNTS), *((name, pa.float64()) for name in SUMS)])
"""kept: candidates kept. measured: those of them with a finite measure. tied: those that a tie-break preferred to an
equal one. selected, random, oracle: the measure summed over ``measured`` candidates of each pick."""


def compare(
    chosen: Choice,
    measure: pa.Array,
    cut_off: pa.Array | None,
    offsets: Offsets,
    address: NDArray[np.int64] | None,
    seed: int,
) -> tuple[pa.Array, pa.StructArray]:
    """Which candidates a random pick takes, bool[n], and what each candidate adds to the sums, CONTROL_TYPE[n].

    Random pick and oracle take as many candidates of each prompt as were kept and are measured, out of those that have
    a score and a finite measure and were not cut off.
    """
    value = to_floats(measure)
    kept = chosen.rank.is_valid().to_numpy(zero_copy_only=False)
    pool = np.isfinite(value) & ~np.isnan(chosen.value)
    if cut_off is not None:
        pool &= ~cut_off.to_numpy(zero_copy_only=False)
    measured = kept & pool
    size = np.bincount(prompt_of(offsets)[measured], minlength=len(offsets) - 1)
    picked = random_pick(pool, offsets, size, seed, address)
    best = oracle_pick(value, pool, offsets, size)
    counts = [pa.array(mask.astype(np.int32)) for mask in (kept, measured, chosen.tied)]
    sums = [pa.array(np.where(mask, value, 0.0)) for mask in (measured, picked, best)]
    return pa.array(picked), pa.StructArray.from_arrays([*counts, *sums], fields=list(CONTROL_TYPE))


def sum_by_row(sums: pa.StructArray, offsets: Offsets) -> pa.StructArray:
    """The sums over the candidates of each row."""
    prompt, num = prompt_of(offsets), len(offsets) - 1
    columns = [np.bincount(prompt, column.to_numpy(), num) for column in sums.flatten()]
    fields = list(CONTROL_TYPE)
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, fields, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def count_control(sums: pa.StructArray) -> Counter[str]:
    """The counts of these rows."""
    columns = dict(zip([field.name for field in sums.type], sums.flatten(), strict=True))
    kept, measured, tied = (int(pc.sum(columns[name]).as_py() or 0) for name in COUNTS)
    selected, random, oracle = (math.fsum(columns[name].to_numpy(zero_copy_only=False)) for name in SUMS)
    return count_comparison(Comparison(kept, measured, tied, selected, random, oracle))
