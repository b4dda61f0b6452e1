"""Reads the data of suites, and recorded verdicts, and writes them as the items of one dataset.

    built = build_items(job, folder, say)          # folder/rewardbench.00000.parquet, …; what was read, by suite
    for table in read_suite(job, "rewardbench"): ...

A file ``….json`` that holds one list is read as a whole; other files go through the formats of all jobs.
"""

import io
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from connectors.errors import UserError
from connectors.faults import explain_errors
from connectors.listing import list_input
from connectors.planning import plan_dataset
from connectors.schema import visible_columns
from connectors.storage import Folder, StorageOptions
from connectors.units import InputFile, Range
from jobs.config.evaluate import EvaluateJob, SourceConfig
from jobs.run.output import storage_options
from jobs.run.sampling import drop_unreadable
from rmbatch.adapters.base import load_adapter
from rmbatch.evaluation.base import Suite, load_suite
from rmbatch.evaluation.items import RECORDED, RECORDED_TYPES, to_rows
from rmbatch.evaluation.recorded import read_recorded
from rmbatch.rows.messages import is_list, is_text

BLOCK_ROWS = 4096
UNIT_BYTES = 64 << 20
_LIST_SUFFIX = ".json"
_NUMBER = "__number"


@dataclass
class SuiteData:
    """What was read of a suite."""

    suite: str
    adapter: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    """uri, size and etag of each."""
    rows: int = 0
    items: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that are no items, by the reason."""
    recorded: dict[str, int] = field(default_factory=dict)
    """By name: items that have a recorded verdict."""
    verdict_kinds: dict[str, list[str]] = field(default_factory=dict)
    """By name: the columns that hold its verdicts."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"left_out": dict(self.left_out)}


def build_items(job: EvaluateJob, folder: Folder, limit: int | None = None) -> dict[str, SuiteData]:
    """Write the items of all suites to ``folder``, and return what was read, by the job's name of the suite.

    ``limit``: the first rows of each suite alone; that none of these is an item is no mistake. Raises UserError for
    data that cannot be the suite's.
    """
    found = {}
    for name in job.suites:
        data = SuiteData(job.suite_of(name))
        for number, table in enumerate(read_suite(job, name, data, limit)):
            sink = io.BytesIO()
            pq.write_table(table, sink, compression="zstd")
            folder.write(f"{name}.{number:05}.parquet", sink.getvalue())
        if limit is None:
            _check_data(name, data)
        found[name] = data
    return found


def _check_data(name: str, data: SuiteData) -> None:
    """Raises UserError for a suite without an item, and for recorded verdicts of which none is about one."""
    if not data.items:
        why = "".join(f"; {count:,}: {reason}" for reason, count in data.left_out.items())
        raise UserError(f"suites.{name}: none of {data.rows:,} rows is an item{why}; is it the suite's own data?")
    for scorer, number in data.recorded.items():
        if not number:
            raise UserError(
                f"recorded.{scorer}.{name}: no verdict belongs to an item; ids are the rows' column id, or their "
                "numbers from 0"
            )


def read_suite(job: EvaluateJob, name: str, data: SuiteData, limit: int | None = None) -> Iterator[pa.Table]:
    """The items of a suite in ``ITEM_SCHEMA``, with recorded verdicts beside them; fills ``data``."""
    source, suite = job.suites[name], load_suite(job.suite_of(name))
    most = min(each for each in (limit, job.limit, 1 << 62) if each is not None)
    recorded = {scorer: sources[name] for scorer, sources in job.recorded.items() if name in sources}
    data.recorded = dict.fromkeys(recorded, 0)
    shared: dict[str, dict[int, str]] = {scorer: {} for scorer in recorded}
    for subset, paths in source.paths().items():
        verdicts = {
            scorer: _read_verdicts(each, subset, f"recorded.{scorer}.{name}") for scorer, each in recorded.items()
        }
        for block, numbers, num_read, files in _read_blocks(paths, source, most):
            data.files += files
            adapted, data.adapter = _adapt(block, source.adapter, suite, f"suites.{name}")
            rows, left_out = to_rows(adapted, name, suite, subset, numbers)
            data.rows, data.items = data.rows + num_read, data.items + rows.num_rows
            data.left_out.update(left_out)
            if num_read > block.num_rows:
                data.left_out["unreadable"] += num_read - block.num_rows
            for scorer, table in verdicts.items():
                is_own = bool(subset) and subset in recorded[scorer].paths()
                if table is not None and not is_own:
                    _check_subsets(_find_verdicts(rows, table), rows, shared[scorer], f"recorded.{scorer}.{name}")
            yield _add_verdicts(rows, verdicts, data, job)


