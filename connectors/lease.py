"""One run at a time works on an output: a lease that a dead owner loses.

Each owner has an epoch, a file of its own (``lease/000003.json``) that is created once and then only beaten by its
owner. Nothing compares clocks of two machines: a run that finds an owner watches whether its beat moves. A beat that
moves is a living run, and the newcomer is refused. A beat that stands still for ``TTL_S``, or whose process is seen to
be gone on this same machine, is dead: the next epoch is created, once, by whoever comes first. An owner that sees a
later epoch has lost its lease and stops; what its workers still commit is harmless (see connectors/ledger.py). Where a
store ignores conditional puts, two runs that begin at the same moment may both create an epoch: one of them then finds
the other's name in it, at its next beat or check, and stops.

    with Lease.take(output.folder("_rmbatch/lease")) as lease:
        lease.check()          # raises JobError when somebody else has taken over
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
    """A held lease; beats in a thread until it is released or lost."""

    def __init__(self, folder: Folder, epoch: int) -> None:
        self._folder, self.epoch = folder, epoch
        self._owner = secrets.token_hex(8)
        self._beat = 0
        self._stop = threading.Event()
        self._lost = self._forgotten = False
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)

    @classmethod
    def take(cls, folder: Folder, waiting: Callable[[str], None] = lambda message: None) -> "Lease":
        """The lease of this folder, waiting until a dead owner is known to be dead; JobError if it lives."""
        epoch = current_epoch(folder)
        if epoch and not _is_free(folder, epoch, waiting):
            owner = _read(folder, epoch) or {"pid": "unknown", "host": "unknown"}
            raise JobError(
                f"another run (process {owner['pid']} on {owner['host']}) is working on this output; "
                "wait for it, stop it, or write elsewhere"
            )
        lease = cls(folder, epoch + 1)
        if not folder.create(_name(lease.epoch), lease._state(released=False)):
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
            self._folder.delete([_name(self.epoch)])
            self._folder.remove_if_empty(above=2)  # _rmbatch, and the output
        else:
            self._write(released=True)

    def forget(self) -> None:
        """Leave no trace of this run: it has done nothing."""
        self._forgotten = True

    def check(self) -> None:
        """Raises JobError if another run has taken over, or the output is gone."""
        if not self._lost and current_epoch(self._folder) < self.epoch:
            raise DeadEndError(deleted(self._folder.url.removesuffix("/_rmbatch/lease")))
        if self._lost or self._is_taken():
            raise JobError("another run has taken over this output")

    def _is_taken(self) -> bool:
        """By a later epoch; or in this one, where a store that ignores conditions let two runs create it."""
        if current_epoch(self._folder) > self.epoch:
            return True
        now = _read(self._folder, self.epoch)
        return now is not None and now["owner"] != self._owner

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._beat += 1
            # Whatever the store has, the next beat tries again; one that stays away loses the lease, which is safe.
            with suppress(Exception):
                if self._is_taken():
                    self._lost = True
                    return
                if current_epoch(self._folder) < self.epoch:
                    continue  # deleted: a beat would be all that is left of the output
                self._write(released=False)

    def _write(self, *, released: bool) -> None:
        self._folder.write(_name(self.epoch), self._state(released=released), durable=False)

    def _state(self, *, released: bool) -> bytes:
        me = psutil.Process()
        state = {
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "pid": me.pid,
            "started": me.create_time(),
            "owner": self._owner,
            "beat": self._beat,
            "released": released,
        }
        return json.dumps(state).encode()


def deleted(output: str) -> str:
    """What to say of an output whose lease has vanished."""
    return f"{output} was deleted while the job ran: nothing of it is left; run the same command to begin anew"


def current_epoch(folder: Folder) -> int:
    """The latest epoch; 0 before the first run."""
    names = (entry.name.rsplit("/", 1)[-1].removesuffix(".json") for entry in folder.entries())
    return max((int(name) for name in names if name.isdecimal()), default=0)


def seems_held(folder: Folder) -> bool:
    """Whether the latest run has neither ended nor is known to be dead; one on another machine may have died unseen."""
    epoch = current_epoch(folder)
    return epoch > 0 and not _has_ended(_read(folder, epoch))


def _is_free(folder: Folder, epoch: int, waiting: Callable[[str], None]) -> bool:
    state = _read(folder, epoch)
    if _has_ended(state):
        return True
    waiting(f"a run on {state['host'] if state else 'some host'} may still hold this output; watching it {TTL_S:.0f} s")
    deadline = time.monotonic() + TTL_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        now = _read(folder, epoch)
        if _has_ended(now):
            return True
        if now is not None and (state is None or now["beat"] != state["beat"]):
            return False
    return True


def _has_ended(state: dict[str, Any] | None) -> bool:
    return state is not None and (state["released"] or _is_dead_here(state))


def _is_dead_here(state: dict[str, Any]) -> bool:
    if state["host"] != socket.gethostname() or state["boot"] != _boot_id():
        return False
    try:
        owner = psutil.Process(state["pid"])
        return abs(owner.create_time() - state["started"]) > 1 or owner.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _read(folder: Folder, epoch: int) -> dict[str, Any] | None:
    """What the owner of an epoch last said; None where nothing legible is left: after a power loss (beats are not
    synced), or because its run never planned and took its lease away.
    """
    try:
        state: dict[str, Any] = json.loads(folder.read(_name(epoch)))
    except (ValueError, FileNotFoundError):
        return None
    return state


def _name(epoch: int) -> str:
    return f"{epoch:06d}.json"


def _boot_id() -> str:
    """This boot of this machine as its processes see it: containers that share a host name do not share process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return str(int(psutil.boot_time()))
