"""The ledger of an output: files beside it that say which rows are finished. No row is lost, and none is written twice.

The files of an output folder, and when they are written:

    _rmbatch/lease/000001.json    first, by each run: which run works on the output (connectors/lease.py)
    _rmbatch/plan.json            once, before any work: the job, and the input's files, units and schema
    _rmbatch/grouped.json         once, if the groups of flat input were scattered: the shuffled rows. From then on,
                                  units are cut from these
    _rmbatch/attempts/            before each block of work, removed after it (connectors/attempts.py)
    data/ _rejected/              by each task: files with new names, which are never overwritten
    _dead_letters/
    _rmbatch/commits/             after these files: a record that names them and their exact rows
    _rmbatch/segments/            by the driver, for each 1,000 records: one object that holds them all, and a second
                                  one with the outcomes of their rows. Then the files in commits/ are deleted
    _rmbatch/manifest.json        last, when each planned row is finished exactly once
    _rmbatch/retry.json retry/    when rows of a finished output are done again (connectors/retry.py)
    _rmbatch/retried.json         before these rows are missing: which retry it is; it stays until the next one
    _rmbatch/answers/ spent.json  while chat models are asked: their answers, and the usage of budgets
    _rmbatch/usage/               while models work: a file of each run, what it has used by time. Only the report reads
                                  it (jobs/run/usage.py)

A row is finished when a commit record covers it, and only then. The record is in its own file or in a segment. This is
what a crash leaves at each step, and what the next run of the same command does:

    before the plan               A lease, and perhaps a probe of the store. The next run takes the lease and plans.
    after the plan                No record. The next run reads the plan and works on all units. It does not plan again,
                                  and it names files that have changed.
    in a shuffle                  Files in _rmbatch/grouped/ that nothing names. The shuffle begins again.
    while a data file is written  Nothing (S3), or a temporary file (local disk). The rows are not finished and are done
                                  again. ``finish`` removes the temporary file.
    between the files of a task,  Files that no record names: orphans. Their rows are done again under other names.
    or before their record        ``finish`` removes the orphans before it writes the manifest.
    after the record              The rows are finished. No run works on them again.
    a task is retried             It makes the same record name, finds the record and leaves it. Its own data files are
                                  orphans.
    a retry cut rows differently, Two records cover the same rows. ``finish`` keeps one and cuts the other, in steps:
    or a task of a dead run was     1. new files without the shared rows (checksums are verified). Crash: orphans.
    still alive                     2. a record of the remaining rows, named by them. Crash: both records exist. The
                                       next ``finish`` finds the new record by its name and does not write it again.
                                    3. the old record is removed. Crash: its files are orphans.
                                  A record cannot be cut if its rejected rows are in no file, because its tally is one
                                  sum over all rows. It is kept whole, and other records are cut around it. Where two
                                  such records overlap, one is removed, and the next run does the rows that only it
                                  covered.
    before a segment is written   Outcomes without a segment. They are removed after the manifest.
    after it, before the files    The records exist twice, as files and in the segment. The segment counts. The next
    of its records are deleted    driver deletes the files.
    a retry after its record      It finds no file and writes one. The record in the segment counts. The data files of
    was gathered                  the retry are orphans. The driver's next check deletes its record.
    while finish removes records  It removes records with files first. Then, for each segment with such a record, it
    from segments                 writes a new segment without it and deletes the old one. Crash: both segments exist,
                                  as if nothing had been removed.
    while finish removes orphans  The next run removes the rest.
    before the manifest           ``finish`` runs again. It can be repeated.
    after the manifest            The job is finished. The next run removes markers, shuffled rows and strays: files of
                                  ours that the manifest does not name.

    a retry, before retry.json    Staged files that nothing names. The output is finished; the next run removes them.
    a retry, after retry.json     The next run replaces the records of the retried rows, by the steps that
                                  connectors/retry.py lists. Each can be repeated.
    a retry, after that           No manifest; the retried rows are missing, and the next run does them.

A task of a dead run may still be alive. Before it writes files, and again before their record, it checks whether a
later run has begun (``OutputWriter.before_commit``). If so, it removes its own files and stops. Two cases remain.
First, the task writes a file after a whole later run has finished, and is killed before it removes it. Then data/ has a
file that the manifest does not name, until the same command runs once more. Second, the task pauses between its last
check and its record, and the later run removes its files as orphans. Then its record names files that are gone. Such a
record gives way to any other that covers its rows. Where there is no other, ``finish`` says which record to delete.

A driver may pause and gather records after a later run has begun. No record is lost: a segment is written before
anything is deleted, no segment is overwritten, and a segment is deleted only after another one holds the rest of it.
The driver checks its lease before it writes and before it deletes. If it pauses between check and write, it may bring
back a record that ``finish`` of the later run has removed. That record shares its rows with others, and the next
``finish`` removes it; after the manifest, it has no effect. Where segments of two runs hold records of one name, the
later run's counts.

To read the ledger, list files first and segments second. If a listed file has vanished, its record is in a segment:
list the segments again. If a listed segment has vanished, another one has replaced it.

On a store that ignores conditional puts, two writers of one record name may both believe that they won. Their records
cover the same rows and name different complete files. The record that ``finish`` reads is right, and the files of the
other are orphans. Only ``finish`` removes these files, because the other record may still arrive and replace the first.
If two runs begin at the same moment on such a store, the next beat of the lease notices it, not the start; see
``Plan.conditional_put``.

Memory grows with the number of records and files, not of rows: the outcomes of rows stay in the store.
"""

