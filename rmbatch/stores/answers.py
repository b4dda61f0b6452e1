r"""Answers that are kept, by the whole request that brought them: found again after a crash, and by other jobs.

Each service and model has a folder, with ``about.json`` that says whose it is, and segments (``segments.py``): a line
for each answer, its key, a tab, and JSON. Each writer has segments of its own, so any number of workers and jobs use
one folder at once; what others have written is seen by ``refresh``. Of two answers under one key the first that was
seen stays. No answer is ever deleted: one that is to count in place of another is kept under the key after it
(``next_key``), and ``newest`` finds it.

    cache = ResponseCache.open("s3://team/answers", StorageOptions(), service="api.openai.com", model="gpt-4.1")
    key = key_of(service, body)                  # of all that is sent, and never of the API key
    cache.find(key) or cache.add(key, {"body": …})

On a local disk (or a shared one) a segment is a file that grows: an answer is in it when ``add`` returns, so a killed
process has lost none; half a line at its end is no answer. ``flush`` brings it to the disk, against a power cut. Other
stores cannot append: there all answers of ``linger_s`` are one object, so a killed process loses as many.

It takes about 70 bytes of memory for each kept answer (``key_index.py``); answers themselves stay where they are.
"""

import hashlib
import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from connectors.storage import Folder, StorageOptions
from rmbatch.stores.key_index import KeyIndex
from rmbatch.stores.segments import SegmentedStore

LINGER_S = 0.5
SCAN_BYTES = 4 << 20
"""Read at once from each of several segments that are looked through."""
READ_BYTES = 64 << 20
"""Kept in memory of remote segments."""
GRACE_S = 600.0
"""``compact`` leaves a segment alone for so long after its last answer, for its writer may be alive."""

_IDLE_S = 60.0
"""A writer that has had no answer for so long goes on with a new segment: far below the grace, so that no line is ever
added to a segment that is being merged."""
_KEY = 33
"""Bytes of a line before its answer."""
_LINE = re.compile(rb"([0-9a-f]{32})\t(\{[^\n]*\})\n")
_log = logging.getLogger("rmbatch.stores")


def key_of(service: str, body: bytes) -> bytes:
    """16 bytes for a request: who is asked, and every byte that is sent."""
    return hashlib.sha256(service.encode() + b"\0" + body).digest()[:16]


def next_key(key: bytes) -> bytes:
    """The key of the next answer to the same request."""
    return hashlib.sha256(b"next\0" + key).digest()[:16]


@dataclass(frozen=True)
class _Lines:
    """Where answers stand in a part of a segment."""

    keys: bytes
    """16 of each."""
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def parse(cls, lines: bytes, offset: int) -> "_Lines":
        """The answers in whole lines that begin at ``offset``."""
        found = [(line[1], line.start(2), line.end(2)) for line in _LINE.finditer(lines)]
        places = np.array([(start, stop) for _, start, stop in found], np.int64).reshape(-1, 2)
        keys = bytes.fromhex(b"".join(key for key, *_ in found).decode())
        return cls(keys, places[:, 0] + offset, places[:, 1] - places[:, 0])


