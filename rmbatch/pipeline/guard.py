"""A script that runs a command, and ends it with all that it has started when the process that wanted it is gone.

    python -P guard.py FOLDER COMMAND...                 # its input is a pipe from that process

When the pipe closes, everything below is killed and the folder removed. A byte on the pipe asks for an orderly end:
SIGTERM, and after ``GRACE_S`` the same. When the command ends by itself, what it has left running is killed, and the
guard ends with its status.

vLLM's engine is a process of its own that outlives its server when that is killed, and holds the GPU. So the guard
takes in orphans (PR_SET_CHILD_SUBREAPER), and the command dies with the guard (PR_SET_PDEATHSIG). Ray kills children
of a worker that ends, the guard among them: then a shell that waits for the guard's end kills its whole process group.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_S = 15.0
KILL_S = 10.0
TRACKERS_S = 2.0
"""How long Python's resource trackers may take to remove the shared memory of those that were killed."""
LAST_WATCH = """
cat > /dev/null
kill -s KILL -- "-$0" 2> /dev/null
sleep 2
kill -0 "$1" 2> /dev/null || rm -rf "$2"
"""
"""Reads until the guard is gone; then what is left of its group is killed, and the folder too if its owner is gone."""
_is_leaving = threading.Event()
_not_ours: set[int] = set()


def main(folder: str, command: list[str]) -> int:
    """Run the command; its status, as a shell gives it."""
    with suppress(PermissionError):  # it leads a group already
        os.setsid()
    _watch_the_guard(folder)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _leave(folder))
    threading.Thread(target=_obey, args=(folder, child), daemon=True).start()
    status = child.wait()
    if _is_leaving.is_set():
        threading.Event().wait()  # another thread ends this process when it has tidied up
    print(f"rmbatch: the server {describe_status(status)}", file=sys.stderr, flush=True)
    kill_descendants()
    return status if status >= 0 else 128 - status


def describe_status(status: int) -> str:
    """How a process ended, by its status as ``subprocess`` gives it."""
    return f"ended with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"


def kill_descendants() -> None:
    """Kill all below this process, also those that were orphaned, and wait until they are gone."""
    deadline, patience = time.monotonic() + KILL_S, time.monotonic() + TRACKERS_S
    while time.monotonic() < deadline:
        ours = [each for each in psutil.Process().children() if each.pid not in _not_ours]
        living = [each for each in (*ours, *_below(ours)) if _is_alive(each)]
        if not living:
            return
        for each in living:
            with suppress(psutil.Error):
                if time.monotonic() > patience or "resource_tracker" not in " ".join(each.cmdline()):
                    each.kill()
        time.sleep(0.02)


def _below(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            found += each.children(recursive=True)
    return found


def _watch_the_guard(folder: str) -> None:
    """Start the shell, which ends when this process does, for it alone holds the other end of the shell's input."""
    read, write = os.pipe()
    arguments = [str(os.getpid()), str(os.getppid()), folder]
    shell = subprocess.Popen(["/bin/sh", "-c", LAST_WATCH, *arguments], stdin=read, start_new_session=True)
    os.close(read)
    os.set_inheritable(write, False)
    _not_ours.add(shell.pid)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _obey(folder: str, child: "subprocess.Popen[bytes]") -> None:
    if os.read(0, 1):
        with suppress(ProcessLookupError):
            child.terminate()
        deadline = time.monotonic() + GRACE_S
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    _leave(folder)


def _leave(folder: str) -> None:
    _is_leaving.set()
    kill_descendants()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
