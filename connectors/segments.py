"""Commit records gathered into few objects: reading 100,000 records one by one takes as many requests.

A segment is one immutable object with about 1,000 records, and a second one with the outcomes of their rows, which only
``finish`` needs and only for records that it cuts. Names begin with the epoch of the run that wrote them and end at
random, so no segment is ever overwritten. connectors/ledger.py says which record counts where two have one name.

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
"""Segments whose text is in memory together."""
REDO = "delete it and run the same command again: its rows are done anew"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException)
"""What decoders raise on text that was cut off or altered."""


def new_name(epoch: int, number: int) -> str:
    """A name that no other segment has. Names sort by the epoch."""
    return f"{epoch:06d}-{number:06d}-{secrets.token_hex(4)}"


def renewed(name: str) -> str:
    """The name of a segment that takes the place of another: as high, and new."""
    return f"{name.rsplit('-', 1)[0]}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Segments:
    """The segments of one ledger."""

    folder: Folder

    def names(self) -> list[str]:
        """The segments that stand there, in order."""
        return [entry.name.removesuffix(RECORDS) for entry in self.folder.entries() if entry.name.endswith(RECORDS)]

    def read(self, known: Container[str] = ()) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Each segment that is not known, and its records; JobError where one is damaged.

        ``finish`` replaces a segment by writing the new one and then deleting the old one. So one that has vanished
        since it was listed is followed by another: they are listed again.
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
            raise self.damaged(name, error) from None
        return records

    def damaged(self, name: str, why: object) -> JobError:
        """What to raise for a segment that contradicts itself."""
        return JobError(f"the segment of commit records {self.folder.url}/{name}{RECORDS} is damaged ({why}); {REDO}")

    def outcomes(self, name: str) -> Mapping[str, str]:
        """The packed outcomes of each record of a segment, by the record's name."""
        try:
            return _outcomes(self.folder, name)
        except FileNotFoundError:
            raise JobError(f"{self.folder.url}/{name}{OUTCOMES} is gone; {self._without(name)}") from None
        except DAMAGE as error:  # none of these is a store that cannot be reached
            raise JobError(f"{self.folder.url}/{name}{OUTCOMES} is damaged ({error}); {self._without(name)}") from None

    def _without(self, name: str) -> str:
        return f"delete {name}{RECORDS} and run the same command again: its rows are done anew"

    def write(self, name: str, records: Sequence[bytes], outcomes: Mapping[str, str]) -> None:
        """Write a segment of records (JSON). When it can be read, the outcomes of its rows stand beside it."""
        self.folder.write(name + OUTCOMES, _compress(orjson.dumps(outcomes)))
        self.folder.write(name + RECORDS, _compress(b"[" + b",".join(records) + b"]"))

    def delete(self, name: str) -> None:
        """Delete a segment; its outcomes go last."""
        self.folder.delete([name + RECORDS])
        self.folder.delete([name + OUTCOMES])

    def clean(self) -> None:
        """Remove outcomes whose segment was never written, or was deleted just before a crash."""
        names = [entry.name for entry in self.folder.entries()]
        whole = {name.removesuffix(RECORDS) for name in names if name.endswith(RECORDS)}
        outcomes = [name for name in names if name.endswith(OUTCOMES)]
        self.folder.delete([name for name in outcomes if name.removesuffix(OUTCOMES) not in whole])
        self.folder.delete(self.folder.leftovers(""))


@lru_cache(maxsize=2)
def _outcomes(folder: Folder, name: str) -> Mapping[str, str]:
    """Of a segment, which never changes; records that are cut often stand together."""
    outcomes: Mapping[str, str] = orjson.loads(_decompress(folder.read(name + OUTCOMES)))
    return outcomes


def _compress(text: bytes) -> bytes:
    return bytes(pa.compress(text, "zstd", asbytes=True))


def _decompress(data: bytes) -> bytes:
    try:
        return bytes(pa.input_stream(pa.BufferReader(data), compression="zstd").read())
    except OSError as error:  # Arrow's for bytes that are not zstd; a store's error is an OSError too
        raise ValueError(str(error)) from None
