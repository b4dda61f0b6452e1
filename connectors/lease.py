"""A lease on an output: only one run at a time works on it, and a dead run loses its lease.

Each owner has an epoch: a file (``lease/000003.json``) that is created once. Only its owner changes it afterwards: it
counts a beat up. Clocks of two machines are never compared. A run that finds an earlier owner watches its beat. If the
beat moves, the owner lives and the new run is refused. If the beat does not move for ``TTL_S``, the owner is dead; so
it is if it ran on this machine and its process has ended. Then the first run to create the next epoch gets the lease.
An owner that sees a later epoch has lost its lease and stops. What its workers still commit does no harm (see
connectors/ledger.py).

On a store that ignores conditional puts, two runs that start at the same moment may both create the same epoch. At its
next beat or check, one of them finds the other's name in the file and stops.

    with Lease.take(output.folder("_rmbatch/lease")) as lease:
        lease.check()          # raises JobError if another run has taken over
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from connectors.errors import DeadEndError, JobError
from connectors.storage import Folder

TTL_S = 30.0
BEAT_S = 5.0
POLL_S = 1.0


class Lease:
    """A lease that this process holds. A thread beats until the lease is released or lost."""

    def __init__(self, folder: Folder, epoch: int) -> None:
        self._folder, self.epoch = folder, epoch
        self._owner = secrets.token_hex(8)
        self._beat = 0
        self._stop = threading.Event()
        self._lost = self._forgotten = False
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)

    @classmethod
    def take(cls, folder: Folder, waiting: Callable[[str], None] = lambda message: None) -> "Lease":
        """Take the lease of this folder; wait first if the last owner may be dead. Raises JobError if it lives."""
        epoch = current_epoch(folder)
        if epoch and not _wait_until_free(folder, epoch, waiting):
            owner = _read_state(folder, epoch) or {"pid": "unknown", "host": "unknown"}
            raise JobError(
                f"another run (process {owner['pid']} on {owner['host']}) is working on this output; "
                "wait for it, stop it, or write elsewhere"
            )
        lease = cls(folder, epoch + 1)
        if not folder.create(_file_name(lease.epoch), lease._encode_state(released=False)):
            raise JobError("another run has just begun to work on this output")
        lease._thread.start()
        return lease

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._lost or current_epoch(self._folder) != self.epoch:
            return
        if self._forgotten:
            self._folder.delete([_file_name(self.epoch)])
            self._folder.remove_if_empty(above=2)  # _rmbatch, and the output
        else:
            self._write(released=True)

    def forget(self) -> None:
        """Delete the lease at the end instead of releasing it. For a run that has done nothing."""
        self._forgotten = True

    def check(self) -> None:
        """Raise JobError if another run has taken over or the output was deleted."""
        if not self._lost and current_epoch(self._folder) < self.epoch:
            raise DeadEndError(describe_deletion(self._folder.url.removesuffix("/_rmbatch/lease")))
        if self._lost or self._is_taken():
            raise JobError("another run has taken over this output")

    def _is_taken(self) -> bool:
        """Whether another run has a later epoch, or this one (on a store that ignores conditional puts)."""
        if current_epoch(self._folder) > self.epoch:
            return True
        now = _read_state(self._folder, self.epoch)
        return now is not None and now["owner"] != self._owner

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._beat += 1
            # After an error of the store, the next beat tries again. If errors last, the lease is lost, which is safe.
            with suppress(Exception):
                if self._is_taken():
                    self._lost = True
                    return
                if current_epoch(self._folder) < self.epoch:
                    continue  # the output was deleted; a beat would create a part of it again
                self._write(released=False)

    def _write(self, *, released: bool) -> None:
        self._folder.write(_file_name(self.epoch), self._encode_state(released=released), durable=False)

    def _encode_state(self, *, released: bool) -> bytes:
        me = psutil.Process()
        state = {
            "host": socket.gethostname(),
            "boot": _read_boot_id(),
            "pid": me.pid,
            "started": me.create_time(),
            "owner": self._owner,
            "beat": self._beat,
            "released": released,
        }
        return json.dumps(state).encode()


def describe_deletion(output: str) -> str:
    """The error message for an output that was deleted during the run."""
    return f"{output} was deleted while the job ran: nothing of it is left; run the same command to begin anew"


def current_epoch(folder: Folder) -> int:
    """Get the latest epoch; 0 before the first run."""
    names = (entry.name.rsplit("/", 1)[-1].removesuffix(".json") for entry in folder.entries())
    return max((int(name) for name in names if name.isdecimal()), default=0)


def may_be_running(folder: Folder) -> bool:
    """Whether the latest run may still live. A run that died on another machine also counts, as nothing shows it."""
    epoch = current_epoch(folder)
    return epoch > 0 and not _has_ended(_read_state(folder, epoch))


def _wait_until_free(folder: Folder, epoch: int, waiting: Callable[[str], None]) -> bool:
    state = _read_state(folder, epoch)
    if _has_ended(state):
        return True
    waiting(f"a run on {state['host'] if state else 'some host'} may still hold this output; watching it {TTL_S:.0f} s")
    deadline = time.monotonic() + TTL_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        now = _read_state(folder, epoch)
        if _has_ended(now):
            return True
        if now is not None and (state is None or now["beat"] != state["beat"]):
            return False
    return True


def _has_ended(state: dict[str, Any] | None) -> bool:
    return state is not None and (state["released"] or _is_dead_here(state))


def _is_dead_here(state: dict[str, Any]) -> bool:
    if state["host"] != socket.gethostname() or state["boot"] != _read_boot_id():
        return False
    try:
        owner = psutil.Process(state["pid"])
        return abs(owner.create_time() - state["started"]) > 1 or owner.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _read_state(folder: Folder, epoch: int) -> dict[str, Any] | None:
    """Read the last state that the owner of an epoch wrote. None where the file is gone or cannot be parsed.

    A run that had nothing to do deletes its file. A power loss may damage it, because beats are not synced.
    """
    try:
        state: dict[str, Any] = json.loads(folder.read(_file_name(epoch)))
    except (ValueError, FileNotFoundError):
        return None
    return state


def _file_name(epoch: int) -> str:
    return f"{epoch:06d}.json"


def _read_boot_id() -> str:
    """An id of this boot and this process namespace: two containers may share a host name, but not process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return str(int(psutil.boot_time()))
