"""Finishes an output: checks that it has every planned row exactly once, removes other files, writes the manifest.

All of this can be repeated: after a crash, the next run does it again. ``connectors/ledger.py`` has the whole story.

    manifest = finish(ledger, plan, spec, run="4f1c")
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson
import xxhash

from connectors.commit import (
    FOLDERS,
    OUTCOMES,
    Commit,
    DataFile,
    count_outcomes,
    merge_coverage,
    pack_outcomes,
    record_name,
)
from connectors.errors import JobError
from connectors.ledger import RETRY_FOLDER, VERSION, Ledger, Plan, keep_own
from connectors.schema import schema_to_text
from connectors.storage import Folder
from connectors.units import Coverage, Range, total_rows
from connectors.writer import OutputSpec, choose_format, count_tally, file_path, file_stem, put_file


class UnfinishedError(JobError):
    """Some rows are not finished, such as those of a record that could not be cut. Another round of work does them."""


def finish(ledger: Ledger, plan: Plan, spec: OutputSpec, run: str) -> dict[str, Any]:
    """Resolve overlaps, check counts, remove orphans and write the manifest. Raises JobError if rows are missing."""
    commits = resolve_overlaps(ledger, ledger.commits(), spec, run)
    missing = ledger.missing(ledger.read_grouped() or plan.dataset, commits)
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
"""Tells ``datasets.load_dataset`` which files of the output folder to read. Without it, it reads all of them."""


def clean(ledger: Ledger) -> None:
    """Remove what a finished job does not need: markers, shuffled rows, staged files, outcomes without records."""
    for folder in ("attempts", "grouped", RETRY_FOLDER):
        ledger.private.remove(folder)
    ledger.segments.clean()


def find_strays(output: Folder, manifest: Mapping[str, Any]) -> list[str]:
    """Find files of ours that the manifest of a finished output does not name. Killed tasks left them."""
    return keep_own(Ledger(output).files_present() - {file["path"] for file in manifest["files"]})


def remove_orphans(output: Folder, commits: list[Commit]) -> None:
    """Delete our files that no record names. Raises JobError if a file that a record names is gone."""
    wanted = {file.path: record for record in commits for file in record.files}
    found = Ledger(output).files_present()
    vanished = sorted(wanted.keys() - found)
    if vanished:
        raise JobError(
            f"{len(vanished)} files of {output.url} are gone, such as {vanished[0]}; "
            f"to have its rows done again, delete {wanted[vanished[0]].path} and run the same command"
        )
    folders = (*FOLDERS.values(), "_rmbatch/commits", "_rmbatch/segments", "_rmbatch/usage")
    leftovers = [name for folder in folders for name in output.leftovers(folder)]
    output.delete(keep_own(found - wanted.keys()) + leftovers)


def resolve_overlaps(ledger: Ledger, commits: list[Commit], spec: OutputSpec, run: str) -> list[Commit]:
    """Make records that share no row. Where two share rows, the later one keeps only what the earlier ones lack."""
    by_name = {record.name: record for record in commits}
    coverage = Coverage()
    resolved: list[Commit] = []
    taken: set[str] = set()
    replaced: set[str] = set()
    for record in _order_for_cutting(ledger.output, commits):
        if record.name in taken:  # a crash left it beside the record that it was cut from
            continue
        if any(coverage.overlap(piece) for piece in record.ranges):
            rest = _cut_to_rest(ledger, record, coverage, by_name, spec, run)
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


def _order_for_cutting(output: Folder, commits: list[Commit]) -> list[Commit]:
    """Order records for cutting: those that cannot be cut come first, those whose files are gone come last."""
    if merge_coverage(commits).num_rows == sum(record.num_rows for record in commits):
        return commits  # nothing will be cut
    present = Ledger(output).files_present()

    def cutting_order(record: Commit) -> int:
        if any(file.path not in present for file in record.files):
            return 2
        return 1 if record.has_all_files else 0

    return sorted(commits, key=cutting_order)


def _cut_to_rest(
    ledger: Ledger, record: Commit, coverage: Coverage, by_name: Mapping[str, Commit], spec: OutputSpec, run: str
) -> Commit | None:
    """Cut ``record`` to its rows that are not covered, and commit them. None: nothing is left, or it cannot be cut."""
    ranges = [gap for piece in record.ranges for gap in coverage.subtract(piece)]
    if not ranges or not record.has_all_files:  # a tally over rows in no file cannot be divided; another run does them
        return None
    name = record_name(ranges)
    if name in by_name:
        return by_name[name]
    ledger.commit(_cut(ledger, record, ranges, coverage, spec, run))
    return ledger.read_commit(name)  # ours or an earlier one; the next run reads what is stored


def _cut(ledger: Ledger, record: Commit, ranges: list[Range], coverage: Coverage, spec: OutputSpec, run: str) -> Commit:
    """Make a record of only the rows of ``ranges`` (those that are not covered), and write new files for them."""
    keep = np.concatenate([_mask_uncovered(piece, coverage) for piece in record.ranges])
    return cut_record(ledger, record, ranges, keep, spec, run, partial(put_file, ledger.output))


def cut_record(
    ledger: Ledger,
    record: Commit,
    ranges: list[Range],
    keep: np.ndarray,
    spec: OutputSpec,
    run: str,
    put: Callable[[str, str, int, bytes], DataFile],
) -> Commit:
    """Make a record of a part of its rows. ``keep``: a truth value for each row, those of ``ranges``; ``put`` writes
    each new file, by path, part, number of rows and bytes. Raises JobError for a damaged file."""
    outcomes = ledger.outcomes(record)
    stem = file_stem(ranges)
    files, tally = [], Counter[str]()
    for file in record.files:
        of_part = keep[outcomes == OUTCOMES[file.part]]
        if of_part.any():
            data, counted = _cut_file(read_and_verify(ledger.output, file), file, of_part, spec)
            tally.update(counted)
            path = file_path(file.part, stem, spec)
            files.append(put(path, file.part, int(np.count_nonzero(of_part)), data))
    left = outcomes[keep]
    return Commit(ranges, files, count_outcomes(left), tally, run, packed=pack_outcomes(left))


def _mask_uncovered(piece: Range, coverage: Coverage) -> np.ndarray:
    keep = np.zeros(piece.num_rows, bool)
    for gap in coverage.subtract(piece):
        keep[gap.start - piece.start : gap.stop - piece.start] = True
    return keep


def read_and_verify(output: Folder, file: DataFile) -> bytes:
    """Read a file. Raises JobError if it is gone or its checksum is wrong."""
    data = output.read_if_exists(file.path)
    if data is None:
        raise JobError(f"{output.url}/{file.path} is gone; a commit record names it")
    if xxhash.xxh3_128_hexdigest(data) != file.xxh3:
        raise JobError(f"{output.url}/{file.path} is damaged: its checksum differs from the commit record's")
    return data


def _cut_file(data: bytes, file: DataFile, keep: np.ndarray, spec: OutputSpec) -> tuple[bytes, Mapping[str, int]]:
    """Cut a file's bytes to the rows to keep. Return the new bytes and the job's tally over these rows."""
    known, written = choose_format(file.part, spec)
    left = known.cut(data, file.path, keep, written)
    return left, count_tally(file.part, known.read_back(left, file_path(file.part, "", spec), written.schema), spec)
