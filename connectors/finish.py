"""Finishes an output: every planned row exactly once, no other file of ours in the folder, the manifest last.

Idempotent: a crash anywhere in here only makes the next run do it again. ``connectors/ledger.py`` has the whole story.

    manifest = finish(ledger, plan, spec, run="4f1c")
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import xxhash

from connectors.commit import FOLDERS, OUTCOMES, Commit, DataFile, count_outcomes, covered, pack_outcomes, record_name
from connectors.errors import JobError
from connectors.ledger import VERSION, Ledger, Plan, ours
from connectors.schema import schema_to_text
from connectors.storage import Folder
from connectors.units import Coverage, Range, total_rows
from connectors.writer import OutputSpec, file_path, file_stem, format_of, put_file, tally_of


class UnfinishedError(JobError):
    """Rows are left to do, such as those of a record that could not be cut: another round of work mends it."""


def finish(ledger: Ledger, plan: Plan, spec: OutputSpec, run: str) -> dict[str, Any]:
    """Resolve overlaps, check the counts, remove orphans and write the manifest; JobError if rows are missing."""
    commits = resolve_overlaps(ledger, ledger.commits(), spec, run)
    missing = ledger.missing(ledger.grouped() or plan.dataset, commits)
    if missing:
        raise UnfinishedError(f"{total_rows(missing)} rows are not finished; run the same command again")
    accounted = sum(record.num_rows for record in commits)
    if accounted != plan.dataset.num_rows:
        raise JobError(f"the records account for {accounted} rows, the plan has {plan.dataset.num_rows}")
    remove_orphans(ledger.output, commits)
    rows: Counter[str] = Counter()
    tally: Counter[str] = Counter()
    for record in commits:
        rows.update(record.rows)
        tally.update(record.tally)
    manifest = {
        "version": VERSION,
        "planned_rows": plan.dataset.num_rows,
        "rows": dict(rows),
        "tally": dict(sorted(tally.items())),
        "files": [vars(file) for record in commits for file in record.files],
        "schema": schema_to_text(spec.schema),
        "job": plan.job,
        "runs": sorted({record.run for record in commits}),
        "created": plan.created,
        "finished": time.time(),
    }
    ledger.output.write(".huggingface.yaml", DATASET_CARD)
    ledger.private.write("manifest.json", orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    clean(ledger)
    return manifest


DATASET_CARD = b"""configs:
- config_name: default
  data_files:
  - {split: train, path: "data/*"}
