"""The rows of a finished output, as passes over it read them: what its manifest names, in blocks of whole prompts.

manifest, content = read_manifest(folder)
rows = FinishedRows.open(folder, manifest, ("data", "rejected"))
rows = rows.select([*rows.roles.columns(), "score.math"])
for table, sources in rows.blocks(block_rows=1024): ...
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.listing import MANIFEST, list_input
from connectors.planning import plan_dataset
from connectors.schema import ROW, add_twins, visible_columns
from connectors.storage import Folder, StorageOptions
from connectors.units import Range, Unit
from jobs.run.sampling import drop_unreadable
from rmbatch.generation.candidates import GENERATION, RESPONSES
from rmbatch.rows.roles import Roles, guess_roles
from rmbatch.stages.score import TOTAL
from rmbatch.stages.select import VALUE

UNIT_BYTES = 64 << 20


@dataclass(frozen=True)
class FinishedRows:
    """Rows of a finished output."""

    dataset: InputDataset
    paths: Mapping[int, str]
    """By the index of a file: its path in the output."""
    roles: Roles
    group: str | None
    """The column of flat rows that tells their prompts apart. None: each row is a prompt of its own."""

    @classmethod
    def open(cls, folder: Folder, manifest: Mapping[str, Any], parts: Sequence[str] = ("data",)) -> "FinishedRows":
        """The rows of these parts of the output; of flat rows with a group also those that were not kept.

        Raises UserError where the manifest names no file of them.
        """
        settings = manifest["job"].get("input") or {}
        group = (settings.get("group") or {}).get("by")
        if group:
            parts = tuple(dict.fromkeys((*parts, "data", "rejected")))
        wanted = {f"{folder.url}/{each['path']}": each["path"] for each in manifest["files"] if each["part"] in parts}
        if not wanted:
            raise UserError(f"{folder.url} has no kept rows, so there is nothing to read")
        dataset = plan_output([*wanted], folder.options)
        roles = guess_output_roles(dataset.schema, settings.get("columns") or {})
        paths = {index: wanted[file.uri] for index, file in dataset.files.items()}
        return cls(dataset, paths, roles, group if roles.responses is None else None)

    def select(self, names: Sequence[str]) -> "FinishedRows":
        """The same rows with these columns, those of them that there are, and with the twins of their odd values."""
        schema = self.dataset.schema
        columns = {*add_twins([name for name in schema.names if name in names], schema)}
        return replace(self, dataset=self.dataset.project([name for name in schema.names if name in columns]))

    def blocks(self, block_rows: int) -> Iterator[tuple[pa.Table, pa.Array]]:
        """All rows, in blocks of whole prompts, and of each row its source: ``data/u000000-….parquet#17``."""
        for piece in self.pieces():
            yield from self.read_piece(piece, block_rows)

    def pieces(self) -> list[list[Range]]:
        """The rows in pieces that hold whole prompts, in a fixed order."""
        if self.group is None:
            return [[Range(unit.index, 0, unit.num_rows)] for unit in self._ordered]
        found: dict[str, list[Range]] = {}
        for unit in self._ordered:  # the files of one commit hold whole groups, what was kept and what was not
            found.setdefault(commit_stem(self.paths[unit.file]), []).append(Range(unit.index, 0, unit.num_rows))
        return [*found.values()]

    def read_piece(self, piece: Sequence[Range], block_rows: int) -> Iterator[tuple[pa.Table, pa.Array]]:
        """The rows of a piece: in blocks, or as one where prompts may lie anywhere in it."""
        tables: list[pa.Table] = []
        sources: list[pa.Array] = []
        for part in piece:
            unit = self.dataset.units[part.unit]
            path = self.paths[unit.file]
            for read in self.dataset.read(part, block_rows):
                table = drop_unreadable(read)
                rows = pc.cast(pc.add(pc.cast(table[ROW], pa.int64()), unit.first_row), pa.string())
                tables.append(visible_columns(table))
                sources.append(pc.binary_join_element_wise(pa.scalar(path), rows.combine_chunks(), "#"))
                if self.group is None:
                    yield tables.pop(), sources.pop()
        if tables:
            yield pa.concat_tables(tables), pa.concat_arrays(sources)

    @cached_property
    def _ordered(self) -> list[Unit]:
        units = self.dataset.units.values()
        return sorted(units, key=lambda each: (commit_stem(self.paths[each.file]), each.index))


