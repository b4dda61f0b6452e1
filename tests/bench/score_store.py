"""The score store with a million scores against a Python dict, which is only memory, and against a table of sqlite3.

Batches as tasks ask: 4,096 conversations, half of them known. The dict maps keys' bytes to lists of floats and is the
ceiling of what one process can do row by row; it is in memory, of one process, and gone after. sqlite3 is what one
takes for a cache on one machine (as diskcache does): one table, key BLOB PRIMARY KEY WITHOUT ROWID, write-ahead log,
one transaction and one statement a batch. All begin with the same keys as an array and give an Arrow column. Adding and
compacting are timed by the clock, because they wait for the disk; finding and hashing in processor time.

    python -m tests.bench.score_store
"""

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import xxhash

from connectors.storage import StorageOptions
from rmbatch.stores.scores import IDS, VALUES, Keys, ScoreStore, keys_of
from tests.bench.measuring import print_table

STORED = 1_000_000
ADDED = 50_000
"""Scores that a task adds before it writes them."""
ASKED = 4_096
BATCHES = 40


class Kept(Protocol):
    """What is measured."""

    def add(self, keys: Keys, values: pa.Array) -> None: ...
    def find(self, keys: Keys) -> pa.Array: ...
    def compact(self) -> None: ...


class OurStore:
    """The score store on a local disk."""

    def __init__(self, folder: Path) -> None:
        self.store = ScoreStore.open(str(folder), StorageOptions(), "bench", {})

    def add(self, keys: Keys, values: pa.Array) -> None:
        self.store.add(keys, values)
        self.store.flush()

    def find(self, keys: Keys) -> pa.Array:
        return self.store.find(keys)

    def compact(self) -> None:
        self.store.compact()


class InDict:
    """A dict in this process."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[bytes, list[float]] = {}

    def add(self, keys: Keys, values: pa.Array) -> None:
        self.rows.update(zip(rows_of(keys), values.to_pylist()))

    def find(self, keys: Keys) -> pa.Array:
        return pa.array([self.rows.get(key) for key in rows_of(keys)], VALUES)

    def compact(self) -> None:
        pass


class InSqlite:
    """A table of sqlite3 in a file."""

    def __init__(self, folder: Path) -> None:
        self.database = sqlite3.connect(folder / "scores.db", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute("CREATE TABLE scores (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def add(self, keys: Keys, values: pa.Array) -> None:
        packed = (np.array(value, np.float32).tobytes() for value in values.to_pylist())
        self.database.execute("BEGIN")
        self.database.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?)", zip(rows_of(keys), packed))
        self.database.execute("COMMIT")

    def find(self, keys: Keys) -> pa.Array:
        asked = rows_of(keys)
        marks = ",".join("?" * len(asked))
        rows = self.database.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", asked)
        found = {key: np.frombuffer(value, np.float32) for key, value in rows}
        return pa.array([found.get(key) for key in asked], VALUES)

    def compact(self) -> None:
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def rows_of(keys: Keys) -> list[bytes]:
    data = np.ascontiguousarray(keys).tobytes()
    return [data[start : start + 16] for start in range(0, len(data), 16)]


def batches(keys: Keys, values: pa.Array) -> Iterator[tuple[Keys, pa.Array]]:
    for start in range(0, len(keys), ADDED):
        yield keys[start : start + ADDED], values.slice(start, ADDED)


def rates(kept: Kept, keys: Keys, values: pa.Array, asked: list[Keys]) -> list[float]:
    """Scores a second: added, asked for after that, and asked for when compacted; and seconds of compacting."""
    began = time.perf_counter()
    for some, theirs in batches(keys, values):
        kept.add(some, theirs)
    added = time.perf_counter() - began
    scattered = found(kept, asked)
    began = time.perf_counter()
    kept.compact()
    compacted = time.perf_counter() - began
    return [len(keys) / added, scattered, found(kept, asked), compacted]


def found(kept: Kept, asked: list[Keys]) -> float:
    """Keys a second, in the median batch."""
    seconds = []
    for keys in asked:
        began = time.process_time()
        column = kept.find(keys)
        seconds.append(time.process_time() - began)
        assert column.null_count == len(keys) // 2
    return ASKED / statistics.median(seconds)


def hashing() -> None:
    """Keys of conversations, against a hash of each row's list."""
    random = np.random.default_rng(1)
    borders = np.concatenate([[0], np.cumsum(random.integers(200, 1800, 4096))])
    ids = pa.LargeListArray.from_arrays(pa.array(borders), pa.array(random.integers(0, 150_000, borders[-1], np.int32)))
    assert ids.type == IDS

    def plain(ids: pa.Array) -> list[bytes]:
        return [xxhash.xxh3_128_digest(np.array(row, np.int32).tobytes()) for row in ids.to_pylist()]

    def rate(hashed: Callable[[pa.Array], object]) -> float:
        began = time.process_time()
        hashed(ids)
        return len(ids) / (time.process_time() - began)

    ours, theirs = max(rate(keys_of) for _ in range(5)), rate(plain)
    rows = [["keys_of", round(ours), round(ours / theirs, 1)], ["a list of each row", round(theirs), 1.0]]
    print_table("keys of conversations of 1,000 tokens", ["how", "conversations/s", "ratio"], rows)


def main() -> None:
    random = np.random.default_rng(0)
    keys = random.integers(0, 2**64, (STORED, 2), np.uint64)
    scores = pa.array(random.normal(size=STORED).astype(np.float32))
    values = pa.LargeListArray.from_arrays(pa.array(np.arange(STORED + 1)), scores)
    new = random.integers(0, 2**64, (BATCHES, ASKED // 2, 2), np.uint64)
    asked = [np.concatenate([keys[random.integers(0, STORED, ASKED // 2)], some]) for some in new]
    rows = []
    for name, kind in (("ScoreStore", OurStore), ("dict", InDict), ("sqlite3", InSqlite)):
        with tempfile.TemporaryDirectory() as folder:
            made: Kept = kind(Path(folder))
            measured = rates(made, keys, values, asked)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        rows.append([name, *measured, size / 1e6])
    ours = rows[0]
    table = [
        [name, *(round(rate) for rate in of[:3]), *(f"{mine / rate:.1f}" for mine, rate in zip(ours[1:4], of)), *of[3:]]
        for name, *of in rows
    ]
    many = f"{STORED // ADDED} segments"
    header = ["kept in", "added/s", f"found/s ({many})", "found/s (compacted)", "ScoreStore is × in adding"]
    header += [f"× in finding ({many})", "× in finding (compacted)", "compacting, s", "MB on disk"]
    print_table(f"{STORED:,} scores; batches of {ASKED:,} keys, half of them known", header, table)
    hashing()


if __name__ == "__main__":
    main()
