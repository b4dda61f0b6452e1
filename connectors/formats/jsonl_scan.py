"""Plans a JSONL input by reading it once before the job starts: counts rows, finds line borders and column types.

A column's type follows from its values over the whole input (shapes.py). If no type holds all values, the column gets
the type of nearly all rows, if there is one. The other rows are odd, and ``OddValues`` says what to do with their
values. If there is no such type, the column is kept as JSON text. Parts of an input are scanned anywhere, and the
results merged.

    planned = plan(files, request)
    planned.schema, planned.units
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from connectors.borders import Border, keep_groups_whole
from connectors.errors import UserError
from connectors.faults import explain_errors
from connectors.formats.base import MAX_COLUMNS, OddValues, Planned, PlanRequest, find_codec
from connectors.formats.jsonl_read import BLOCK_BYTES, parse_line
from connectors.formats.jsonl_runs import FEW_LINES, Columns, RunParser, split_run
from connectors.formats.lines import CODECS, BadLineError, Line, Lines, Run, find_line_borders
from connectors.formats.shapes import Column
from connectors.schema import STRICT_METADATA, TWIN, json_field, twin_field
from connectors.storage import StorageOptions, open_url
from connectors.units import InputFile, Unit


@dataclass
class Profile:
    """Row counts, borders and column types of a part of a file. The profiles of all parts merge into one schema."""

    num_rows: int = 0
    start: int = 0
    stop: int = 0
    num_lines: int = 0
    """The number of lines of the part, including blank ones."""
    columns: dict[str, Column] = field(default_factory=dict)
    head_key: Any = None
    head_rows: int = 0
    head_stop: int = 0
    head_lines: int = 0
    tail_key: Any = None

    def merge(self, other: "Profile", max_columns: int = MAX_COLUMNS) -> None:
        """Add another part's columns and counts. Raises UserError for too many columns."""
        self.num_rows += other.num_rows
        for name, column in other.columns.items():
            self.columns.setdefault(name, Column()).merge(column)
        self._check_width(max_columns)

    def add(self, rows: Iterable[dict[str, Any]], max_columns: int = MAX_COLUMNS) -> None:
        """Add the values of rows. Raises UserError for too many columns."""
        values: dict[str, list[Any]] = {}
        for row in rows:
            for name, value in row.items():
                if name in values:
                    values[name].append(value)
                else:
                    values[name] = [value]
        self.add_values(values, max_columns)

    def add_values(self, values: Mapping[str, Sequence[Any]], max_columns: int = MAX_COLUMNS) -> None:
        """Add the values of rows, by column. Nulls do not count."""
        for name, mine in values.items():
            self.columns.setdefault(name, Column()).add(mine)
        self._check_width(max_columns)

    def add_bad_row(self) -> None:
        """Add a line that is not a row. It belongs to the group around it, see ``connectors/groups.py``."""
        self.head_rows += self.head_rows == self.num_rows
        self.num_rows += 1

    def add_key(self, key: Any, offset: int, lines_before: int) -> None:
        """Add the group key of a row, and the position of its line."""
        at_head = self.head_rows == self.num_rows
        if at_head and self.head_key is None:
            self.head_key = key
        if at_head and key is not None and key == self.head_key:
            self.head_rows += 1
        elif self.head_stop == 0:
            self.head_stop, self.head_lines = offset, lines_before
        self.tail_key = key
        self.num_rows += 1

    def add_keys(self, keys: Sequence[Any], run: Run) -> None:
        """Add the group keys of a run of rows, one for each line."""
        starts = run.starts.tolist()
        place = 0
        while place < len(keys) and not self.head_stop:
            self.add_key(keys[place], run.offset + starts[place], run.number + place)
            place += 1
        self.num_rows += len(keys) - place
        self.tail_key = keys[-1]

    def _check_width(self, max_columns: int) -> None:
        if len(self.columns) > max_columns:
            last = list(self.columns)[max_columns]
            raise UserError(
                f"the rows have more than {max_columns:,} different keys, the next one is {last!r}; keep keys that are "
                "data inside one object (its column is then JSON text), or set input.max_columns"
            )

    def schema(
        self, as_json: Iterable[str] = (), odd_values: OddValues = "json_twin", join_keys: Collection[str] = ()
    ) -> tuple[pa.Schema, dict[str, dict[str, Any]]]:
        """Make the planned schema, and a description of columns with values of several kinds (``InputDataset.mixed``).

        Columns without a type, and those in ``as_json``, hold JSON text. A column in ``join_keys`` never has a twin,
        because its values are compared and must be in one column.
        """
        chosen, fields = set(as_json), []
        mixed: dict[str, dict[str, Any]] = {}
        for name, column in self.columns.items():
            kind, odd = column.choose_type()
            has_twin = odd_values == "json_twin" and name not in join_keys and TWIN + name not in self.columns
            if kind is None or name in chosen or (odd and not has_twin and odd_values != "dead_letter"):
                fields.append(json_field(name))
                kept = "json"
            elif not odd or has_twin:
                fields.append(pa.field(name, kind))
                kept = TWIN + name
            else:
                fields.append(pa.field(name, kind, metadata=STRICT_METADATA))
                kept = "dead_letters"
            if odd and kept == TWIN + name:
                fields.append(twin_field(name))
            if (odd or kind is None) and name not in chosen:
                found = {"rows": column.num_rows, "odd": odd, "kinds": column.by_kind(), "kept": kept}
                mixed[name] = found | ({"type": str(kind)} if kept != "json" else {})
        return pa.schema(fields), mixed


