"""Finishes an output: every planned row exactly once, nothing else in the folder, the manifest last.

Idempotent: a crash anywhere in here only makes the next run do it again. ``connectors/ledger.py`` tells the whole story.

    manifest = finish(ledger, plan, spec, run="4f1c")
"""

import io
import time
from collections import Counter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from connectors import jsonl
from connectors.errors import JobError
from connectors.ledger import OUTCOMES, PARTS, VERSION, Commit, DataFile, Ledger, Plan, rows_by_part
from connectors.listing import codec_of
from connectors.schema import schema_to_text
from connectors.storage import Folder
from connectors.units import Coverage, Range, total_rows
from connectors.writer import OutputSpec, file_writer, put_file, tally_of


def finish(ledger: Ledger, plan: Plan, spec: OutputSpec, run: str) -> dict[str, Any]:
    """Resolve overlaps, check the counts, remove orphans and write the manifest; JobError if rows are missing."""
    commits = resolve_overlaps(ledger, ledger.commits(), spec, run)
    missing = ledger.missing(ledger.grouped() or plan.dataset, commits)
    if missing:
        raise JobError(f"{total_rows(missing)} rows are not finished; run the same command again")
    accounted = sum(record.num_rows for record in commits)
    if accounted != plan.dataset.num_rows:
        raise JobError(f"the records account for {accounted} rows, the plan has {plan.dataset.num_rows}")
    files = [file for record in commits for file in record.files]
    remove_orphans(ledger.output, files)
    rows: Counter[str] = Counter()
    tally: Counter[str] = Counter()
    for record in commits:
        rows.update(rows_by_part(record))
        tally.update(record.tally)
    manifest = {
        "version": VERSION,
        "planned_rows": plan.dataset.num_rows,
        "rows": dict(rows),
        "tally": dict(sorted(tally.items())),
        "files": [vars(file) for file in files],
        "schema": schema_to_text(spec.schema),
        "job": plan.job,
        "runs": sorted({record.run for record in commits}),
        "created": plan.created,
        "finished": time.time(),
    }
    ledger.private.write("manifest.json", orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    clean(ledger)
    return manifest


def clean(ledger: Ledger) -> None:
    """Remove what a finished job no longer needs: markers of attempts and shuffled rows."""
    for folder in ("attempts", "grouped"):
        ledger.private.remove(folder)


def remove_orphans(output: Folder, files: list[DataFile]) -> None:
    """Delete the files of the output that no record names."""
    wanted = {file.path for file in files}
    found = [entry.name for part in PARTS.values() for entry in output.entries(part)]
    output.delete([name for name in found if name not in wanted])
    vanished = wanted.difference(found)
    if vanished:
        raise JobError(f"{len(vanished)} files of the output are gone, such as {min(vanished)}; start with a new path")


def resolve_overlaps(ledger: Ledger, commits: list[Commit], spec: OutputSpec, run: str) -> list[Commit]:
    """Records that share no row: where two do, the later one is cut down to what the earlier ones lack."""
    coverage = Coverage()
    resolved: list[Commit] = []
    for record in commits:
        if record.name in {done.name for done in resolved}:  # a crash has left it beside the record it was cut from
            continue
        if any(coverage.overlap(piece) for piece in record.ranges):
            rest = _without(ledger.output, record, coverage, spec, run)
            if rest is not None:
                ledger.commit(rest)
                resolved.append(rest)
            ledger.private.delete([f"commits/{record.name}"])
        else:
            resolved.append(record)
        for piece in record.ranges:
            coverage.add(piece)
    return resolved


def _without(output: Folder, record: Commit, coverage: Coverage, spec: OutputSpec, run: str) -> Commit | None:
    """The record with only those rows that are not covered, its files written anew; None if there are none."""
    ranges = [gap for piece in record.ranges for gap in coverage.subtract(piece)]
    if not ranges:
        return None
    keep = np.concatenate([_mask(piece, coverage) for piece in record.ranges])
    files, tally = [], Counter[str]()
    for file in record.files:
        of_part = keep[record.outcomes == OUTCOMES[file.part]]
        rows = _read_table(output, file, spec).filter(pa.array(of_part))
        tally.update(tally_of(file.part, rows, spec))
        stem, suffix = file.path.split(".", 1)
        writer = file_writer(file.part, spec)
        writer.add(rows)
        files.append(put_file(output, f"{stem}-cut.{suffix}", file.part, rows.num_rows, writer.finish()))
    return Commit(ranges, files, record.outcomes[keep], tally, run)


def _mask(piece: Range, coverage: Coverage) -> np.ndarray:
    keep = np.zeros(piece.num_rows, bool)
    for gap in coverage.subtract(piece):
        keep[gap.start - piece.start : gap.stop - piece.start] = True
    return keep


def read_verified(output: Folder, file: DataFile) -> bytes:
    """The file's bytes; raises JobError if they are not those that were written."""
    data = output.read(file.path)
    if xxhash.xxh3_128_hexdigest(data) != file.xxh3:
        raise JobError(f"{output.url}/{file.path} is damaged: its checksum differs from the commit record's")
    return data


def _read_table(output: Folder, file: DataFile, spec: OutputSpec) -> pa.Table:
    data = read_verified(output, file)
    if file.path.endswith(".parquet"):
        return pq.read_table(io.BytesIO(data))
    return jsonl.table_of(data, codec_of(file.path), spec.schema)
