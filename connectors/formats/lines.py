"""Cuts a JSONL file into lines, with their numbers and offsets. The time grows with the bytes, however long lines are.

A line longer than the limit is not kept in memory, only its beginning and its length.

    for part in Lines(store, path, codec="", max_line_bytes=256 << 20):
        for line in part.lines():
            line.number, line.offset, line.text
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from connectors.errors import UserError
from connectors.formats.base import MAX_LINE_BYTES
from connectors.storage import Store

CODECS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
"""The codec of a file by its last suffix. Other files are not compressed."""

KEPT_BYTES = 1 << 20
"""The length of the beginning that is kept of a line that is too long."""
CHUNK_BYTES = 8 << 20
RUN_BYTES = 256 << 10
"""The approximate size of a run of lines. The values parsed from so many bytes fit the processor's cache."""
_BLANKS = b" \t\r"


class BadLineError(Exception):
    """A line is not a row. ``code`` is stable; the message says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Line(NamedTuple):
    """A non-blank line of a file."""

    number: int
    """Line number in the file, from 1."""
    offset: int
    """Byte offset in the file's (decompressed) text."""
    text: bytes
    too_long: int = 0
    """The line's length, if it exceeds the limit; ``text`` is then only the beginning. Else 0."""

    def lines(self) -> Iterator["Line"]:
        """Yield the line itself, so that a ``Line`` can be used like a ``Run``."""
        yield self


