"""A few rows of a job's input, for looks at it: the first ones, or some from all over.

first_rows(dataset, 64)             # what a person sees first
spread_rows(dataset, 256)           # what estimates go by
"""

from collections.abc import Iterator

import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.schema import DEAD, visible_columns
from connectors.units import Range

SAMPLED_UNITS = 16
"""Units that the rows of an estimate come from."""


def first_rows(dataset: InputDataset, num_rows: int) -> pa.Table:
    """The first rows that can be read, with the hidden columns."""
    found = [dataset.schema.empty_table()]
    missing = num_rows
    for block in first_blocks(dataset, num_rows):
        found.append(readable(block).slice(0, missing))
        missing -= found[-1].num_rows
        if not missing:
            break
    return pa.concat_tables(found, promote_options="default")


def first_blocks(dataset: InputDataset, num_rows: int) -> Iterator[pa.Table]:
    """The input from its beginning, in blocks of at least so many rows where a unit has them."""
    for unit in dataset.units.values():
        yield from dataset.read(Range(unit.index, 0, unit.num_rows), max(num_rows, 64))


def spread_rows(dataset: InputDataset, num_rows: int) -> pa.Table:
    """Rows that can be read out of up to ``SAMPLED_UNITS`` units from all over the input."""
    units = list(dataset.units.values())
    chosen = units[:: max(1, -(-len(units) // SAMPLED_UNITS))]
    share = -(-num_rows // max(len(chosen), 1))
    found = [dataset.schema.empty_table()]
    for unit in chosen:
        block = next(dataset.read(Range(unit.index, 0, min(unit.num_rows, share)), share), None)
        if block is not None:
            found.append(visible_columns(readable(block)))
    return pa.concat_tables(found, promote_options="default")


def readable(block: pa.Table) -> pa.Table:
    """Without the rows that could not be read."""
    return block.filter(block[DEAD].is_null()) if DEAD in block.column_names else block
