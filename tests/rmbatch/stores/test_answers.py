"""Kept answers: there after a kill, seen by others, never half, never somebody else's."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from connectors.storage import Folder, StorageOptions
from rmbatch.stores import answers as answers_module
from rmbatch.stores.answers import ResponseCache, key_of, next_key
from tests.servers.s3 import S3Server

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "answers")
    else:
        name = f"memory://{uuid.uuid4().hex}"
        yield name
        fsspec.filesystem("memory").rm(name, recursive=True)


def opened(url: str, **whose: str) -> ResponseCache:
    return ResponseCache.open(url, StorageOptions(), **{"service": "s", "model": "m", **whose})


def key(n: int) -> bytes:
    return key_of("s", b"%d" % n)


def answer(n: int) -> dict[str, Any]:
    return {"body": {"text": f"nö {n}\n\t\u2028" * (n % 5 + 1)}}


def test_the_newest_answer_is_found_and_older_ones_stay(url: str) -> None:
    cache = opened(url)
    assert cache.newest(key(1)) == key(1)
    chain = [key(1), next_key(key(1)), next_key(next_key(key(1)))]
    for n, each in enumerate(chain):
        cache.add(each, answer(n))
        assert cache.newest(key(1)) == each
    cache.flush()
    cache.compact()
    for found in (cache, opened(url)):
        assert found.newest(key(1)) == chain[-1]
        assert [found.find(each) for each in chain] == [answer(n) for n in range(3)]
        assert found.newest(key(2)) == key(2)


def test_what_was_added_is_found_by_the_same_and_by_the_next(url: str) -> None:
    cache = opened(url)
    for n in range(20):
        cache.add(key(n), answer(n))
        assert cache.find(key(n)) == answer(n)
    cache.flush()
    for found in (cache, opened(url), pickle.loads(pickle.dumps(cache))):
        assert len(found) == 20
        assert [found.find(key(n)) for n in range(20)] == [answer(n) for n in range(20)]
        assert key(20) not in found
        assert found.find(key(20)) is None


def test_nothing_is_written_before_there_is_an_answer(url: str) -> None:
    opened(url).flush()
    filesystem, path = fsspec.url_to_fs(url)
    assert not filesystem.exists(path) or not filesystem.find(path)
    if url.startswith("memory"):
        filesystem.pipe(f"{path}/x", b"")


def test_another_model_or_service_has_answers_of_its_own(url: str) -> None:
    cache = opened(url)
    cache.add(key(1), answer(1))
    cache.flush()
    for other in (opened(url, model="m2"), opened(url, service="s2"), opened(url, model="s", service="m")):
        assert other.find(key(1)) is None
    assert len({key_of("s", b"x"), key_of("t", b"x"), key_of("s", b"y"), key_of("sx", b"")}) == 4


def test_two_writers_see_each_other_after_a_refresh(url: str) -> None:
    one, two = opened(url), opened(url)
    one.add(key(1), answer(1))
    two.add(key(2), answer(2))
    one.add(key(3), answer(3))
    one.flush(), two.flush()
    assert two.find(key(1)) is None
    two.refresh(), one.refresh()
    one.add(key(4), answer(4))
    one.flush()
    two.refresh()  # a file that has grown is read from where it ended
    assert [two.find(key(n)) for n in (1, 2, 3, 4)] == [answer(n) for n in (1, 2, 3, 4)]
    assert one.find(key(2)) == answer(2)


def test_the_first_answer_stays(url: str) -> None:
    one, two = opened(url), opened(url)
    one.add(key(1), answer(1))
    one.add(key(1), answer(2))
    one.flush()
    two.add(key(1), answer(3))
    two.flush()
    assert one.find(key(1)) == answer(1)
    assert opened(url).find(key(1)) == answer(1)


def test_half_a_line_is_no_answer_and_hides_no_other(tmp_path: Path) -> None:
    cache = opened(str(tmp_path))
    for n in range(3):
        cache.add(key(n), answer(n))
    (segment,) = tmp_path.rglob(f"*{ResponseCache.SUFFIX}")
    whole = segment.read_bytes()
    for cut in (1, 10, 40):
        segment.write_bytes(whole[:-cut])
        found = opened(str(tmp_path))
        assert [key(n) in found for n in range(3)] == [True, True, False]
    segment.write_bytes(b"\xff\x00 no line\n" + whole.replace(b"\t{", b"\t[", 1))
    found = opened(str(tmp_path))
    assert [found.find(key(n)) for n in range(3)] == [None, answer(1), answer(2)]
    segment.write_bytes(whole.replace(b'{"body"', b'{"body,', 1))  # found, but cannot be read: it is asked again
    found = opened(str(tmp_path))
    assert [found.find(key(n)) for n in range(3)] == [None, answer(1), answer(2)]
    assert key(0) not in found


def test_a_killed_process_has_lost_no_answer(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom tests.rmbatch.stores.test_answers import answer, key, opened\n"
        f"cache = opened({str(tmp_path)!r})\n"
        "for n in range(10**6):\n    cache.add(key(n), answer(n))\n    print(n, flush=True)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    for _ in range(200):
        last = int(worker.stdout.readline())
    os.kill(worker.pid, signal.SIGKILL)
    last = max([last, *(int(line) for line in worker.stdout.read().split(b"\n")[:-1] if line)])
    worker.wait()
    worker.stdout.close()
    cache = opened(str(tmp_path))
    assert all(cache.find(key(n)) == answer(n) for n in range(last + 1))


def test_a_store_without_append_gets_few_objects() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    cache = opened(url)
    threads = [
        threading.Thread(target=lambda k=k: [cache.add(key(n), answer(n)) for n in range(k, 1000, 4)])  # type: ignore[misc]
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.flush()
    segments = [name for name in fsspec.filesystem("memory").find(url) if name.endswith(ResponseCache.SUFFIX)]
    assert 1 <= len(segments) <= 3
    assert [opened(url).find(key(n)) for n in range(0, 1000, 100)] == [answer(n) for n in range(0, 1000, 100)]
    fsspec.filesystem("memory").rm(url, recursive=True)


def test_an_answer_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = opened(str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        cache.add(key(1), answer(1))


STORES = ["local", "memory", "s3"]


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, StorageOptions]]:
    """A folder on each kind of store."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        yield f"s3://bucket/{uuid.uuid4().hex}", StorageOptions(endpoint=server.endpoint)
    else:
        url = str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"
        yield url, StorageOptions()


