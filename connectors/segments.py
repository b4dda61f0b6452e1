"""Stores many commit records in one object: to read 100,000 records one by one would take as many requests.

A segment is an immutable object with about 1,000 records. A second object beside it has the outcomes of their rows.
Only ``finish`` needs these, and only for the records that it cuts. A segment's name begins with the epoch of its run
and ends with random characters, so no segment is overwritten. connectors/ledger.py says which of two records of one
name counts.

    segments = Segments(private.folder("segments"))
    segments.write(new_name(epoch=3, number=1), records, outcomes)
    for name, records in segments.read(): ...
"""

import secrets
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa

from connectors.errors import JobError
from connectors.storage import Folder

RECORDS = ".json.zst"
OUTCOMES = ".outcomes.zst"
READ_AT_ONCE = 16
"""The number of segments whose text is in memory at the same time."""
REDO = "delete it and run the same command again: its rows are done anew"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException)
"""The errors that decoders raise on text that was cut off or altered."""


def new_name(epoch: int, number: int) -> str:
    """Make a name that no other segment has. Names sort by the epoch."""
    return f"{epoch:06d}-{number:06d}-{secrets.token_hex(4)}"


def renew_name(name: str) -> str:
    """Make the name of a segment that replaces another: the same number, a new ending."""
    return f"{name.rsplit('-', 1)[0]}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Segments:
    """The segments of one ledger."""

    folder: Folder

    def names(self) -> list[str]:
        """List the names of all segments, sorted."""
        return [entry.name.removesuffix(RECORDS) for entry in self.folder.entries() if entry.name.endswith(RECORDS)]

    def read(self, known: Container[str] = ()) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Read the segments that are not in ``known``, each with its records. Raises JobError where one is damaged.

        ``finish`` replaces a segment: it writes the new one, then deletes the old one. So if a listed segment has
        vanished, another one has its records, and the segments are listed again.
        """
        seen: set[str] = set()
        while True:
            names = [name for name in self.names() if name not in seen and name not in known]
            vanished = False
            for start in range(0, len(names), READ_AT_ONCE):
                part = names[start : start + READ_AT_ONCE]
                for name, text in zip(part, self.folder.read_many([name + RECORDS for name in part]), strict=True):
                    if text is None:
                        vanished = True
                        continue
                    seen.add(name)
                    yield name, self._decode(name, text)
            if not vanished:
                return

    def _decode(self, name: str, text: bytes) -> list[dict[str, Any]]:
        try:
            records: list[dict[str, Any]] = orjson.loads(_decompress(text))
            if not isinstance(records, list):
                raise ValueError("it holds no list")
        except DAMAGE as error:
            raise self.damage_error(name, error) from None
        return records

    def damage_error(self, name: str, why: object) -> JobError:
        """Make the error for a segment that cannot be decoded."""
        return JobError(f"the segment of commit records {self.folder.url}/{name}{RECORDS} is damaged ({why}); {REDO}")

    def outcomes(self, name: str) -> Mapping[str, str]:
        """Read the packed outcomes of a segment, by the name of the record."""
        try:
            return _read_outcomes(self.folder, name)
        except FileNotFoundError:
            raise JobError(f"{self.folder.url}/{name}{OUTCOMES} is gone; {self._explain_redo(name)}") from None
        except DAMAGE as error:  # an unreachable store raises none of these
            raise JobError(
                f"{self.folder.url}/{name}{OUTCOMES} is damaged ({error}); {self._explain_redo(name)}"
            ) from None

    def _explain_redo(self, name: str) -> str:
        return f"delete {name}{RECORDS} and run the same command again: its rows are done anew"

    def write(self, name: str, records: Sequence[bytes], outcomes: Mapping[str, str]) -> None:
        """Write a segment of records (JSON). The outcomes are written first, so they exist when the segment does."""
        self.folder.write(name + OUTCOMES, _compress(orjson.dumps(outcomes)))
        self.folder.write(name + RECORDS, _compress(b"[" + b",".join(records) + b"]"))

    def delete(self, name: str) -> None:
        """Delete a segment, and its outcomes last."""
        self.folder.delete([name + RECORDS])
        self.folder.delete([name + OUTCOMES])

    def clean(self) -> None:
        """Remove outcomes without a segment: a crash came before it was written or after it was deleted."""
        names = [entry.name for entry in self.folder.entries()]
        whole = {name.removesuffix(RECORDS) for name in names if name.endswith(RECORDS)}
        outcomes = [name for name in names if name.endswith(OUTCOMES)]
        self.folder.delete([name for name in outcomes if name.removesuffix(OUTCOMES) not in whole])
        self.folder.delete(self.folder.leftovers(""))


@lru_cache(maxsize=2)
def _read_outcomes(folder: Folder, name: str) -> Mapping[str, str]:
    """Cached, because segments never change, and records that are cut are often in the same segment."""
    outcomes: Mapping[str, str] = orjson.loads(_decompress(folder.read(name + OUTCOMES)))
    return outcomes


def _compress(text: bytes) -> bytes:
    return bytes(pa.compress(text, "zstd", asbytes=True))


def _decompress(data: bytes) -> bytes:
    try:
        return bytes(pa.input_stream(pa.BufferReader(data), compression="zstd").read())
    except OSError as error:  # Arrow's error for bytes that are not zstd; an OSError would mean a broken store
        raise ValueError(str(error)) from None