import json
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import orjson

from connectors.commit import FOLDERS, PARTS, Commit, count_outcomes, merge_coverage, unpack_outcomes
from connectors.dataset import InputDataset
from connectors.errors import DeadEndError, JobError, UserError
from connectors.segments import DAMAGE, REDO, Segments, renew_name
from connectors.storage import Folder, StorageOptions
from connectors.units import Range

T = TypeVar("T")

VERSION = 2
RETRY, RETRY_FOLDER, RETRIED = "retry.json", "retry", "retried.json"
"""What a retry has decided, the files that it has staged, and what is left of its decision when that is applied."""
READ_AT_ONCE = 64
"""The number of records that are read at the same time. Their outcomes are in memory meanwhile."""
_OUR_FILE = re.compile(r"u\d{6,}-\d{10,}-[0-9a-f]{8}\.(parquet|pq|jsonl|ndjson)(\.gz|\.zst)?")
"""The names that ``file_path`` of connectors/writer.py makes."""


@dataclass(frozen=True)
class Plan:
    """What a job will do. It is written once, before any work."""

    job: Mapping[str, Any]
    """The identity of the job: all settings that decide its result. A later run must have the same."""
    dataset: InputDataset
    conditional_put: bool = True
    """Whether the store refuses the second of two conditional puts. This is tried when the plan is made."""
    created: float = field(default_factory=time.time)

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "version": VERSION,
                "created": self.created,
                "job": self.job,
                "conditional_put": self.conditional_put,
                "dataset": self.dataset.to_json(),
            }
        )

    @classmethod
    def from_json(cls, text: bytes, options: StorageOptions) -> "Plan":
        """Read a plan that ``to_json`` wrote. Raises ValueError for another shape, UserError for another version."""
        data = _parse_plan(text)
        _check_types(data, dataset=dict, conditional_put=bool, created=(int, float))
        return cls(data["job"], _parse_dataset(data["dataset"], options), data["conditional_put"], data["created"])


def _parse_plan(text: bytes) -> dict[str, Any]:
    """Parse a plan to plain values. Raises ValueError for another shape, and UserError for another version."""
    data = _check_types(orjson.loads(text), version=int)
    if data["version"] != VERSION:
        raise UserError(f"the output was planned by another version of rmbatch (plan {data['version']})")
    return _check_types(data, job=dict)


