"""Reads /proc: how much memory processes hold, whose children they are, how many a user has.

Runs inside the sandbox, so it imports the standard library only.
"""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress


def address_space_bytes() -> int:
    """Address space of this process; where /proc does not say, 64 MiB, which is more than it has."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 64 << 20


def private_bytes(proc: int, pid: str) -> int:
    """Memory that a process has of its own or shares with others, without files."""
    try:
        status = os.open(f"{pid}/status", os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 0
    with os.fdopen(status, "rb") as file:
        try:
            lines = file.read().splitlines()
        except ProcessLookupError:
            return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith((b"RssAnon:", b"RssShmem:")))


def kill_descendants() -> None:
    """Kill all descendants of this process. First it stops them all, so that none forks while others die.

    A fork bomb outruns a list of its processes, but its stopped processes use up its user's limit.
    """
    stopped: set[int] = set()
    for _ in range(100):
        more = descendants() - stopped
        if not more:
            break
        _signal(more, signal.SIGSTOP)
        stopped |= more
    _signal(stopped, signal.SIGKILL)


def descendants() -> set[int]:
    """The descendants of this process; orphans count too, if this process adopts them."""
    parents, found = _parents(), {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def tasks_of_user(user: int) -> int:
    """Processes and threads of a user: outside of namespaces its limit counts them all."""
    return sum(map(_tasks, (pid for pid in _parents() if _owner(pid) == user)))


def tasks_of_descendants() -> int:
    """Processes and threads of this process's descendants."""
    return sum(map(_tasks, descendants()))


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _parents() -> dict[int, int]:
    """Every process that /proc shows, and its parent."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return found


def _owner(pid: int) -> int | None:
    """The real user of a process; the owner of /proc/<pid> is root where the process hides its memory."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"Uid:")), None)
    except OSError:
        return None


def _tasks(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0
