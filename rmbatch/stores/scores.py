"""Scores that are kept: a model's raw outputs by what it read, found again by later jobs, on any store.

A scorer has a folder of its own, named by its fingerprint (``fingerprint.py``): whatever changes a score leads to
another folder, so no score outlives its scorer. In it stand ``scorer.json``, which says what the fingerprint is of, and
segments: Arrow files of sorted keys and their values, written as a whole under a new name, never changed. So any number
of jobs read and write at once without locks. Two that store the same key agree on the value in the segment whose name
comes first, the older one.

It is no database: nothing is deleted, new segments of others are seen by ``refresh``, what is added by ``flush``.

    store = ScoreStore.open("s3://team/scores", options, fingerprint, details)
    found = store.find(keys_of(ids))       # VALUES [n], null where unknown
    store.add(keys, values)
    store.flush()

Segments on a local disk are memory-mapped. Those of a remote store or a network file system are copied once per machine
to ``rmbatch-scores-UID`` in the temporary folder (TMPDIR), which must have room for the scorer's folder, 28 bytes a
conversation of a model with one output; copies of segments that are gone go too.

Compaction writes the merged segment, then deletes what is in it. A crash in between leaves both, which is the same
scores twice; the merged one names what it replaces, and the next compaction removes that.
"""

import errno
import fcntl
import itertools
import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import xxhash

from connectors.local import LocalStore
from connectors.storage import Entry, Folder, StorageOptions

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Places = np.ndarray[Any, np.dtype[np.int64]]

SCORER = "scorer.json"
SUFFIX = ".arrow"
IDS = pa.large_list(pa.int32())
"""Token ids of conversations."""
VALUES = pa.large_list(pa.float32())
"""Outputs of conversations."""
SCHEMA = pa.schema([pa.field("high", pa.uint64(), False), pa.field("low", pa.uint64(), False), ("values", VALUES)])
SEGMENT_BYTES = 128 << 20
"""Segments below this are merged up to about this; a compaction takes about five times as much memory."""
WORTH = 4
"""A segment is written anew only with others that have at least this fraction, 1/4, of its size."""
LISTINGS = 20
"""Tries to open all listed segments while others compact."""
UNUSED_S = 3600.0
"""Age at which the local copy of a segment that is gone is removed."""

_NETWORK = ("nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "glusterfs", "fuse", "9p", "virtiofs")
_log = logging.getLogger("rmbatch.store")


def keys_of(ids: pa.Array) -> Keys:
    """The key of each conversation (IDS [n], no nulls): xxh3-128 of its token ids' bytes, as [n, 2] high and low."""
    assert ids.null_count == 0
    assert ids.type.value_type == pa.int32(), ids.type
    tokens = np.asarray(ids.values).view(np.uint8).data
    borders = (np.asarray(ids.offsets, np.int64) * 4).tolist()
    digests = (xxhash.xxh3_128_digest(tokens[start:end]) for start, end in itertools.pairwise(borders))
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)


@dataclass(frozen=True)
class _Segment:
    """Sorted keys and their values, without copies where the file is mapped."""

    table: pa.Table

    @property
    def replaces(self) -> list[str]:
        """The segments that are all in this one."""
        names: list[str] = json.loads((self.table.schema.metadata or {}).get(b"replaces", b"[]"))
        return names

    @property
    def high(self) -> Keys:
        return np.asarray(self.table.column("high").chunk(0))

    @property
    def low(self) -> Keys:
        return np.asarray(self.table.column("low").chunk(0))

    @property
    def values(self) -> pa.Array:
        return self.table.column("values").chunk(0)

    def places(self, keys: Keys) -> Places:
        """Where each key stands, -1 for nowhere."""
        high, low = self.high, self.low
        found = np.full(len(keys), -1, np.int64)
        at = np.searchsorted(high, keys[:, 0])
        left = np.flatnonzero(at < len(high))
        while len(left):  # once more for each key that shares its first half with the one before
            left = left[high[at[left]] == keys[left, 0]]
            same = low[at[left]] == keys[left, 1]
            found[left[same]] = at[left[same]]
            left = left[~same]
            at[left] += 1
            left = left[at[left] < len(high)]
        return found

    def taken(self, places: Places) -> pa.Array:
        """The values at these places; raises ValueError for a damaged file, with which Arrow would end the process."""
        borders = np.asarray(self.values.offsets)
        starts, ends = borders[places], borders[places + 1]
        if starts.min(initial=0) < 0 or (starts > ends).any() or ends.max(initial=0) > len(self.values.values):
            raise ValueError("it is damaged")
        return self.values.take(pa.array(places))


