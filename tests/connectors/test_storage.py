"""One contract, for every store; a new store adds a parameter to the ``folder`` fixture and inherits this."""

import pickle
import threading

import pytest
from botocore.utils import parse_timestamp

from connectors.errors import UserError
from connectors.faults import is_transient
from connectors.storage import Folder, StorageOptions, parse_time


def test_what_is_written_is_read(folder: Folder):
    folder.write("a/b.bin", b"0123456789")
    assert folder.read("a/b.bin") == b"0123456789"
    assert folder.store.read(folder.path("a/b.bin"), 2, 5) == b"234"
    folder.write("a/b.bin", b"new")
    assert folder.read("a/b.bin") == b"new"


def test_an_empty_object_is_an_object(folder: Folder):
    folder.write("empty", b"")
    assert folder.read("empty") == b""
    assert folder.exists("empty")
    assert not folder.exists("absent")


def test_many_objects_are_read_in_the_order_asked_for(folder: Folder):
    for number in range(40):
        folder.write(f"many/{number}", b"x" * number)
    names = [f"many/{number}" for number in reversed(range(40))]
    assert folder.read_many([*names, "absent"]) == [*(b"x" * number for number in reversed(range(40))), None]
    assert folder.read_many([]) == []


def test_absent_is_said_and_not_guessed(folder: Folder):
    assert folder.read_if_exists("absent") is None
    with pytest.raises(FileNotFoundError):
        folder.read("absent")
    assert folder.entries("absent") == []
    folder.delete(["absent"])


def test_create_writes_once(folder: Folder):
    assert folder.create("record", b"first")
    assert not folder.create("record", b"second")
    assert folder.create("record", b"first")  # what stands there is ours: a retry after a lost acknowledgement
    assert folder.read("record") == b"first"


def test_only_one_of_many_creators_wins(folder: Folder):
    won = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if folder.create("race", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert str(won[-1]).encode() == folder.read("race")
    if folder.store.honours_conditions(folder.path("probe")):
        assert len(won) == 1


def test_entries_are_all_below_a_prefix_in_order(folder: Folder):
    for name in ("data/b", "data/a", "data/deep/c", "other/d"):
        folder.write(name, b"x")
    assert [entry.name for entry in folder.entries("data")] == ["data/a", "data/b", "data/deep/c"]
    assert {entry.size for entry in folder.entries()} == {1}
    folder.delete(["data/a", "data/b"])
    assert [entry.name for entry in folder.entries("data")] == ["data/deep/c"]


def test_a_folder_is_removed_with_all_that_is_below_it(folder: Folder):
    for name in ("data/a", "data/deep/b", "database"):
        folder.write(name, b"x")
    folder.remove("data")
    folder.remove("absent")
    assert [entry.name for entry in folder.entries()] == ["database"]


def test_an_etag_changes_with_the_content(folder: Folder):
    folder.write("a", b"one")
    before = folder.entries()[0].etag
    folder.write("a", b"two")
    assert folder.entries()[0].etag != before


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28T22:26:39.000Z",
        "2026-11-28T22:26:39Z",
        "2026-11-28T22:26:39.123456+02:00",
        "2026-11-28T22:26:39",
        "Sat, 28 Nov 2026 22:26:39 GMT",
        "1795904799",
        1795904799.5,
    ],
)
def test_times_of_a_store_are_read_as_botocore_reads_them(text: object):
    assert parse_time(text) == parse_timestamp(text)
    assert parse_time(text).utcoffset() == parse_timestamp(text).utcoffset()


def test_a_time_that_nobody_can_read_is_refused():
    with pytest.raises(ValueError, match="2026-x"):
        parse_time("2026-x")


def test_a_folder_travels_without_secrets(folder: Folder):
    folder.write("a", b"x")
    text = pickle.dumps(folder)
    assert pickle.loads(text).read("a") == b"x"
    assert b"testing" not in text  # the secret of the test server


def test_open_reads_like_a_file(folder: Folder):
    folder.write("long", bytes(range(256)) * 1000)
    with folder.store.open(folder.path("long")) as file:
        assert file.read(3) == b"\x00\x01\x02"
        assert len(file.read()) == 256_000 - 3


def test_an_unknown_protocol_names_the_cure():
    with pytest.raises(UserError, match="nope://"):
        Folder.open("nope://bucket/x").store  # noqa: B018


def test_s3_without_a_server_is_an_error_soon(s3):
    folder = Folder.open("s3://bucket/x", StorageOptions(endpoint="http://127.0.0.1:9", max_attempts=2))
    with pytest.raises(Exception, match=r"endpoint|connect"):
        folder.read("a")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("x"), False),
        (PermissionError("x"), False),
        (OSError("AWS Error ACCESS_DENIED during GetObject operation"), False),
        (OSError("PreconditionFailed"), False),
        (OSError("AWS Error SLOW_DOWN"), True),
        (TimeoutError(), True),
        (ValueError("x"), False),
    ],
)
def test_which_errors_may_pass(error: Exception, expected: bool):
    assert is_transient(error) is expected
