"""Finds a row of an output and tells its story: where it came from, its scores and reasons, critiques and edits.

The row is named by its id, by its address in the plan (UNIT:ROW), or by a file and the row's number in it (FILE#ROW):
a file of the input or of the output. An output may be unfinished; then only committed rows are found.

    explanation = explain_row("out/best/", "q17")
    explanation.plain()["rows"][0]["story"]["why"]
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
from rapidfuzz import process

from connectors.commit import Commit
from connectors.errors import JobError, UserError
from connectors.faults import explain_errors
from connectors.ledger import Ledger, Plan
from connectors.lookup import address_of, as_text, find_value, locate, read_letters, read_row, read_values
from connectors.schema import schema_from_text
from connectors.storage import Folder, StorageOptions
from connectors.units import Range, Unit
from jobs.run.finished import commit_stem, guess_output_roles, keep_present
from jobs.show.story import Explanation, FoundRow, Origin, Sibling
from rmbatch.inspection.story import Story, tell_dead_letter, tell_row
from rmbatch.rows.roles import Roles
from rmbatch.stages.select import RANK, REASON

MAX_ROWS = 10
"""Rows of one id that are told."""
MAX_DEPTH = 16
"""Outputs that a row is followed back through."""
_ADDRESS = re.compile(r"(\d+):(\d+)")
_FILE_ROW = re.compile(r"(.+)[#:](\d+)", re.DOTALL)
_PARALLEL_FILES = 8
_NEAR_FILES, _NEAR_IDS = 20, 50_000
"""How far ids are read to find near ones."""


def explain_row(
    output: str, row: str, *, id_column: str | None = None, options: StorageOptions | None = None
) -> Explanation:
    """Find a row and tell its story. ``id_column``: the column that ``row`` is a value of; None: an address, a file
    and a row, or a value of the column that plays the role of the id. Raises UserError for a row that is not there."""
    folder = Folder.open(output, options)
    with explain_errors(output):
        source = _Source.open(folder)
        found, num_found = source.find(row, id_column)
        if not found:
            raise UserError(source.describe_absence(row, id_column))
        return Explanation(folder.url, source.job, found, num_found)


@dataclass(frozen=True)
class _File:
    path: str
    part: str


@dataclass(frozen=True)
class _Source:
    """An output whose rows are looked for."""

    folder: Folder
    ledger: Ledger
    job: Mapping[str, Any]
    files: Sequence[_File]
    schema: pa.Schema | None
    """Of data and rejected. None: the output is not finished."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """``input:`` of the job."""
    depth: int = 0
    """How many outputs later the row stands that is looked for."""

    @classmethod
    def open(cls, folder: Folder) -> "_Source":
        ledger = Ledger(folder)
        try:
            job = ledger.read_job()
        except NotADirectoryError:
            raise UserError(f"{folder.url} is a file; write the folder that the job writes to (output.path)") from None
        if job is None:
            raise UserError(
                f"{folder.url} is no output with rows: it has no _rmbatch/plan.json; write the folder of a job such as "
                "best_of_n, score or correct"
            )
        manifest = ledger.manifest()
        if manifest is None:
            files = [_File(file.path, file.part) for record in ledger.commits() for file in record.files]
            schema = None
        else:
            files = [_File(file["path"], file["part"]) for file in manifest["files"]]
            schema = schema_from_text(manifest["schema"])
        return cls(folder, ledger, job, files, schema, job.get("input") or {})

    @cached_property
    def commits(self) -> list[Commit]:
        """The records whose files are there."""
        present = {file.path for file in self.files}
        return [record for record in self.ledger.commits() if all(file.path in present for file in record.files)]

    @cached_property
    def plan(self) -> Plan:
        """Where rows came from."""
        plan = self.ledger.plan()
        assert plan is not None
        return plan

    @cached_property
    def units(self) -> Mapping[int, Unit]:
        """By index: of the input, or of the shuffled rows."""
        grouped = self.ledger.read_grouped()
        return (grouped or self.plan.dataset).units

    @cached_property
    def is_shuffled(self) -> bool:
        """Whether addresses are those of shuffled rows, which do not lead back to the input."""
        return self.ledger.private.exists("grouped.json")

    def find(self, row: str, id_column: str | None) -> tuple[list[FoundRow], int]:
        """The first MAX_ROWS rows that are meant, those of data first, and how many there are."""
        if id_column is not None:
            return self._find_id(row, id_column)
        if match := _ADDRESS.fullmatch(row):
            if found := self._find_address(Range(int(match[1]), int(match[2]), int(match[2]) + 1)):
                return found, 1
        elif (match := _FILE_ROW.fullmatch(row)) and (found := self._find_in_file(match[1], int(match[2]))):
            return found, 1
        column = self._roles.id
        return ([], 0) if column is None else self._find_id(row, column)

    @cached_property
    def _roles(self) -> Roles:
        schema = self.schema
        if schema is None:
            first = next((file for file in self.files if file.part != "dead_letters"), None)
            if first is None:
                raise UserError(f"{self.folder.url} has no finished rows yet; run that job's command again first")
            schema = read_row(self.folder, first.path, 0).schema
        return self._roles_of(schema)

    def _roles_of(self, schema: pa.Schema) -> Roles:
        return guess_output_roles(schema, keep_present(self.settings.get("columns") or {}, schema))

    def _find_id(self, value: str, column: str) -> tuple[list[FoundRow], int]:
        if self.schema is not None and column not in self.schema.names:
            raise UserError(f"--id {column}: the output has {', '.join(self.schema.names)}")
        files = [file for file in self.files if file.part != "dead_letters"]

        def search(file: _File) -> list[tuple[_File, int, pa.Table]]:
            hits = find_value(self.folder, file.path, column, value, self.schema)
            return [(file, index, table) for index, table in hits]

        with ThreadPoolExecutor(_PARALLEL_FILES) as pool:
            hits = [hit for some in pool.map(search, files) for hit in some]
        hits = sorted(hits or self._find_dead(value), key=lambda hit: (hit[0].part != "data", hit[0].path, hit[1]))
        return [self._tell(*hit) for hit in hits[:MAX_ROWS]], len(hits)

    def _find_dead(self, value: str) -> Iterator[tuple[_File, int, pa.Table]]:
        """Dead letters whose bytes hold the value: what could not be read has no columns."""
        needle = value.encode()
        for file in self.files:
            if file.part == "dead_letters":
                table = pa.concat_tables(read_letters(self.folder, file.path))
                for index, raw in enumerate(table["raw"].to_pylist()):
                    if raw is not None and needle in raw:
                        yield file, index, table.slice(index, 1)

    def _find_address(self, address: Range) -> list[FoundRow]:
        unit = self.units.get(address.unit)
        if unit is None or address.start >= unit.num_rows:
            return []
        place = locate(self.ledger, self.commits, address)
        if place is None:
            raise UserError(f"row {address.unit}:{address.start} is not finished; run the job's command again first")
        origin = self._origin(address, place.record)
        if place.path is None:
            story = Story(None, None, None, "rejected", "the job does not keep rejected rows (output.rejected: drop)")
            return [FoundRow(place.part, None, None, origin, story)]
        table = read_row(self.folder, place.path, place.index, self._schema_of(place.part))
        return [self._tell(_File(place.path, place.part), place.index, table, origin)]

    def _find_in_file(self, name: str, row: int) -> list[FoundRow]:
        """A row of a file of the output or of the input; ``name``: the end of its path."""
        for file in self.files:
            if _is_named(file.path, name):
                table = read_row(self.folder, file.path, row, self._schema_of(file.part))
                return [self._tell(file, row, table)]
        files = {index: file for index, file in self.plan.dataset.files.items() if _is_named(file.uri, name)}
        if not files:
            return []
        if len(files) > 1:
            some = ", ".join(sorted(file.uri for file in files.values())[:3])
            raise UserError(f"{name} may be one of several files of the input; write more of its path: {some}")
        if self.is_shuffled:
            raise UserError(
                "the rows of this output were shuffled by their group, so a row of the input is not found by its "
                "place; write its id"
            )
        (index,) = files
        for unit in self.units.values():
            if unit.file == index and unit.first_row <= row < unit.first_row + unit.num_rows:
                at = row - unit.first_row
                return self._find_address(Range(unit.index, at, at + 1))
        raise UserError(f"{files[index].uri} has no row {row} in this job's plan; rows are counted from 0")

    def _schema_of(self, part: str) -> pa.Schema | None:
        return None if part == "dead_letters" else self.schema

    def _tell(self, file: _File, index: int, table: pa.Table, origin: Origin | None = None) -> FoundRow:
        if origin is None:
            found = address_of(self.ledger, self.commits, file.path, index)
            origin = None if found is None else self._origin(*found)
        if file.part == "dead_letters":
            letter = table.to_pylist()[0]
            if origin is not None:
                origin = Origin(letter["uri"], letter["row"], origin.address, origin.run, origin.at)
            return FoundRow(file.part, file.path, index, origin, tell_dead_letter(letter))
        roles = self._roles_of(table.schema)
        story = tell_row(table, roles, self.job, file.part)
        return FoundRow(file.part, file.path, index, origin, story, self._siblings(file, table))

    def _origin(self, address: Range, record: Commit) -> Origin:
        name = f"{address.unit}:{address.start}"
        if self.is_shuffled:
            return Origin(None, None, name, record.run, record.at)
        unit = self.units[address.unit]
        uri = self.plan.dataset.files[unit.file].uri
        row = unit.first_row + address.start
        return Origin(uri, row, name, record.run, record.at, self._origin_of_input(uri, row))

    def _origin_of_input(self, uri: str, row: int) -> Origin | None:
        """Where a row of the input came from, where its file is one of a finished output. None: it is none, or that
        output cannot be read any more."""
        above, _, name = uri.rpartition("/data/")
        if not above or "/" in name or self.depth == MAX_DEPTH:
            return None
        try:
            source = replace(_Source.open(Folder.open(above, self.plan.dataset.options)), depth=self.depth + 1)
            found = address_of(source.ledger, source.commits, f"data/{name}", row)
            return None if found is None else source._origin(*found)
        except (UserError, JobError, OSError):
            return None

    def _siblings(self, file: _File, table: pa.Table) -> list[Sibling]:
        """The other responses to the prompt of a flat row; the files of one commit hold whole groups."""
        key = (self.settings.get("group") or {}).get("by")
        roles = self._roles_of(table.schema)
        if key is None or roles.responses is not None or key not in table.column_names:
            return []
        value = as_text(table[key][0].as_py())
        if value is None:
            return []
        stem = commit_stem(file.path)
        found = []
        for other in self.files:
            if other.part != "dead_letters" and commit_stem(other.path) == stem:
                for index, row in find_value(self.folder, other.path, key, value, self.schema):
                    plain = row.to_pylist()[0]
                    scores = {n.removeprefix("score."): plain[n] for n in plain if n.startswith("score.")}
                    name = None if roles.id is None else plain[roles.id]
                    found.append(Sibling(other.path, index, name, scores, plain.get(RANK), plain.get(REASON)))
        return sorted(found, key=lambda each: (each.rank is None, each.rank or 0))

    def describe_absence(self, row: str, id_column: str | None) -> str:
        """One line for a row that is nowhere, with near ids."""
        column = id_column or self._roles.id
        if column is None:
            return (
                f"{row} is no row of {self.folder.url}: no column plays the role of the id; name one with --id, or "
                "write the row as UNIT:ROW or FILE#ROW"
            )
        ids: list[str] = []
        for file in [each for each in self.files if each.part != "dead_letters"][:_NEAR_FILES]:
            ids += read_values(self.folder, file.path, column, _NEAR_IDS - len(ids))
            if len(ids) >= _NEAR_IDS:
                break
        near = [text for text, *_ in process.extract(row, list(dict.fromkeys(ids)), limit=3, score_cutoff=60)]
        hint = f"near ones: {', '.join(near)}" if near else f"the first ids are {', '.join(ids[:3])}"
        unfinished = ", and the output is not finished" if self.schema is None else ""
        return f"no row of {self.folder.url} has the {column} {row!r}{unfinished}; {hint if ids else 'no row has one'}"


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name.lstrip('/')}")
