"""An input as planned: its files, its units, one schema; and how to read any range of its rows.

The dataset is plain data. It is written into the output's plan, and a part of it (``only``) travels to each task.

    dataset = plan_dataset(listing, options, unit_bytes=64 << 20)      # connectors/planning.py
    for table in dataset.read(Range(unit=0, start=0, stop=1000), block_rows=4096):
        table.schema                                                   # dataset.schema and the hidden columns
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from connectors.errors import JobError
from connectors.faults import explained
from connectors.formats.base import MAX_LINE_BYTES, ReadRequest, load_format
from connectors.schema import schema_from_text, schema_to_text
from connectors.storage import StorageOptions, Store, open_url, same_object
from connectors.units import InputFile, Range, Unit


@dataclass(frozen=True)
class InputDataset:
    """Where the rows are and what they look like; picklable, without secrets."""

    format: str
    """A name in ``FORMATS``."""
    schema: pa.Schema
    """Columns that are read, hive partition keys included."""
    files: Mapping[int, InputFile]
    units: Mapping[int, Unit]
    options: StorageOptions = field(default_factory=StorageOptions)
    max_line_bytes: int = MAX_LINE_BYTES
    """Of JSONL; a longer line becomes a dead letter."""
    mixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of JSONL, by column whose rows are of several kinds: ``rows`` that have a value, how many of them are ``odd``,
    rows by ``kinds``, the ``type`` where it has one, and what was ``kept``: a column, dead_letters or json."""
    keys: tuple[str, ...] = ()
    """Of a part of the columns: the names of all."""

    @property
    def num_rows(self) -> int:
        return sum(unit.num_rows for unit in self.units.values())

    @property
    def is_scanned(self) -> bool:
        """See ``Format.is_scanned``."""
        return load_format(self.format).is_scanned

    @property
    def num_bytes(self) -> int:
        """Size of the input files."""
        return sum(file.size for file in self.files.values())

    def project(self, columns: Sequence[str]) -> "InputDataset":
        """The same rows with only these columns."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        return replace(self, schema=schema, keys=self.keys or tuple(self.schema.names))

    def only(self, pieces: Sequence[Range]) -> "InputDataset":
        """The part of the dataset that is needed to read these ranges."""
        units = {piece.unit: self.units[piece.unit] for piece in pieces}
        files = {unit.file: self.files[unit.file] for unit in units.values()}
        return replace(self, units=units, files=files)

    def read(self, piece: Range, block_rows: int) -> Iterator[pa.Table]:
        """The rows of one range of a unit, in blocks with hidden address columns; unreadable rows are marked dead.

        Raises JobError where the file is no longer the planned one; no row of another is handed out.
        """
        unit = self.units[piece.unit]
        file = self.files[unit.file]
        store, path = open_url(file.uri, self.options)
        store = store.pinned(file.etag)
        request = ReadRequest(store, path, file, unit, piece, self.schema, block_rows, self.max_line_bytes, self.keys)
        tables = load_format(self.format).read(request)
        yield from _while_unchanged(tables, store, path, file)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; file indices and unit indices must be 0, 1, 2 ... as planned."""
        return {
            "format": self.format,
            "schema": schema_to_text(self.schema),
            "files": [asdict(file) for file in self.files.values()],
            "units": [
                [unit.file, unit.first_row, unit.num_rows, unit.num_bytes, unit.start_byte, unit.first_line]
                for unit in self.units.values()
            ],
            "max_line_bytes": self.max_line_bytes,
            "mixed": self.mixed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], options: StorageOptions) -> "InputDataset":
        """The dataset that ``to_json`` described, with today's way to reach its store."""
        files = {}
        for index, item in enumerate(data["files"]):
            pairs = tuple((key, value) for key, value in item.pop("partition"))
            files[index] = InputFile(**item, partition=pairs)
        units = {index: Unit(index, *values) for index, values in enumerate(data["units"])}
        schema = schema_from_text(data["schema"])
        longest, mixed = data.get("max_line_bytes", MAX_LINE_BYTES), data.get("mixed", {})
        return cls(data["format"], schema, files, units, options, longest, mixed)


def _while_unchanged(tables: Iterator[pa.Table], store: Store, path: str, file: InputFile) -> Iterator[pa.Table]:
    """The tables, each handed out only when the file was still the planned one after it was read."""

    def check() -> None:
        with explained(file.uri):
            now = store.stat(path)
        if now is None or not _is_same(file, now[1], now[2]):
            told = "is gone" if now is None else f"has changed ({file.size} bytes when planned, {now[1]} now)"
            raise JobError(f"{file.uri} {told}; restore it and run the same command, or start a new output")

    check()
    while True:
        try:
            with explained(file.uri):
                table = next(tables, None)
        except Exception:
            check()  # half of one file and half of another reads like a damaged one
            raise
        if table is None:
            return
        check()
        yield table


def _is_same(planned: InputFile, size: int, etag: str) -> bool:
    return planned.size == size and same_object(planned.etag, etag)


def changed_files(planned: InputDataset, found: Sequence[InputFile]) -> list[str]:
    """What differs between the planned files and those that are there now, a line each; new files are told as such."""
    now = {file.uri: file for file in found}
    lines = []
    for file in planned.files.values():
        current = now.pop(file.uri, None)
        if current is None:
            lines.append(f"{file.uri} is gone")
        elif not _is_same(file, current.size, current.etag):
            lines.append(f"{file.uri} has changed ({file.size} bytes when planned, {current.size} now)")
    return lines + [f"{uri} is new" for uri in now]
