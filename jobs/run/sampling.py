"""Reads a few rows of a job's input: the first ones, or a sample from all over.

read_first_rows(dataset, 64)        # to show, and to check models with
sample_rows(dataset, 256, 10**9)    # for estimates
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.schema import DEAD, visible_columns
from connectors.units import Range
from rmbatch.adapters.view import in_part

SAMPLED_PLACES = 32
"""Places that a sample's rows come from, a few neighbours each. Single rows would cost as much as reading all."""
SEED = 0


def read_first_rows(dataset: InputDataset, num_rows: int) -> pa.Table:
    """Read the first readable rows, with the hidden columns."""
    blocks = [dataset.schema.empty_table()]
    missing = num_rows
    for block in read_first_blocks(dataset, num_rows):
        blocks.append(drop_unreadable(block).slice(0, missing))
        missing -= blocks[-1].num_rows
        if not missing:
            break
    return pa.concat_tables(blocks, promote_options="default")


def read_first_blocks(dataset: InputDataset, num_rows: int) -> Iterator[pa.Table]:
    """Read the input from its beginning, in blocks of at least this many rows where a unit has them."""
    for unit in dataset.units.values():
        yield from dataset.read(Range(unit.index, 0, unit.num_rows), max(num_rows, 64))


@dataclass(frozen=True)
class Sample:
    """Rows from places all over an input."""

    rows: pa.Table
    place: np.ndarray
    """The place that each row is from, int64 from 0."""
    num_places: int
    all_places: float
    """The number of such places in the whole input."""


def sample_rows(dataset: InputDataset, num_rows: int, all_rows: int, part: str | None = None) -> Sample:
    """Read about this many readable rows, from places drawn with a fixed seed. Of a small input read all.

    ``all_rows``: the rows of the whole input, where the dataset is only its beginning. Neighbours are often alike, so
    an estimate must count places, not rows, to say how much the input varies. ``part``: only rows of this part of a
    split input; their places count as all do.
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
        blocks = [visible_columns(drop_unreadable(block)) for block in dataset.read(piece, max(piece.num_rows, 1))]
        found = pa.concat_tables(blocks) if blocks else rows[0]
        places = num_places + np.arange(found.num_rows) // share
        mask = in_part(found, part)
        rows.append(found if mask is None else found.filter(mask))
        place.append(places if mask is None else places[np.asarray(mask)])
        num_places += -(-piece.num_rows // share)
    return Sample(
        pa.concat_tables(rows, promote_options="default"), np.concatenate(place), num_places, all_rows / share
    )


def drop_unreadable(block: pa.Table) -> pa.Table:
    """Leave out the rows that could not be read."""
    if DEAD not in block.column_names or block[DEAD].null_count == block.num_rows:
        return block
    return block.filter(block[DEAD].is_null())


def gather_groups(block: pa.Table, key: str) -> pa.Table:
    """Put rows of one key next to each other, as a shuffle would. Rows without a key stay apart."""
    keys = [(row, None) if value is None else (-1, value) for row, value in enumerate(block[key].to_pylist())]
    first = {value: place for place, value in reversed(list(enumerate(keys)))}
    return block.take(sorted(range(len(keys)), key=lambda row: first[keys[row]]))
