"""Scores that are kept: a model's raw outputs by what it read, found again by later jobs, on any store.

A scorer has a folder of its own, named by its fingerprint (``reward_models/fingerprint.py``). Whatever changes a score
leads to another folder, so no score outlives its scorer. The folder holds ``scorer.json``, which says what the
fingerprint is of, and segments (``segments.py``): Arrow files of sorted keys and their values, written as a whole and
never changed. Where two segments hold the same key, the older one's value counts, for everybody.

    store = ScoreStore.open("s3://team/scores", options, fingerprint, details)
    found = store.find(keys_of(ids))       # VALUES [n], null where unknown
    store.add(keys, values)
    store.flush()

Segments on a local disk are memory-mapped. Those of a remote store or a network file system are copied to this machine
first (``local_copies.py``), 28 bytes a conversation of a model with one output.

A merged segment names the segments that it replaces. If its writer dies before it has deleted them, the next
compaction does so.
"""

import itertools
import json
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from connectors.storage import Folder, StorageOptions
from rmbatch.stores.key_index import find_sorted, sort_unique
from rmbatch.stores.local_copies import LocalCopies, is_mappable
from rmbatch.stores.segments import SegmentedStore

Keys = np.ndarray[Any, np.dtype[np.uint64]]

IDS = pa.large_list(pa.int32())
"""Token ids of conversations."""
VALUES = pa.large_list(pa.float32())
"""Outputs of conversations."""
SCHEMA = pa.schema([pa.field("high", pa.uint64(), False), pa.field("low", pa.uint64(), False), ("values", VALUES)])


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

    @classmethod
    def open(cls, path: str) -> "_Segment":
        """Map a file. Raises ValueError where it is no segment."""
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
        return cls(table)

    @property
    def replaced(self) -> list[str]:
        """The segments that are all in this one."""
        names: list[str] = json.loads((self.table.schema.metadata or {}).get(b"replaces", b"[]"))
        return names

    @property
    def keys(self) -> Keys:
        return np.stack([np.asarray(self.table.column(half).chunk(0)) for half in ("high", "low")], axis=1)

    @property
    def values(self) -> pa.Array:
        return self.table.column("values").chunk(0)

    def positions(self, keys: Keys) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where each key stands, -1 for nowhere."""
        high, low = (np.asarray(self.table.column(half).chunk(0)) for half in ("high", "low"))
        return find_sorted(high, low, keys[:, 0], keys[:, 1])

    def take(self, positions: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Array:
        """The values at these positions. Raises ValueError for a damaged file, where Arrow would end the process."""
        borders = np.asarray(self.values.offsets)
        starts, ends = borders[positions], borders[positions + 1]
        if starts.min(initial=0) < 0 or (starts > ends).any() or ends.max(initial=0) > len(self.values.values):
            raise ValueError("it is damaged")
        return self.values.take(pa.array(positions))


class ScoreStore(SegmentedStore[_Segment]):
    """The kept outputs of one scorer. Pickles as its address, without what is not flushed."""

    ABOUT, SUFFIX = "scorer.json", ".arrow"
    MERGED_BYTES = 128 << 20
    """A compaction takes about five times as much memory."""

    def __init__(self, folder: Folder, details: Mapping[str, Any]) -> None:
        self._details = dict(details)
        self._copies = None if is_mappable(folder) else LocalCopies(folder)
        self._segments: dict[str, _Segment] = {}
        self._added: list[tuple[Keys, pa.Array]] = []
        self._adding = threading.Lock()
        super().__init__(folder, json.dumps(self._details, indent=2, sort_keys=True).encode())

    def __reduce__(self) -> tuple[Any, ...]:
        return ScoreStore, (self.folder, self._details)

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
        with self._lock:
            segments = sorted(self._segments.items())
        for name, segment in segments:
            positions = segment.positions(wanted)
            is_found = positions >= 0
            if is_found.any():
                try:
                    parts.append(segment.take(positions[is_found]))
                except ValueError as error:
                    self._put_aside(name, error)
                    continue
                index[order[is_found]] = np.arange(num_found, num_found + len(parts[-1]))
                num_found += len(parts[-1])
                order, wanted = order[~is_found], wanted[~is_found]
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
        """Write what was added since the last time as one segment; from then on it is found. Raises OSError."""
        with self._adding:
            added, self._added = self._added, []
        if not added:
            return
        try:
            table = _sort(np.concatenate([keys for keys, _ in added]), [values for _, values in added])
            self._write(self._new_name(), _to_bytes(table))
        except BaseException:
            with self._adding:
                self._added = added + self._added
            raise

    def compact(self) -> int:
        """Merge small segments into large ones, and return how many fewer there are. Raises OSError.

        Others may read, write and compact meanwhile.
        """
        return self._compact()

    def _refresh(self) -> dict[str, int]:
        listed = super()._refresh()
        if self._copies is not None:
            self._copies.remove_unused(listed.keys())
        return listed

    def _is_segment(self, name: str) -> bool:
        return name != self.ABOUT  # any other file here is worth a warning

    def _read(self, name: str, start: int, stop: int, data: bytes | None) -> tuple[_Segment, int]:
        if not name.endswith(self.SUFFIX) or "/" in name:
            raise ValueError("it has another name")
        return _Segment.open(self.folder.path(name) if self._copies is None else self._copies.get(name, data)), stop

    def _keep(self, name: str, part: _Segment) -> None:
        self._segments[name] = part

    def _forget(self, names: Collection[str]) -> None:
        for name in names:
            self._segments.pop(name, None)

    def _find_replaced(self) -> set[str]:
        return {name for segment in self._segments.values() for name in segment.replaced}

    def _merge(self, names: Sequence[str]) -> tuple[list[str], bytes]:
        merged = {}
        for name in names:
            try:
                self._segments[name].table.validate(full=True)
                merged[name] = self._segments[name]
            except ValueError as error:
                self._put_aside(name, error)
        if len(merged) < 2:
            return [], b""
        segments = merged.values()
        table = _sort(np.concatenate([each.keys for each in segments]), [each.values for each in segments])
        return [*merged], _to_bytes(table.replace_schema_metadata({"replaces": json.dumps([*merged])}))


def _sort(keys: Keys, values: Sequence[pa.Array]) -> pa.Table:
    """One batch, by key; of those with the same key the first one."""
    order = sort_unique(keys[:, 0], keys[:, 1])
    taken = pa.concat_arrays(values).take(pa.array(order))
    keys = keys[order]
    return pa.table([pa.array(keys[:, 0]), pa.array(keys[:, 1]), taken], schema=SCHEMA)


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
