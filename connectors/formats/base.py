"""The contract of file formats, and the table of all formats. To add one: one file, and one line in the table.

load_format("parquet").plan(files, PlanRequest(options))    # a format by its name
find_format("a/b.jsonl.gz")                                 # "jsonl", by the name of a file
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, TypeVar, cast

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
"""Calls a function for each item, anywhere, and yields the results in order. It is lazy, so a limit can stop it."""

OddValues = Literal["json_twin", "dead_letter", "json_column"]
MAX_COLUMNS = 10_000
MAX_LINE_BYTES = 256 << 20
"""The default of ``input.max_line_mb``, in bytes."""


@dataclass(frozen=True)
class JsonlOptions:
    """How to read JSONL."""

    as_json: Collection[str] = ()
    """Columns to keep as JSON text, whatever values they have."""
    odd_values: OddValues = "json_twin"
    """What to do with odd values: those that the type of nearly all rows does not hold."""
    join_keys: Collection[str] = ()
    """Columns whose values are compared with each other. They never have a twin."""
    max_line_bytes: int = MAX_LINE_BYTES
    max_columns: int = MAX_COLUMNS


@dataclass(frozen=True)
class PlanRequest:
    """How to plan an input."""

    options: StorageOptions
    unit_bytes: int
    """The approximate size of a unit."""
    limit: int | None = None
    """Only so many rows are needed. A format that scans may skip the files after them."""
    group_key: str | None = None
    """A column. Adjacent rows with an equal value in it stay in one unit."""
    jsonl: JsonlOptions = field(default_factory=JsonlOptions)
    run: MapInOrder[Any, Any] = map
    """Runs the functions that read data."""


class Planned(NamedTuple):
    """A planned input."""

    files: list[InputFile]
    """The files with their numbers of rows."""
    units: list[Unit]
    """The units, in the order of the input. Their indices are set later."""
    schema: pa.Schema
    mixed: dict[str, dict[str, Any]]
    """See ``InputDataset.mixed``. Empty for formats whose files have a schema."""


@dataclass(frozen=True)
class ReadRequest:
    """A range of rows of a unit to read."""

    store: Store
    path: str
    file: InputFile
    unit: Unit
    piece: Range
    schema: pa.Schema
    """The columns to read: some or all of the planned schema."""
    block_rows: int
    """The maximum number of rows of a block."""
    max_line_bytes: int = MAX_LINE_BYTES
    keys: Sequence[str] = ()
    """All columns of the file, including those that are not read."""


@dataclass(frozen=True)
class FileSpec:
    """The schema and compression of an output file."""

    schema: pa.Schema
    compression: str | None
    row_group_rows: int | None = None
    """For formats with row groups. None: row groups are cut by size."""


class FileWriter(Protocol):
    """Writes a file: ``num_bytes`` is its approximate size so far, ``finish`` writes what is missing."""

    @property
    def num_bytes(self) -> int: ...
    def add(self, table: pa.Table) -> None: ...
    def finish(self) -> None: ...


class Format(Protocol):
    """A file format: names, plans, reads and writes its files. It has no state."""

    suffixes: tuple[str, ...]
    """The endings of its files, in lower case. Files of kept rows get the first, files of other parts the second. So a
    glob with the first finds only kept rows."""
    codecs: Mapping[str, str]
    """The codec of a whole file, by the ending after the suffix. Empty where the format compresses inside its files."""
    compressions: tuple[str, ...]
    """The values that ``output.compression`` may have. "none": no compression. The first is the default."""
    is_scanned: bool
    """Whether planning reads all data. Then it runs where the job's tasks run, after a check of the first rows, and
    ``num_bytes`` of a unit counts bytes of its file."""

    def plan(self, files: Sequence[InputFile], request: PlanRequest) -> Planned:
        """Cut the files into units and find a schema that holds all rows. Raises UserError where there is none."""

    def read(self, request: ReadRequest) -> Iterator[pa.Table]:
        """Read each row of the range once, in order. Tables have the columns of ``request.schema`` and the hidden ones
        (see ``add_address`` in connectors/schema.py). A row that cannot be read is included, with a reason in DEAD."""

    def writer(self, spec: FileSpec, sink: BinaryIO) -> FileWriter:
        """Begin a file at the start of ``sink``, which stays open."""

    def read_back(self, data: bytes, name: str, schema: pa.Schema) -> pa.Table:
        """Read a file that ``writer`` made, in those columns of ``schema`` that keep their values and types."""

    def cut(self, data: bytes, name: str, keep: np.ndarray, spec: FileSpec) -> bytes:
        """Cut a file that ``writer`` made to the rows to keep. These stay exactly as they were written."""


@cache
def load_format(name: str) -> Format:
    """Load the format of this name."""
    module, _, attribute = FORMATS[name].partition(":")
    return cast(Format, getattr(import_module(module), attribute)())


def find_format(file: str) -> str | None:
    """Find the format of a file by its name. None: the ending is unknown."""
    for name in FORMATS:
        known = load_format(name)
        stem = file.lower()
        for suffix in known.codecs:
            stem = stem.removesuffix(suffix)
        if stem.endswith(known.suffixes):
            return name
    return None


def find_codec(file: str, codecs: Mapping[str, str]) -> str:
    """Find the codec of a whole file by its name. Empty: it is not compressed as a whole."""
    return next((codec for suffix, codec in codecs.items() if file.lower().endswith(suffix)), "")
