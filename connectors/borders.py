"""Moves the borders between units so that they cut no group of adjacent rows.

units = keep_groups_whole(units, borders)       # of one file, a border for each unit
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from connectors.units import Unit


@dataclass(frozen=True)
class Border:
    """The first group of a unit: its size, and the first and last keys of the unit."""

    head_key: Any
    tail_key: Any
    rows: int
    num_bytes: int
    lines: int


def keep_groups_whole(units: Sequence[Unit], borders: Sequence[Border]) -> list[Unit]:
    """Move each border that cuts a group to the end of that group. All units belong to one file."""
    kept: list[Unit] = []
    tail: Any = None
    for unit, border in zip(units, borders, strict=True):
        goes_on = border.head_key is not None and border.head_key == tail
        unreadable = border.head_key is None and border.rows == unit.num_rows  # goes with the row before it
        if kept and border.rows and (goes_on or unreadable):
            previous = kept[-1]
            kept[-1] = replace(
                previous,
                num_rows=previous.num_rows + border.rows,
                num_bytes=previous.num_bytes + border.num_bytes,
            )
            unit = replace(
                unit,
                first_row=unit.first_row + border.rows,
                num_rows=unit.num_rows - border.rows,
                num_bytes=unit.num_bytes - border.num_bytes,
                start_byte=unit.start_byte + border.num_bytes,
                first_line=unit.first_line + border.lines,
            )
        if unit.num_rows:
            kept.append(unit)
            tail = border.tail_key
    return kept