def _read_blocks(
    paths: Sequence[str], source: SourceConfig, limit: int
) -> Iterator[tuple[pa.Table, NDArray[np.int64], int, list[Any]]]:
    """Blocks of the readable rows with their numbers, how many rows were read for each, and the files new with each.

    Rows that cannot be read have numbers too, so the other rows keep theirs.
    """
    options = storage_options(source.storage)
    with tempfile.TemporaryDirectory() as scratch:
        files, opened = _unpack_lists(paths, options, Path(scratch))
        where = StorageOptions() if opened is not paths else options
        listing = list_input(opened, where)
        dataset = plan_dataset(listing, where, unit_bytes=UNIT_BYTES, limit=limit)
        new: list[Any] = [_describe(file) for file in (files or listing.files)]
        first_row = 0
        for unit in dataset.units.values():
            for block in dataset.read(Range(unit.index, 0, unit.num_rows), BLOCK_ROWS):
                rows = drop_unreadable(block.append_column(_NUMBER, pa.array(first_row + np.arange(block.num_rows))))
                numbers = rows[_NUMBER].to_numpy()
                yield visible_columns(rows.drop_columns(_NUMBER)), numbers, block.num_rows, new
                first_row, new = first_row + block.num_rows, []


def _describe(file: InputFile) -> dict[str, Any]:
    return {"uri": file.uri, "size": file.size, "etag": file.etag}


def _unpack_lists(
    paths: Sequence[str], options: StorageOptions, scratch: Path
) -> tuple[list[InputFile], Sequence[str]]:
    """Write JSON files that hold one list as JSONL, into ``scratch``; the paths as they are where there are none."""
    found: list[InputFile] = []
    written: list[str] = []
    for path in paths:
        with explain_errors(path):
            for file, content in _read_lists(path, options):
                place = scratch / f"{len(written):05}.jsonl"
                rows = orjson.loads(content)
                if not isinstance(rows, list):
                    raise UserError(f"{file.uri} is JSON and no list of rows; write JSONL, a row a line")
                place.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
                found.append(file)
                written.append(str(place))
    if not written:
        return [], paths
    return found, written


def _read_lists(path: str, options: StorageOptions) -> Iterator[tuple[InputFile, bytes]]:
    """The JSON files that a path names, or that its folder holds where it holds no Parquet and no JSONL."""
    where, _, last = path.rstrip("/").rpartition("/")
    if path.endswith(_LIST_SUFFIX):
        folder, names = Folder.open(where or ".", options), [last]
    else:
        if any(char in path for char in "*?["):
            return
        folder = Folder.open(path, options)
        entries = [each.name for each in folder.entries() if not each.name.startswith(("_", "."))]
        if any(name.endswith((".parquet", ".jsonl")) for name in entries):
            return
        names = [name for name in entries if name.endswith(_LIST_SUFFIX)]
    for name in names:
        content = folder.read(name)
        yield InputFile(f"{folder.url}/{name}", len(content), _etag(folder, name)), content


def _etag(folder: Folder, name: str) -> str:
    found = folder.store.stat(folder.path(name))
    return found[2] if found else ""


def _adapt(table: pa.Table, ref: str | None, suite: Suite, where: str) -> tuple[pa.Table, str | None]:
    """The rows in standard columns, and the adapter that made them so. None: they are as they were."""
    refused: UserError | None = None
    for name in (ref,) if ref else suite.adapters:
        try:
            return load_adapter(name).fit(table.schema)(table), name
        except UserError as error:
            refused = refused or error
    if refused is not None and (ref or not _is_standard(table.schema, suite)):
        raise UserError(f"{where}: {refused}")
    return table, None


