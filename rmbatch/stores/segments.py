"""A folder of segments: files that many processes add at once, and that ``compact`` merges.

``ResponseCache`` (answers.py) and ``ScoreStore`` (scores.py) are built on it. They say how a segment is encoded; what
both need is here:

- Each segment has a name of its own that begins with the time. So writers need no locks, and older names come first.
- ``refresh`` reads what others have added, and only that.
- ``compact`` writes the merged segment before it deletes the small ones, so readers find each entry all the time. The
  merged one takes the place of its first part in the order of names. A crash in between leaves entries twice, no more.
- A file that cannot be read is named in a warning and left alone: it is neither merged nor deleted.
"""

import errno
import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Generic, TypeVar

from connectors.local import LocalStore
from connectors.storage import PARALLEL_REQUESTS, Folder

WORTH = 4
"""A segment is written anew only with others that have together at least this fraction, 1/4, of its size."""
LISTINGS = 20
"""Tries to read all listed segments while others compact."""

_log = logging.getLogger("rmbatch.stores")


Part = TypeVar("Part")
"""What a store reads of a segment."""


class SegmentedStore(ABC, Generic[Part]):
    """The segments of one folder."""

    ABOUT: ClassVar[str]
    """The file that says what the segments are of."""
    SUFFIX: ClassVar[str]
    MERGED_BYTES: ClassVar[int]
    """The largest segment that ``compact`` makes."""

    def __init__(self, folder: Folder, about: bytes) -> None:
        self.folder = folder
        """Where the segments are."""
        self._about = about
        self._is_local = isinstance(folder.store, LocalStore)
        self._read_to: dict[str, int] = {}
        """How many bytes of each known segment have been read."""
        self._own: set[str] = set()
        """The segments that this process has written."""
        self._set_aside: set[str] = set()
        """The files that cannot be read."""
        self._lock = threading.RLock()
        """Held for moments, by all that changes what is known."""
        self._changing = threading.RLock()
        """Held for as long as segments are listed, read or merged."""
        self.refreshed_at = -float("inf")
        self.refresh()

    @abstractmethod
    def _read(self, name: str, start: int, stop: int, data: bytes | None) -> tuple[Part, int]:
        """Read a segment from one byte to another, and say where the next reading has to begin.

        ``data`` is the whole segment where this process has just written it. Raises FileNotFoundError where the segment
        is gone, and ValueError where the file is no segment.
        """

    @abstractmethod
    def _keep(self, name: str, part: Part) -> None:
        """Know what was read."""

    @abstractmethod
    def _forget(self, names: Collection[str]) -> None:
        """Know no more what is in these segments."""

    @abstractmethod
    def _merge(self, names: Sequence[str]) -> tuple[list[str], bytes]:
        """Merge segments; of two values of a key the first stays. Return which are all in it, and the merged bytes."""

    def _is_segment(self, name: str) -> bool:
        """Whether a file of this name should be a segment."""
        return name.endswith(self.SUFFIX)

    def _find_hidden(self) -> set[str]:
        """The segments with entries that are known from other segments, and are unknown once those are gone."""
        return set()

    def _find_replaced(self) -> set[str]:
        """The segments whose entries are all in others, too."""
        return set()

    def refresh(self) -> None:
        """Read what others have written since, and forget the segments that are gone. Raises OSError."""
        with self._changing:
            self._refresh()

    def _refresh(self) -> dict[str, int]:
        """``refresh``, and return the segments and their bytes by name."""
        self.refreshed_at = time.monotonic()
        for _ in range(LISTINGS):
            known = {*self._read_to}  # before the listing: a segment that is written after it is not gone
            listed = self._list()
            gone = known - listed.keys()
            hidden = self._find_hidden() & listed.keys() if gone else set()
            self._read_to.update(dict.fromkeys(hidden, 0))
            grown = [name for name, size in listed.items() if size > self._read_to.get(name, -1)]
            grown = [name for name in grown if name not in self._set_aside]
            with ThreadPoolExecutor(1 if self._is_local else PARALLEL_REQUESTS) as pool:
                read = pool.map(self._try_read, grown, [listed[name] for name in grown])
                parts = dict(zip(grown, read, strict=True))
            with self._lock:
                self._forget(hidden)
                self._update(gone, parts)
            if self._set_aside.issuperset(name for name, part in parts.items() if part is None):
                break  # else some have gone, and the next listing has what they were merged into
        return listed

    def _list(self) -> dict[str, int]:
        """The segments by name, the oldest first, and their bytes.

        A listing takes time. One that runs beside a compaction may lack both a segment that is already deleted and the
        merged one, which it would have seen earlier. So a listing counts if all that the one before had is still there.
        """
        listed = self._list_once()
        while True:
            before, listed = listed, self._list_once()
            if before.keys() <= listed.keys():
                return listed

    def _list_once(self) -> dict[str, int]:
        return {entry.name: entry.size for entry in self.folder.entries() if self._is_segment(entry.name)}

    def _try_read(self, name: str, stop: int, data: bytes | None = None) -> tuple[Part, int] | None:
        """Read what is new in a segment; None where it is gone, or is none and was set aside."""
        try:
            return self._read(name, self._read_to.get(name, 0), stop, data)
        except ValueError as error:
            self._put_aside(name, error)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and error.errno != errno.ESTALE:
                raise
        return None

    def _put_aside(self, name: str, error: ValueError) -> None:
        """Use a damaged file no more."""
        _log.warning("%s/%s is no segment and is left out: %s", self.folder.url, name, error)
        self._set_aside.add(name)
        self._update({name}, {})

    def _update(self, gone: Collection[str], parts: Mapping[str, tuple[Part, int] | None]) -> None:
        """Forget some segments, and then know what was read of others: what was merged is never unknown."""
        with self._lock:
            self._forget(gone)
            self._own -= {*gone}
            for name in gone:
                self._read_to.pop(name, None)
            for name, part in parts.items():
                if part is not None:
                    self._keep(name, part[0])
                    self._read_to[name] = part[1]

    def _new_name(self, first: str | None = None) -> str:
        """The name of a new segment: of this moment, or next to ``first`` in the order of names."""
        begin = f"{time.time_ns():020d}" if first is None else "-".join(first.removesuffix(self.SUFFIX).split("-")[:2])
        name = f"{begin}-{secrets.token_hex(6)}{self.SUFFIX}"
        self._own.add(name)
        return name

    def _write(self, name: str, data: bytes, replaced: Collection[str] = ()) -> None:
        """Write a whole segment, and know what is in it, instead of what is known of the ``replaced`` ones."""
        if not self._read_to:  # before the first one, so that no segment stands unexplained
            self.folder.create(self.ABOUT, self._about)
        self.folder.write(name, data)
        part = self._try_read(name, len(data), data)
        if part is None:  # somebody has merged it already
            self.refresh()
        else:
            self._update(replaced, {name: part})

    def _compact(self, is_closed: Callable[[str], bool] = lambda name: True) -> int:
        """Merge small segments that nobody adds to any more, and return how many fewer there are. Raises OSError.

        It may run while others read, write and compact.
        """
        with self._changing:
            listed = self._refresh()
            leftover = self._find_replaced() & listed.keys()
            self._update(leftover, {})
            self.folder.delete(sorted(leftover))
            num_fewer = len(leftover)
            names = [name for name in listed if name in self._read_to and is_closed(name)]
            for run in _runs({name: listed[name] for name in names}, self.MERGED_BYTES):
                merged, data = self._merge(run)
                if len(merged) > 1:
                    self._write(self._new_name(first=merged[0]), data, replaced=merged)
                    self.folder.delete(merged)
                    num_fewer += len(merged) - 1
            return num_fewer


def _runs(sizes: Mapping[str, int], merged_bytes: int) -> list[list[str]]:
    """What to merge: small segments that follow each other, so that of two values the older one stays the first."""
    runs, num_bytes = [list[str]()], 0
    for name, size in sizes.items():
        if num_bytes + size > merged_bytes:
            runs.append([])
            num_bytes = 0
        if size <= merged_bytes:
            runs[-1].append(name)
            num_bytes += size
    for run in runs:
        while run and sizes[run[0]] > WORTH * sum(sizes[name] for name in run[1:]):
            del run[0]
    return [run for run in runs if len(run) > 1]
