"""Small outputs for tests: work off a dataset without Ray, finish it, and read what is there."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors.commit import FOLDERS, PARTS
from connectors.compaction import Compactor
from connectors.dataset import InputDataset
from connectors.errors import JobError
from connectors.finish import finish
from connectors.formats.base import find_format, load_format
from connectors.ledger import Ledger, Plan
from connectors.schema import KEPT, OUTCOME, REJECTED
from connectors.storage import Folder
from connectors.units import Range
from connectors.writer import OutputSpec, OutputWriter
from tests.connectors.inputs import plan, write_files


def small_input(folder: Path, num_rows: int = 23) -> InputDataset:
    """Two JSONL files in several units: an id, a column of mixed kinds, and every fifth line is broken."""
    mixed = [b"[1,\r 2]", b'"\xc2\x85\xe2\x80\xa8"', b"9007199254740993"]  # what some take for the end of a line
    texts = [b'{"id": %d, "m": %s}' % (row, mixed[row % 3]) for row in range(num_rows)]
    texts = [b"{broken %d" % row if row % 5 == 4 else text for row, text in enumerate(texts)]
    half = num_rows // 2
    write_files(folder, {"1.jsonl": b"\n".join(texts[:half]) + b"\n", "2.jsonl": b"\n".join(texts[half:])})
    return plan(folder, unit_bytes=200)


def count_ids(table: pa.Table) -> Counter[str]:
    """A tally: how many rows, and the sum of their ids."""
    return Counter(rows=table.num_rows, ids=sum(table["id"].drop_null().to_pylist()))


def spec_of(folder: Folder, dataset: InputDataset, **options: object) -> OutputSpec:
    """An output of the dataset's own columns."""
    return OutputSpec(folder, dataset.schema, tally=count_ids, **options)  # type: ignore[arg-type]


def decide(table: pa.Table) -> pa.Table:
    """Keep rows by their id, as a pure function of the row; dead rows last, as the pipeline's stages leave them."""
    ids = np.asarray(table["id"].fill_null(0))
    table = table.append_column(OUTCOME, pa.array(np.where(ids % 3 == 0, REJECTED, KEPT).astype(np.int8)))
    dead = np.asarray(table["_rmbatch.dead"].is_valid())
    return pa.concat_tables([table.filter(pa.array(~dead)), table.filter(pa.array(dead))])


def work(
    dataset: InputDataset,
    pieces: Sequence[Range],
    spec: OutputSpec,
    run: str,
    block_rows: int = 3,
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """One write task over the pieces."""
    with OutputWriter(spec, run, before_commit) as writer:
        for piece in pieces:
            for table in dataset.read(piece, block_rows):
                writer.add(decide(table))


def whole(dataset: InputDataset) -> list[Range]:
    """All rows of the dataset."""
    return [Range(unit.index, 0, unit.num_rows) for unit in dataset.units.values()]


def compact(ledger: Ledger, epoch: int = 1) -> int:
    """A look of the driver at the records."""
    return Compactor(ledger, epoch, lambda: None).compact()


def run_to_end(dataset: InputDataset, spec: OutputSpec, run: str = "run") -> dict:
    """What a command does: plan if need be, work off what no record covers, a task for each piece, finish.

    The driver looks at the records after each task.
    """
    ledger = Ledger(spec.folder)
    if (manifest := ledger.manifest()) is not None:
        return manifest
    planned = ledger.plan()
    if planned is None:
        planned = Plan({"job": "test"}, dataset, ledger.honours_conditions())
        ledger.begin(planned)
    for attempt in range(2):
        for piece in ledger.missing(dataset, ledger.commits()):
            work(dataset, [piece], spec, run)
            compact(ledger)
        try:
            return finish(ledger, planned, spec, run)
        except JobError:
            if attempt:
                raise
    raise AssertionError


def read_file(folder: Folder, path: str, schema: pa.Schema) -> list[dict]:
    """The rows of one file of the output."""
    data = folder.read(path)
    return load_format(find_format(path) or "").read_back(data, path, schema).to_pylist()


def read_output(spec: OutputSpec) -> dict[str, list[str]]:
    """The rows of each part that a reader who only lists the folders sees, in a fixed order."""
    found = {}
    for part in PARTS.values():
        files = [entry.name for entry in spec.folder.entries(FOLDERS[part])]
        rows = [row for name in files for row in read_file(spec.folder, name, spec.schema)]
        found[part] = sorted(repr(row) for row in rows)
    return found


def assert_finished(spec: OutputSpec, manifest: dict, clean: dict, expected: dict[str, list[str]]) -> None:
    """The output holds the expected rows, the manifest's counts are those of a clean run, nothing else lies about."""
    assert read_output(spec) == expected
    assert (manifest["rows"], manifest["tally"]) == (clean["rows"], clean["tally"])
    present = {entry.name: entry.size for folder in FOLDERS.values() for entry in spec.folder.entries(folder)}
    assert present == {file["path"]: file["num_bytes"] for file in manifest["files"]}
    assert all(file["num_rows"] for file in manifest["files"])
    records = Ledger(spec.folder).commits()
    assert {file.path for record in records for file in record.files} == present.keys()
    assert sum(record.num_rows for record in records) == manifest["planned_rows"]
    assert Ledger(spec.folder).manifest() == manifest
