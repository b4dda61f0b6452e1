"""Finds the row that kills its worker process, so that it becomes a dead letter and the rest goes on.

A crash (segfault, out of memory, an exit in native code) leaves no exception to catch, and whoever retries the block
dies again, for ever. So a stage leaves a marker beside the output before it works on a range of rows and removes it
after. A marker that is found when the range comes back is a death. Deaths narrow the range: after two, the range is
worked off in smaller chunks, each with a marker of its own, until a chunk of one row (or one group) has died three
times.

A machine that was switched off leaves markers too: they cost smaller chunks once, never a row, unless the very same
single row is under way three times when its process is killed from outside.

    deaths = attempts.deaths(unit=7)
    for chunk in narrow(Range(7, 0, 4096), deaths, cuts): ...
    with attempts.attempt(chunk.rows): work()
"""

import itertools
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from connectors.storage import Folder
from connectors.units import Range

DEATHS_TO_NARROW = 2
DEATHS_TO_BURY = 3
CHUNKS = 32
"""A range that keeps dying is cut into so many."""


@dataclass(frozen=True)
class Chunk:
    """A part of a block: to be worked on, or given up."""

    rows: Range
    dead: bool = False


@dataclass(frozen=True)
class Attempts:
    """The markers below one output."""

    folder: Folder

    def deaths(self, unit: int) -> Counter[Range]:
        """How often work on each range of the unit began and did not end."""
        found: Counter[Range] = Counter()
        for entry in self.folder.entries(f"u{unit:06d}"):
            start, stop, _ = entry.name.rsplit("/", 1)[-1].split("-")
            found[Range(unit, int(start), int(stop))] += 1
        return found

    @contextmanager
    def attempt(self, rows: Range) -> Iterator[None]:
        """Marks the range as under way; the marker stays only if this process dies."""
        name = f"u{rows.unit:06d}/{rows.start:010d}-{rows.stop:010d}-{secrets.token_hex(4)}"
        self.folder.write(name, b"", durable=False)
        try:
            yield
        finally:
            self.folder.delete([name])


def narrow(rows: Range, deaths: Mapping[Range, int], cuts: Sequence[int]) -> list[Chunk]:
    """The chunks in which to work on ``rows`` after these deaths.

    ``cuts``: the row ordinals inside the range where it may be cut (every one, or only where a group begins).
    """
    inside = [cut for cut in cuts if rows.start < cut < rows.stop]
    if not inside:
        return [Chunk(rows, dead=deaths.get(rows, 0) >= DEATHS_TO_BURY)]
    if not any(count >= DEATHS_TO_NARROW and _within(other, rows) for other, count in deaths.items()):
        return [Chunk(rows)]
    borders = [rows.start, *inside[:: max(1, len(inside) // CHUNKS)], rows.stop]
    parts = [Range(rows.unit, a, b) for a, b in itertools.pairwise(borders)]
    return [chunk for part in parts for chunk in narrow(part, deaths, inside)]


def _within(inner: Range, outer: Range) -> bool:
    return outer.unit == inner.unit and outer.start <= inner.start and inner.stop <= outer.stop
