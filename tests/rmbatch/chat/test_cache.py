"""Kept answers: there after a kill, seen by others, never half, never somebody else's."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from connectors.storage import StorageOptions
from rmbatch.chat.cache import SUFFIX, ResponseCache, key_of

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
    (segment,) = tmp_path.rglob(f"*{SUFFIX}")
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
        "import sys\nfrom tests.rmbatch.chat.test_cache import answer, key, opened\n"
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
    segments = [name for name in fsspec.filesystem("memory").find(url) if name.endswith(SUFFIX)]
    assert 1 <= len(segments) <= 3
    assert [opened(url).find(key(n)) for n in range(0, 1000, 100)] == [answer(n) for n in range(0, 1000, 100)]
    fsspec.filesystem("memory").rm(url, recursive=True)


def test_an_answer_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = opened(str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        cache.add(key(1), answer(1))