def _is_standard(schema: pa.Schema, suite: Suite) -> bool:
    """Whether the columns are standard ones. Lists of responses, as benchmarks have them, are no chosen response."""
    names = {*schema.names}
    if suite.needs == "steps":
        return {"steps", "error_steps"} <= names
    if {"chosen", "rejected"} <= names:
        kind = schema.field("rejected").type
        return not (suite.adapters and is_list(kind) and is_text(kind.value_type))
    return {"responses", "correct"} <= names


def _read_verdicts(source: SourceConfig, subset: str, where: str) -> pa.Table | None:
    """The recorded verdicts on one subset, with an ``id``, or the number of the row; None where there are none.

    ``where``: their place in the job file, which a message names.
    """
    paths = source.paths().get(subset) or source.paths().get("")
    if paths is None:
        return None
    found = []
    for block, numbers, _, _ in _read_blocks(paths, source, 1 << 62):
        verdicts = read_recorded(block, source.adapter)
        found.append(verdicts if "id" in verdicts.column_names else verdicts.append_column("row", pa.array(numbers)))
    table = pa.concat_tables(found)
    if "id" in table.column_names:
        _check_ids(table, where)
    return table


def _check_ids(verdicts: pa.Table, where: str) -> None:
    """Raises UserError for an id with several verdicts that differ."""
    ids = verdicts["id"].combine_chunks()
    first = pc.index_in(ids, value_set=ids).to_numpy()
    again = np.flatnonzero((first != np.arange(len(first))) & ~np.asarray(ids.is_null()))
    both = zip(verdicts.take(again).to_pylist(), verdicts.take(first[again]).to_pylist())
    differing = next((one["id"] for one, other in both if one != other), None)
    if differing is not None:
        raise UserError(
            f"{where}: several verdicts have the id {differing!r}, and they differ; give each item an id of its own, "
            "name the files by subset, or leave ids out where the verdicts are in the order of the rows"
        )


def _add_verdicts(rows: pa.Table, verdicts: dict[str, pa.Table | None], data: SuiteData, job: EvaluateJob) -> pa.Table:
    """The items with the columns of all recorded verdicts of the job, null where there are none."""
    for scorer in job.recorded:
        table = verdicts.get(scorer)
        place = None
        if table is not None:
            place = _find_verdicts(rows, table)
            data.recorded[scorer] += len(place) - place.null_count
        for kind, kind_type in RECORDED_TYPES.items():
            has = table is not None and kind in table.column_names
            column = table[kind].take(place) if table is not None and has else pa.nulls(rows.num_rows, kind_type)
            rows = rows.append_column(f"{RECORDED}{scorer}.{kind}", column)
            kinds = data.verdict_kinds.setdefault(scorer, [])
            if kind not in kinds and column.null_count < len(column):
                kinds.append(kind)
    return rows


def _find_verdicts(rows: pa.Table, verdicts: pa.Table) -> pa.Array:
    """For each item, the place of its verdict, by ids or by numbers of rows; null where there is none."""
    key, own = ("row", rows["row"]) if "row" in verdicts.column_names else ("id", rows["item"])
    return pc.index_in(own, value_set=verdicts[key].cast(own.type)).combine_chunks()


def _check_subsets(places: pa.Array, rows: pa.Table, subsets: dict[int, str], where: str) -> None:
    """Raises UserError for a verdict on items of several subsets. ``subsets``: by its place, where it was used."""
    for place, subset, item in zip(places.to_pylist(), rows["subset"].to_pylist(), rows["item"].to_pylist()):
        if place is not None and subsets.setdefault(place, subset) != subset:
            raise UserError(
                f"{where}: one verdict would count for {item!r} of {subsets[place]!r} and of {subset!r}, which are two "
                "items; name the files by subset ({path: {SUBSET: FILE}}), or give each item an id of its own"
            )