def opened_at(place: tuple[str, StorageOptions]) -> ResponseCache:
    return ResponseCache.open(*place, service="s", model="m")


def added(cache: ResponseCache, *numbers: int) -> None:
    for n in numbers:
        cache.add(key(n), answer(n))
    cache.flush()


def segments(cache: ResponseCache) -> dict[str, int]:
    return {entry.name: entry.size for entry in cache.folder.entries() if entry.name.endswith(ResponseCache.SUFFIX)}


def has_all(cache: ResponseCache, num: int) -> bool:
    return len(cache) == num and [cache.find(key(n)) for n in range(num)] == [answer(n) for n in range(num)]


def test_small_segments_become_one_and_all_find_all(place: tuple[str, StorageOptions]) -> None:
    writers = [opened_at(place) for _ in range(5)]
    for n, writer in enumerate(writers):
        added(writer, *range(4 * n, 4 * n + 4), 0)  # one answer is there five times
    one, reader, late = writers[0], opened_at(place), opened_at(place)
    assert has_all(reader, 20)
    assert one.compact(grace_s=3600) == 0  # the others may be alive, and one segment is not merged with itself
    assert len(segments(one)) == 5
    assert one.compact(grace_s=-1) == 4
    assert len(segments(one)) == 1
    assert has_all(reader, 20)  # which finds it only by looking again
    late.refresh()
    for cache in (one, late, opened_at(place)):
        cache.refresh()
        assert has_all(cache, 20)
    added(one, *range(20, 24))
    added(writers[4], 24, 25)
    assert len(segments(one)) == 3
    assert [len(cache.folder.entries()) for cache in (one, reader)] == [4, 4]
    reader.refresh()
    assert has_all(reader, 26)
    assert reader.compact(grace_s=-1) == 2
    assert has_all(opened_at(place), 26)


def test_own_segment_is_merged_and_the_next_answer_has_another(tmp_path: Path) -> None:
    cache = opened(str(tmp_path))
    for n in range(4):
        added(cache, n)
        assert cache.compact(grace_s=3600) == min(n, 1)
        assert len(segments(cache)) == 1
    assert has_all(cache, 4)


