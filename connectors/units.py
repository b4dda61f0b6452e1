"""Units of input files, and ranges of rows inside them.

A unit is a contiguous range of rows of one input file. The address of a row is its unit and its ordinal in the unit.
Commit records name ranges of addresses, so the rows that are left to do are found by subtraction.

    coverage = Coverage()
    coverage.add(Range(unit=3, start=0, stop=5000))
    [Range(3, 5000, 8192)] == coverage.missing(Unit(index=3, ..., num_rows=8192))
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class InputFile:
    """A file of the input, as it was when the job was planned."""

    uri: str
    size: int
    """Bytes."""
    etag: str
    num_rows: int = 0
    partition: tuple[tuple[str, str | None], ...] = ()
    """Hive partition keys and values in the file's path; None is Hive's default partition."""


@dataclass(frozen=True)
class Unit:
    """A contiguous range of rows of one input file."""

    index: int
    file: int
    """Index of the file in the plan."""
    first_row: int
    """Ordinal of the unit's first row in its file."""
    num_rows: int
    num_bytes: int
    """Size of the unit in its file (estimated for compressed JSONL). For progress and for packing tasks."""
    start_byte: int = 0
    """The byte offset of the unit in an uncompressed JSONL file."""
    first_line: int = 0
    """The number of lines before the unit in a JSONL file, including blank ones."""


class Range(NamedTuple):
    """Rows ``start`` to ``stop`` (exclusive) of one unit."""

    unit: int
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


@dataclass
class Coverage:
    """A set of finished rows. Memory grows with the number of gaps, not of rows."""

    _intervals: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """The intervals of each unit, sorted. They neither overlap nor touch."""

    @property
    def num_rows(self) -> int:
        """The number of finished rows."""
        return sum(stop - start for intervals in self._intervals.values() for start, stop in intervals)

    def add(self, new: Range) -> None:
        """Add a range. Parts of it may be finished already."""
        if new.num_rows == 0:
            return
        intervals = self._intervals.setdefault(new.unit, [])
        first = bisect_left(intervals, new.start, key=_stop)
        last = bisect_right(intervals, new.stop, lo=first, key=_start)
        start, stop = new.start, new.stop
        if last > first:
            start, stop = min(start, intervals[first][0]), max(stop, intervals[last - 1][1])
        intervals[first:last] = [(start, stop)]

    def overlap(self, other: Range) -> int:
        """Count the finished rows of a range."""
        return other.num_rows - total_rows(self.subtract(other))

    def subtract(self, whole: Range) -> list[Range]:
        """Find the parts of the range that are not finished, in order."""
        intervals = self._intervals.get(whole.unit, [])
        gaps, position = [], whole.start
        for index in range(bisect_right(intervals, whole.start, key=_stop), len(intervals)):
            start, stop = intervals[index]
            if start >= whole.stop:
                break
            if start > position:
                gaps.append(Range(whole.unit, position, start))
            position = stop
        if position < whole.stop:
            gaps.append(Range(whole.unit, position, whole.stop))
        return gaps

    def missing(self, unit: Unit) -> list[Range]:
        """Find the rows of the unit that are not finished."""
        return self.subtract(Range(unit.index, 0, unit.num_rows))


def _start(interval: tuple[int, int]) -> int:
    return interval[0]


def _stop(interval: tuple[int, int]) -> int:
    return interval[1]


def to_ranges(units: np.ndarray, rows: np.ndarray) -> list[Range]:
    """Convert the addresses of rows to ranges, in the order of the rows."""
    if len(units) == 0:
        return []
    breaks = np.flatnonzero((np.diff(units) != 0) | (np.diff(rows) != 1)) + 1
    starts = np.concatenate(([0], breaks))
    stops = np.concatenate((breaks, [len(units)]))
    return [Range(int(units[a]), int(rows[a]), int(rows[b - 1]) + 1) for a, b in zip(starts, stops, strict=True)]


def pack(pieces: Sequence[Range], units: Mapping[int, Unit], target_bytes: float) -> Iterator[list[Range]]:
    """Pack consecutive pieces into tasks of about ``target_bytes`` of input."""
    task: list[Range] = []
    size = 0.0
    for piece in pieces:
        unit = units[piece.unit]
        weight = unit.num_bytes * piece.num_rows / max(unit.num_rows, 1)
        if task and size + weight > target_bytes:
            yield task
            task, size = [], 0.0
        task.append(piece)
        size += weight
    if task:
        yield task


def split_evenly(pieces: Sequence[Range], wanted: int, min_rows: int) -> list[Range]:
    """Cut the rows into about ``wanted`` pieces of similar size. No cut makes a piece of fewer than ``min_rows``."""
    rows = max(-(-total_rows(pieces) // wanted), min_rows)
    parts = []
    for piece in pieces:
        count = max(piece.num_rows // rows, 1)
        borders = [piece.start + piece.num_rows * index // count for index in range(count + 1)]
        parts += [Range(piece.unit, start, stop) for start, stop in itertools.pairwise(borders)]
    return parts


def total_rows(ranges: Iterable[Range]) -> int:
    """Count the rows of the ranges. Rows in two ranges count twice."""
    return sum(piece.num_rows for piece in ranges)