class ResponseCache(SegmentedStore[list[_Lines]]):
    """The kept answers of one model at one service. Pickles as its address, without what is not flushed."""

    ABOUT, SUFFIX = "about.json", ".answers"
    MERGED_BYTES = 64 << 20

    def __init__(self, folder: Folder, about: Mapping[str, Any], linger_s: float = LINGER_S) -> None:
        self._details, self._linger_s = dict(about), linger_s
        self._index = KeyIndex()
        self._hidden: set[str] = set()
        """Segments with answers that were found in another one first."""
        self._loaded: OrderedDict[str, bytes] = OrderedDict()
        self._loading = threading.Lock()
        self._file: _GrowingFile | None = None
        self._waiting: dict[bytes, bytes] = {}
        """Lines for the next object."""
        self._writing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._error: Exception | None = None
        """Why the last object could not be written, until somebody is told."""
        super().__init__(folder, orjson.dumps(self._details, option=orjson.OPT_INDENT_2))

    def __reduce__(self) -> tuple[Any, ...]:
        return ResponseCache, (self.folder, self._details, self._linger_s)

    @classmethod
    def open(cls, url: str, options: StorageOptions, *, service: str, model: str) -> "ResponseCache":
        """The answers of a model; nothing is written before there is one. Raises UserError for an unknown protocol."""
        about = {"service": service, "model": model}
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:60]
        scope = hashlib.sha256(f"{service}\0{model}".encode()).hexdigest()[:12]
        return cls(Folder.open(url, options).folder(f"{slug}-{scope}"), about)

    def __len__(self) -> int:
        with self._lock:
            return len(self._index) + sum(key not in self._index for key in self._waiting)

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return key in self._waiting or key in self._index

    def newest(self, key: bytes) -> bytes:
        """The key of the newest answer to a request; ``key`` itself where there is at most one."""
        while (later := next_key(key)) in self:
            key = later
        return key

    def find(self, key: bytes) -> dict[str, Any] | None:
        """The answer, None where there is none; on a remote store this reads from it."""
        for _ in range(3):
            try:
                raw = self._load(key)
                answer: dict[str, Any] | None = None if raw is None else orjson.loads(raw)
                return answer
            except FileNotFoundError:  # its segment was merged by another process
                self.refresh()
            except orjson.JSONDecodeError as error:
                _log.warning("%s: an answer cannot be read and is asked for again: %s", self.folder.url, error)
                break
        self.forget(key)
        return None

    def forget(self, key: bytes) -> None:
        """Forget an answer that nobody can use, so that another one is kept in its place."""
        with self._lock:
            self._index.forget(key)

    def add(self, key: bytes, answer: Mapping[str, Any]) -> None:
        """Keep an answer. Raises OSError where it cannot be written, for not to keep it is to pay for it twice."""
        line = b"%s\t%s\n" % (key.hex().encode(), orjson.dumps(answer))
        with self._lock:
            if key in self:
                return
            if self._is_local:
                self._append(key, line)
                return
            self._waiting[key] = line
            if self._timer is None:
                self._timer = threading.Timer(self._linger_s, self._write_late)
                self._timer.start()
            error, self._error = self._error, None
        if error is not None:
            raise error

    def flush(self) -> None:
        """Bring all that was added to the disk, or to the store. Raises OSError."""
        if (file := self._file) is not None:
            file.flush()
        self._write_waiting()

    def compact(self, grace_s: float = GRACE_S) -> int:
        """Merge small segments into large ones, and return how many fewer there are.

        It may run while others read and write, and compact. They find each answer all the time: a reader that misses
        a small segment lists again. ``grace_s`` must be well above a minute where others may be writing. Raises
        OSError; the answers are then there, some of them twice.
        """
        self.flush()
        with self._lock:
            if self._file is not None:
                self._file.flush()
                self._file = None  # the next answer begins a new one
            closed = set(self._own)
        return self._compact(lambda name: name in closed or self._age_s(name) > grace_s)

    def _load(self, key: bytes) -> bytes | None:
        """The JSON of an answer."""
        with self._lock:
            waiting, place = self._waiting.get(key), self._index.find(key)
        if waiting is not None:
            return waiting[_KEY:]
        if place is None:
            return None
        name, start, size = place
        path = self.folder.path(name)
        if self._is_local:
            return self.folder.store.read(path, start, start + size)
        with self._loading:  # who has asked for one answer of an object will ask for its others
            if name not in self._loaded:
                self._loaded[name] = self.folder.store.read(path)
                while len(self._loaded) > 1 and sum(map(len, self._loaded.values())) > READ_BYTES:
                    self._loaded.popitem(last=False)
            return self._loaded[name][start : start + size]

    def _append(self, key: bytes, line: bytes) -> None:
        """Write a line to this process's own file."""
        if self._file is not None and self._file.is_over:
            self._file.flush()
            self._file = None
        if self._file is None:
            self.folder.create(self.ABOUT, self._about)
            self._file = _GrowingFile(self.folder, self._new_name())
            self._read_to[self._file.name] = sys.maxsize  # nothing in it has to be read back
        try:
            start = self._file.append(line)
        except OSError:
            self._file = None  # half a line may stand at its end, so it is not continued
            raise
        self._index.add(key, (self._file.name, start + _KEY, len(line) - _KEY - 1))

    def _write_waiting(self) -> None:
        """Write all lines that wait as one object; at most one is being written."""
        with self._writing:
            with self._lock:
                self._timer, lines = None, dict(self._waiting)
            if lines:
                self._write(self._new_name(), b"".join(lines.values()))
                with self._lock:
                    for key in lines:
                        del self._waiting[key]

    def _write_late(self) -> None:
        try:
            self._write_waiting()
        except Exception as error:  # the next ``add`` raises it, and has it tried again
            self._error = error

    def _read(self, name: str, start: int, stop: int, data: bytes | None) -> tuple[list[_Lines], int]:
        """Whole lines; one that is being written is left for another time."""
        if data is not None:
            return [_Lines.parse(data, 0)], len(data)
        parts, rest = [], b""
        for at in range(start, stop, SCAN_BYTES):
            rest += self.folder.store.read(self.folder.path(name), at, min(at + SCAN_BYTES, stop))
            end = rest.rfind(b"\n") + 1
            parts.append(_Lines.parse(rest[:end], start))
            start, rest = start + end, rest[end:]
        return parts, start

    def _keep(self, name: str, part: list[_Lines]) -> None:
        for lines in part:
            if self._index.add_all(lines.keys, name, lines.starts, lines.sizes) < len(lines.starts):
                self._hidden.add(name)

    def _forget(self, names: Collection[str]) -> None:
        self._index.forget_segments({*names})
        self._hidden -= {*names}

    def _find_hidden(self) -> set[str]:
        return {*self._hidden}

    def _merge(self, names: Sequence[str]) -> tuple[list[str], bytes]:
        lines: dict[bytes, bytes] = {}
        merged = []
        for name, content in zip(names, self.folder.read_many(names), strict=True):
            found = list(_LINE.finditer(content or b""))
            if content is not None and sum(len(line[0]) for line in found) == content.rfind(b"\n") + 1:
                merged.append(name)  # all but half a line that a killed writer left; a damaged segment stays as it is
                for line in found:
                    if line[1] not in lines or not _is_json(lines[line[1]][_KEY:]):
                        lines[line[1]] = line[0]
        return merged, b"".join(lines.values())

    def _age_s(self, name: str) -> float:
        """Seconds since a segment was last written to; an object is never written to again."""
        if not self._is_local:
            return time.time() - int(name.partition("-")[0]) / 1e9 if name[:20].isdigit() else 0.0
        try:
            return time.time() - os.stat(self.folder.path(name)).st_mtime
        except FileNotFoundError:
            return 0.0


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


class _GrowingFile:
    """A file of which this process is the only writer."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.name = name
        self._file = open(folder.path(name), "ab", buffering=0)  # noqa: SIM115 - until nobody writes to it
        self._size, self._written_at = 0, time.time()

    @property
    def is_over(self) -> bool:
        """Whether it may have been merged, or (where clocks or people are wrong) has gone."""
        return not 0 <= time.time() - self._written_at <= _IDLE_S or os.fstat(self._file.fileno()).st_nlink == 0

    def append(self, line: bytes) -> int:
        """Write a line and return where it begins. Raises OSError."""
        if self._file.write(line) != len(line):
            raise OSError(f"{self._file.name}: the disk took half an answer; is it full?")
        self._size += len(line)
        self._written_at = time.time()
        return self._size - len(line)

    def flush(self) -> None:
        os.fsync(self._file.fileno())
