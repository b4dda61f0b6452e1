"""A few rows of a job's input, for looks at it: the first ones, or some from all over.

first_rows(dataset, 64)             # what a person sees first
spread_rows(dataset, 256, 10**9)    # what estimates go by
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.schema import DEAD, visible_columns
from connectors.units import Range

SAMPLED_PLACES = 32
"""Where the rows of an estimate come from: a few neighbours at each, for reading single rows would read everything."""
SEED = 0


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


@dataclass(frozen=True)
class Sample:
    """Rows from places all over an input."""

    rows: pa.Table
    place: np.ndarray
    """Which place each row is from, int64 from 0."""
    num_places: int
    all_places: float
    """How many such places the whole input has."""


def spread_rows(dataset: InputDataset, num_rows: int, all_rows: int) -> Sample:
    """About so many rows that can be read, from places that are drawn with a fixed seed; of a small input all.

    ``all_rows``: of the input, where the dataset is only its beginning. Rows that are neighbours are often alike, so
    it is the places that say how much the input varies.
    """
    units = [unit for unit in dataset.units.values() if unit.num_rows]
    if dataset.num_rows <= num_rows:
        pieces, share = [Range(unit.index, 0, unit.num_rows) for unit in units], 1
    else:
        draw, share = random.Random(SEED), -(-num_rows // SAMPLED_PLACES)
        chosen = draw.choices(units, [unit.num_rows for unit in units], k=SAMPLED_PLACES)
        starts = [draw.randrange(max(unit.num_rows - share, 0) + 1) for unit in chosen]
        pieces = [Range(unit.index, at, min(at + share, unit.num_rows)) for unit, at in zip(chosen, starts)]
    rows, place = [dataset.schema.empty_table()], [np.zeros(0, np.int64)]
    num_places = 0
    for piece in pieces:
        blocks = [visible_columns(readable(block)) for block in dataset.read(piece, max(piece.num_rows, 1))]
        rows += blocks
        count = sum(block.num_rows for block in blocks)
        place.append(num_places + np.arange(count) // share)
        num_places += -(-piece.num_rows // share)
    return Sample(
        pa.concat_tables(rows, promote_options="default"), np.concatenate(place), num_places, all_rows / share
    )


def readable(block: pa.Table) -> pa.Table:
    """Without the rows that could not be read."""
    return block.filter(block[DEAD].is_null()) if DEAD in block.column_names else block


def by_first_place(block: pa.Table, key: str) -> pa.Table:
    """Rows of one key together, as a shuffle would bring them; rows without a key stay apart."""
    keys = [(row, None) if value is None else (-1, value) for row, value in enumerate(block[key].to_pylist())]
    first = {value: place for place, value in reversed(list(enumerate(keys)))}
    return block.take(sorted(range(len(keys)), key=lambda row: first[keys[row]]))
