"""Records of batches that are not collected yet: a small file for each, so that no batch costs twice after a crash.

A record is written before its batch is created, gets the batch's id after that, and is removed when all its answers
are kept. This module sends nothing and reads no answers.

    records = BatchRecords(folder, "https://api.openai.com/v1")
    records.write(BatchRecord.new(url, keys, since=time.time()))
    for record in records.list_unseen():         # those that other processes have left, or work on
        records.add(record)
    records.find_holder(key)                     # the name of the record that has a request, or None

A record stays if the requests of its batch are never sent again; its file can be deleted without losing anything else.
"""

import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import orjson

from connectors.storage import Folder
from rmbatch.stores.key_index import KeyIndex

_KEY_BYTES = 16
_SUFFIX = ".batch.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchRecord:
    """One batch and its requests. Times are seconds of ``time.time``."""

    name: str
    """Stands in the batch's metadata, and is the file's name."""
    endpoint: str
    since: float
    """When its requests were first sent, perhaps in an earlier batch."""
    written: float
    """When the record was last written."""
    keys: tuple[bytes, ...]
    batch: str | None = None
    """The batch's id; None: not created, or its answer was lost."""
    file: str | None = None
    """The id of the requests' file."""

    @classmethod
    def new(cls, endpoint: str, keys: Iterable[bytes], since: float) -> "BatchRecord":
        """The record of a batch that is to be created."""
        return cls(secrets.token_hex(12), endpoint, since, time.time(), tuple(keys))

    def with_batch(self, batch: str, file: str) -> "BatchRecord":
        """The same record, with the batch that was created."""
        return replace(self, batch=batch, file=file, written=time.time())

    def to_json(self) -> bytes:
        """The content of its file."""
        keys = [key.hex() for key in self.keys]
        return orjson.dumps(asdict(self) | {"keys": keys}, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, raw: bytes) -> "BatchRecord":
        """Read what ``to_json`` has written. Raises ValueError for anything else."""
        try:
            content = orjson.loads(raw)
            return cls(**content | {"keys": tuple(map(bytes.fromhex, content["keys"]))})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no record of a batch: {error}") from None


class BatchRecords:
    """The records of a folder for one endpoint; without a folder there are none.

    ``add``, ``find_holder`` and ``forget`` belong to the event loop, the others read and write files.
    """

    def __init__(self, folder: Folder | None, endpoint: str) -> None:
        self._folder, self._endpoint = folder, endpoint
        self._seen: set[str] = set()
        self._held = KeyIndex()

    def address_of(self, name: str) -> str:
        """The address of a record's file, for messages."""
        return f"{self._folder.url}/{name}{_SUFFIX}" if self._folder is not None else name

    def list_unseen(self) -> list[BatchRecord]:
        """The records that were not added here."""
        if self._folder is None:
            return []
        listed = [entry.name.removesuffix(_SUFFIX) for entry in self._folder.entries() if entry.name.endswith(_SUFFIX)]
        found = [self.read(name) for name in listed if name not in self._seen]
        return [record for record in found if record is not None]

    def read(self, name: str) -> BatchRecord | None:
        """A record; None if it was removed, or belongs to another endpoint."""
        raw = None if self._folder is None else self._folder.read_if_exists(name + _SUFFIX)
        try:
            record = None if raw is None else BatchRecord.from_json(raw)
        except ValueError as error:
            _log.warning("%s is left alone: %s", self.address_of(name), error)
            return None
        return record if record is not None and record.endpoint == self._endpoint else None

    def write(self, record: BatchRecord) -> None:
        """Write a record, in place of an older version."""
        if self._folder is not None:
            self._folder.write(record.name + _SUFFIX, record.to_json())

    def exists(self, name: str) -> bool:
        """Whether a record is still there; True without a folder."""
        return self._folder is None or self._folder.exists(name + _SUFFIX)

    def remove(self, name: str) -> None:
        """Delete a record."""
        if self._folder is not None:
            self._folder.delete([name + _SUFFIX])

    def add(self, record: BatchRecord) -> None:
        """Remember which requests a record has."""
        if record.name not in self._seen:
            self._seen.add(record.name)
            nothing = np.zeros(len(record.keys), np.int64)
            self._held.add_all(b"".join(record.keys), record.name, nothing, nothing)

    def find_holder(self, key: bytes) -> str | None:
        """The name of the record that has a request."""
        place = self._held.find(key)
        return None if place is None else place[0]

    def forget(self, name: str) -> None:
        """Forget the requests of a record that is done."""
        self._held.forget_segments({name})
