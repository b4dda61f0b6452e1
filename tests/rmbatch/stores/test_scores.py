"""One contract for every place that scores are kept in: found is what was added, whoever else works there."""

import logging
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.storage import Folder
from rmbatch.stores.scores import IDS, VALUES, Keys, ScoreStore, keys_of

FINGERPRINT = "0" * 32
DETAILS = {"called": "org/rm", "dtype": "bfloat16"}
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies of remote segments go in this test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def opened(folder: Folder, fingerprint: str = FINGERPRINT) -> ScoreStore:
    return ScoreStore.open(folder.url, folder.options, fingerprint, DETAILS)


def keys(*numbers: int) -> Keys:
    """Keys of conversations that consist of one number."""
    return keys_of(pa.array([[number] for number in numbers], IDS))


def values(*rows: Sequence[float]) -> pa.Array:
    return pa.array(rows, VALUES)


def stored(store: ScoreStore, *rows: tuple[int, Sequence[float]]) -> None:
    store.add(keys(*[number for number, _ in rows]), values(*[value for _, value in rows]))
    store.flush()


def segments(folder: Folder) -> list[str]:
    return [entry.name for entry in folder.folder(FINGERPRINT).entries() if entry.name.endswith(ScoreStore.SUFFIX)]


def test_keys_are_of_the_tokens_and_of_nothing_else() -> None:
    ids = pa.array([[1, 2], [], [1], [2, 1], [1, 2], [0, 1], [1, 0], [0]], IDS)
    found = [tuple(key) for key in keys_of(ids).tolist()]
    assert found[0] == found[4]
    assert len(set(found)) == 7  # no token, a token 0, the border between conversations: all told apart
    assert [tuple(key) for key in keys_of(ids.slice(2, 3)).tolist()] == found[2:5]
    assert [tuple(key) for key in keys_of(ids.take(pa.array([5, 0]))).tolist()] == [found[5], found[0]]
    assert keys_of(ids.slice(0, 0)).shape == (0, 2)
    assert keys_of(pa.array([], IDS)).shape == (0, 2)


def test_keys_stay_what_they_are() -> None:
    # What is kept for years is found by them: xxh3-128 of little-endian int32, its upper half first.
    assert keys(7).tolist() == [[0xBC436CFAEA3FE1A8, 0x9284B7AEB2CF9CB7]]
    assert keys_of(pa.array([[]], IDS)).tolist() == [[0x99AA06D3014798D8, 0x6001C324468D497F]]


def test_what_is_added_is_found(folder: Folder) -> None:
    store = opened(folder)
    assert store.find(keys(1, 2)).to_pylist() == [None, None]
    assert store.find(keys(1)[:0]).equals(pa.array([], VALUES))
    stored(store, (3, [0.5]), (1, [1.5, -2.5]), (2, []))
    for each in (store, opened(folder), pickle.loads(pickle.dumps(store))):
        found = each.find(keys(9, 1, 2, 3, 1))
        assert found.type == VALUES
        assert found.to_pylist() == [None, [1.5, -2.5], [], [0.5], [1.5, -2.5]]


def test_nothing_is_written_before_there_is_something(folder: Folder) -> None:
    store = opened(folder)
    store.add(keys(1)[:0], values())
    store.flush()
    store.compact()
    assert folder.entries() == []
    stored(store, (1, [1.0]))
    assert folder.folder(FINGERPRINT).read(ScoreStore.ABOUT).startswith(b'{\n  "called": "org/rm"')
    assert [entry.name for entry in folder.folder(FINGERPRINT).entries() if entry.name == ScoreStore.ABOUT] == [
        ScoreStore.ABOUT
    ]


def test_outputs_come_back_to_the_bit(folder: Folder) -> None:
    tiny = float(np.float32(1e-45))
    stored(opened(folder), (1, [0.1, -0.0, tiny, 3.4028235e38]))
    found = np.asarray(opened(folder).find(keys(1)).flatten())
    assert found.tobytes() == np.array([0.1, -0.0, tiny, 3.4028235e38], np.float32).tobytes()


