r"""Answers that are kept, by the whole request that brought them: found again after a crash, and by other jobs.

Below the folder stands one for each service and model, with ``about.json`` that says whose it is, and segments: a line
for each answer, its key, a tab, and JSON. Each writer has segments of its own, so any number of workers and jobs use
one folder at once; what others have written is seen by ``refresh``. Of two answers to one request the first that was
seen stays. No answer is ever deleted; ``compact`` merges the many small segments that a long job leaves.

    cache = ResponseCache.open("s3://team/answers", StorageOptions(), service="api.openai.com", model="gpt-4.1")
    key = key_of(service, body)                  # of all that is sent, and never of the API key
    cache.find(key) or cache.add(key, {"body": …})

On a local disk (or a shared one) a segment is a file that grows: an answer is in it when ``add`` returns, so a killed
process has lost none; half a line at its end is no answer. ``flush`` brings it to the disk, against a power cut. Other
stores cannot append: there what came within ``linger_s`` is one object, so a killed process loses as much.

It takes about 70 bytes of memory for each kept answer (``places.py``); answers themselves stay where they are.
"""

import hashlib
import logging
import os
import re
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from connectors.local import LocalStore
from connectors.storage import PARALLEL_REQUESTS, Folder, StorageOptions
from rmbatch.stores.key_index import Places

ABOUT = "about.json"
SUFFIX = ".answers"
LINGER_S = 0.5
SCAN_BYTES = 4 << 20
"""Read at once from each of several segments that are looked through."""
READ_BYTES = 64 << 20
"""Read at once from a segment, and kept of remote ones."""
MERGED_BYTES = 64 << 20
"""The largest that ``compact`` makes of small segments; those of half that size are no longer small."""
GRACE_S = 600.0
"""So long after its last answer a segment is let alone by ``compact``, for its writer may be alive."""

_IDLE_S = 60.0
"""A writer that has had no answer for so long goes on with a new segment: far below the grace, so that no line is ever
added to a segment that is being merged."""
_KEY = 33
"""Bytes of a line before its answer."""
_LINE = re.compile(rb"([0-9a-f]{32})\t(\{[^\n]*\})\n")
_log = logging.getLogger("rmbatch.answers")


def key_of(service: str, body: bytes) -> bytes:
    """16 bytes for a request: who is asked, and every byte that is sent."""
    return hashlib.sha256(service.encode() + b"\0" + body).digest()[:16]


