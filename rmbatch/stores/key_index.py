"""An index from keys to places in segments: about 70 bytes of memory a key, where a dict of tuples takes 240.

Most keys are in sorted arrays. New ones are in a dict until there are a tenth as many as in the arrays. The index reads
no answers and no files: a segment is a name.

    index = KeyIndex()
    index.add(key, (segment, start, size))      # nothing where the key has a place: the first stays
    index.find(key)                             # (segment, start, size), or None

A key has 128 bits. ``find_sorted`` and ``sort_unique`` work on arrays of its two halves, ``high`` and ``low``.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

Place = tuple[str, int, int]
"""Name of the segment, start in it (may be above 4 GiB), and size in bytes."""
Half = npt.NDArray[np.uint64]
"""Upper or lower halves of keys."""

_KEY_BYTES = 16
_DICT_KEYS = 50_000
"""So many keys may always be in the dict."""
_REST = np.dtype([("low", np.uint64), ("start", np.uint64), ("segment", np.uint32), ("size", np.uint32)])


def find_sorted(high: Half, low: Half, wanted_high: Half, wanted_low: Half) -> npt.NDArray[np.int64]:
    """The positions of the wanted keys among sorted, different ones; -1 for a key that is not there."""
    found = np.full(len(wanted_high), -1, np.int64)
    at = np.searchsorted(high, wanted_high)
    left = np.flatnonzero(at < len(high))
    while len(left):  # once more for each key that shares its first half with the one before
        left = left[high[at[left]] == wanted_high[left]]
        is_same = low[at[left]] == wanted_low[left]
        found[left[is_same]] = at[left[is_same]]
        left = left[~is_same]
        at[left] += 1
        left = left[at[left] < len(high)]
    return found


def sort_unique(high: Half, low: Half) -> npt.NDArray[np.int64]:
    """The positions of keys in sorted order, of equal keys only the first one's."""
    order = np.lexsort((low, high))  # stable
    high, low = high[order], low[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    unique: npt.NDArray[np.int64] = order[is_new]
    return unique


class KeyIndex:
    """From keys of 16 bytes to places; used by one thread at a time."""

    def __init__(self) -> None:
        self._recent: dict[bytes, Place] = {}
        self._high: Half = np.empty(0, np.uint64)
        """Sorted. ``_rest`` has all else about these keys, and ``_recent`` has none of them."""
        self._rest: npt.NDArray[Any] = np.empty(0, _REST)
        self._names: list[str] = []
        """By the numbers that ``_rest`` has for segments."""
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._high)

    def __contains__(self, key: bytes) -> bool:
        return key in self._recent or self._position(key) is not None

    def find(self, key: bytes) -> Place | None:
        """The place of a key, None where it has none."""
        place = self._recent.get(key)
        if place is not None or (at := self._position(key)) is None:
            return place
        rest = self._rest[at]
        return self._names[rest["segment"]], int(rest["start"]), int(rest["size"])

    def add(self, key: bytes, place: Place) -> None:
        """Give a place to a key that has none."""
        if key not in self:
            self._recent[key] = place
            if len(self._recent) > max(_DICT_KEYS, len(self._high) // 10):
                self._move_recent()

    def add_all(self, keys: bytes, segment: str, starts: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> int:
        """``add`` for concatenated keys, all of one segment; return how many of them had no place."""
        before = len(self)
        if len(starts) < _DICT_KEYS:
            for n, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
                self.add(keys[n * _KEY_BYTES : (n + 1) * _KEY_BYTES], (segment, start, size))
        else:
            self._move_recent()
            self._insert(keys, starts, np.full(len(starts), self._number(segment)), sizes)
        return len(self) - before

    def forget(self, key: bytes) -> None:
        """Take its place from a key."""
        if self._recent.pop(key, None) is None and (at := self._position(key)) is not None:
            self._high, self._rest = np.delete(self._high, at), np.delete(self._rest, at)

    def forget_segments(self, segments: Collection[str]) -> None:
        """Forget all keys with a place in one of these segments."""
        if segments:
            numbers = [self._numbers.pop(segment) for segment in segments if segment in self._numbers]
            stays = np.isin(self._rest["segment"], numbers, invert=True)
            self._high, self._rest = self._high[stays], self._rest[stays]
            self._recent = {key: place for key, place in self._recent.items() if place[0] not in segments}

    def _position(self, key: bytes) -> int | None:
        """Where in the arrays a key stands: ``find_sorted`` for a single key, without the cost of its arrays."""
        high, low = int.from_bytes(key[:8]), int.from_bytes(key[8:])
        at = int(self._high.searchsorted(np.uint64(high)))  # a plain int would be compared as a float
        while at < len(self._high) and self._high[at] == high:
            if self._rest["low"][at] == low:
                return at
            at += 1
        return None

    def _number(self, segment: str) -> int:
        if segment not in self._numbers:
            self._numbers[segment] = len(self._names)
            self._names.append(segment)
        return self._numbers[segment]

    def _move_recent(self) -> None:
        """Move all keys from the dict to the arrays."""
        recent, self._recent = self._recent, {}
        places = [(self._number(segment), start, size) for segment, start, size in recent.values()]
        segments, starts, sizes = np.array(places, np.int64).reshape(-1, 3).T
        self._insert(b"".join(recent), starts, segments, sizes)

    def _insert(
        self, keys: bytes, starts: npt.NDArray[Any], segments: npt.NDArray[Any], sizes: npt.NDArray[Any]
    ) -> None:
        """Insert keys that the dict lacks into the arrays, unless they are there."""
        high, low = np.frombuffer(keys, ">u8").astype(np.uint64).reshape(-1, 2).T
        rest = np.empty(len(high), _REST)
        rest["low"], rest["start"], rest["segment"], rest["size"] = low, starts, segments, sizes
        order = sort_unique(high, low)
        order = order[find_sorted(self._high, self._rest["low"], high[order], low[order]) < 0]
        high, rest = high[order], rest[order]
        at = self._high.searchsorted(high)
        self._high, self._rest = np.insert(self._high, at, high), np.insert(self._rest, at, rest)