"""
"""``datasets.load_dataset`` on the output folder reads what this names; it else reads every file below it."""


def clean(ledger: Ledger) -> None:
    """Remove what a finished job no longer needs: markers of attempts, shuffled rows, outcomes without records."""
    for folder in ("attempts", "grouped"):
        ledger.private.remove(folder)
    ledger.segments.clean()


def strays(output: Folder, manifest: Mapping[str, Any]) -> list[str]:
    """Files that write tasks of ours have left in a finished output beside those that its manifest names."""
    return ours(Ledger(output).files_present() - {file["path"] for file in manifest["files"]})


def remove_orphans(output: Folder, commits: list[Commit]) -> None:
    """Delete our files in the output that no record names; JobError if one that a record names is not there."""
    wanted = {file.path: record for record in commits for file in record.files}
    found = Ledger(output).files_present()
    vanished = sorted(wanted.keys() - found)
    if vanished:
        raise JobError(
            f"{len(vanished)} files of {output.url} are gone, such as {vanished[0]}; "
            f"to have its rows done again, delete {wanted[vanished[0]].path} and run the same command"
        )
    folders = (*FOLDERS.values(), "_rmbatch/commits", "_rmbatch/segments")
    leftovers = [name for folder in folders for name in output.leftovers(folder)]
    output.delete(ours(found - wanted.keys()) + leftovers)


def resolve_overlaps(ledger: Ledger, commits: list[Commit], spec: OutputSpec, run: str) -> list[Commit]:
    """Records that share no row: where two do, the later one is cut down to what the earlier ones lack."""
    standing = {record.name: record for record in commits}
    coverage = Coverage()
    resolved: list[Commit] = []
    taken: set[str] = set()
    replaced: set[str] = set()
    for record in _least_willing_first(ledger.output, commits):
        if record.name in taken:  # a crash has left it beside the record that it was cut from
            continue
        if any(coverage.overlap(piece) for piece in record.ranges):
            rest = _rest_of(ledger, record, coverage, standing, spec, run)
            replaced.add(record.name)
            if rest is None:
                continue
            record = rest
        resolved.append(record)
        taken.add(record.name)
        for piece in record.ranges:
            coverage.add(piece)
    if replaced:
        ledger.remove(replaced)
    return resolved


def _least_willing_first(output: Folder, commits: list[Commit]) -> list[Commit]:
    """Whole records first that cannot be cut, last those whose files are gone: the others may cover their rows."""
    if covered(commits).num_rows == sum(record.num_rows for record in commits):
        return commits  # nothing will be cut
    present = Ledger(output).files_present()

    def willing(record: Commit) -> int:
        if any(file.path not in present for file in record.files):
            return 2
        return 1 if record.has_all_files else 0

    return sorted(commits, key=willing)


def _rest_of(
    ledger: Ledger, record: Commit, coverage: Coverage, standing: Mapping[str, Commit], spec: OutputSpec, run: str
) -> Commit | None:
    """The record that stands for those rows of ``record`` that are not covered; None where no record does."""
    ranges = [gap for piece in record.ranges for gap in coverage.subtract(piece)]
    if not ranges or not record.has_all_files:  # what the job counted over unwritten rows cannot be divided: done again
        return None
    name = record_name(ranges)
    if name in standing:
        return standing[name]
    ledger.commit(_cut(ledger, record, ranges, coverage, spec, run))
    return ledger.standing(name)  # ours, or one that came before it: what stands there is what the next run reads


def _cut(ledger: Ledger, record: Commit, ranges: list[Range], coverage: Coverage, spec: OutputSpec, run: str) -> Commit:
    """The record with only the rows of ``ranges``, which are those that are not covered, in files written anew."""
    keep = np.concatenate([_mask(piece, coverage) for piece in record.ranges])
    outcomes = ledger.outcomes(record)
    stem = file_stem(ranges)
    files, tally = [], Counter[str]()
    for file in record.files:
        of_part = keep[outcomes == OUTCOMES[file.part]]
        if of_part.any():
            data, counted = _cut_file(read_verified(ledger.output, file), file, of_part, spec)
            tally.update(counted)
            path = file_path(file.part, stem, spec)
            files.append(put_file(ledger.output, path, file.part, int(np.count_nonzero(of_part)), data))
    left = outcomes[keep]
    return Commit(ranges, files, count_outcomes(left), tally, run, packed=pack_outcomes(left))


def _mask(piece: Range, coverage: Coverage) -> np.ndarray:
    keep = np.zeros(piece.num_rows, bool)
    for gap in coverage.subtract(piece):
        keep[gap.start - piece.start : gap.stop - piece.start] = True
    return keep


def read_verified(output: Folder, file: DataFile) -> bytes:
    """The file's bytes; raises JobError if they are not those that were written."""
    data = output.read_if_exists(file.path)
    if data is None:
        raise JobError(f"{output.url}/{file.path} is gone; a commit record names it")
    if xxhash.xxh3_128_hexdigest(data) != file.xxh3:
        raise JobError(f"{output.url}/{file.path} is damaged: its checksum differs from the commit record's")
    return data


def _cut_file(data: bytes, file: DataFile, keep: np.ndarray, spec: OutputSpec) -> tuple[bytes, Mapping[str, int]]:
    """The bytes of a file with only the rows to keep, and what the job counts over them."""
    known, written = format_of(file.part, spec)
    left = known.cut(data, file.path, keep, written)
    return left, tally_of(file.part, known.read_back(left, file_path(file.part, "", spec), written.schema), spec)
