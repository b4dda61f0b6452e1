r"""Answers that are kept, by the whole request that brought them: found again after a crash, and by other jobs.

Below the folder stands one for each service and model, with ``about.json`` that says whose it is, and segments: a line
for each answer, its key, a tab, and JSON. Each writer has segments of its own, so any number of workers and jobs use
one folder at once; what others have written is seen by ``refresh``. Of two answers to one request the first that was
seen stays. Nothing is deleted or merged.

    cache = ResponseCache.open("s3://team/answers", StorageOptions(), service="api.openai.com", model="gpt-4.1")
    key = key_of(service, body)                  # of all that is sent, and never of the API key
    cache.find(key) or cache.add(key, {"body": …})

On a local disk (or a shared one) a segment is a file that grows: an answer is in it when ``add`` returns, so a killed
process has lost none; half a line at its end is no answer. ``flush`` brings it to the disk, against a power cut. Other
stores cannot append: there what came within ``linger_s`` is one object, so a killed process loses as much.

It takes about 230 bytes of memory for each kept answer; answers themselves stay where they are.
"""

import hashlib
import logging
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

import orjson

from connectors.storage import PARALLEL_REQUESTS, Folder, LocalStore, StorageOptions

ABOUT = "about.json"
SUFFIX = ".answers"
LINGER_S = 0.5
READ_BYTES = 64 << 20
"""Read at once from a segment, and kept of remote ones."""

_KEY = 33
"""Bytes of a line before its answer."""
_LINE = re.compile(rb"([0-9a-f]{32})\t(\{[^\n]*\})\n")
_log = logging.getLogger("rmbatch.answers")


def key_of(service: str, body: bytes) -> bytes:
    """16 bytes for a request: who is asked, and every byte that is sent."""
    return hashlib.sha256(service.encode() + b"\0" + body).digest()[:16]


class _Segment(Protocol):
    """Where this process writes."""

    def append(self, key: bytes, line: bytes) -> None: ...
    def flush(self) -> None: ...


