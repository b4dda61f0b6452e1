"""The record, beside the output, of which rows are finished and where they went: nothing lost, nothing twice.

What stands in an output folder, and when it is written:

    _rmbatch/lease/000001.json    first, and by each run: who works on the output (connectors/lease.py)
    _rmbatch/plan.json            once, before any work: the job, the input's files, units and schema
    _rmbatch/grouped.json         once, flat input with scattered groups: the shuffled rows that units are cut from then
    _rmbatch/attempts/            around each block of work (connectors/attempts.py)
    data/ _rejected/              by each write task: files with names that are new each time, never overwritten
    _dead_letters/
    _rmbatch/commits/             after those files: one record that names them and the exact rows they account for
    _rmbatch/segments/            by the driver, whenever 1,000 records stand: one object that holds them all, beside it
                                  the outcomes of their rows; then their files in commits/ are deleted
    _rmbatch/manifest.json        last, when every planned row is accounted for exactly once
    _rmbatch/answers/ spent.json  while judges are asked: their answers, what was spent against budgets

A row is finished when a commit record covers it, in a file of its own or in a segment, and only then. What a crash
leaves, step by step, and what the next run of the same command does:

    before the plan               a lease and perhaps a probe of the store; the next run takes the lease and plans
    after the plan                no record; the next run reads the plan (neither listing nor footers decide anything
                                  any more, a changed input is named) and works on every unit
    in a shuffle                  files below _rmbatch/grouped/ that nothing names: the shuffle begins again
    while a data file is written  nothing (S3) or a temporary name (local disk): the rows are not finished, they are
                                  done again, the leftover is removed at the end
    between the files of a task,  files that no record names, orphans: their rows are done again under other names,
    or before their record        the orphans are removed before the manifest is written
    after the record              the rows are finished; nobody works on them again
    a write task is retried       it cuts the same rows into the same record name, finds the record there and leaves
                                  it; its own data files are orphans
    a retry cut rows differently, two records cover the same rows; ``finish`` keeps one and cuts the other down:
    or a task of a dead run was     new files without the rows they share (checksums verified)   crash: orphans
    still alive                     a record for the rest, under the name of its rows            crash: both stand, the
                                                    next finish finds the rest by its name and does not write it again
                                    the old record is removed                                    crash: its files are
                                                                                                 orphans
                                  A record whose rejected rows are in no file cannot be cut, because what the job
                                  counted over them is one sum: it is kept whole, others are cut around it; where two
                                  such overlap, one is removed, and what only it covered is done by the next run
    before a segment is written   outcomes that belong to no segment; removed after the manifest
    after it, before the files    records stand twice, as file and in the segment; the segment's counts, the next driver
    of its records are deleted    deletes the files
    a retry after its record      it finds no file and writes one; the segment's record counts, the retry's data files
    was gathered                  are orphans, and its record is deleted by the next look of the driver
    while finish removes records  first those with files, then each segment that holds one: a new segment without them,
    from segments                 then the old one is deleted      crash: both stand, as if nothing were removed yet
    while finish removes orphans  the same removal again
    before the manifest           finish is repeated; it is idempotent
    after the manifest            the job is finished; the next run removes markers, shuffled rows and strays: files of
                                  ours that the manifest does not name

A task of a dead run that is still alive asks before it writes files, and again before their record, whether a later
run has begun (``OutputWriter.before_commit``). If so it removes its own files and stops. What is left: killed between
its put and that removal, after a whole later run has finished, it leaves a file in data/ that the manifest does not
name, until the same command is run once more. Asleep between its last question and its record, it leaves a record whose
files the later run may have removed as orphans; such a record gives way to any other that covers its rows, and where
none does, ``finish`` says which record to delete.

A driver that was asleep and gathers records after a later run has begun loses none of them: a segment is written
before anything is deleted, no segment is overwritten, and one is deleted only after another holds what is left of it.
It asks whether it holds the lease before it writes and before it deletes. Asleep between question and write, it may
bring back a record that the later run's ``finish`` has removed: that record shares its rows with others and is removed
by the next ``finish``, or, once the manifest is written, says nothing any more. Where segments of two runs hold records
of one name, that of the later run counts.

Who reads the ledger lists the files first and the segments second. A file that has vanished since it was listed is in a
segment that is listed again; a segment that has vanished was replaced by another.

On a store that ignores conditional puts, two writers of one record name may both believe they won. Their records cover
the same rows and name different complete files; the one that stands there when ``finish`` reads is right, the other's
files are orphans. A loser's files are left to ``finish``, because its put may land late. Two runs that begin within the
same moment are noticed by the lease's next beat instead of at once, see ``Plan.conditional_put``.

Memory is proportional to records and files, not to rows: a record keeps the outcome of each row on the store.
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

from connectors.commit import FOLDERS, PARTS, Commit, count_outcomes, covered, unpack_outcomes
from connectors.dataset import InputDataset
from connectors.errors import DeadEndError, JobError, UserError
from connectors.segments import DAMAGE, REDO, Segments, renewed
from connectors.storage import Folder, StorageOptions
from connectors.units import Range

T = TypeVar("T")

VERSION = 2
READ_AT_ONCE = 64
"""Records whose outcomes, of which none is kept, are in memory together."""
_OUR_FILE = re.compile(r"u\d{6,}-\d{10,}-[0-9a-f]{8}\.(parquet|pq|jsonl|ndjson)(\.gz|\.zst)?")
"""The names that ``file_stem`` and ``file_suffix`` of connectors/writer.py make."""


@dataclass(frozen=True)
class Plan:
    """What a job set out to do; written once, before anything else."""

    job: Mapping[str, Any]
    """What decides the result; the same command must still say the same."""
    dataset: InputDataset
    conditional_put: bool = True
    """Whether the store refuses the second of two conditional puts (probed when the plan was made)."""
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
        """The plan that ``to_json`` wrote; ValueError for another shape, UserError for one of another version."""
        data = _planned(text)
        _checked(data, dataset=dict, conditional_put=bool, created=(int, float))
        return cls(data["job"], _dataset(data["dataset"], options), data["conditional_put"], data["created"])


def _planned(text: bytes) -> dict[str, Any]:
    """A plan as plain values; ValueError for another shape, UserError for one of another version."""
    data = _checked(orjson.loads(text), version=int)
    if data["version"] != VERSION:
        raise UserError(f"the output was planned by another version of rmbatch (plan {data['version']})")
    return _checked(data, job=dict)


@dataclass(frozen=True)
class Progress:
    """How far an output is."""

    planned_rows: int
    finished_rows: int
    finished: Counter[str]
    """Rows by part, and what the job tallied (see Commit.tally). Rows that two records cover, which only ``finish``
    resolves, count twice here and once in ``finished_rows``."""
    num_files: int
    num_bytes: int
    manifest: Mapping[str, Any] | None
    commit_times: Mapping[float, int] = field(default_factory=dict)
    """Rows by the time of their commit; empty for a finished job."""


@dataclass(frozen=True)
class Ledger:
    """The ledger of one output folder."""

    output: Folder

    @property
    def private(self) -> Folder:
        """Where the ledger's own files are."""
        return self.output.folder("_rmbatch")

    def plan(self, options: StorageOptions | None = None) -> Plan | None:
        """The plan, or None if no run has begun; ``options`` tell how to reach the input."""
        return self._decoded("plan.json", lambda text: Plan.from_json(text, options or StorageOptions()))

    def planned_job(self) -> Mapping[str, Any] | None:
        """What decides the result of the planned job, without the plan's files and units; None if no run has begun."""
        return self._decoded("plan.json", lambda text: _planned(text)["job"])

    def honours_conditions(self) -> bool:
        """Whether the store refuses the second of two conditional puts; asked once, recorded in the plan."""
        return self.output.store.honours_conditions(self.private.path("probe"))

    def begin(self, plan: Plan) -> None:
        """Write the plan; raises JobError if another run wrote one meanwhile."""
        if not self.private.create("plan.json", plan.to_json()):
            raise JobError("another run has just planned this output")

    def withdraw(self) -> None:
        """Forget a plan by which no row was worked off, so that a job that was mended may be planned anew."""
        if not self.commits() and self.grouped() is None:
            self.private.delete(["plan.json"])

    def has_begun(self) -> bool:
        """Whether a plan stands there."""
        return self.private.exists("plan.json")

    def discard(self, keep: Sequence[str] = ()) -> None:
        """Delete what jobs wrote, but for the lease and the folders of ``keep``; the plan goes after the records.

        Whoever is killed here leaves an unfinished output of the same job, or files that no plan speaks of: both are
        what a crash may leave anyway. Shuffled rows go after the records, which speak of their addresses.
        """
        self.private.delete(["manifest.json"])
        kept = {"plan.json", "lease", *keep}
        found = {entry.name.split("/")[0] for entry in self.private.entries()} - kept
        first = ["commits", "segments", "grouped.json"]
        for name in [*(name for name in first if name in found), *sorted(found - {*first})]:
            self.private.remove(name)
            self.private.delete([name])
        self.private.delete(["plan.json"])
        self.output.delete(ours(self.files_present({*FOLDERS.values(), *PARTS.values()})))  # version 1 wrote to PARTS

    def files_present(self, folders: Iterable[str] = tuple(FOLDERS.values())) -> set[str]:
        """The names of all files in the folders of the output's parts."""
        return {entry.name for folder in folders for entry in self.output.entries(folder)}

    def grouped(self) -> InputDataset | None:
        """The shuffled rows of flat input whose groups were scattered, or None before the shuffle is complete."""
        return self._decoded("grouped.json", lambda text: _dataset(orjson.loads(text), self.output.options))

    def keep_grouped(self, dataset: InputDataset) -> None:
        """From here on the job works on the shuffled rows, whose addresses records speak of: never shuffled again."""
        if not self.private.create("grouped.json", orjson.dumps(dataset.to_json())):
            raise JobError("another run has just shuffled the rows of this output")

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the job is not finished."""
        return self._decoded("manifest.json", _manifest)

    def _decoded(self, name: str, decode: Callable[[bytes], T]) -> T | None:
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
        """Account for rows; False if an earlier attempt at exactly these rows already did.

        An attempt whose record has been gathered into a segment does not count here: a look at the segments would
        cost more than the record. It counts when the ledger is read.
        """
        try:
            return self.private.create(f"commits/{record.name}", record.to_json())
        except FileNotFoundError:  # it was gathered between our put and the look at what stands there
            found = self._gathered().get(record.name)
            if found is None:
                raise
            return found == replace(record, packed="")

    def commits(self) -> list[Commit]:
        """All records without their outcomes, those with the most rows first where they begin at the same row."""
        listed = self.loose_names()  # before the segments, or a record gathered in between is seen in neither
        held = self._gathered()
        wanted = [name for name in listed if name not in held]
        loose = []
        for start in range(0, len(wanted), READ_AT_ONCE):
            loose += [replace(each, packed="") for each in self.read_loose(wanted[start : start + READ_AT_ONCE])]
        if len(loose) < len(wanted):  # gathered since they were listed; or removed by ``finish``, as a status may see
            held = self._gathered()
        found = {record.name: record for record in loose} | held
        return sorted(found.values(), key=lambda record: (record.ranges[0][:2], -record.num_rows, record.name))

    def loose_names(self) -> list[str]:
        """The names of the records that have a file of their own."""
        return [entry.name.removeprefix("commits/") for entry in self.private.entries("commits")]

    def read_loose(self, names: Sequence[str]) -> list[Commit]:
        """The records that have these files, outcomes included; without those that have vanished."""
        texts = self.private.read_many([f"commits/{name}" for name in names])
        return [self._decode_record(name, text) for name, text in zip(names, texts, strict=True) if text is not None]

    def delete_loose(self, names: Iterable[str]) -> None:
        """Delete the files of these records."""
        self.private.delete([f"commits/{name}" for name in names])

    def remove(self, names: Container[str]) -> None:
        """Remove records, wherever they stand. A crash on the way leaves some of them as they were before."""
        self.delete_loose(name for name in self.loose_names() if name in names)
        for segment, data in self.segments.read():
            records = self.decode_segment(segment, data)
            left = [record for record in records if record.name not in names]
            if len(left) == len(records):
                continue
            if left:
                outcomes = self.segments.outcomes(segment)
                packed = {record.name: outcomes[record.name] for record in left}
                self.segments.write(renewed(segment), [record.to_json() for record in left], packed)
            self.segments.delete(segment)

    def _gathered(self) -> dict[str, Commit]:
        """The records that segments hold, by name; where two hold one name, that of the later run."""
        found: dict[str, Commit] = {}
        for segment, data in self.segments.read():
            for record in self.decode_segment(segment, data):
                if record.name not in found or found[record.name].segment < segment:
                    found[record.name] = record
        return found

    def decode_segment(self, segment: str, data: Iterable[Mapping[str, Any]]) -> list[Commit]:
        """The records of a segment that was read, without their outcomes."""
        try:
            return [Commit.from_data(each, segment) for each in data]
        except DAMAGE as error:
            raise self.segments.damaged(segment, error) from None

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

    def standing(self, name: str) -> Commit:
        """The record that stands under a name, as ``commits`` gives it; JobError if there is none."""
        return replace(self._standing(name), packed="")

    def outcomes(self, record: Commit) -> np.ndarray:
        """KEPT, REJECTED or DEAD_LETTER of each row of the record: int8, read from its file or segment."""
        record = record if record.segment else self._standing(record.name)
        packed = self.segments.outcomes(record.segment).get(record.name, "") if record.segment else record.packed
        path = f"{self.output.url}/{record.path}"
        try:
            outcomes = unpack_outcomes(packed)
        except _DAMAGE as error:
            raise JobError(f"the commit record {path} is damaged ({error}); {REDO}") from None
        if count_outcomes(outcomes) != dict(record.rows):
            raise JobError(f"the commit record {path} is damaged (its outcomes are not its counts); {REDO}")
        return outcomes

    def _standing(self, name: str) -> Commit:
        found = self.read_loose([name]) or [each for each in self._gathered().values() if each.name == name]
        if not found:
            raise JobError(f"the commit record {self.private.url}/commits/{name} has vanished")
        return found[0]

    def missing(self, dataset: InputDataset, commits: Iterable[Commit]) -> list[Range]:
        """The rows of the planned (or grouped) dataset that no record covers, in order."""
        coverage = covered(commits)
        return [piece for unit in dataset.units.values() for piece in coverage.missing(unit)]

    def progress(self) -> Progress | None:
        """How far the output is, read from its files; None before the first run."""
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
        return Progress(plan.dataset.num_rows, covered(commits).num_rows, finished, num_files, num_bytes, None, times)


def _manifest(text: bytes) -> dict[str, Any]:
    data = _checked(json.loads(text), job=dict, planned_rows=int, rows=dict, tally=dict, files=list)
    for file in data["files"]:
        _checked(file, path=str, part=str, num_bytes=int)
    return data


def _dataset(data: Any, options: StorageOptions) -> InputDataset:
    return InputDataset.from_json(_checked(data, format=str, schema=str, files=list, units=list), options)


def _checked(data: Any, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """The JSON object; ValueError where it is none, or has no value of the right kind under one of these keys."""
    if not isinstance(data, dict):
        raise ValueError(f"it holds no JSON object but {str(data)[:40]!r}")
    for name, kind in kinds.items():
        if not isinstance(data.get(name), kind):
            raise ValueError(f"its {name!r} is {str(data[name])[:40]!r}" if name in data else f"it has no {name!r}")
    return data


def ours(names: Iterable[str]) -> list[str]:
    """Of the files in an output folder those that write tasks have made; others are somebody else's, and stay."""
    return sorted(name for name in names if _OUR_FILE.fullmatch(name.rsplit("/", 1)[-1]))


_DAMAGE = (*DAMAGE, zlib.error)
"""What decoders raise on text that was cut off or altered."""