def test_large_segments_stay_and_merged_ones_keep_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResponseCache, "MERGED_BYTES", 10_000)
    for n in range(0, 300, 10):
        added(opened(str(tmp_path)), *range(n, n + 10))
    large = opened(str(tmp_path))
    added(large, *range(300, 500))
    (large_name,) = large._own
    before = segments(large)
    fewer = large.compact(grace_s=-1)
    after = segments(large)
    assert large_name in after
    assert len(after) == len(before) - fewer < 12
    assert all(5_000 < size <= 10_000 for name, size in after.items() if name != large_name and name != max(after))
    assert has_all(large, 500)
    assert has_all(opened(str(tmp_path)), 500)


def test_half_written_lines_go_and_damaged_segments_stay(tmp_path: Path) -> None:
    for n in range(4):
        added(opened(str(tmp_path)), n)
    half, damaged, *_ = sorted(tmp_path.rglob(f"*{ResponseCache.SUFFIX}"))
    half.write_bytes(half.read_bytes() + key(9).hex().encode() + b"\t{")
    damaged.write_bytes(b"of a later version\n" + damaged.read_bytes())
    assert opened(str(tmp_path)).compact(grace_s=-1) == 2
    assert damaged.exists()
    assert not half.exists()
    assert has_all(opened(str(tmp_path)), 4)


def test_idle_writer_does_not_resume_a_mergeable_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle, other = opened(str(tmp_path)), opened(str(tmp_path))
    added(idle, 0)
    added(other, 1)
    monkeypatch.setattr(answers_module, "_IDLE_S", 0.0)
    time.sleep(0.01)
    assert other.compact(grace_s=0) == 1
    added(idle, 2)
    idle.refresh(), other.refresh()
    assert has_all(other, 3)
    assert has_all(idle, 3)


@pytest.mark.parametrize("store", ["local", "s3"])
def test_nobody_misses_an_answer_while_segments_are_merged(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    endpoint = None if store == "local" else request.getfixturevalue("s3").endpoint
    url = str(tmp_path) if store == "local" else f"s3://bucket/{uuid.uuid4().hex}"
    place = (url, StorageOptions(endpoint=endpoint))
    num, each, grace_s = (600, 20, 60.0) if store == "local" else (120, 10, -1.0)  # an object is whole at once
    script = (
        "from tests.rmbatch.stores.test_answers import *\n"
        f"place = ({url!r}, StorageOptions(endpoint={endpoint!r}))\n"
        f"for n in range(0, {num}, {each}):\n"
        f"    cache = opened_at(place)\n"
        f"    added(cache, *range(n, n + {each}))\n"
        f"    if {store == 'local'}:\n"
        f"        (name,) = cache._own\n"
        f"        os.utime(cache.folder.path(name), (0, 0))\n"  # nothing more will be added to it
        f"    print(n + {each}, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    reader, compactor, fewer = opened_at(place), opened_at(place), 0
    for line in writer.stdout:
        fewer += compactor.compact(grace_s)
        reader.refresh()
        fresh = opened_at(place)
        assert all(cache.find(key(n)) == answer(n) for cache in (reader, fresh) for n in range(int(line)))
    assert writer.wait() == 0
    writer.stdout.close()
    assert fewer >= num // each // 2
    assert has_all(opened_at(place), num)


def test_who_reads_between_the_merged_segment_and_the_deletions_keeps_all(
    place: tuple[str, StorageOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        added(opened_at(place), n)
    compactor, reader = opened_at(place), opened_at(place)
    delete = Folder.delete

    def delete_late(folder: Folder, names: Sequence[str]) -> None:
        reader.refresh()
        num_seen.append(len(segments(reader)))
        delete(folder, names)

    num_seen: list[int] = []
    monkeypatch.setattr(Folder, "delete", delete_late)
    assert compactor.compact(grace_s=-1) == 3
    assert num_seen[-1] == 5
    reader.refresh()
    assert has_all(reader, 4)


def test_two_may_merge_at_once(tmp_path: Path) -> None:
    for n in range(60):
        added(opened(str(tmp_path)), n)
    caches = [opened(str(tmp_path)) for _ in range(3)]
    threads = [threading.Thread(target=cache.compact, kwargs={"grace_s": -1}) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cache in (*caches, opened(str(tmp_path))):
        cache.refresh()
        assert has_all(cache, 60)