def test_another_scorer_finds_nothing(folder: Folder) -> None:
    stored(opened(folder), (1, [1.0]))
    assert opened(folder, "1" * 32).find(keys(1)).to_pylist() == [None]


@pytest.mark.parametrize("bad", [[[float("nan")]], [[1.0, float("inf")]], [None]])
def test_an_error_is_no_score(tmp_path: Path, bad: list[Any]) -> None:
    store = opened(Folder.open(str(tmp_path)))
    with pytest.raises(AssertionError):
        store.add(keys(1), pa.array(bad, VALUES))


def test_slices_of_larger_arrays(tmp_path: Path) -> None:
    store = opened(Folder.open(str(tmp_path)))
    store.add(keys(1, 2, 3, 4)[1:3], values([1.0], [2.0, 2.0], [3.0], [4.0]).slice(1, 2))
    store.flush()
    assert store.find(keys(1, 2, 3, 4)).to_pylist() == [None, [2.0, 2.0], [3.0], None]


Half = st.integers(0, 3) | st.sampled_from([2**63, 2**64 - 1])
"""Few halves of keys, so that many keys share their first one, as true hashes hardly ever do."""
Batches = st.lists(st.dictionaries(st.tuples(Half, Half), st.lists(st.integers(-9, 9), max_size=3), max_size=20))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=Batches, compact=st.booleans(), asked=st.lists(st.tuples(Half, Half), max_size=30))
def test_found_is_exactly_what_was_added_first(
    batches: list[dict[tuple[int, int], list[int]]], compact: bool, asked: list[tuple[int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, expected = opened(Folder.open(folder)), dict[tuple[int, int], list[int]]()
        for number, batch in enumerate(batches):
            store.add(np.array(list(batch), np.uint64).reshape(-1, 2), pa.array(list(batch.values()), VALUES))
            expected = batch | expected
            if number % 3:
                store.flush()
        store.flush()
        if compact:
            store.compact()
        wanted = [*asked, *expected]
        found = store.find(np.array(wanted, np.uint64).reshape(-1, 2)).to_pylist()
        assert found == [expected.get(key) for key in wanted]


def test_two_write_and_see_each_other_after_refresh(folder: Folder) -> None:
    one, other = opened(folder), opened(folder)
    stored(one, (1, [1.0]), (2, [2.0]))
    stored(other, (2, [-2.0]), (3, [3.0]))
    assert one.find(keys(1, 2, 3)).to_pylist() == [[1.0], [2.0], None]
    one.refresh()
    other.refresh()
    agreed = one.find(keys(1, 2, 3)).to_pylist()
    assert agreed == [[1.0], [2.0], [3.0]] == other.find(keys(1, 2, 3)).to_pylist()  # the older of two values
    other.compact()
    assert agreed == other.find(keys(1, 2, 3)).to_pylist() == opened(folder).find(keys(1, 2, 3)).to_pylist()


def test_many_threads_share_one_store(tmp_path: Path) -> None:
    store = opened(Folder.open(str(tmp_path)))
    failed: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 20):
                store.add(keys(number), values([float(number)]))
                if number % 5 == 0:
                    store.flush()
                if number % 10 == 0:
                    store.compact()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 80, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    assert not failed
    assert store.find(keys(*range(80))).to_pylist() == [[float(number)] for number in range(80)]


WORK = """
import sys
import numpy as np, pyarrow as pa
from connectors.storage import StorageOptions
from rmbatch.stores.scores import IDS, VALUES
from rmbatch.stores.scores import ScoreStore, keys_of
url, first = sys.argv[1], int(sys.argv[2])
store = ScoreStore.open(url, StorageOptions(endpoint=sys.argv[3] or None), "0" * 32, {})
for start in range(first, first + 36, 6):
    numbers = list(range(start, start + 6))
    store.add(keys_of(pa.array([[n] for n in numbers], IDS)), pa.array([[float(n)] for n in numbers], VALUES))
    store.flush()
    if start % 4 == 0:
        store.compact()
    seen = keys_of(pa.array([[n] for n in range(first, start + 6)], IDS))
    store.refresh()
    assert store.find(seen).to_pylist() == [[float(n)] for n in range(first, start + 6)], "own scores are gone"
"""


def test_processes_write_read_and_compact_at_once(folder: Folder, copies: Path) -> None:
    if folder.url.startswith("memory"):
        pytest.skip("memory is of one process")
    command = [sys.executable, "-c", WORK, folder.url]
    here = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(copies)}
    workers = [
        subprocess.Popen([*command, str(first), folder.options.endpoint or ""], env=here, stderr=subprocess.PIPE)
        for first in (0, 36, 60)  # two of them share keys
    ]
    for worker in workers:
        said = worker.communicate(timeout=120)[1].decode()
        assert worker.returncode == 0, said
    store = opened(folder)
    store.compact()
    assert store.find(keys(*range(96))).to_pylist() == [[float(number)] for number in range(96)]


def test_a_reader_does_not_mind_compaction(folder: Folder) -> None:
    writer = opened(folder)
    for number in range(6):
        stored(writer, (number, [float(number)]))
    reader, behind = opened(folder), opened(folder)
    writer.compact()
    assert len(segments(folder)) == 1
    expected = [[float(number)] for number in range(6)]
    assert reader.find(keys(*range(6))).to_pylist() == expected  # it has open what is deleted by now
    reader.refresh()
    behind.compact()
    assert reader.find(keys(*range(6))).to_pylist() == expected == behind.find(keys(*range(6))).to_pylist()


def test_a_segment_that_is_merged_between_listing_and_opening(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = opened(folder)
    for number in range(3):
        stored(writer, (number, [float(number)]))
    listed, entries = [], Folder.entries

    def merged_after_the_first(self: Folder, prefix: str = "") -> Any:
        found = entries(self, prefix)
        listed.append(found)
        if len(listed) == 2:  # a listing counts when the next one has all of it
            writer.compact()
        return found

    monkeypatch.setattr(Folder, "entries", merged_after_the_first)
    assert opened(folder).find(keys(0, 1, 2)).to_pylist() == [[0.0], [1.0], [2.0]]
    assert len(listed) >= 2 + 2  # the compaction's own, too


def test_a_segment_that_is_merged_as_soon_as_it_stands_there(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    store, write = opened(folder), Folder.write
    stored(store, (0, [0.0]))

    def merged_at_once(self: Folder, name: str, data: bytes, **settings: Any) -> None:
        write(self, name, data, **settings)
        monkeypatch.setattr(Folder, "write", write)
        opened(folder).compact()

    monkeypatch.setattr(Folder, "write", merged_at_once)
    stored(store, (1, [1.0]))
    assert len(segments(folder)) == 1
    assert store.find(keys(0, 1)).to_pylist() == [[0.0], [1.0]]
    store.compact()
    assert opened(folder).find(keys(0, 1)).to_pylist() == [[0.0], [1.0]]


def test_small_segments_become_one_and_the_first_value_stays(folder: Folder) -> None:
    store = opened(folder)
    for number in range(5):
        stored(store, (number, [float(number)]), (100, [float(number)]))
    store.compact()
    [merged] = segments(folder)
    assert pa.ipc.open_file(folder.folder(FINGERPRINT).read(merged)).read_all().num_rows == 6  # each key once
    for each in (store, opened(folder)):
        assert each.find(keys(*range(5), 100)).to_pylist() == [*[[float(number)] for number in range(5)], [0.0]]
    stored(store, (5, [5.0]), (100, [5.0]))
    store.compact()
    assert opened(folder).find(keys(4, 5, 100)).to_pylist() == [[4.0], [5.0], [0.0]]


def test_a_large_segment_is_not_written_anew_for_a_small_one(tmp_path: Path) -> None:
    folder = Folder.open(str(tmp_path / "folder"))
    store = opened(folder)
    stored(store, *[(number, [1.0] * 50) for number in range(500)])
    [large] = segments(folder)
    for number in range(500, 503):
        stored(store, (number, [0.0]))
    store.compact()
    assert len(segments(folder)) == 2
    assert segments(folder)[0] == large


def test_segments_do_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.open(str(tmp_path / "folder"))
    store = opened(folder)
    for number in range(12):
        stored(store, (number, [1.0] * 100), (100, [float(number)] * 100))
    size = folder.folder(FINGERPRINT).entries()[0].size
    monkeypatch.setattr(ScoreStore, "MERGED_BYTES", 4 * size)
    store.compact()
    assert len(segments(folder)) == 3
    assert store.find(keys(*range(12), 100)).to_pylist() == [*[[1.0] * 100] * 12, [0.0] * 100]


def test_leftovers_of_a_crash_go_beside_a_large_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.open(str(tmp_path / "folder"))
    store = opened(folder)
    for number in range(3):
        stored(store, (number, [float(number)]))
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", lambda self, names: None)  # the crash
        store.compact()
    assert len(segments(folder)) == 4
    monkeypatch.setattr(ScoreStore, "MERGED_BYTES", 1)
    opened(folder).compact()
    assert len(segments(folder)) == 1
    assert opened(folder).find(keys(0, 1, 2)).to_pylist() == [[0.0], [1.0], [2.0]]


def test_a_failed_flush_keeps_what_was_added(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    store = opened(Folder.open(str(place)))
    store.add(keys(1), values([1.0]))
    place.write_bytes(b"a file where the folder should be")
    with pytest.raises(OSError, match="folder"):
        store.flush()
    place.unlink()
    store.flush()
    assert opened(Folder.open(str(place))).find(keys(1)).to_pylist() == [[1.0]]


def segment_bytes(tmp_path: Path) -> bytes:
    folder = Folder.open(str(tmp_path / "another"))
    stored(opened(folder), *[(number, [float(number)]) for number in range(50)])
    return folder.folder(FINGERPRINT).read(segments(folder)[0])


def foreign(tmp_path: Path) -> dict[str, bytes]:
    """Files that are none of ours, by what they are."""
    whole, sink = segment_bytes(tmp_path), pa.BufferOutputStream()
    table = pa.table({"key": [1], "value": [2.0]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {
        "empty": b"",
        "one byte": b"A",
        "text": b"hello" * 100,
        "other columns": sink.getvalue().to_pybytes(),
        "half": whole[: len(whole) // 2],
        "without its last byte": whole[:-1],
        "without its first byte": whole[1:],
        "zeros at the end": whole[:-64] + bytes(64),
    }


def test_what_is_no_segment_is_left_out_and_told(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored(opened(folder), (1, [1.0]))
    bad = {f"{place}{ScoreStore.SUFFIX}": content for place, content in enumerate(foreign(tmp_path).values())}
    bad |= {"notes.txt": b"mine", f"below/it{ScoreStore.SUFFIX}": segment_bytes(tmp_path)}
    for name, content in bad.items():
        folder.folder(FINGERPRINT).write(name, content)
    with caplog.at_level(logging.WARNING, logger="rmbatch.stores"):
        store = opened(folder)
        store.refresh()
    assert len(caplog.records) == len(bad)  # each once
    assert all(any(name in record.getMessage() for record in caplog.records) for name in bad)
    stored(store, (2, [2.0]))
    store.compact()
    assert store.find(keys(1, 2)).to_pylist() == [[1.0], [2.0]]
    assert {entry.name for entry in folder.folder(FINGERPRINT).entries()} >= set(bad)  # not ours to delete


def test_no_torn_segment_does_harm(tmp_path: Path) -> None:
    whole, folder = segment_bytes(tmp_path), Folder.open(str(tmp_path / "folder"))
    stored(opened(folder), (1000, [1.0]))
    for size in range(0, len(whole), 37):
        folder.folder(FINGERPRINT).write(f"torn{size}{ScoreStore.SUFFIX}", whole[:size])
    assert opened(folder).find(keys(*range(50), 1000)).to_pylist() == [*[None] * 50, [1.0]]


@pytest.mark.parametrize("compact", [False, True])
def test_a_damaged_segment_is_not_read_over_its_end(tmp_path: Path, compact: bool) -> None:
    borders, folder = np.arange(3, dtype=np.int64).tobytes(), Folder.open(str(tmp_path / "folder"))
    damaged = segment_bytes(tmp_path).replace(borders, borders[:8] + b"\1" * 8 + borders[16:])
    stored(opened(folder), (1000, [1.0]))
    folder.folder(FINGERPRINT).write(f"damaged{ScoreStore.SUFFIX}", damaged)
    store = opened(folder)
    if compact:
        store.compact()  # Arrow ends the process where it takes a value at such a border
    assert store.find(keys(*range(50), 1000)).to_pylist() == [*[None] * 50, [1.0]]
    assert folder.folder(FINGERPRINT).exists(f"damaged{ScoreStore.SUFFIX}")


def test_a_remote_segment_is_copied_once_for_all_processes(folder: Folder, copies: Path) -> None:
    stored(opened(folder), (1, [1.0]))
    copied = list(copies.rglob(f"*{ScoreStore.SUFFIX}"))
    if folder.url.startswith("/"):
        assert copied == []
        return
    [copy] = copied
    before = copy.stat()
    again = opened(folder)
    assert again.find(keys(1)).to_pylist() == [[1.0]]
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert next(copies.iterdir()).stat().st_mode & 0o077 == 0  # nobody else can put scores there


def test_copies_of_what_is_gone_go_when_they_are_old(copies: Path) -> None:
    folder = Folder.open(f"memory://{copies.parent.name}")
    store = opened(folder)
    for number in range(3):
        stored(store, (number, [float(number)]))
    old = list(copies.rglob(f"*{ScoreStore.SUFFIX}"))
    store.compact()
    assert len(list(copies.rglob(f"*{ScoreStore.SUFFIX}"))) == 4  # another process may be about to open them
    for path in old:
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    store.refresh()
    assert len(list(copies.rglob(f"*{ScoreStore.SUFFIX}"))) == 1
    assert store.find(keys(0, 1, 2)).to_pylist() == [[0.0], [1.0], [2.0]]
    folder.remove("")


def test_a_network_file_system_is_copied_from_as_well(
    tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = psutil.disk_partitions(all=True)[0]
    shared = [mount._replace(mountpoint="/", fstype="ext4"), mount._replace(mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: shared)
    folder = Folder.open(str(tmp_path / "scores"))
    stored(opened(folder), (1, [1.0]))
    assert len(list(copies.rglob(f"*{ScoreStore.SUFFIX}"))) == 1
    assert opened(folder).find(keys(1)).to_pylist() == [[1.0]]


def test_memory_is_not_for_what_is_stored(tmp_path: Path) -> None:
    folder = Folder.open(str(tmp_path / "folder"))
    store = opened(folder)
    random = np.random.default_rng(0)
    count = 300_000
    drawn = random.integers(0, 2**64, (count, 2), np.uint64)
    offsets = pa.array(np.arange(count + 1) * 16)
    store.add(drawn, pa.LargeListArray.from_arrays(offsets, pa.array(random.random(count * 16, np.float32))))
    store.flush()
    before = pa.total_allocated_bytes()
    again = opened(folder)
    assert again.find(drawn[:1000]).null_count == 0
    assert pa.total_allocated_bytes() - before < 1 << 20  # of the 25 MB on the disk
