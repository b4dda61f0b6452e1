"""A planned input: its files, its units and its schema. Any range of its rows can be read.

The dataset is plain data. It is stored in the output's plan, and each task gets the part that it needs
(``select_ranges``).

    dataset = plan_dataset(listing, options, unit_bytes=64 << 20)      # connectors/planning.py
    for table in dataset.read(Range(unit=0, start=0, stop=1000), block_rows=4096):
        table.schema                                                   # dataset.schema and the hidden columns
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa

from connectors.errors import JobError
from connectors.faults import explain_errors
from connectors.formats.base import MAX_LINE_BYTES, ReadRequest, load_format
from connectors.schema import HIDDEN, schema_from_text, schema_to_text
from connectors.storage import StorageOptions, Store, open_url, same_object
from connectors.units import InputFile, Range, Unit


class View(Protocol):
    """Shows the rows of an input in other columns, each row by itself. It pickles."""

    @property
    def source(self) -> pa.Schema:
        """The columns of the files."""

    @property
    def schema(self) -> pa.Schema:
        """The columns that it shows."""

    def columns(self, wanted: Iterable[str]) -> list[str]:
        """The columns of the files that are needed to show these."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same rows in the same order in the columns that these can show."""


@dataclass(frozen=True)
class InputDataset:
    """Where the rows are, and their schema. It can be pickled and holds no secrets."""

    format: str
    """A name in ``FORMATS``."""
    schema: pa.Schema
    """The columns to read, including the keys of hive partitions."""
    files: Mapping[int, InputFile]
    units: Mapping[int, Unit]
    options: StorageOptions = field(default_factory=StorageOptions)
    max_line_bytes: int = MAX_LINE_BYTES
    """For JSONL: a longer line becomes a dead letter."""
    mixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For JSONL: each column that has values of several kinds. ``rows``: how many rows have a value; ``odd``: how many
    of them are odd; ``kinds``: rows by kind; ``type``: the column's type, if it has one; ``kept``: where odd values go
    (the name of a column, dead_letters or json)."""
    keys: tuple[str, ...] = ()
    """The names of all columns, where ``schema`` has only some of them."""
    view: View | None = None
    """Makes the columns of ``schema`` from those of the files. It is no part of a plan: the job says it again."""

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

    def see_through(self, view: View) -> "InputDataset":
        """Make a dataset of the same rows in other columns."""
        return replace(self, schema=view.schema, view=view)

    def project(self, columns: Sequence[str]) -> "InputDataset":
        """Make a dataset of the same rows with only these columns."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        return replace(self, schema=schema, keys=self.keys or tuple(self._source.names))

    def select_ranges(self, pieces: Sequence[Range]) -> "InputDataset":
        """Make a dataset with only the files and units of these ranges."""
        units = {piece.unit: self.units[piece.unit] for piece in pieces}
        files = {unit.file: self.files[unit.file] for unit in units.values()}
        return replace(self, units=units, files=files)

    def read(self, piece: Range, block_rows: int) -> Iterator[pa.Table]:
        """Read one range of a unit, in blocks with the hidden address columns. Unreadable rows are marked dead.

        Raises JobError where the file has changed since it was planned. No row of a changed file is returned.
        """
        unit = self.units[piece.unit]
        file = self.files[unit.file]
        store, path = open_url(file.uri, self.options)
        store = store.pin(file.etag)
        schema, keys = self.schema, self.keys
        if self.view is not None:
            schema = pa.schema([self._source.field(name) for name in self.view.columns(self.schema.names)])
            keys = keys or tuple(self._source.names)
        request = ReadRequest(store, path, file, unit, piece, schema, block_rows, self.max_line_bytes, keys)
        tables = load_format(self.format).read(request)
        for table in _check_unchanged(tables, store, path, file):
            yield table if self.view is None else self._show(table, self.view)

    @property
    def _source(self) -> pa.Schema:
        """The columns of the files."""
        return self.schema if self.view is None else self.view.source

    def _show(self, table: pa.Table, view: View) -> pa.Table:
        """Show rows through the view, with their hidden columns."""
        hidden = [each for each in table.schema if each.name.startswith(HIDDEN)]
        shown = view(table.select([name for name in table.column_names if not name.startswith(HIDDEN)]))
        shown = shown.select(self.schema.names)
        for each in hidden:
            shown = shown.append_column(each, table[each.name])
        return shown

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values for a JSON file. The indices of files and units must be 0, 1, 2 ... as planned."""
        return {
            "format": self.format,
            "schema": schema_to_text(self._source),
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
        """Build the dataset from what ``to_json`` gave. ``options`` say how to reach the store now."""
        files = {}
        for index, item in enumerate(data["files"]):
            pairs = tuple((key, value) for key, value in item.pop("partition"))
            files[index] = InputFile(**item, partition=pairs)
        units = {index: Unit(index, *values) for index, values in enumerate(data["units"])}
        schema = schema_from_text(data["schema"])
        longest, mixed = data.get("max_line_bytes", MAX_LINE_BYTES), data.get("mixed", {})
        return cls(data["format"], schema, files, units, options, longest, mixed)


def _check_unchanged(tables: Iterator[pa.Table], store: Store, path: str, file: InputFile) -> Iterator[pa.Table]:
    """Yield each table only after checking that the file is still the planned one."""

    def check() -> None:
        with explain_errors(file.uri):
            now = store.stat(path)
        if now is None or not _is_same(file, now[1], now[2]):
            change = "is gone" if now is None else f"has changed ({file.size} bytes when planned, {now[1]} now)"
            raise JobError(f"{file.uri} {change}; restore it and run the same command, or start a new output")

    check()
    while True:
        try:
            with explain_errors(file.uri):
                table = next(tables, None)
        except Exception:
            check()  # a file that was replaced during the read looks like a damaged one
            raise
        if table is None:
            return
        check()
        yield table


def _is_same(planned: InputFile, size: int, etag: str) -> bool:
    return planned.size == size and same_object(planned.etag, etag)


def describe_changes(planned: InputDataset, found: Sequence[InputFile]) -> list[str]:
    """Describe how the files differ from the planned ones, a line each: changed, gone or new."""
    now = {file.uri: file for file in found}
    lines = []
    for file in planned.files.values():
        current = now.pop(file.uri, None)
        if current is None:
            lines.append(f"{file.uri} is gone")
        elif not _is_same(file, current.size, current.etag):
            lines.append(f"{file.uri} has changed ({file.size} bytes when planned, {current.size} now)")
    return lines + [f"{uri} is new" for uri in now]
