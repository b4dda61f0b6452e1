"""The record, beside the output, of which rows are finished and where they went: nothing lost, nothing twice.

What stands in an output folder, and when it is written:

    _rmbatch/plan.json            first: the job, the input's files, units and schema
    _rmbatch/grouped.json         flat input with scattered groups: the shuffled rows that units are cut from then
    _rmbatch/lease/000001.json    by each run: who works on it (connectors/lease.py)
    _rmbatch/attempts/            around each block of work (connectors/attempts.py)
    data/ rejected/ dead_letters/ by each write task: files with attempt-unique names, never overwritten
    _rmbatch/commits/             after those files: one record that names them and the exact rows they account for
    _rmbatch/manifest.json        last, when every planned row is accounted for exactly once

A row is finished when a commit record covers it, and only then. What a crash leaves, step by step, and what the next run
of the same command does:

    before the plan               an empty folder; the next run plans
    after the plan                no record; the next run reads the plan (neither listing nor footers decide anything
                                  any more, a changed input is named) and works on every unit
    while a data file is written  nothing (S3) or a temporary name (local disk): the rows are not finished, they are
                                  done again, the leftover is removed at the end
    after the data file, before   a file that no record names, an orphan: its rows are done again under another name,
    its record                    the orphan is removed before the manifest is written
    after the record              the rows are finished; nobody reads or writes them again
    a write task is retried       it cuts the same rows into the same record name, finds the record there, and leaves it;
                                  its own data file is an orphan
    a retry cut rows differently, two records cover the same rows: ``finish`` keeps the first, rewrites the other's files
    or a task of a dead run was   without the rows they share (checksums verified), commits that under a new name, and
    still alive                   removes the old record, in this order, so that a crash in between only repeats it
    while finish removes orphans  the same removal again
    before the manifest           finish is repeated; it is idempotent
    after the manifest            the job is finished; a late task of a dead run sees the manifest and writes nothing

On a store that ignores conditional puts, two writers of one record name may both believe they won. Their records cover
the same rows and name different complete files; the one that stands there when ``finish`` reads is right, the other's
file is an orphan. What is lost is only the early notice of a second run, see ``Plan.conditional_put``.
"""

import base64
import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import orjson

from connectors.dataset import InputDataset
from connectors.errors import JobError, UserError
from connectors.schema import DEAD_LETTER, KEPT, REJECTED
from connectors.storage import Folder, StorageOptions
from connectors.units import Coverage, Range, total_rows

VERSION = 1
PARTS = {KEPT: "data", REJECTED: "rejected", DEAD_LETTER: "dead_letters"}
"""The folder of each outcome."""
OUTCOMES = {part: outcome for outcome, part in PARTS.items()}


@dataclass(frozen=True)
class DataFile:
    """A file of the output."""

    path: str
    """Relative to the output folder."""
    part: str
    """data, rejected or dead_letters."""
    num_rows: int
    num_bytes: int
    xxh3: str
    """xxh3-128 of the file's bytes, in hex."""


@dataclass(frozen=True)
class Commit:
    """Which rows a write task accounted for, and where each of them went."""

    ranges: list[Range]
    """In the order of the rows in the files."""
    files: list[DataFile]
    outcomes: np.ndarray
    """int8 per row of ``ranges``: KEPT, REJECTED or DEAD_LETTER."""
    tally: Mapping[str, int]
    """What the job counted over these rows."""
    run: str
    at: float = field(default_factory=time.time)
    """When it was written, in seconds since 1970."""

    @property
    def name(self) -> str:
        """The same rows always get the same name."""
        digest = hashlib.sha256(repr([tuple(piece) for piece in self.ranges]).encode()).hexdigest()[:12]
        return f"u{self.ranges[0].unit:06d}-{self.ranges[0].start:010d}-{digest}.json"

    @property
    def num_rows(self) -> int:
        return total_rows(self.ranges)

    def count(self, outcome: int) -> int:
        """Rows with this outcome."""
        return int(np.count_nonzero(self.outcomes == outcome))

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "ranges": [list(piece) for piece in self.ranges],
                "files": [asdict(file) for file in self.files],
                "outcomes": base64.b64encode(zlib.compress(self.outcomes.tobytes())).decode(),
                "tally": dict(self.tally),
                "run": self.run,
                "at": self.at,
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> "Commit":
        data = orjson.loads(text)
        outcomes = np.frombuffer(zlib.decompress(base64.b64decode(data["outcomes"])), np.int8)
        ranges = [Range(*piece) for piece in data["ranges"]]
        files = [DataFile(**file) for file in data["files"]]
        return cls(ranges, files, outcomes, data["tally"], data["run"], data["at"])


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
        data = orjson.loads(text)
        if data["version"] != VERSION:
            raise UserError(f"the output was planned by another version of rmbatch (plan {data['version']})")
        dataset = InputDataset.from_json(data["dataset"], options)
        return cls(data["job"], dataset, data["conditional_put"], data["created"])