class ScoreStore:
    """The kept outputs of one scorer. Pickles as its address, without what is not flushed."""

    def __init__(self, folder: Folder, details: Mapping[str, Any]) -> None:
        self._folder, self._details = folder, dict(details)
        self._copies = None if _is_mappable(folder) else _copies_of(folder)
        self._segments: dict[str, _Segment] = {}
        self._unreadable: set[str] = set()
        self._added: list[tuple[Keys, pa.Array]] = []
        self._described = False
        self._adding, self._changing = threading.Lock(), threading.RLock()
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return ScoreStore, (self._folder, self._details)

    @classmethod
    def open(cls, url: str, options: StorageOptions, fingerprint: str, details: Mapping[str, Any]) -> "ScoreStore":
        """The scores of a scorer in a folder of scorers; ``details`` say for people what the fingerprint is of.

        Nothing is written before there are scores. Raises UserError for a protocol that is not installed.
        """
        return cls(Folder.open(url, options).folder(fingerprint), details)

    def find(self, keys: Keys) -> pa.Array:
        """The values of n keys [n, 2]: VALUES [n], null where there are none."""
        order = np.argsort(keys[:, 0])  # neighbours in a segment are looked for one after the other
        wanted, index = keys[order], np.full(len(keys), -1, np.int64)
        parts, num_found = [pa.array([], VALUES)], 0
        for name, segment in sorted(self._segments.items()):
            places = segment.places(wanted)
            there = places >= 0
            if there.any():
                try:
                    parts.append(segment.taken(places[there]))
                except ValueError as error:
                    self._leave_out(name, error)
                    continue
                index[order[there]] = np.arange(num_found, num_found + len(parts[-1]))
                num_found += len(parts[-1])
                order, wanted = order[~there], wanted[~there]
        return pa.concat_arrays(parts).take(pa.array(index, mask=index < 0))

    def add(self, keys: Keys, values: pa.Array) -> None:
        """Keep the values of n keys; VALUES [n] without nulls and of finite numbers, for an error is no score."""
        assert len(keys) == len(values)
        assert values.type == VALUES, values.type
        assert values.null_count == 0, "an error is not stored"
        assert np.isfinite(np.asarray(values.flatten())).all(), "only finite outputs are stored"
        if len(keys):
            with self._adding:
                self._added.append((keys, values))

    def flush(self) -> None:
        """Write what was added since the last time as one segment, if anything; from then on it is found."""
        with self._adding:
            added, self._added = self._added, []
        if not added:
            return
        table = _sorted(np.concatenate([keys for keys, _ in added]), [values for _, values in added])
        try:
            with self._changing:
                self._describe()
                name = f"{time.time_ns():020d}-{secrets.token_hex(6)}{SUFFIX}"
                self._write(name, table)
                if name not in self._segments:
                    self._open_listed()
        except BaseException:
            with self._adding:
                self._added = added + self._added
            raise

    def refresh(self) -> None:
        """See the segments that others have written since, and let go of those that are gone."""
        with self._changing:
            self._open_listed()

    def compact(self) -> None:
        """Merge small segments into large ones; others may read, write and compact meanwhile."""
        with self._changing:
            entries = self._open_listed()
            known = self._segments
            replaced = {name for segment in known.values() for name in segment.replaces}
            merged = [entry.name for entry in entries if entry.name in replaced]
            for run in _runs([entry for entry in entries if entry.name not in replaced]):
                segments = [known[name] for name in run]
                if self._damaged(run, segments):
                    continue
                keys = np.concatenate([np.stack([segment.high, segment.low], axis=1) for segment in segments])
                table = _sorted(keys, [segment.values for segment in segments])
                # A name beside the first one's: before all that come after the run, behind all that come before it.
                name = f"{'-'.join(run[0].removesuffix(SUFFIX).split('-')[:2])}-{secrets.token_hex(6)}{SUFFIX}"
                self._write(name, table.replace_schema_metadata({"replaces": json.dumps(run)}))
                merged += run
            if merged:
                self._folder.delete(merged)
                self._open_listed()

    def _describe(self) -> None:
        """Say what the fingerprint is of, before the first scores, so that no segment stands unexplained."""
        if not self._described:
            self._folder.create(SCORER, json.dumps(self._details, indent=2, sort_keys=True).encode())
            self._described = True

    def _open_listed(self) -> list[Entry]:
        """Have the segments open that stand there, and no others; these, in the order of their names."""
        opened = dict(self._segments)
        for _ in range(LISTINGS):
            entries = [entry for entry in self._folder.entries() if entry.name != SCORER]
            try:
                for name in [entry.name for entry in entries if entry.name not in opened]:
                    self._open(name, opened)
                break
            except OSError as error:  # somebody has merged it since the listing: the next one has the merged segment
                if not isinstance(error, FileNotFoundError) and error.errno != errno.ESTALE:
                    raise
        names = {entry.name for entry in entries}
        self._segments = {name: segment for name, segment in opened.items() if name in names}
        if self._copies is not None:
            _remove_unused(self._copies, names)
        return [entry for entry in entries if entry.name in self._segments]

    def _open(self, name: str, opened: dict[str, _Segment]) -> None:
        if name in self._unreadable:
            return
        try:
            if not name.endswith(SUFFIX) or "/" in name:
                raise ValueError("it has another name")
            opened[name] = _read(self._local(name))
        except ValueError as error:
            self._leave_out(name, error)

    def _leave_out(self, name: str, error: ValueError) -> None:
        self._unreadable.add(name)
        self._segments = {other: segment for other, segment in self._segments.items() if other != name}
        _log.warning("%s/%s is no segment and is left out: %s", self._folder.url, name, error)

    def _damaged(self, names: Sequence[str], segments: Sequence[_Segment]) -> bool:
        """Whether one of these segments cannot be read to its end; such ones are left out from now on."""
        found = False
        for name, segment in zip(names, segments):
            try:
                segment.table.validate(full=True)
            except ValueError as error:
                self._leave_out(name, error)
                found = True
        return found

    def _local(self, name: str) -> str:
        """The path of a segment on this machine; a remote one is copied there, by one process while others wait."""
        if self._copies is None:
            return self._folder.path(name)
        copy = self._copies / name
        with _only_one(self._copies):
            if not copy.exists():
                with self._folder.store.open(self._folder.path(name)) as source, _replacing(copy) as target:
                    shutil.copyfileobj(source, target, 8 << 20)
        return str(copy)

    def _write(self, name: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        self._folder.write(name, data)
        if self._copies is not None:
            with _only_one(self._copies), _replacing(self._copies / name) as target:
                target.write(data)
        with suppress(FileNotFoundError):  # somebody has merged it already
            self._segments = {**self._segments, name: _read(self._local(name))}


def _read(path: str) -> _Segment:
    """The segment in a file, mapped; raises ValueError where it is none."""
    if not os.path.getsize(path):
        raise ValueError("it is empty")
    mapped = pa.memory_map(path)
    try:
        table = pa.ipc.open_file(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    if not table.schema.equals(SCHEMA) or table.column(0).num_chunks != 1:
        raise ValueError("it has other columns")
    table.validate()
    return _Segment(table)


def _sorted(keys: Keys, values: Sequence[pa.Array]) -> pa.Table:
    """One batch, by key; of those with the same key the first one."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    keys = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    keys = keys[new]
    taken = pa.concat_arrays(values).take(pa.array(order[new]))
    return pa.table([pa.array(keys[:, 0]), pa.array(keys[:, 1]), taken], schema=SCHEMA)


def _runs(entries: Sequence[Entry]) -> list[list[str]]:
    """What to merge: small segments that follow each other, so that of two values the first one stays the first."""
    runs: list[list[Entry]] = [[]]
    for entry in entries:
        if sum(each.size for each in runs[-1]) + entry.size > SEGMENT_BYTES:
            runs.append([])
        if entry.size <= SEGMENT_BYTES:
            runs[-1].append(entry)
    for run in runs:
        while run and run[0].size > WORTH * sum(entry.size for entry in run[1:]):
            del run[0]
    return [[entry.name for entry in run] for run in runs if len(run) > 1]


def _is_mappable(folder: Folder) -> bool:
    """Whether it is on a disk of this machine: a mapped file that another machine deletes ends the process (SIGBUS)."""
    if not isinstance(folder.store, LocalStore):
        return False
    path = os.path.realpath(folder.path())
    mounts = [mount for mount in psutil.disk_partitions(all=True) if _is_below(path, mount.mountpoint)]
    kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""
    return not kind.startswith(_NETWORK)


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _copies_of(folder: Folder) -> Path:
    """The folder on this machine for copies of that folder's segments; nobody else may write there."""
    root = Path(tempfile.gettempdir()) / f"rmbatch-scores-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to somebody else; set TMPDIR to another folder")
    copies = root / xxhash.xxh3_128_hexdigest(repr((folder.url, folder.options.endpoint)).encode())
    copies.mkdir(exist_ok=True)
    return copies


def _remove_unused(copies: Path, names: set[str]) -> None:
    """Remove old copies of what is not there any more; who has one mapped keeps it."""
    with _only_one(copies):
        for copy in copies.iterdir():
            if copy.name not in names and copy.name != _LOCK and copy.stat().st_mtime < time.time() - UNUSED_S:
                copy.unlink()


_LOCK = "lock"


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One process and thread at a time in this folder of this machine."""
    with open(folder / _LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A file that stands at this path when it is complete."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
