"""Opens rows of a finished output so that they are done again, and keeps all others byte for byte as they are.

A row is finished when a record covers it. So a retry replaces the records of the chosen rows by records of the rest;
then the chosen rows are missing, and a run does them as after a crash. Replacing is one step for every reader, in
whatever order a crash cuts it:

    1. stage     New files of the rest are written to _rmbatch/retry/, under names that no reader looks for. The output
                 is finished all the time. Crash: the next run removes them.
    2. decide    _rmbatch/retry.json is written: which records are replaced, by which records and staged files. Crash
                 here or later: the next run of the job does what follows, whichever command it is.
    3. apply     The manifest is deleted. Of each record its files are deleted, the staged ones take their place, the
                 new record is written and the old one removed. Each of these can be repeated. Who lists the files sees
                 a row once, or not yet; who reads the manifest is told that the output is not finished.
    4. forget    retried.json is written, for the run that does the missing rows. Then retry.json is deleted, then the
                 staged files. From here on the output is one with missing rows.

    stage_retry(ledger, spec, run, chosen)      # chosen: by a record's name, which of its rows; steps 1 and 2
    apply_retry(ledger)                         # steps 3 and 4, after stage_retry or a crash
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from connectors.commit import Commit, DataFile
from connectors.errors import JobError, UserError
from connectors.finish import cut_record
from connectors.ledger import RETRIED, RETRY, RETRY_FOLDER, Ledger
from connectors.units import Range
from connectors.writer import OutputSpec, put_file

ENDING = ".staged"
"""Of staged files, so that no glob finds them."""


def stage_retry(
    ledger: Ledger,
    spec: OutputSpec,
    run: str,
    chosen: Mapping[str, NDArray[np.bool_]],
    ask_again: Mapping[str, Any] | None = None,
) -> int:
    """Decide that rows are done again. Return how many rows.

    ``chosen``: by the name of a record, a truth value for each of its rows in the order of its ranges. ``ask_again``:
    plain values for the run that does them (``Ledger.read_retried``). Raises UserError where a record's rejected rows
    are in no file, because its counts cannot be divided then.
    """
    ledger.private.remove(RETRY_FOLDER)  # a crash before step 2 has left it
    replaced = []
    num_rows = 0
    for record in ledger.commits():
        again = chosen.get(record.name)
        if again is None or not again.any():
            continue
        if not record.has_all_files:
            raise UserError(
                "the output does not keep rejected rows (output.rejected: drop), so the counts of the other rows are "
                "not known; begin the job anew with --overwrite, its kept answers stay"
            )
        num_rows += int(np.count_nonzero(again))
        rest = None if again.all() else _stage_rest(ledger, spec, run, record, ~again)
        replaced.append({"old": record.name, "files": [file.path for file in record.files], "new": rest})
    if replaced:
        content = orjson.dumps({"rows": num_rows, "run": run, "replaced": replaced, "ask_again": ask_again})
        if not ledger.private.create(RETRY, content):
            raise JobError("another run has just begun to retry rows of this output")
    return num_rows


def _stage_rest(ledger: Ledger, spec: OutputSpec, run: str, record: Commit, keep: NDArray[np.bool_]) -> dict[str, Any]:
    """Write the files of the rows to keep to the staging folder. Return their record as plain values."""

    def stage(path: str, part: str, num_rows: int, data: bytes) -> DataFile:
        return replace(put_file(ledger.private, _staged(path), part, num_rows, data), path=path)

    ranges = _keep_ranges(record.ranges, keep)
    rest = replace(cut_record(ledger, record, ranges, keep, spec, run, stage), at=record.at)
    found: dict[str, Any] = orjson.loads(rest.to_json())
    return found


def _keep_ranges(ranges: list[Range], keep: NDArray[np.bool_]) -> list[Range]:
    """The parts of the ranges whose rows are kept, in order."""
    kept, before = [], 0
    for piece in ranges:
        inside = np.concatenate([[False], keep[before : before + piece.num_rows], [False]])
        borders = np.flatnonzero(np.diff(inside.astype(np.int8)))
        kept += [Range(piece.unit, piece.start + int(a), piece.start + int(b)) for a, b in borders.reshape(-1, 2)]
        before += piece.num_rows
    return kept


def apply_retry(ledger: Ledger) -> int:
    """Do what was decided, and return the number of rows that are to be done again. 0: nothing was decided.

    Raises JobError for a staged file that is damaged or gone.
    """
    decided = ledger.read_retry()
    if decided is None:
        return 0
    ledger.private.delete(["manifest.json", "summary.json"])
    for each in decided["replaced"]:
        ledger.output.delete(each["files"])
        if each["new"] is not None:
            rest = Commit.from_data(each["new"])
            for file in rest.files:
                _place(ledger, file)
            ledger.commit(rest)
    ledger.remove({each["old"] for each in decided["replaced"]})
    retried = {"run": str(decided.get("run", "")), "ask_again": decided.get("ask_again")}
    ledger.private.write(RETRIED, orjson.dumps(retried))
    ledger.private.delete([RETRY])
    ledger.private.remove(RETRY_FOLDER)
    return int(decided["rows"])


def _place(ledger: Ledger, file: DataFile) -> None:
    """Give a staged file its place in the output."""
    data = ledger.private.read_if_exists(_staged(file.path))
    if data is None or xxhash.xxh3_128_hexdigest(data) != file.xxh3:
        what = "gone" if data is None else "damaged"
        raise JobError(
            f"{ledger.private.url}/{_staged(file.path)} is {what}, and it holds rows that are not retried; restore it"
        )
    ledger.output.write(file.path, data)


def _staged(path: str) -> str:
    return f"{RETRY_FOLDER}/{path.lstrip('_')}{ENDING}"
