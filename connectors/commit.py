"""A commit record: which rows a write task has finished, and which files of the output hold them.

This module only describes records. ``connectors/ledger.py`` stores them and says what a crash leaves.

    record = Commit([Range(3, 0, 5)], files, count_outcomes(outcomes), tally, run, packed=pack_outcomes(outcomes))
    Commit.from_json(record.to_json()) == record
    merge_coverage([record]).missing(unit)                          # the rows that are not finished
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
"""The part of the output for the rows of each outcome."""
OUTCOMES = {part: outcome for outcome, part in PARTS.items()}
FOLDERS = {"data": "data", "rejected": "_rejected", "dead_letters": "_dead_letters"}
"""The folder of each part. Most readers of a whole output folder skip names that begin with "_". The other readers skip
these files because of their endings (see ``file_path`` in connectors/writer.py)."""


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
    """Which rows a write task has finished, and the part of the output that each of them went to."""

    ranges: list[Range]
    """In the order of the rows in the files."""
    files: list[DataFile]
    rows: Mapping[str, int]
    """The number of rows of each part. Rejected rows count here even if the job does not write them."""
    tally: Mapping[str, int]
    """What the job counted over these rows."""
    run: str
    at: float = field(default_factory=time.time)
    """The time of writing, in seconds since 1970."""
    packed: str = field(default="", repr=False)
    """The outcome of each row, see ``pack_outcomes``. They are only needed to cut a file, and a ledger has very many.
    So ``Ledger.commits`` does not load them; ``Ledger.outcomes`` reads those of one record."""
    segment: str = field(default="", repr=False, compare=False)
    """The segment that the record was read from. Empty: it has its own file."""

    @cached_property
    def name(self) -> str:
        """The record's name, which depends only on its rows."""
        return record_name(self.ranges)

    @property
    def path(self) -> str:
        """The object that holds the record, relative to the output folder."""
        return f"_rmbatch/segments/{self.segment}{RECORDS}" if self.segment else f"_rmbatch/commits/{self.name}"

    @property
    def num_rows(self) -> int:
        return total_rows(self.ranges)

    @property
    def has_all_files(self) -> bool:
        """Whether each row of the record is in a file. False where the job does not write rejected rows."""
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
        """Read a record that ``to_json`` wrote. Raises ValueError where its numbers contradict each other."""
        return cls.from_data(orjson.loads(text))

    @classmethod
    def from_data(cls, data: Mapping[str, Any], segment: str = "") -> "Commit":
        """Build a record from parsed JSON. Raises ValueError where its numbers contradict each other."""
        ranges = [Range(*piece) for piece in data["ranges"]]
        files = [DataFile(**file) for file in data["files"]]
        record = cls(ranges, files, data["rows"], data["tally"], data["run"], data["at"], data["outcomes"], segment)
        if sum(record.rows.values()) != record.num_rows or not ranges:
            raise ValueError("its counts are not those of its ranges")
        if any(file.num_rows != record.rows[file.part] for file in files):
            raise ValueError("its counts are not those of its files")
        return record


def record_name(ranges: Sequence[Range]) -> str:
    """The file name of the record of exactly these rows."""
    digest = hashlib.sha256(repr([tuple(piece) for piece in ranges]).encode()).hexdigest()[:12]
    return f"u{ranges[0].unit:06d}-{ranges[0].start:010d}-{digest}.json"


def pack_outcomes(outcomes: np.ndarray) -> str:
    """Encode the outcome of each row (KEPT, REJECTED or DEAD_LETTER) as int8, compressed, in base64."""
    return base64.b64encode(zlib.compress(outcomes.astype(np.int8).tobytes())).decode()


def unpack_outcomes(packed: str) -> np.ndarray:
    """Decode what ``pack_outcomes`` encoded: int8 per row."""
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.int8)


def count_outcomes(outcomes: np.ndarray) -> dict[str, int]:
    """Count the rows of each part."""
    return {part: int(np.count_nonzero(outcomes == outcome)) for outcome, part in PARTS.items()}


def merge_coverage(commits: Iterable[Commit]) -> Coverage:
    """Merge the ranges of all records: the rows that they account for."""
    coverage = Coverage()
    for record in commits:
        for piece in record.ranges:
            coverage.add(piece)
    return coverage