@dataclass(frozen=True)
class Progress:
    """How far an output is."""

    planned_rows: int
    finished_rows: int
    finished: Counter[str]
    """Rows by part, and the job's tally (see Commit.tally). Rows that two records cover count twice here, until
    ``finish`` resolves them, and once in ``finished_rows``."""
    num_files: int
    num_bytes: int
    manifest: Mapping[str, Any] | None
    commit_times: Mapping[float, int] = field(default_factory=dict)
    """Rows by the time of their commit. Empty for a finished job."""


@dataclass(frozen=True)
class Ledger:
    """The ledger of one output folder."""

    output: Folder

    @property
    def private(self) -> Folder:
        """The folder of the ledger's own files."""
        return self.output.folder("_rmbatch")

    def plan(self, options: StorageOptions | None = None) -> Plan | None:
        """Read the plan. None: no run has begun. ``options`` say how to reach the input."""
        return self._decode_file("plan.json", lambda text: Plan.from_json(text, options or StorageOptions()))

    def read_job(self) -> Mapping[str, Any] | None:
        """Read the identity of the planned job, without its files and units. None: no run has begun."""
        return self._decode_file("plan.json", lambda text: _parse_plan(text)["job"])

    def honours_conditions(self) -> bool:
        """Whether the store refuses the second of two conditional puts. The plan records the answer."""
        return self.output.store.honours_conditions(self.private.path("probe"))

    def begin(self, plan: Plan) -> None:
        """Write the plan. Raises JobError if another run has written one meanwhile."""
        if not self.private.create("plan.json", plan.to_json()):
            raise JobError("another run has just planned this output")

    def withdraw(self) -> None:
        """Delete the plan if no row is finished, so that a corrected job can be planned again."""
        if not self.commits() and self.read_grouped() is None:
            self.private.delete(["plan.json"])

    def has_begun(self) -> bool:
        """Whether the output has a plan."""
        return self.private.exists("plan.json")

    def discard(self, keep: Sequence[str] = ()) -> None:
        """Delete all that jobs wrote, except the lease and the folders in ``keep``.

        Records are deleted before shuffled rows, because they name addresses of these, and before the plan. So a crash
        leaves an unfinished output of the same job, or files without a plan. Any crash may leave these.
        """
        self.private.delete(["manifest.json", RETRY])
        kept = {"plan.json", "lease", *keep}
        found = {entry.name.split("/")[0] for entry in self.private.entries()} - kept
        first = ["commits", "segments", "grouped.json"]
        for name in [*(name for name in first if name in found), *sorted(found - {*first})]:
            self.private.remove(name)
            self.private.delete([name])
        self.private.delete(["plan.json"])
        self.output.delete(
            keep_own(self.files_present({*FOLDERS.values(), *PARTS.values()}))
        )  # version 1 wrote to PARTS

    def files_present(self, folders: Iterable[str] = tuple(FOLDERS.values())) -> set[str]:
        """List all files in the folders of the output's parts."""
        return {entry.name for folder in folders for entry in self.output.entries(folder)}

    def read_grouped(self) -> InputDataset | None:
        """Read the shuffled rows of flat input whose groups were scattered. None: the shuffle is not complete."""
        return self._decode_file("grouped.json", lambda text: _parse_dataset(orjson.loads(text), self.output.options))

    def write_grouped(self, dataset: InputDataset) -> None:
        """Record that the shuffle is complete. From then on commit records use the addresses of shuffled rows."""
        if not self.private.create("grouped.json", orjson.dumps(dataset.to_json())):
            raise JobError("another run has just shuffled the rows of this output")

    def manifest(self) -> dict[str, Any] | None:
        """Read the manifest. None: the job is not finished."""
        return self._decode_file("manifest.json", _parse_manifest)

    def read_retry(self) -> dict[str, Any] | None:
        """Read the retry that was decided and not applied. None: there is none."""
        return self._decode_file(RETRY, lambda text: _check_types(orjson.loads(text), rows=int, replaced=list))

    def read_retried(self) -> dict[str, Any] | None:
        """Read the last retry that was applied: its ``run`` and its ``ask_again``, as ``stage_retry`` got them. None:
        no row was done again."""
        return self._decode_file(RETRIED, lambda text: _check_types(orjson.loads(text), run=str))

    def _decode_file(self, name: str, decode: Callable[[bytes], T]) -> T | None:
        text = self.private.read_if_exists(name)
        if text is None:
            return None
        try:
            return decode(text)
        except _DAMAGE as error:
            raise DeadEndError(
                f"{self.private.url}/{name} is damaged ({error}); start with a new output path"
            ) from None

    @property
    def segments(self) -> Segments:
        """The objects that hold many records each."""
        return Segments(self.private.folder("segments"))

    def commit(self, record: Commit) -> bool:
        """Write a commit record. Return False if there is a record of exactly these rows already.

        A record that was gathered into a segment is not seen here: reading the segments would cost more than writing
        the record. It counts when the ledger is read.
        """
        try:
            return self.private.create(f"commits/{record.name}", record.to_json())
        except FileNotFoundError:  # it was gathered between our put and the check of what is stored
            found = self._read_segments().get(record.name)
            if found is None:
                raise
            return found == replace(record, packed="")

    def commits(self) -> list[Commit]:
        """Read all records, without outcomes, in row order. Of two that begin at one row, the larger comes first."""
        listed = self.loose_names()  # list before reading segments; else a record gathered in between is missed
        gathered = self._read_segments()
        wanted = [name for name in listed if name not in gathered]
        loose = []
        for start in range(0, len(wanted), READ_AT_ONCE):
            loose += [replace(each, packed="") for each in self.read_loose(wanted[start : start + READ_AT_ONCE])]
        if len(loose) < len(wanted):  # gathered since they were listed, or removed by ``finish`` of a running job
            gathered = self._read_segments()
        found = {record.name: record for record in loose} | gathered
        return sorted(found.values(), key=lambda record: (record.ranges[0][:2], -record.num_rows, record.name))

    def loose_names(self) -> list[str]:
        """List the names of the records that have their own file."""
        return [entry.name.removeprefix("commits/") for entry in self.private.entries("commits")]

    def read_loose(self, names: Sequence[str]) -> list[Commit]:
        """Read the records in these files, with their outcomes. Files that have vanished are left out."""
        texts = self.private.read_many([f"commits/{name}" for name in names])
        return [self._decode_record(name, text) for name, text in zip(names, texts, strict=True) if text is not None]

    def delete_loose(self, names: Iterable[str]) -> None:
        """Delete the files of these records."""
        self.private.delete([f"commits/{name}" for name in names])

    def remove(self, names: Container[str]) -> None:
        """Remove records from files and segments. A crash leaves some of them unchanged."""
        self.delete_loose(name for name in self.loose_names() if name in names)
        for segment, data in self.segments.read():
            records = self.decode_segment(segment, data)
            left = [record for record in records if record.name not in names]
            if len(left) == len(records):
                continue
            if left:
                outcomes = self.segments.outcomes(segment)
                packed = {record.name: outcomes[record.name] for record in left}
                self.segments.write(renew_name(segment), [record.to_json() for record in left], packed)
            self.segments.delete(segment)

    def _read_segments(self) -> dict[str, Commit]:
        """Read the records of all segments, by name. Where two segments hold one name, the later run's counts."""
        found: dict[str, Commit] = {}
        for segment, data in self.segments.read():
            for record in self.decode_segment(segment, data):
                if record.name not in found or found[record.name].segment < segment:
                    found[record.name] = record
        return found

    def decode_segment(self, segment: str, data: Iterable[Mapping[str, Any]]) -> list[Commit]:
        """Decode the records of a segment, without outcomes. Raises JobError if they are damaged."""
        try:
            return [Commit.from_data(each, segment) for each in data]
        except DAMAGE as error:
            raise self.segments.damage_error(segment, error) from None

    def _decode_record(self, name: str, text: bytes) -> Commit:
        try:
            record = Commit.from_json(text)
            if name != record.name:
                raise ValueError("its name is not that of its ranges")
        except _DAMAGE as error:
            raise JobError(
                f"the commit record {self.private.url}/commits/{name} is damaged ({error}); {REDO}"
            ) from None
        return record

    def read_commit(self, name: str) -> Commit:
        """Read the record of this name, without outcomes. Raises JobError if there is none."""
        return replace(self._read_with_outcomes(name), packed="")

    def outcomes(self, record: Commit) -> np.ndarray:
        """Read the outcome of each row of a record from its file or segment: KEPT, REJECTED or DEAD_LETTER as int8."""
        record = record if record.segment else self._read_with_outcomes(record.name)
        packed = self.segments.outcomes(record.segment).get(record.name, "") if record.segment else record.packed
        path = f"{self.output.url}/{record.path}"
        try:
            outcomes = unpack_outcomes(packed)
        except _DAMAGE as error:
            raise JobError(f"the commit record {path} is damaged ({error}); {REDO}") from None
        if count_outcomes(outcomes) != dict(record.rows):
            raise JobError(f"the commit record {path} is damaged (its outcomes are not its counts); {REDO}")
        return outcomes

    def _read_with_outcomes(self, name: str) -> Commit:
        found = self.read_loose([name]) or [each for each in self._read_segments().values() if each.name == name]
        if not found:
            raise JobError(f"the commit record {self.private.url}/commits/{name} has vanished")
        return found[0]

    def missing(self, dataset: InputDataset, commits: Iterable[Commit]) -> list[Range]:
        """Find the rows of the planned (or grouped) dataset that no record covers, in order."""
        coverage = merge_coverage(commits)
        return [piece for unit in dataset.units.values() for piece in coverage.missing(unit)]

    def progress(self) -> Progress | None:
        """Read from its files how far the output is. None: no run has begun."""
        manifest = self.manifest()
        if manifest is not None:
            rows, files = Counter(manifest["rows"]), manifest["files"]
            num_bytes = sum(file["num_bytes"] for file in files)
            counts = rows + Counter(manifest["tally"])
            planned = manifest["planned_rows"]
            return Progress(planned, sum(rows.values()), counts, len(files), num_bytes, manifest)
        plan = self.plan()
        if plan is None:
            return None
        finished: Counter[str] = Counter()
        times: Counter[float] = Counter()
        num_files = num_bytes = 0
        commits = self.commits()
        for record in commits:
            times[record.at] += record.num_rows
            finished.update(record.rows)
            finished.update(record.tally)
            num_files += len(record.files)
            num_bytes += sum(file.num_bytes for file in record.files)
        return Progress(
            plan.dataset.num_rows, merge_coverage(commits).num_rows, finished, num_files, num_bytes, None, times
        )


def _parse_manifest(text: bytes) -> dict[str, Any]:
    data = _check_types(json.loads(text), job=dict, planned_rows=int, rows=dict, tally=dict, files=list)
    for file in data["files"]:
        _check_types(file, path=str, part=str, num_bytes=int)
    return data


def _parse_dataset(data: Any, options: StorageOptions) -> InputDataset:
    return InputDataset.from_json(_check_types(data, format=str, schema=str, files=list, units=list), options)


def _check_types(data: Any, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """Check a JSON object. Raises ValueError if it is not an object or if a value is of the wrong kind."""
    if not isinstance(data, dict):
        raise ValueError(f"it holds no JSON object but {str(data)[:40]!r}")
    for name, kind in kinds.items():
        if not isinstance(data.get(name), kind):
            raise ValueError(f"its {name!r} is {str(data[name])[:40]!r}" if name in data else f"it has no {name!r}")
    return data


def keep_own(names: Iterable[str]) -> list[str]:
    """Keep only the names of files that our tasks write. Other files belong to the user."""
    return sorted(name for name in names if _OUR_FILE.fullmatch(name.rsplit("/", 1)[-1]))


_DAMAGE = (*DAMAGE, zlib.error)
"""The errors that decoders raise on text that was cut off or altered."""
