"""Finds out what nothing but reading a JSONL input can tell, once, before the job starts: rows, line borders, types.

Types follow the values (shapes.py), by counts over the whole input. A column that no type holds keeps the type of
nearly all its rows where there is one: the other rows are odd, and what becomes of their values is the user's rule
(``OddValues``). Where there is none, the column is kept as JSON text. Parts of one input are scanned anywhere and
merged.

    planned = plan(files, request)
    planned.schema, planned.units
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from connectors.borders import Border, keep_groups_whole
from connectors.errors import UserError
from connectors.faults import explained
from connectors.formats.base import MAX_COLUMNS, OddValues, Planned, PlanRequest, codec_of
from connectors.formats.jsonl_read import BLOCK_BYTES, parse_line
from connectors.formats.jsonl_runs import FEW_LINES, Columns, RunParser, split
from connectors.formats.lines import CODECS, BadLineError, Line, Lines, Run, line_borders
from connectors.formats.shapes import Column
from connectors.schema import STRICT_METADATA, TWIN, json_field, twin_field
from connectors.storage import StorageOptions, open_url
from connectors.units import InputFile, Unit


@dataclass
class Profile:
    """What a part of a file holds; parts of one input merge into one schema."""

    num_rows: int = 0
    start: int = 0
    stop: int = 0
    num_lines: int = 0
    """Lines that end inside the part, blank ones included."""
    columns: dict[str, Column] = field(default_factory=dict)
    head_key: Any = None
    head_rows: int = 0
    head_stop: int = 0
    head_lines: int = 0
    tail_key: Any = None

    def merge(self, other: "Profile", max_columns: int = MAX_COLUMNS) -> None:
        """Take in another part's columns and counts; raises UserError for too many columns."""
        self.num_rows += other.num_rows
        for name, column in other.columns.items():
            self.columns.setdefault(name, Column()).merge(column)
        self._check_width(max_columns)

    def add(self, rows: Iterable[dict[str, Any]], max_columns: int = MAX_COLUMNS) -> None:
        """Take in the values of rows; raises UserError for too many columns."""
        values: dict[str, list[Any]] = {}
        for row in rows:
            for name, value in row.items():
                if name in values:
                    values[name].append(value)
                else:
                    values[name] = [value]
        self.add_values(values, max_columns)

    def add_values(self, values: Mapping[str, Sequence[Any]], max_columns: int = MAX_COLUMNS) -> None:
        """Take in the values of rows by column; nulls do not count."""
        for name, mine in values.items():
            self.columns.setdefault(name, Column()).add(mine)
        self._check_width(max_columns)

    def add_bad_row(self) -> None:
        """Take in a line that is no row; it belongs to the group around it, see ``connectors/groups.py``."""
        self.head_rows += self.head_rows == self.num_rows
        self.num_rows += 1

    def add_key(self, key: Any, offset: int, lines_before: int) -> None:
        """Take in a row's group key, and where its line is."""
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
        """Take in the group keys of a run of rows, a line each."""
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
        """The planned schema, and what is to be told of columns whose rows are of several kinds.

        Columns without a type, and those in ``as_json``, hold JSON text. A column in ``join_keys`` never has a twin:
        its values must stand in one column to be compared.
        """
        chosen, fields = set(as_json), []
        mixed: dict[str, dict[str, Any]] = {}
        for name, column in self.columns.items():
            kind, odd = column.settle()
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
                told = {"rows": column.num_rows, "odd": odd, "kinds": column.by_kind(), "kept": kept}
                mixed[name] = told | ({"type": str(kind)} if kept != "json" else {})
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
    """Read the lines that begin in the part: counts, exact borders and column types.

    Where the part has a group column, the profile also tells where its first group ends and which key it ends with.
    """
    store, path = open_url(part.uri, part.options)
    with explained(part.uri):
        start, stop = (0, part.stop) if part.codec else line_borders(store, path, part.start, part.stop)
        end = None if part.codec else stop
        lines = Lines(store, path, part.codec, start, end, max_line_bytes=part.max_line_bytes)
        scanner = _Scanner(Profile(start=start, stop=stop), part)
        try:
            for found in lines:
                if isinstance(found, Line):
                    scanner.add_lines([found])
                else:
                    scanner.add_run(found)
        except BadLineError:  # the file is damaged from here on: one more row, which will be a dead letter
            scanner.profile.num_rows += 1
        scanner.finish_lines()
        scanner.profile.num_lines = lines.number
        return scanner.profile


class _Scanner:
    """Takes in the lines of a part, many at once where all keys are known, else one by one."""

    def __init__(self, profile: Profile, part: Part) -> None:
        self.profile, self._part = profile, part
        self._parser = RunParser([])
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def add_run(self, run: Run) -> None:
        """Take in many lines."""
        if not self._parser.keys and run.num_lines > FEW_LINES:  # the first lines tell the keys
            self.add_lines(run.slice(0, FEW_LINES).lines())
            run = run.slice(FEW_LINES, run.num_lines)
        if self._parser.can_parse:
            self._learn_keys()
        for lines, columns in split(run, self._parser, self._parse):
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
        """Take in lines one by one."""
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
        """Take in the values of the lines that came one by one."""
        if self._rows:
            self.profile.add(self._rows, self._part.max_columns)
            self._rows, self._num_bytes = [], 0


def plan(files: Sequence[InputFile], request: PlanRequest) -> Planned:
    """Scan the files, or as many of them as hold the rows up to the limit; see ``Format.plan``."""
    jsonl, key = request.jsonl, request.group_key
    parts = [part for index, file in enumerate(files) for part in _parts(index, file, request)]
    whole = Profile()
    profiles: dict[int, list[tuple[Part, Profile]]] = {}
    for part, profile in zip(parts, request.run(scan, parts), strict=False):
        whole.merge(profile, jsonl.max_columns)
        profiles.setdefault(part.file, []).append((part, profile))
        if request.limit is not None and whole.num_rows >= request.limit:
            break
    planned, units = list(files), []
    for index, found in profiles.items():
        cut = list(_units_of(index, found))
        if key is not None:
            cut = keep_groups_whole(cut, [_border(profile) for _, profile in found])
        units += cut
        planned[index] = replace(files[index], num_rows=sum(unit.num_rows for unit in cut))
    schema, mixed = whole.schema(jsonl.as_json, jsonl.odd_values, jsonl.join_keys)
    if not whole.columns:
        raise UserError(f"no line of the input holds a JSON object; the first file is {files[0].uri}")
    return Planned(planned, units, schema, mixed)


def _parts(index: int, file: InputFile, request: PlanRequest) -> Iterator[Part]:
    codec, jsonl = codec_of(file.uri, CODECS), request.jsonl
    step = file.size if codec else request.unit_bytes
    for start in range(0, file.size, max(step, 1)):
        stop = min(start + step, file.size)
        key, options = request.group_key, request.options
        yield Part(index, file.uri, codec, start, stop, key, options, jsonl.max_line_bytes, jsonl.max_columns)


def _units_of(index: int, found: Sequence[tuple[Part, Profile]]) -> Iterator[Unit]:
    row, line = 0, 0
    for _, profile in found:
        yield Unit(0, index, row, profile.num_rows, profile.stop - profile.start, profile.start, line)
        row, line = row + profile.num_rows, line + profile.num_lines


def _border(profile: Profile) -> Border:
    return Border(
        profile.head_key,
        profile.tail_key,
        profile.head_rows,
        (profile.head_stop or profile.stop) - profile.start,
        profile.head_lines,
    )