def plan_output(urls: Sequence[str], options: StorageOptions) -> InputDataset:
    """Plan files of an output, all of one format, as an input whose rows can be read."""
    kind = "jsonl" if ".jsonl" in urls[0] or ".ndjson" in urls[0] else "parquet"
    return plan_dataset(list_input(urls, options, kind), options, unit_bytes=UNIT_BYTES)


def read_manifest(folder: Folder) -> tuple[Mapping[str, Any], bytes]:
    """The manifest of a finished output, and its bytes. Raises UserError for a folder that is none."""
    try:
        content = folder.read_if_exists(MANIFEST)
        is_begun = content is not None or bool(folder.entries("_rmbatch"))
    except NotADirectoryError:
        raise UserError(f"{folder.url} is a file; write the folder that the job writes to (output.path)") from None
    if content is None and is_begun:
        raise UserError(
            f"{folder.url} is the output of a job that has not finished; run that job's command again first"
        )
    if content is None:
        raise UserError(f"{folder.url} is no output of rmbatch: it has no {MANIFEST}")
    try:
        manifest = orjson.loads(content)
    except ValueError as error:
        raise UserError(f"{folder.url}/{MANIFEST} is damaged ({error}); restore it") from None
    if not isinstance(manifest, dict) or not {"job", "files"} <= {*manifest}:
        raise UserError(f"{folder.url} holds no rows; write the output of a job such as best_of_n, score or correct")
    return manifest, content


def choose_score(job: Mapping[str, Any], schema: pa.Schema, named: str | None, *, needed: bool) -> str | None:
    """The column of the score that decides: the one that was asked for, else the one that the job chose by.

    None: nothing tells, and none is ``needed``. Raises UserError for a score that is not there.
    """
    if named is None and VALUE in schema.names:
        return VALUE
    known = [name.removeprefix("score.") for name in schema.names if name.startswith("score.")]
    stated = (job.get("select") or {}).get("by")
    chosen = named or (stated if isinstance(stated, str) else None)
    if chosen is None:
        rewards = [name for name in job.get("rewards") or {} if name in known]
        candidates = rewards or known  # a job over stored scores has no rewards
        chosen = TOTAL if TOTAL in known else candidates[0] if len(candidates) == 1 else None
    if chosen in known:
        return f"score.{chosen}"
    if not needed and named is None:
        return None
    if not known:
        raise UserError(
            "the rows have no scores, so nothing tells which is better; run a job score or best_of_n on them"
        )
    what = f"by {chosen}: there is no such score" if chosen else "several scores, and nothing says which decides"
    raise UserError(f"{what}; name one as by: {', '.join(known)}")


def keep_present(columns: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Those of a job's ``input.columns`` that its output still has: it need not keep all columns."""
    return {
        role: column
        for role, column in columns.items()
        if column is not None and {*([column] if isinstance(column, str) else column)} <= {*schema.names}
    }


def guess_output_roles(schema: pa.Schema, columns: Mapping[str, Any]) -> Roles:
    """The roles of an output's columns; ``columns`` as the job's input named them."""
    given = {role: column for role, column in columns.items() if column is not None}
    if RESPONSES in schema.names and GENERATION in schema.names and "responses" not in given:
        given = {**{role: column for role, column in given.items() if role != "response"}, "responses": RESPONSES}
    return guess_roles(schema, given)


def commit_stem(path: str) -> str:
    """What the names of all files of one commit share."""
    return path.rpartition("/")[2].split(".", 1)[0]
