"""Finds the row that kills its worker process, so that it becomes a dead letter and the rest goes on.

A crash (segfault, out of memory, an exit in native code) leaves no exception to catch, and whoever retries the block
dies again, for ever. So a stage leaves a marker beside the output before it works on a range of rows and removes it
after. A marker that is found when the range comes back is a death. Deaths narrow the range: after two, the range is
worked off in smaller chunks, each with a marker of its own, until a chunk of one row (or one group) has died three
times.

A machine that was switched off, or a job that was killed as a whole, leaves markers too, and no row is to blame for
them. So a marker names the run of the driver that it was made in, and a death counts only where that run's driver
outlived the worker: where a task of the same run finds the marker, and says so with a file of its own. Three deaths of
one row must have been seen by one run; to narrow a range, the deaths that all runs have seen count.

    deaths = attempts.deaths(Range(7, 0, 4096))
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
SEEN = ".seen"
"""Ending of the file beside a marker that says: the driver outlived this worker."""

Deaths = Mapping[Range, Mapping[str, int]]
"""By range and by the run whose driver saw it: how often work on the range began and did not end."""


@dataclass(frozen=True)
class Chunk:
    """A part of a block: to be worked on, or given up."""

    rows: Range
    dead: bool = False


@dataclass(frozen=True)
class Attempts:
    """The markers below one output, as the tasks of one run write and read them."""

    folder: Folder
    run: str
    """Of the driver that these tasks belong to: letters and digits."""

    def deaths(self, rows: Range) -> dict[Range, Counter[str]]:
        """The deaths inside a range that some driver has seen; nobody else may be working on the range."""
        unit = f"u{rows.unit:06d}"
        names = {entry.name.rsplit("/", 1)[-1] for entry in self.folder.entries(unit)}
        found: dict[Range, Counter[str]] = {}
        for marker in sorted(name for name in names if not name.endswith(SEEN)):
            start, stop, run, _ = marker.split("-")
            died = Range(rows.unit, int(start), int(stop))
            if not _within(died, rows):
                continue
            seen = f"{marker}{SEEN}"
            if run == self.run and seen not in names:
                self.folder.write(f"{unit}/{seen}", b"", durable=False)
            elif seen not in names:
                continue
            found.setdefault(died, Counter())[run] += 1
        return found

    def mark(self, rows: Range) -> str:
        """Mark the range as under way; the marker's name."""
        name = f"u{rows.unit:06d}/{rows.start:010d}-{rows.stop:010d}-{self.run}-{secrets.token_hex(4)}"
        self.folder.write(name, b"", durable=False)
        return name

    @contextmanager
    def attempt(self, rows: Range) -> Iterator[None]:
        """Marks the range as under way; the marker stays only if this process dies."""
        name = self.mark(rows)
        try:
            yield
        finally:
            self.folder.delete([name])


def narrow(rows: Range, deaths: Deaths, cuts: Sequence[int]) -> list[Chunk]:
    """The chunks in which to work on ``rows`` after these deaths.

    ``cuts``: the row ordinals inside the range where it may be cut (every one, or only where a group begins).
    """
    inside = [cut for cut in cuts if rows.start < cut < rows.stop]
    if not inside:
        return [Chunk(rows, dead=max(deaths.get(rows, {}).values(), default=0) >= DEATHS_TO_BURY)]
    if not any(sum(runs.values()) >= DEATHS_TO_NARROW and _within(other, rows) for other, runs in deaths.items()):
        return [Chunk(rows)]
    borders = [rows.start, *inside[:: max(1, len(inside) // CHUNKS)], rows.stop]
    parts = [Range(rows.unit, a, b) for a, b in itertools.pairwise(borders)]
    return [chunk for part in parts for chunk in narrow(part, deaths, inside)]


def _within(inner: Range, outer: Range) -> bool:
    return outer.unit == inner.unit and outer.start <= inner.start and inner.stop <= outer.stop
