"""The JSONL format: one JSON object a line. jsonl_scan.py plans it, jsonl_read.py reads it, this module writes it.

data = write(table)
"""

import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa

from connectors.errors import JobError, UserError
from connectors.formats import jsonl_read, jsonl_scan
from connectors.formats.base import FileSpec, Planned, PlanRequest, ReadRequest, find_codec
from connectors.formats.jsonl_read import Block
from connectors.formats.lines import CODECS, Line
from connectors.schema import find_twins, is_json
from connectors.units import InputFile


class Jsonl:
    """The JSONL format. Implements ``Format`` of connectors/formats/base.py."""

    suffixes = (".jsonl", ".ndjson")
    codecs = CODECS
    compressions = ("none", "zstd", "gzip")
    is_scanned = True

    def plan(self, files: Sequence[InputFile], request: PlanRequest) -> Planned:
        """See ``Format.plan``. Reads the files once, in parallel."""
        return jsonl_scan.plan(files, request)

    def read(self, request: ReadRequest) -> Iterator[pa.Table]:
        """See ``Format.read``. A bad line becomes a dead row."""
        return jsonl_read.read(request, find_codec(request.file.uri, CODECS))

    def writer(self, spec: FileSpec, sink: BinaryIO) -> "Writer":
        """See ``Format.writer``."""
        return Writer(sink, spec.compression)

    def read_back(self, data: bytes, name: str, schema: pa.Schema) -> pa.Table:
        """See ``Format.read_back``. Only columns whose types JSON keeps come back."""
        return parse_table(decompress(data, find_codec(name, CODECS)), schema)

    def cut(self, data: bytes, name: str, keep: np.ndarray, spec: FileSpec) -> bytes:
        """See ``Format.cut``. Lines are not parsed, because parsing would turn a decimal into a float."""
        lines = decompress(data, find_codec(name, CODECS)).split(b"\n")[:-1]
        return encode(b"".join(line + b"\n" for line in itertools.compress(lines, keep.tolist())), spec.compression)


class Writer:
    """Gathers a JSONL file in memory and writes it at the end, compressed as a whole."""

    def __init__(self, sink: BinaryIO, compression: str | None) -> None:
        self._sink, self._compression = sink, compression
        self._text = bytearray()

    @property
    def num_bytes(self) -> int:
        return len(self._text)

    def add(self, table: pa.Table) -> None:
        self._text += write(table)

    def finish(self) -> None:
        self._sink.write(encode(bytes(self._text), self._compression))


def encode(data: bytes, compression: str | None) -> bytes:
    """Compress a whole file."""
    if compression == "gzip":
        return gzip.compress(data, compresslevel=6, mtime=0)
    if compression == "zstd":
        return bytes(pa.compress(data, "zstd", asbytes=True))
    return data


def decompress(data: bytes, codec: str) -> bytes:
    """Decompress a whole file."""
    if not codec:
        return data
    return gzip.decompress(data) if codec == "gzip" else pa.CompressedInputStream(pa.BufferReader(data), codec).read()


def parse_table(text: bytes, schema: pa.Schema) -> pa.Table:
    """Parse text that ``write`` wrote, in those columns of ``schema`` whose types JSON keeps."""
    block = Block(pa.schema([item for item in schema if _is_native(item.type)]))
    for row, line in enumerate(text.split(b"\n")[:-1]):
        block.add(Line(row + 1, 0, line))
    table = block.table()
    if block.dead:
        row, error = min(block.dead.items())
        raise JobError(f"line {row + 1} of a file of the output cannot be read back: {error}")
    return table


def _is_native(kind: pa.DataType) -> bool:
    """Whether JSON keeps the type. It does not for timestamps, decimals and the like."""
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
    """Write the table as JSONL text.

    Floats keep all digits. Columns of JSON text are written as plain JSON. Odd values go back to their own columns. NaN
    and Infinity become null, because JSON does not have them and most readers refuse them.
    """
    json_columns = [item.name for item in table.schema if is_json(item)]
    twins = find_twins(table.schema)
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
