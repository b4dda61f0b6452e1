"""What a file format promises, and the table of those that exist. Another one is one file and one line here.

load_format("parquet").plan(files, PlanRequest(options))    # a format by its name
find_format("a/b.jsonl.gz")                                 # "jsonl", by the name of a file
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import pyarrow as pa

from connectors.storage import StorageOptions, Store
from connectors.units import InputFile, Range, Unit

FORMATS = {
    "parquet": "connectors.formats.parquet:Parquet",
    "jsonl": "connectors.formats.jsonl:Jsonl",
}
"""The class of each format, by its name. Job files use the names."""

A = TypeVar("A")
B = TypeVar("B")

MapInOrder = Callable[[Callable[[A], B], Sequence[A]], Iterable[B]]
"""Runs a function over items, somewhere, and gives the results in order (lazily, so that a limit can stop early)."""

OddValues = Literal["json_twin", "dead_letter", "json_column"]
MAX_COLUMNS = 10_000
MAX_LINE_BYTES = 256 << 20
"""Where a job does not say otherwise."""


@dataclass(frozen=True)
class JsonlOptions:
    """How JSONL is read."""

    as_json: Collection[str] = ()
    """Columns to keep as JSON text, whatever their values are."""
    odd_values: OddValues = "json_twin"
    """What becomes of values that are not of the type of nearly all rows."""
    join_keys: Collection[str] = ()
    """Columns whose values are compared with each other."""
    max_line_bytes: int = MAX_LINE_BYTES
    max_columns: int = MAX_COLUMNS


@dataclass(frozen=True)
class PlanRequest:
    """How to plan an input."""

    options: StorageOptions
    unit_bytes: int
    """About how much of the input is one unit."""
    limit: int | None = None
    """At least so many of the first rows are needed. A format that scans may leave out files behind them."""
    group_key: str | None = None
    """A column whose equal neighbours stay in one unit."""
    jsonl: JsonlOptions = field(default_factory=JsonlOptions)
    run: MapInOrder[Any, Any] = map
    """Runs what has to read data."""


class Planned(NamedTuple):
    """A planned input."""

    files: list[InputFile]
    """With their numbers of rows."""
    units: list[Unit]
    """In the order of the input. Their indices are set later."""
    schema: pa.Schema
    mixed: dict[str, dict[str, Any]]
    """See ``InputDataset.mixed``; empty for formats with a schema of their own."""


@dataclass(frozen=True)
class ReadRequest:
    """A range of rows of a unit to read."""

    store: Store
    path: str
    file: InputFile
    unit: Unit
    piece: Range
    schema: pa.Schema
    """The columns to read, a part of the planned schema."""
    block_rows: int
    """At most so many rows make a block."""
    max_line_bytes: int = MAX_LINE_BYTES
    keys: Sequence[str] = ()
    """The columns of the file, also those that are not read."""


@dataclass(frozen=True)
class FileSpec:
    """What a file of the output holds and how it is compressed."""

    schema: pa.Schema
    compression: str | None
    row_group_rows: int | None = None
    """Of formats with row groups. None: by their size."""


class FileWriter(Protocol):
    """A file on its way: its size so far, and its bytes when it is finished."""

    @property
    def num_bytes(self) -> int: ...
    def add(self, table: pa.Table) -> None: ...
    def finish(self) -> bytes: ...


class Format(Protocol):
    """A file format: how its files are named, planned, read and written. It has no state."""

    suffixes: tuple[str, ...]
    """Endings of its files' names, in lower case. Kept rows are written under the first, other parts of an output under
    the second, so that a glob for the first finds only kept rows."""
    codecs: Mapping[str, str]
    """The codec of a whole file by the ending that follows the suffix; empty where files are compressed inside."""
    compressions: tuple[str, ...]
    """What ``output.compression`` may say ("none" for no compression); the first is the default."""
    is_scanned: bool
    """Whether planning reads all data. It then runs on the cluster, after a look at the first rows, and a unit's
    ``num_bytes`` are bytes of its file."""

    def plan(self, files: Sequence[InputFile], request: PlanRequest) -> Planned:
        """Cut the files into units and find the schema that holds all rows; UserError where there is none."""

    def read(self, request: ReadRequest) -> Iterator[pa.Table]:
        """Each row of the range once, in order: the columns of ``request.schema`` and the hidden address columns (see
        ``add_address`` in connectors/schema.py). A row that cannot be read is there with its reason in DEAD."""

    def writer(self, spec: FileSpec) -> FileWriter:
        """An empty file."""

    def read_back(self, data: bytes, name: str, schema: pa.Schema) -> pa.Table:
        """The rows of a file that ``writer`` made, with those columns of ``schema`` that come back unchanged."""

    def cut(self, data: bytes, name: str, keep: np.ndarray, spec: FileSpec) -> bytes:
        """A file that ``writer`` made, with only the rows to keep, each exactly as it was written."""


@cache
def load_format(name: str) -> Format:
    """The format of this name."""
    module, _, attribute = FORMATS[name].partition(":")
    return cast(Format, getattr(import_module(module), attribute)())


def find_format(file: str) -> str | None:
    """The name of the format that a file's name tells, or None."""
    for name in FORMATS:
        known = load_format(name)
        stem = file.lower()
        for suffix in known.codecs:
            stem = stem.removesuffix(suffix)
        if stem.endswith(known.suffixes):
            return name
    return None


def codec_of(file: str, codecs: Mapping[str, str]) -> str:
    """The codec of a whole file by the ending of its name; empty where there is none."""
    return next((codec for suffix, codec in codecs.items() if file.lower().endswith(suffix)), "")