class ResponseCache:
    """The kept answers of one model at one service. Pickles as its address, without what is not flushed."""

    def __init__(self, folder: Folder, about: Mapping[str, Any], linger_s: float = LINGER_S) -> None:
        self._folder, self._about, self._linger_s = folder, dict(about), linger_s
        self._is_local = isinstance(folder.store, LocalStore)
        self._places: dict[bytes, tuple[str, int, int]] = {}
        self._read_to: dict[str, int] = {}
        self._own: set[str] = set()
        self._loaded: OrderedDict[str, bytes] = OrderedDict()
        self._lock, self._reading = threading.RLock(), threading.Lock()
        self._segment: _Segment | None = None
        self._waiting: dict[bytes, bytes] = {}
        self.refreshed_at = -float("inf")
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return ResponseCache, (self._folder, self._about, self._linger_s)

    @classmethod
    def open(cls, url: str, options: StorageOptions, *, service: str, model: str) -> "ResponseCache":
        """The answers of a model; nothing is written before there is one. Raises UserError for an unknown protocol."""
        about = {"service": service, "model": model}
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:60]
        scope = hashlib.sha256(f"{service}\0{model}".encode()).hexdigest()[:12]
        return cls(Folder.open(url, options).folder(f"{slug}-{scope}"), about)

    def __len__(self) -> int:
        return len(self._places.keys() | self._waiting.keys())

    def __contains__(self, key: bytes) -> bool:
        return key in self._places or key in self._waiting

    def find(self, key: bytes) -> dict[str, Any] | None:
        """The answer, None where there is none; on a remote store this reads from it."""
        with self._lock:
            waiting, place = self._waiting.get(key), self._places.get(key)
        try:
            if waiting is not None:
                found: dict[str, Any] = orjson.loads(waiting[_KEY:])
                return found
            if place is not None:
                found = orjson.loads(self._bytes(*place))
                return found
        except (orjson.JSONDecodeError, FileNotFoundError) as error:
            _log.warning("%s: an answer cannot be read and is asked for again: %s", self._folder.url, error)
            with self._lock:
                self._places.pop(key, None)
        return None

    def add(self, key: bytes, answer: Mapping[str, Any]) -> None:
        """Keep an answer. Raises OSError where it cannot be written, for not to keep it is to pay for it twice."""
        line = b"%s\t%s\n" % (key.hex().encode(), orjson.dumps(answer))
        with self._lock:
            if key in self:
                return
            if self._segment is None:
                self._folder.create(ABOUT, orjson.dumps(self._about, option=orjson.OPT_INDENT_2))
                self._segment = _Growing(self) if self._is_local else _Objects(self, self._linger_s)
            try:
                self._segment.append(key, line)
            except OSError:
                self._segment = None  # half a line may stand at its end, so it is not continued
                raise

    def flush(self) -> None:
        """Have all on the disk, or in the store, that was added. Raises OSError."""
        if self._segment is not None:
            self._segment.flush()

    def refresh(self) -> None:
        """See what others have written since."""
        with self._reading:
            self.refreshed_at = time.monotonic()
            entries = [each for each in self._folder.entries() if each.name.endswith(SUFFIX)]
            grown = [
                (each.name, each.size)
                for each in entries
                if each.name not in self._own and each.size > self._read_to.get(each.name, 0)
            ]
            with ThreadPoolExecutor(1 if self._is_local else PARALLEL_REQUESTS) as pool:
                for name, found in pool.map(self._scanned, grown):
                    with self._lock:
                        for key, start, stop in found:
                            self._places.setdefault(key, (name, start, stop))

    def _scanned(self, grown: tuple[str, int]) -> tuple[str, list[tuple[bytes, int, int]]]:
        """The keys of a segment's new lines, and where their answers stand."""
        name, size = grown
        found = []
        for offset, lines in self._read_lines(name, self._read_to.get(name, 0), size):
            found += [
                (bytes.fromhex(line[1].decode()), offset + line.start(2), offset + line.end(2))
                for line in _LINE.finditer(lines)
            ]
            self._read_to[name] = offset + len(lines)
        return name, found

    def _read_lines(self, name: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines, some at a time, and where they begin; a line that is being written is left for another time."""
        rest = b""
        with suppress(FileNotFoundError):
            for at in range(start, size, READ_BYTES):
                rest += self._folder.store.read(self._folder.path(name), at, min(at + READ_BYTES, size))
                end = rest.rfind(b"\n") + 1
                if end:
                    yield at + min(READ_BYTES, size - at) - len(rest), rest[:end]
                    rest = rest[end:]

    def _bytes(self, name: str, start: int, stop: int) -> bytes:
        path = self._folder.path(name)
        if self._is_local:
            return self._folder.store.read(path, start, stop)
        with self._reading:  # who has asked for one answer of an object will ask for its others
            if name not in self._loaded:
                self._loaded[name] = self._folder.store.read(path)
                while len(self._loaded) > 1 and sum(map(len, self._loaded.values())) > READ_BYTES:
                    self._loaded.popitem(last=False)
            return self._loaded[name][start:stop]

    def _new_name(self) -> str:
        name = f"{time.time_ns():020d}-{secrets.token_hex(6)}{SUFFIX}"
        self._own.add(name)
        return name


class _Growing:
    """A file of which this process is the only writer."""

    def __init__(self, cache: ResponseCache) -> None:
        self._cache, self._name, self._size = cache, cache._new_name(), 0
        self._file = open(cache._folder.path(self._name), "ab", buffering=0)  # noqa: SIM115 - as long as the process

    def append(self, key: bytes, line: bytes) -> None:
        if self._file.write(line) != len(line):
            raise OSError(f"{self._file.name}: the disk took half an answer; is it full?")
        self._cache._places[key] = (self._name, self._size + _KEY, self._size + len(line) - 1)
        self._size += len(line)

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
        if failed is not None:
            raise failed
        if self._last is None or not self._is_gathering:
            self._is_gathering = True
            self._last = self._thread.submit(self._write)
        return self._last

    def _write(self) -> None:
        self._hurry.wait(self._linger_s)
        cache = self._cache
        with cache._lock:
            self._is_gathering = False
            lines, name = dict(cache._waiting), cache._new_name()
        cache._folder.write(name, b"".join(lines.values()))
        with cache._lock:
            size = 0
            for key, line in lines.items():
                cache._places[key] = (name, size + _KEY, size + len(line) - 1)
                size += len(line)
                del cache._waiting[key]
