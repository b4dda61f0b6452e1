"""Where kept answers stand, by key: in about 70 bytes of memory each, where a dict of tuples takes 240.

Most are in arrays that are sorted by key; new ones are in a dict until they are a tenth of those. It reads no answers
and knows no files: segments are numbers.

    places = Places()
    places.add(key, (segment, start, size))      # nothing where the key has a place: the first stays
    places.find(key)                             # (segment, start, size), or None
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

Place = tuple[int, int, int]
"""Number of the segment, where in it the answer begins, and its size in bytes (both below 4 GiB but the start)."""

_KEY_BYTES = 16
_FEWEST = 50_000
"""So many may always be in the dict."""
_REST = np.dtype([("low", np.uint64), ("start", np.uint64), ("segment", np.uint32), ("size", np.uint32)])


class Places:
    """From keys of 16 bytes to places; used by one thread at a time."""

    def __init__(self) -> None:
        self._recent: dict[bytes, Place] = {}
        self._high: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        """The first halves of keys, sorted; all else about them stands in ``_rest``, none of them in ``_recent``."""
        self._rest: npt.NDArray[Any] = np.empty(0, _REST)

    def __len__(self) -> int:
        return len(self._recent) + len(self._high)

    def __contains__(self, key: bytes) -> bool:
        return key in self._recent or self._at(key) is not None

    def find(self, key: bytes) -> Place | None:
        """The place of a key, None where it has none."""
        place = self._recent.get(key)
        if place is not None or (at := self._at(key)) is None:
            return place
        rest = self._rest[at]
        return int(rest["segment"]), int(rest["start"]), int(rest["size"])

    def add(self, key: bytes, place: Place) -> None:
        """Note the place of a key that has none."""
        if key not in self:
            self._recent[key] = place
            if len(self._recent) > max(_FEWEST, len(self._high) // 10):
                self._sort_in_recent()

    def add_all(self, keys: bytes, segment: int, starts: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> None:
        """``add`` for keys that stand behind each other, all of one segment."""
        if len(starts) < _FEWEST:
            for n, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
                self.add(keys[n * _KEY_BYTES : (n + 1) * _KEY_BYTES], (segment, start, size))
        else:
            self._sort_in_recent()
            self._sort_in(keys, starts, np.full(len(starts), segment), sizes)

    def forget(self, key: bytes) -> None:
        """Have no place for a key."""
        if self._recent.pop(key, None) is None and (at := self._at(key)) is not None:
            self._high, self._rest = np.delete(self._high, at), np.delete(self._rest, at)

    def forget_segments(self, segments: Collection[int]) -> None:
        """Have no place in any of these segments."""
        if segments:
            stays = np.isin(self._rest["segment"], list(segments), invert=True)
            self._high, self._rest = self._high[stays], self._rest[stays]
            self._recent = {key: place for key, place in self._recent.items() if place[0] not in segments}

    def _at(self, key: bytes) -> int | None:
        """Where in the arrays a key stands."""
        high, low = int.from_bytes(key[:8]), int.from_bytes(key[8:])
        at = int(self._high.searchsorted(np.uint64(high)))  # a plain int would be compared as a float
        while at < len(self._high) and self._high[at] == high:
            if self._rest["low"][at] == low:
                return at
            at += 1
        return None

    def _sort_in_recent(self) -> None:
        recent, self._recent = self._recent, {}
        segments, starts, sizes = np.array(list(recent.values()), np.int64).reshape(-1, 3).T
        self._sort_in(b"".join(recent), starts, segments, sizes)

    def _sort_in(
        self, keys: bytes, starts: npt.NDArray[Any], segments: npt.NDArray[Any], sizes: npt.NDArray[Any]
    ) -> None:
        """Put keys that are not in the dict into the arrays, where they are not there yet."""
        high, low = np.frombuffer(keys, ">u8").astype(np.uint64).reshape(-1, 2).T
        rest = np.empty(len(high), _REST)
        rest["low"], rest["start"], rest["segment"], rest["size"] = low, starts, segments, sizes
        order = np.lexsort((low, high))  # stable: of equal keys the first comes first
        high, rest = high[order], rest[order]
        is_new = np.ones(len(high), bool)
        is_new[1:] = (high[1:] != high[:-1]) | (rest["low"][1:] != rest["low"][:-1])
        is_new &= ~self._are_there(high, rest["low"])
        high, rest = high[is_new], rest[is_new]
        at = self._high.searchsorted(high)
        self._high, self._rest = np.insert(self._high, at, high), np.insert(self._rest, at, rest)

    def _are_there(self, high: npt.NDArray[Any], low: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which keys the arrays have."""
        there = np.zeros(len(high), bool)
        at = self._high.searchsorted(high)
        asked = np.arange(len(high))
        while len(asked := asked[at[asked] < len(self._high)]):
            asked = asked[self._high[at[asked]] == high[asked]]
            same = self._rest["low"][at[asked]] == low[asked]
            there[asked[same]] = True
            asked = asked[~same]
            at[asked] += 1
        return there