class ResponseCache:
    """The kept answers of one model at one service. Pickles as its address, without what is not flushed."""

    def __init__(self, folder: Folder, about: Mapping[str, Any], linger_s: float = LINGER_S) -> None:
        self.folder = folder
        """Where they are, and what belongs to them."""
        self._about, self._linger_s = dict(about), linger_s
        self._is_local = isinstance(folder.store, LocalStore)
        self._places = Places()
        self._names: list[str] = []
        """By the numbers that ``_places`` has for segments."""
        self._numbers: dict[str, int] = {}
        """Of the segments that are there, as far as is known."""
        self._read_to: dict[str, int] = {}
        self._own: set[str] = set()
        self._loaded: OrderedDict[str, bytes] = OrderedDict()
        self._lock, self._reading = threading.RLock(), threading.Lock()
        self._segment: _Growing | _Objects | None = None
        self._waiting: dict[bytes, bytes] = {}
        self.refreshed_at = -float("inf")
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return ResponseCache, (self.folder, self._about, self._linger_s)

    @classmethod
    def open(cls, url: str, options: StorageOptions, *, service: str, model: str) -> "ResponseCache":
        """The answers of a model; nothing is written before there is one. Raises UserError for an unknown protocol."""
        about = {"service": service, "model": model}
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:60]
        scope = hashlib.sha256(f"{service}\0{model}".encode()).hexdigest()[:12]
        return cls(Folder.open(url, options).folder(f"{slug}-{scope}"), about)

    def __len__(self) -> int:
        with self._lock:
            return len(self._places) + sum(key not in self._places for key in self._waiting)

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return key in self._waiting or key in self._places

    def find(self, key: bytes) -> dict[str, Any] | None:
        """The answer, None where there is none; on a remote store this reads from it."""
        for _ in range(3):
            try:
                return self._found(key)
            except FileNotFoundError:  # its segment was merged by another process
                self.refresh()
            except orjson.JSONDecodeError as error:
                _log.warning("%s: an answer cannot be read and is asked for again: %s", self.folder.url, error)
                break
        self.forget(key)
        return None

    def forget(self, key: bytes) -> None:
        """Do not know an answer any more that nobody can use, so that another one is kept in its place."""
        with self._lock:
            self._places.forget(key)

    def add(self, key: bytes, answer: Mapping[str, Any]) -> None:
        """Keep an answer. Raises OSError where it cannot be written, for not to keep it is to pay for it twice."""
        line = b"%s\t%s\n" % (key.hex().encode(), orjson.dumps(answer))
        with self._lock:
            if key in self:
                return
            if isinstance(self._segment, _Growing) and self._segment.is_over:
                self._end_segment()
            if self._segment is None:
                self.folder.create(ABOUT, orjson.dumps(self._about, option=orjson.OPT_INDENT_2))
                self._segment = _Growing(self) if self._is_local else _Objects(self, self._linger_s)
            try:
                self._segment.append(key, line)
            except OSError:
                if self._is_local:
                    self._segment = None  # half a line may stand at its end, so it is not continued
                raise

    def flush(self) -> None:
        """Have all on the disk, or in the store, that was added. Raises OSError."""
        if (segment := self._segment) is not None:
            segment.flush()

    def refresh(self) -> None:
        """See what others have written since."""
        with self._reading:
            self.refreshed_at = time.monotonic()
            while not self._is_refreshed():
                pass

    def compact(self, grace_s: float = GRACE_S) -> int:
        """Merge small segments into large ones, and return how many fewer there are.

        It may run while others read and write, and compact. They find each answer all the time: the merged segment
        is there before the small ones go, and who misses one of those looks again. ``grace_s`` must be well above a
        minute where others may be writing. Raises OSError; the answers are then there, some of them twice.
        """
        self.flush()
        with self._lock:
            self._end_segment()
            closed = self._own & self._numbers.keys()
        num_fewer, group, num_bytes = 0, list[str](), 0
        for name, size in self._listed().items():
            if size > MERGED_BYTES // 2 or not (name in closed or self._age_s(name) > grace_s):
                continue
            if num_bytes + size > MERGED_BYTES:
                num_fewer += self._merged(group)
                group, num_bytes = [], 0
            group.append(name)
            num_bytes += size
        return num_fewer + self._merged(group)

    def _found(self, key: bytes) -> dict[str, Any] | None:
        with self._lock:
            waiting, place = self._waiting.get(key), self._places.find(key)
        if waiting is None and place is None:
            return None
        if waiting is not None:
            raw = waiting[_KEY:]
        elif place is not None:
            number, start, size = place
            raw = self._bytes(self._names[number], start, start + size)
        found: dict[str, Any] = orjson.loads(raw)
        return found

    def _is_refreshed(self) -> bool:
        """See what is new and what has gone; False where a segment went while it was read, and must be looked again."""
        with self._lock:
            known = set(self._numbers)  # before the listing, which then has them unless they were merged
        listed = self._listed()
        grown = [(name, size) for name, size in listed.items() if size > self._read_to.get(name, 0)]
        with ThreadPoolExecutor(1 if self._is_local else PARALLEL_REQUESTS) as pool:
            scanned = list(pool.map(self._scanned, grown))
        with self._lock:
            self._forget(known - listed.keys())
            for (name, _), lines in zip(grown, scanned, strict=True):
                for each in lines or ():
                    self._note(name, each)
                    self._read_to[name] = each.read_to
        return None not in scanned

    def _listed(self) -> dict[str, int]:
        """All segments, the oldest first, and their bytes: never without one and what it was merged into.

        A store lists by name, and what is merged has the later name. A disk has no order: there a list counts if all
        that the one before had is still there.
        """
        listed = self._list()
        while self._is_local:
            before, listed = listed, self._list()
            if before.keys() <= listed.keys():
                break
        return listed

    def _list(self) -> dict[str, int]:
        return {entry.name: entry.size for entry in self.folder.entries() if entry.name.endswith(SUFFIX)}

    def _scanned(self, grown: tuple[str, int]) -> "list[_Lines] | None":
        """The new lines of a segment; None where it is there no longer."""
        name, size = grown
        try:
            return [_Lines.read(lines, at) for at, lines in self._read_lines(name, self._read_to.get(name, 0), size)]
        except FileNotFoundError:
            return None

    def _read_lines(self, name: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines, some at a time, and where they begin; a line that is being written is left for another time."""
        rest = b""
        for at in range(start, size, SCAN_BYTES):
            rest += self.folder.store.read(self.folder.path(name), at, min(at + SCAN_BYTES, size))
            end = rest.rfind(b"\n") + 1
            if end:
                yield at + min(SCAN_BYTES, size - at) - len(rest), rest[:end]
                rest = rest[end:]

    def _bytes(self, name: str, start: int, stop: int) -> bytes:
        path = self.folder.path(name)
        if self._is_local:
            return self.folder.store.read(path, start, stop)
        with self._reading:  # who has asked for one answer of an object will ask for its others
            if name not in self._loaded:
                self._loaded[name] = self.folder.store.read(path)
                while len(self._loaded) > 1 and sum(map(len, self._loaded.values())) > READ_BYTES:
                    self._loaded.popitem(last=False)
            return self._loaded[name][start:stop]

    def _merged(self, names: list[str]) -> int:
        """Write one segment instead of several, and return how many fewer there are."""
        with ThreadPoolExecutor(1 if self._is_local else PARALLEL_REQUESTS) as pool:
            contents = dict(zip(names, pool.map(self.folder.read_if_exists, names), strict=True))
        lines: dict[bytes, bytes] = {}
        read = set()
        for name, content in contents.items():
            found = list(_LINE.finditer(content or b""))
            if content is not None and sum(len(line[0]) for line in found) == content.rfind(b"\n") + 1:
                read.add(name)  # all of it, but half a line that a killed writer left; what is damaged stays as it is
                for line in found:
                    if line[1] not in lines or not _is_json(lines[line[1]][_KEY:]):
                        lines[line[1]] = line[0]
        if len(read) < 2:
            return 0
        merged, merged_name = b"".join(lines.values()), self._new_name()
        self.folder.write(merged_name, merged)
        with self._lock:
            self._forget(read)
            self._note(merged_name, _Lines.read(merged, 0))  # and it will be read, for what others have deleted
        self.folder.delete(sorted(read))
        return len(read) - 1

    def _age_s(self, name: str) -> float:
        """Seconds since a segment was last written to; an object is never written to again."""
        if not self._is_local:
            return time.time() - int(name.partition("-")[0]) / 1e9 if name[:20].isdigit() else 0.0
        try:
            return time.time() - os.stat(self.folder.path(name)).st_mtime
        except FileNotFoundError:
            return 0.0

    def _end_segment(self) -> None:
        """Have the next answer begin a new segment."""
        if isinstance(self._segment, _Growing):  # each object is one anyway
            self._segment.flush()
            self._segment = None

    def _note(self, name: str, lines: "_Lines") -> None:
        self._places.add_all(lines.keys, self._number(name), lines.starts, lines.sizes)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]

    def _forget(self, names: set[str]) -> None:
        """Know no more of segments that are gone."""
        self._places.forget_segments({self._numbers.pop(name) for name in names & self._numbers.keys()})
        self._own -= names
        for name in names:
            self._read_to.pop(name, None)

    def _new_name(self) -> str:
        name = f"{time.time_ns():020d}-{secrets.token_hex(6)}{SUFFIX}"
        self._own.add(name)
        return name

    def _new_segment(self) -> str:
        """The name of one of which all will be known that is written to it."""
        name = self._new_name()
        self._read_to[name] = sys.maxsize
        return name


@dataclass(frozen=True)
class _Lines:
    """Where answers stand in a part of a segment."""

    keys: bytes
    """16 of each."""
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    read_to: int
    """Where in the segment the part ends."""

    @classmethod
    def read(cls, lines: bytes, offset: int) -> "_Lines":
        """The answers in whole lines that begin at ``offset``."""
        found = [(line[1], line.start(2), line.end(2)) for line in _LINE.finditer(lines)]
        places = np.array([(start, stop) for _, start, stop in found], np.int64).reshape(-1, 2)
        keys = bytes.fromhex(b"".join(key for key, *_ in found).decode())
        return cls(keys, places[:, 0] + offset, places[:, 1] - places[:, 0], offset + len(lines))


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


class _Growing:
    """A file of which this process is the only writer."""

    def __init__(self, cache: ResponseCache) -> None:
        self._cache, self._name, self._size, self._written_at = cache, cache._new_segment(), 0, time.time()
        self._file = open(cache.folder.path(self._name), "ab", buffering=0)  # noqa: SIM115 - until nobody writes to it

    @property
    def is_over(self) -> bool:
        """Whether it may have been merged, or (where clocks or people are wrong) has gone."""
        return not 0 <= time.time() - self._written_at <= _IDLE_S or os.fstat(self._file.fileno()).st_nlink == 0

    def append(self, key: bytes, line: bytes) -> None:
        if self._file.write(line) != len(line):
            raise OSError(f"{self._file.name}: the disk took half an answer; is it full?")
        self._cache._places.add(key, (self._cache._number(self._name), self._size + _KEY, len(line) - _KEY - 1))
        self._size += len(line)
        self._written_at = time.time()

    def flush(self) -> None:
        os.fsync(self._file.fileno())


class _Objects:
    """An object for what has come since the last one; at most one is being written."""

    def __init__(self, cache: ResponseCache, linger_s: float) -> None:
        self._cache, self._linger_s = cache, linger_s
        self._thread = ThreadPoolExecutor(1, "answers")
        self._hurry = threading.Event()
        self._is_gathering = False
        self._last: Future[None] | None = None

    def append(self, key: bytes, line: bytes) -> None:
        self._cache._waiting[key] = line
        self._begin()

    def flush(self) -> None:
        with self._cache._lock:
            if not self._cache._waiting:
                return
            last = self._begin()
        self._hurry.set()
        try:
            last.result()
        finally:
            self._hurry.clear()

    def _begin(self) -> Future[None]:
        """The write that will have all that waits; raises what the last one has failed with, and then tries again."""
        last, failed = self._last, None
        if last is not None and last.done():
            self._last, failed = None, last.exception()
        if self._last is None or not self._is_gathering:
            self._is_gathering = True
            self._last = self._thread.submit(self._write)
        if failed is not None:
            raise failed
        return self._last

    def _write(self) -> None:
        self._hurry.wait(self._linger_s)
        cache = self._cache
        with cache._lock:
            self._is_gathering = False
            lines, name = dict(cache._waiting), cache._new_segment()
        cache.folder.write(name, b"".join(lines.values()))
        with cache._lock:
            size, number = 0, cache._number(name)
            for key, line in lines.items():
                cache._places.add(key, (number, size + _KEY, len(line) - _KEY - 1))
                size += len(line)
                del cache._waiting[key]