@dataclass(frozen=True)
class Part:
    """A byte range of a JSONL file to scan."""

    file: int
    uri: str
    codec: str
    start: int
    stop: int
    key: str | None
    options: StorageOptions
    max_line_bytes: int
    max_columns: int


def scan(part: Part) -> Profile:
    """Read the lines that begin in the part. Return their counts, exact borders and column types.

    If there is a group column, the profile also has the end of the first group and the last key.
    """
    store, path = open_url(part.uri, part.options)
    with explain_errors(part.uri):
        start, stop = (0, part.stop) if part.codec else find_line_borders(store, path, part.start, part.stop)
        end = None if part.codec else stop
        lines = Lines(store, path, part.codec, start, end, max_line_bytes=part.max_line_bytes)
        scanner = _Scanner(Profile(start=start, stop=stop), part)
        try:
            for found in lines:
                if isinstance(found, Line):
                    scanner.add_lines([found])
                else:
                    scanner.add_run(found)
        except BadLineError:  # the rest of the file is damaged: it becomes one more row, a dead letter
            scanner.profile.num_rows += 1
        scanner.finish_lines()
        scanner.profile.num_lines = lines.number
        return scanner.profile


class _Scanner:
    """Scans the lines of a part: many at once where all keys are known, else one by one."""

    def __init__(self, profile: Profile, part: Part) -> None:
        self.profile, self._part = profile, part
        self._parser = RunParser([])
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def add_run(self, run: Run) -> None:
        """Scan a run of lines."""
        if not self._parser.keys and run.num_lines > FEW_LINES:  # learn the keys from the first lines
            self.add_lines(run.slice(0, FEW_LINES).lines())
            run = run.slice(FEW_LINES, run.num_lines)
        if self._parser.can_parse:
            self._learn_keys()
        for lines, columns in split_run(run, self._parser, self._parse):
            if columns is None:
                self.add_lines(lines.lines())
                continue
            self.profile.add_values(columns, self._part.max_columns)
            self.profile.add_keys(columns.get(self._part.key or "") or [None] * lines.num_lines, lines)

    def _parse(self, run: Run) -> Columns | None:
        self._learn_keys()
        return self._parser.parse(run)

    def _learn_keys(self) -> None:
        self.finish_lines()
        if len(self._parser.keys) < len(self.profile.columns):
            self._parser = RunParser(list(self.profile.columns))

    def add_lines(self, lines: Iterable[Line]) -> None:
        """Scan lines one by one."""
        for line in lines:
            try:
                row = parse_line(line)
            except BadLineError:
                self.profile.add_bad_row()
                continue
            self.profile.add_key(row.get(self._part.key or ""), line.offset, line.number - 1)
            self._rows.append(row)
            self._num_bytes += len(line.text)
            if self._num_bytes >= BLOCK_BYTES:
                self.finish_lines()

    def finish_lines(self) -> None:
        """Add the values of the lines that were scanned one by one."""
        if self._rows:
            self.profile.add(self._rows, self._part.max_columns)
            self._rows, self._num_bytes = [], 0


def plan(files: Sequence[InputFile], request: PlanRequest) -> Planned:
    """Scan the files, or with a limit only as many as it needs. See ``Format.plan``."""
    jsonl, key = request.jsonl, request.group_key
    parts = [part for index, file in enumerate(files) for part in _cut_parts(index, file, request)]
    whole = Profile()
    profiles: dict[int, list[tuple[Part, Profile]]] = {}
    for part, profile in zip(parts, request.run(scan, parts), strict=False):
        whole.merge(profile, jsonl.max_columns)
        profiles.setdefault(part.file, []).append((part, profile))
        if request.limit is not None and whole.num_rows >= request.limit:
            break
    planned, units = list(files), []
    for index, found in profiles.items():
        cut = list(_build_units(index, found))
        if key is not None:
            cut = keep_groups_whole(cut, [_build_border(profile) for _, profile in found])
        units += cut
        planned[index] = replace(files[index], num_rows=sum(unit.num_rows for unit in cut))
    schema, mixed = whole.schema(jsonl.as_json, jsonl.odd_values, jsonl.join_keys)
    if not whole.columns:
        raise UserError(
            f"no line of the input holds a JSON object; the first file is {files[0].uri}: JSONL has one object a line "
            "(jq -c '.[]' writes a list so)"
        )
    return Planned(planned, units, schema, mixed)


def _cut_parts(index: int, file: InputFile, request: PlanRequest) -> Iterator[Part]:
    codec, jsonl = find_codec(file.uri, CODECS), request.jsonl
    step = file.size if codec else request.unit_bytes
    for start in range(0, file.size, max(step, 1)):
        stop = min(start + step, file.size)
        key, options = request.group_key, request.options
        yield Part(index, file.uri, codec, start, stop, key, options, jsonl.max_line_bytes, jsonl.max_columns)


def _build_units(index: int, found: Sequence[tuple[Part, Profile]]) -> Iterator[Unit]:
    row, line = 0, 0
    for _, profile in found:
        yield Unit(0, index, row, profile.num_rows, profile.stop - profile.start, profile.start, line)
        row, line = row + profile.num_rows, line + profile.num_lines


def _build_border(profile: Profile) -> Border:
    return Border(
        profile.head_key,
        profile.tail_key,
        profile.head_rows,
        (profile.head_stop or profile.stop) - profile.start,
        profile.head_lines,
    )
