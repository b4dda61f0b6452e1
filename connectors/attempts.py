"""Finds the row that kills its worker process. That row becomes a dead letter, and the job goes on with the others.

A crash (segfault, out of memory, an exit in native code) leaves no exception to catch. A retry of the block would crash
again, without end. So the worker writes a marker file beside the output before it processes a range of rows, and
removes it afterwards. A marker that the next attempt finds is a death. After two deaths the range is processed in
smaller chunks, each with its own marker. This repeats until a chunk of one row (or one group) has died three times.

A machine that is switched off, or a job that is killed as a whole, leaves markers too. No row is to blame for those. So
a marker names the run of its driver, and a death counts only where the driver of that run outlived the worker. This is
known when a task of the same run finds the marker: it writes a second file beside it. One run must have seen all three
deaths before a row is given up. To narrow a range, the deaths that all runs have seen count.

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
"""The number of chunks that a dying range is cut into."""
SEEN = ".seen"
"""Ending of the file beside a marker. It says that the driver outlived the worker."""

Deaths = Mapping[Range, Mapping[str, int]]
"""How often work on a range began and did not end, by range and by the run whose driver saw it."""


@dataclass(frozen=True)
class Chunk:
    """A part of a block to process, or to give up if ``dead``."""

    rows: Range
    dead: bool = False


@dataclass(frozen=True)
class Attempts:
    """The markers of one output, which the tasks of one run write and read."""

    folder: Folder
    run: str
    """The run of the tasks' driver: letters and digits."""

    def deaths(self, rows: Range) -> dict[Range, Counter[str]]:
        """Count the deaths inside a range that a driver has seen. No other task may be working on the range."""
        unit = f"u{rows.unit:06d}"
        names = {entry.name.rsplit("/", 1)[-1] for entry in self.folder.entries(unit)}
        found: dict[Range, Counter[str]] = {}
        for marker in sorted(name for name in names if not name.endswith(SEEN)):
            start, stop, run, _ = marker.split("-")
            died = Range(rows.unit, int(start), int(stop))
            if not _is_within(died, rows):
                continue
            seen = f"{marker}{SEEN}"
            if run == self.run and seen not in names:
                self.folder.write(f"{unit}/{seen}", b"", durable=False)
            elif seen not in names:
                continue
            found.setdefault(died, Counter())[run] += 1
        return found

    def mark(self, rows: Range) -> str:
        """Write a marker for the range and return its name."""
        name = f"u{rows.unit:06d}/{rows.start:010d}-{rows.stop:010d}-{self.run}-{secrets.token_hex(4)}"
        self.folder.write(name, b"", durable=False)
        return name

    @contextmanager
    def attempt(self, rows: Range) -> Iterator[None]:
        """Mark the range while the block runs. The marker stays only if this process dies."""
        name = self.mark(rows)
        try:
            yield
        finally:
            self.folder.delete([name])


def narrow(rows: Range, deaths: Deaths, cuts: Sequence[int]) -> list[Chunk]:
    """Cut ``rows`` into the chunks to process after these deaths.

    ``cuts``: the row ordinals where the range may be cut (all of them, or only those where a group begins).
    """
    inside = [cut for cut in cuts if rows.start < cut < rows.stop]
    if not inside:
        return [Chunk(rows, dead=max(deaths.get(rows, {}).values(), default=0) >= DEATHS_TO_BURY)]
    if not any(sum(runs.values()) >= DEATHS_TO_NARROW and _is_within(other, rows) for other, runs in deaths.items()):
        return [Chunk(rows)]
    borders = [rows.start, *inside[:: max(1, len(inside) // CHUNKS)], rows.stop]
    parts = [Range(rows.unit, a, b) for a, b in itertools.pairwise(borders)]
    return [chunk for part in parts for chunk in narrow(part, deaths, inside)]


def _is_within(inner: Range, outer: Range) -> bool:
    return outer.unit == inner.unit and outer.start <= inner.start and inner.stop <= outer.stop