@dataclass(frozen=True)
class Progress:
    """How far an output is."""

    planned_rows: int
    finished: Counter[str]
    """Rows by part, and what the job tallied (see Commit.tally)."""
    num_files: int
    num_bytes: int
    manifest: Mapping[str, Any] | None
    commit_times: Mapping[float, int] = field(default_factory=dict)
    """Rows by the time of their commit; empty for a finished job."""

    @property
    def finished_rows(self) -> int:
        return sum(self.finished[part] for part in PARTS.values())


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
        text = self.private.read_if_exists("plan.json")
        return None if text is None else Plan.from_json(text, options or StorageOptions())

    def honours_conditions(self) -> bool:
        """Whether the store refuses the second of two conditional puts; asked once, recorded in the plan."""
        return self.output.store.honours_conditions(self.private.path("probe"))

    def begin(self, plan: Plan) -> None:
        """Write the plan; raises JobError if another run wrote one meanwhile."""
        if not self.private.create("plan.json", plan.to_json()):
            raise JobError("another run has just planned this output")

    def grouped(self) -> InputDataset | None:
        """The shuffled rows of flat input whose groups were scattered, or None before the shuffle is complete."""
        text = self.private.read_if_exists("grouped.json")
        return None if text is None else InputDataset.from_json(orjson.loads(text), self.output.options)

    def keep_grouped(self, dataset: InputDataset) -> None:
        """From here on the job works on the shuffled rows."""
        self.private.write("grouped.json", orjson.dumps(dataset.to_json()))

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the job is not finished."""
        text = self.private.read_if_exists("manifest.json")
        return None if text is None else json.loads(text)

    def commit(self, record: Commit) -> bool:
        """Account for rows; False if an earlier attempt at exactly these rows already did."""
        return self.private.create(f"commits/{record.name}", record.to_json())

    def commits(self) -> list[Commit]:
        """All records, those with the most rows first where they begin at the same row."""
        names = [entry.name for entry in self.private.entries("commits")]
        records = [Commit.from_json(text) for text in self.private.read_many(names)]
        return sorted(records, key=lambda record: (record.ranges[0][:2], -record.num_rows, record.name))

    def missing(self, dataset: InputDataset, commits: Iterable[Commit]) -> list[Range]:
        """The rows of the planned (or grouped) dataset that no record covers, in order."""
        coverage = Coverage()
        for record in commits:
            for piece in record.ranges:
                coverage.add(piece)
        return [piece for unit in dataset.units.values() for piece in coverage.missing(unit)]

    def progress(self) -> Progress | None:
        """How far the output is, read from its files; None before the first run."""
        manifest = self.manifest()
        if manifest is not None:
            rows, files = Counter(manifest["rows"]), manifest["files"]
            num_bytes = sum(file["num_bytes"] for file in files)
            tally = Counter(manifest["tally"])
            return Progress(manifest["planned_rows"], rows + tally, len(files), num_bytes, manifest)
        plan = self.plan()
        if plan is None:
            return None
        finished: Counter[str] = Counter()
        times: Counter[float] = Counter()
        num_files = num_bytes = 0
        for record in self.commits():
            times[record.at] += record.num_rows
            finished.update(rows_by_part(record))
            finished.update(record.tally)
            num_files += len(record.files)
            num_bytes += sum(file.num_bytes for file in record.files)
        return Progress(plan.dataset.num_rows, finished, num_files, num_bytes, None, times)


def rows_by_part(record: Commit) -> dict[str, int]:
    """How many of the record's rows went to each part."""
    return {part: record.count(outcome) for outcome, part in PARTS.items()}