class Lines:
    """Iterates over the lines from byte ``start`` to ``stop``, both at line borders. A compressed file is read whole.

    Lines within one chunk come as a ``Run``. The file's first line, and a line that spans chunks, come as a ``Line``;
    blank ones are skipped. If a compressed stream is cut off or damaged, BadLineError is raised after the last line.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        codec: str,
        start: int = 0,
        stop: int | None = None,
        first_line: int = 0,
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._chunks = _iter_chunks(store, path, codec, start, stop)
        self._offset = start
        self._limit = max_line_bytes
        self.number = first_line
        """The number of lines so far, including blank ones."""
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    @property
    def unfinished(self) -> Line:
        """The part of the next line that was read. In a damaged file, the line where it breaks off."""
        return Line(self.number + 1, self._offset, b"".join(self._rest))

    def __iter__(self) -> Iterator["Line | Run"]:
        for chunk in self._chunks:
            end = chunk.rfind(b"\n") + 1
            begin = 0
            if end and (self._rest or self._offset == 0):
                begin = chunk.index(b"\n") + 1
                self._append_piece(chunk[: begin - 1])
                yield from self._end_line()
            while begin < end:
                stop = end if end - begin <= RUN_BYTES else chunk.rfind(b"\n", begin, begin + RUN_BYTES) + 1
                stop = stop or chunk.index(b"\n", begin + RUN_BYTES) + 1
                newlines = np.array(_find_newlines(chunk, begin, stop), np.int64) - begin
                run = Run(self.number, self._offset, memoryview(chunk)[begin:stop], newlines, self._limit)
                self._offset += stop - begin
                self.number += run.num_lines
                yield run
                begin = stop
            self._append_piece(chunk[end:])
        if self._rest:
            yield from self._end_line()

    def _append_piece(self, piece: bytes) -> None:
        """Append a piece to the current line."""
        if not piece:
            return
        self._rest_bytes += len(piece)
        self._rest.append(piece)
        if self._rest_bytes > self._limit:
            self._rest = [b"".join(self._rest)[:KEPT_BYTES]]

    def _end_line(self) -> Iterator["Line"]:
        """End the current line and yield it, unless it is blank."""
        text = self._rest[0] if len(self._rest) == 1 else b"".join(self._rest)
        size, offset = self._rest_bytes, self._offset
        self._rest, self._rest_bytes = [], 0
        self._offset += size + 1
        self.number += 1
        yield from _make_line(self.number, offset, text, size, self._limit)


def _make_line(number: int, offset: int, text: bytes, size: int, limit: int) -> Iterator[Line]:
    """Yield the line, unless it is blank. ``size``: its length; ``text`` may be only the beginning."""
    too_long = size if size > limit else 0
    text = _strip(text[:KEPT_BYTES] if too_long else text, offset)
    if text:
        yield Line(number, offset, text, too_long)


@dataclass(frozen=True)
class Run:
    """Consecutive lines, including blank ones."""

    number: int
    """The number of lines before the run in the file."""
    offset: int
    """The byte offset of the run in the file's (decompressed) text."""
    text: memoryview
    """All lines, each with its newline."""
    stops: np.ndarray
    """The positions of the newlines in the text."""
    limit: int
    """The maximum length of a line in bytes."""

    @property
    def num_lines(self) -> int:
        return len(self.stops)

    @cached_property
    def data(self) -> np.ndarray:
        """The text as uint8."""
        return np.frombuffer(self.text, np.uint8)

    @cached_property
    def starts(self) -> np.ndarray:
        """The positions of the line starts in the text."""
        return np.concatenate(([0], self.stops[:-1] + 1))

    @property
    def has_long_line(self) -> bool:
        """Whether a line is longer than the limit."""
        return len(self.text) > self.limit and bool((self.stops - self.starts > self.limit).any())

    @cached_property
    def sizes(self) -> np.ndarray:
        """The lengths of the lines, without a carriage return before the newline."""
        returns = (self.data[self.stops - 1] == ord("\r")) & (self.stops > self.starts)
        sizes: np.ndarray = self.stops - self.starts - returns
        return sizes

    def borders(self) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each line in the text."""
        return zip(self.starts.tolist(), self.stops.tolist())

    def line(self, place: int) -> bytes:
        """Get one line, without its newline."""
        return bytes(self.text[int(self.starts[place]) : int(self.stops[place])])

    def slice(self, first: int, last: int) -> "Run":
        """Make a run of the lines from ``first`` to before ``last``, at least one."""
        start, stop = int(self.starts[first]), int(self.stops[last - 1]) + 1
        stops = self.stops[first:last] - start
        return Run(self.number + first, self.offset + start, self.text[start:stop], stops, self.limit)

    def lines(self) -> Iterator[Line]:
        """Yield the lines that are not blank."""
        offset = self.offset
        for number, text in enumerate(bytes(self.text).split(b"\n")[:-1], self.number + 1):
            if offset == 0 or len(text) > self.limit:
                yield from _make_line(number, offset, text, len(text), self.limit)
            elif stripped := text.strip(_BLANKS):
                yield Line(number, offset, stripped)
            offset += len(text) + 1


def _find_newlines(chunk: bytes, start: int, stop: int) -> list[int]:
    """Find the positions of newlines. Ten times as fast as numpy if lines are long."""
    places = []
    at = chunk.find(b"\n", start, stop)
    while at >= 0:
        places.append(at)
        at = chunk.find(b"\n", at + 1, stop)
    return places


def _strip(text: bytes, offset: int) -> bytes:
    if offset == 0:
        if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError("a JSONL input file is UTF-16 text; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
        text = text.removeprefix(b"\xef\xbb\xbf")
    return text.strip(_BLANKS)


def find_line_borders(store: Store, path: str, start: int, stop: int) -> tuple[int, int]:
    """Find the start and end of the lines that begin in bytes ``start`` to ``stop``. Both are ``stop`` if none does."""
    size = get_size(store, path)
    first = 0 if start == 0 else _find_line(store, path, start, min(stop, size))
    if first is None or first >= stop:
        return stop, stop
    last = None if stop >= size else _find_line(store, path, stop, size)
    return first, size if last is None else last


def _find_line(store: Store, path: str, position: int, end: int) -> int | None:
    """Find the first line start at or after ``position``. None: there is none before ``end``."""
    at, step = position - 1, 1 << 16
    while at < end - 1:
        chunk = store.read(path, at, min(at + step, end - 1))
        newline = chunk.find(b"\n")
        if newline >= 0:
            return at + newline + 1
        at, step = at + len(chunk), min(2 * step, CHUNK_BYTES)
    return None


def get_size(store: Store, path: str) -> int:
    """Get the size of an object in bytes. Raises FileNotFoundError."""
    found = store.stat(path)
    if found is None:
        raise FileNotFoundError(store.url(path))
    return found[1]


def _iter_chunks(store: Store, path: str, codec: str, start: int, stop: int | None) -> Iterator[bytes]:
    if not codec:
        size = stop if stop is not None else get_size(store, path)
        for begin in range(start, size, CHUNK_BYTES):
            yield store.read(path, begin, min(begin + CHUNK_BYTES, size))
        return
    with store.open(path) as opened:
        recorder = _FailureRecorder(opened)
        file = io.BufferedReader(recorder, 1 << 20)
        stream = gzip.GzipFile(fileobj=file) if codec == "gzip" else pa.CompressedInputStream(file, codec)
        # Read small pieces, so that all lines before a damage are kept.
        read = stream.read1 if codec == "gzip" else stream.read
        while True:
            try:
                chunk = read(64 << 10)
            except (EOFError, zlib.error, OSError) as error:
                if recorder.failed:
                    raise
                raise BadLineError("damaged_file", f"the {codec} stream is cut off or damaged: {error}") from None
            if not chunk:
                return
            yield chunk


class _FailureRecorder(io.RawIOBase):
    """Records whether reading a file failed. A decompressor raises OSError both for that and for damaged data."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failed = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.failed = True
        data = self._file.read(len(buffer))
        self.failed = False
        buffer[: len(data)] = data
        return len(data)
