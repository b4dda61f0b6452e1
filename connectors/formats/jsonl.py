"""JSONL: an object a line. How it is scanned stands in jsonl_scan.py, how it is read in jsonl_read.py.

data = write(table)
"""

import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from connectors.errors import JobError, UserError
from connectors.formats import jsonl_read, jsonl_scan
from connectors.formats.base import FileSpec, Planned, PlanRequest, ReadRequest, codec_of
from connectors.formats.jsonl_read import Block
from connectors.formats.lines import CODECS, Line
from connectors.schema import is_json, twins_of
from connectors.units import InputFile


class Jsonl:
    """The format, as ``connectors/formats/base.py`` promises it."""

    suffixes = (".jsonl", ".ndjson")
    codecs = CODECS
    compressions = ("none", "zstd", "gzip")
    is_scanned = True

    def plan(self, files: Sequence[InputFile], request: PlanRequest) -> Planned:
        """Read the files once, in parallel."""
        return jsonl_scan.plan(files, request)

    def read(self, request: ReadRequest) -> Iterator[pa.Table]:
        """The rows of a range; a bad line is a dead row."""
        return jsonl_read.read(request, codec_of(request.file.uri, CODECS))

    def writer(self, spec: FileSpec) -> "Writer":
        """An empty file."""
        return Writer(spec.compression)

    def read_back(self, data: bytes, name: str, schema: pa.Schema) -> pa.Table:
        """The rows of a file, in those columns whose values JSON holds as they are."""
        return table_of(decompress(data, codec_of(name, CODECS)), schema)

    def cut(self, data: bytes, name: str, keep: np.ndarray, spec: FileSpec) -> bytes:
        """A file with only the lines to keep, unread: read and written again, a decimal would be a number."""
        lines = decompress(data, codec_of(name, CODECS)).split(b"\n")[:-1]
        return encode(b"".join(line + b"\n" for line in itertools.compress(lines, keep.tolist())), spec.compression)


class Writer:
    """One JSONL file, built in memory."""

    def __init__(self, compression: str | None) -> None:
        self._compression = compression
        self._text = bytearray()

    @property
    def num_bytes(self) -> int:
        return len(self._text)

    def add(self, table: pa.Table) -> None:
        self._text += write(table)

    def finish(self) -> bytes:
        return encode(bytes(self._text), self._compression)


def encode(data: bytes, compression: str | None) -> bytes:
    """The data, compressed as a whole file."""
    if compression == "gzip":
        return gzip.compress(data, compresslevel=6, mtime=0)
    if compression == "zstd":
        return bytes(pa.compress(data, "zstd", asbytes=True))
    return data


def decompress(data: bytes, codec: str) -> bytes:
    """The text of a whole file."""
    if not codec:
        return data
    return gzip.decompress(data) if codec == "gzip" else pa.CompressedInputStream(pa.BufferReader(data), codec).read()


def table_of(text: bytes, schema: pa.Schema) -> pa.Table:
    """The rows of text that ``write`` wrote, in those columns of ``schema`` whose values JSON holds as they are."""
    block = Block(pa.schema([item for item in schema if _is_native(item.type)]))
    for row, line in enumerate(text.split(b"\n")[:-1]):
        block.add(Line(row + 1, 0, line))
    table = block.table()
    if block.dead:
        row, error = min(block.dead.items())
        raise JobError(f"line {row + 1} of a file of the output cannot be read back: {error}")
    return table


def _is_native(kind: pa.DataType) -> bool:
    """Whether JSON text read back gives the same type: not so for timestamps, decimals and the like."""
    if pa.types.is_struct(kind):
        return all(_is_native(item.type) for item in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_native(kind.value_type)
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_null,
        )
    )


def write(table: pa.Table) -> bytes:
    """The table as JSONL text: floats with all their digits, columns of JSON text as the JSON they hold, odd values in
    the columns that they came from.

    NaN and Infinity become null, because JSON has no word for them and most readers refuse Python's.
    """
    json_columns = [item.name for item in table.schema if is_json(item)]
    twins = twins_of(table.schema)
    out = bytearray()
    for row in table.to_pylist():
        for name, twin in twins.items():
            odd = row.pop(twin)
            if odd is not None:
                row[name] = orjson.Fragment(odd)
        for name in json_columns:
            if row.get(name) is not None:
                row[name] = orjson.Fragment(row[name])
        out += _encode(row)
        out += b"\n"
    return bytes(out)


def _encode(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=_encode_other)
    except TypeError:  # an integer beyond 64 bits, or a key that is not text
        plain = {
            name: json.loads(value.contents) if isinstance(value, orjson.Fragment) else value
            for name, value in row.items()
        }
        return json.dumps(plain, default=_encode_other, ensure_ascii=False).encode()


def _encode_other(value: Any) -> Any:
    if isinstance(value, bytes):
        raise UserError(
            "a binary column cannot be written as JSONL; write Parquet, or leave it out with output.columns"
        )
    return str(value)
