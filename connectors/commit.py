"""The record that a write task leaves: which rows it accounts for, and in which files of the output they are.

It only says so. ``connectors/ledger.py`` keeps records, and tells what a crash between them leaves.

    record = Commit([Range(3, 0, 5)], files, count_outcomes(outcomes), tally, run, packed=pack_outcomes(outcomes))
    Commit.from_json(record.to_json()) == record
    covered([record]).missing(unit)                          # the rows that are left to do
"""

import base64
import hashlib
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import orjson

from connectors.schema import DEAD_LETTER, KEPT, REJECTED
from connectors.segments import RECORDS
from connectors.units import Coverage, Range, total_rows

PARTS = {KEPT: "data", REJECTED: "rejected", DEAD_LETTER: "dead_letters"}
"""The part of the output that rows of each outcome are in."""
OUTCOMES = {part: outcome for outcome, part in PARTS.items()}
FOLDERS = {"data": "data", "rejected": "_rejected", "dead_letters": "_dead_letters"}
"""The folder of each part. Readers of the whole output folder skip names that begin with "_"; those that do not are
kept out by the endings of the files (see ``file_suffix``)."""


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
    rows: Mapping[str, int]
    """How many rows went to each part; rejected rows are counted here also where no file keeps them."""
    tally: Mapping[str, int]
    """What the job counted over these rows."""
    run: str
    at: float = field(default_factory=time.time)
    """When it was written, in seconds since 1970."""
    packed: str = field(default="", repr=False)
    """The outcome of each row, see ``pack_outcomes``. Only a file that is cut needs them, and a ledger holds very many,
    so ``Ledger.commits`` leaves them where they are and ``Ledger.outcomes`` reads those of one record."""
    segment: str = field(default="", repr=False, compare=False)
    """The segment that it was read from; empty where it has a file of its own."""

    @cached_property
    def name(self) -> str:
        """The same rows always get the same name."""
        return record_name(self.ranges)

    @property
    def path(self) -> str:
        """The object that holds it, relative to the output folder."""
        return f"_rmbatch/segments/{self.segment}{RECORDS}" if self.segment else f"_rmbatch/commits/{self.name}"

    @property
    def num_rows(self) -> int:
        return total_rows(self.ranges)

    @property
    def has_all_files(self) -> bool:
        """Whether each of its rows is in a file; not so where a job does not keep what it rejects."""
        return sum(file.num_rows for file in self.files) == self.num_rows

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "ranges": [list(piece) for piece in self.ranges],
                "files": [asdict(file) for file in self.files],
                "rows": dict(self.rows),
                "tally": dict(self.tally),
                "run": self.run,
                "at": self.at,
                "outcomes": self.packed,
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> "Commit":
        """The record that ``to_json`` wrote; raises ValueError where it contradicts itself."""
        return cls.from_data(orjson.loads(text))

    @classmethod
    def from_data(cls, data: Mapping[str, Any], segment: str = "") -> "Commit":
        """The record whose JSON was read; raises ValueError where it contradicts itself."""
        ranges = [Range(*piece) for piece in data["ranges"]]
        files = [DataFile(**file) for file in data["files"]]
        record = cls(ranges, files, data["rows"], data["tally"], data["run"], data["at"], data["outcomes"], segment)
        if sum(record.rows.values()) != record.num_rows or not ranges:
            raise ValueError("its counts are not those of its ranges")
        if any(file.num_rows != record.rows[file.part] for file in files):
            raise ValueError("its counts are not those of its files")
        return record


def record_name(ranges: Sequence[Range]) -> str:
    """The file name of the record that accounts for exactly these rows."""
    digest = hashlib.sha256(repr([tuple(piece) for piece in ranges]).encode()).hexdigest()[:12]
    return f"u{ranges[0].unit:06d}-{ranges[0].start:010d}-{digest}.json"


def pack_outcomes(outcomes: np.ndarray) -> str:
    """KEPT, REJECTED or DEAD_LETTER for each row of a record: int8, compressed, in base64."""
    return base64.b64encode(zlib.compress(outcomes.astype(np.int8).tobytes())).decode()


def unpack_outcomes(packed: str) -> np.ndarray:
    """int8 per row, as given to ``pack_outcomes``."""
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.int8)


def count_outcomes(outcomes: np.ndarray) -> dict[str, int]:
    """How many rows went to each part."""
    return {part: int(np.count_nonzero(outcomes == outcome)) for outcome, part in PARTS.items()}


def covered(commits: Iterable[Commit]) -> Coverage:
    """The rows that the records account for."""
    coverage = Coverage()
    for record in commits:
        for piece in record.ranges:
            coverage.add(piece)
    return coverage
