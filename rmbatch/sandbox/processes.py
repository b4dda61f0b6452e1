"""What /proc says of processes: how much memory they hold, whose children they are, how many a user has.

Runs inside the sandbox, so it imports the standard library only.
"""

import os
from contextlib import suppress


def own_bytes() -> int:
    """Address space of this process; 64 MiB where /proc does not say, more than it is."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 64 << 20


def held_bytes(proc: int, pid: str) -> int:
    """Memory that a process has of its own or shares with others, files left out."""
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


def children() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def tasks_of_user() -> int:
    """Processes and threads that this user has already: outside of namespaces the limit counts them all."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count
