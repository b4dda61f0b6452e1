"""One run at a time: who is refused, who takes over, and what an owner notices."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress

import pytest

from connectors import lease
from connectors.errors import JobError
from connectors.lease import Lease, current_epoch
from connectors.storage import Folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats of a fraction of a second; a beat that stands still for a second is a death."""
    monkeypatch.setattr(lease, "TTL_S", 1.0)
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "POLL_S", 0.1)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process can be looked up, as if every owner were on another machine."""
    monkeypatch.setattr(lease, "_is_dead_here", lambda state: False)
    return


def state(folder: Folder, epoch: int) -> dict:
    return json.loads(folder.read(f"{epoch:06d}.json"))


def test_a_released_lease_is_free_at_once(folder: Folder):
    for epoch in (1, 2, 3):
        with Lease.take(folder) as held:
            assert held.epoch == current_epoch(folder) == epoch
            held.check()
        assert state(folder, epoch)["released"]


@pytest.mark.usefixtures("elsewhere")
def test_a_run_whose_beat_moves_is_not_disturbed(folder: Folder):
    heard: list[str] = []
    with Lease.take(folder) as first:
        with pytest.raises(JobError, match=rf"process {os.getpid()} on {socket.gethostname()}\) is working"):
            Lease.take(folder, heard.append)
        first.check()
    assert heard
    with Lease.take(folder) as second:
        assert second.epoch == 2


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("left", [None, b"", b'{"pid": 1, "ho'], ids=["silent", "empty", "cut off"])
def test_an_owner_that_stands_still_is_dead(folder: Folder, left: bytes | None):
    with Lease.take(folder) as first:
        text = folder.read("000001.json")
    folder.write("000001.json", text if left is None else left)  # a power loss may leave nothing legible
    began = time.monotonic()
    with Lease.take(folder) as second:
        assert time.monotonic() - began >= lease.TTL_S
        assert second.epoch == 2
        with pytest.raises(JobError, match="taken over"):
            first.check()


def test_owner_whose_process_is_gone_is_dead_at_once(tmp_path):
    folder = Folder.open(str(tmp_path))
    script = f"import os; from connectors.lease import *; Lease.take(Folder.open({str(tmp_path)!r})); os._exit(9)"
    subprocess.run([sys.executable, "-c", script], check=False)
    assert not state(folder, 1)["released"]
    with Lease.take(folder, waiting=pytest.fail) as second:
        assert second.epoch == 2


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({"pid": 2**22 + 1}, True),
        ({"started": 0.0}, True),  # the process id has been given to another
        ({"pid": 2**22 + 1, "host": "elsewhere"}, False),
        ({"pid": 2**22 + 1, "boot": "another container that shares the host's name"}, False),
        ({}, False),
    ],
)
def test_which_owners_are_seen_to_be_dead(tmp_path, change: dict, dead: bool):
    folder = Folder.open(str(tmp_path))
    with Lease.take(folder):
        assert lease._is_dead_here(state(folder, 1) | change) is dead


@pytest.mark.usefixtures("elsewhere")
def test_owner_that_slept_stops_beating_after_a_takeover(folder: Folder):
    with Lease.take(folder) as first:
        folder.create("000002.json", folder.read("000001.json"))
        with pytest.raises(JobError, match="taken over"):
            first.check()
        first._thread.join(5)
        assert not first._thread.is_alive()
    assert not state(folder, 1)["released"]  # it is no longer its own to release


def test_of_two_that_created_one_epoch_one_stops(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """On a store that ignores conditional puts both are told that they won."""
    folder = Folder.open(str(tmp_path))

    def overwrite(self: Folder, name: str, data: bytes) -> bool:
        self.write(name, data)
        return True

    monkeypatch.setattr(Folder, "create", overwrite)
    first = Lease(folder, 1)
    second = Lease(folder, 1)
    for held in (first, second):
        folder.create("000001.json", held._encode_state(released=False))
        held._thread.start()
    with first, second:
        time.sleep(0.5)
        verdicts = []
        for held in (first, second):
            with pytest.raises(JobError) if held is first else nullcontext():
                held.check()
            verdicts.append(held._thread.is_alive())
    assert verdicts == [False, True]


@pytest.mark.parametrize("error", [OSError("503"), RuntimeError("of a client")])
def test_a_store_that_fails_for_a_while_does_not_end_the_beats(tmp_path, monkeypatch: pytest.MonkeyPatch, error):
    folder = Folder.open(str(tmp_path))

    def fail(*args: object, **options: object) -> None:
        raise error

    with Lease.take(folder) as held:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", fail)
            time.sleep(0.3)
        before = state(folder, 1)["beat"]
        deadline = time.monotonic() + 5
        while state(folder, 1)["beat"] == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert state(folder, 1)["beat"] > before
        held.check()


def test_strange_files_beside_the_epochs_are_passed_over(tmp_path):
    folder = Folder.open(str(tmp_path))
    folder.write("notes.txt", b"x")
    with Lease.take(folder) as held:
        assert held.epoch == 1
    with suppress(FileNotFoundError):
        folder.delete(["notes.txt"])
