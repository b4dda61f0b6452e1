"""Puts a process in namespaces of its own, over a file system with Python, the system's libraries and an empty /tmp.

It does what bubblewrap does, for machines that lack bubblewrap but whose kernel allows it. Root sets up the mounts as
root, any other user inside a user namespace. Runs inside the sandbox, so it imports the standard library only.

    enter(["/usr", sys.base_prefix], {}, tmp_bytes=32 << 20)      # returns in process 1 of the new namespaces
"""

import ctypes
import os
import platform
from contextlib import suppress

from rmbatch.sandbox.walls import call, end_with_parent, syscall

_NEW_MOUNTS, _NEW_NAMES, _NEW_IPC, _NEW_USER, _NEW_PIDS, _NEW_NETWORK = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = (
    *(1, 2, 4, 8),
    *(32, 4096, 16384, 1 << 18),
)
_DETACH = 2
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def enter(readable: list[str], mounted: dict[str, str], tmp_bytes: int) -> None:
    """Go on as process 1 of new namespaces; the calling process waits for it and exits with its status.

    ``readable``: folders that keep their names; ``mounted``: the new name of each other folder.
    Raises OSError where the kernel does not allow it, before anything has changed outside.
    """
    user, group = os.geteuid(), os.getegid()
    isolated = _NEW_MOUNTS | _NEW_NAMES | _NEW_IPC | _NEW_PIDS | _NEW_NETWORK
    call("unshare", isolated | (0 if user == 0 else _NEW_USER))
    if user != 0:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    child = os.fork()
    if child:
        _wait_and_exit(child)
    end_with_parent()
    _build_root(readable, mounted, tmp_bytes)


def _wait_and_exit(child: int) -> None:
    for standard in (0, 1):  # the child's input has to end when its other end closes, so nobody else may hold it
        os.close(standard)
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _build_root(readable: list[str], mounted: dict[str, str], tmp_bytes: int) -> None:
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    sources = {path: os.open(path, os.O_PATH) for path in [*_drop_nested(readable), *_DEVICES]}
    sources |= {inside: os.open(path, os.O_PATH) for path, inside in mounted.items()}
    links = {path: os.readlink(path) for path in ("/lib", "/lib64", "/bin", "/sbin") if os.path.islink(path)}
    _mount("tmpfs", "/tmp", "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=0755")
    for path, source in sources.items():
        target = f"/tmp{path}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{source}"):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o666))
        _mount(f"/proc/self/fd/{source}", target, None, _BIND)
        if path not in _DEVICES:
            _mount(None, target, None, _BIND | _REMOUNT | _READ_ONLY | _locked_flags(target))
        os.close(source)
    for path, leads_to in links.items():
        os.symlink(leads_to, f"/tmp{path}")
    os.mkdir("/tmp/proc")
    os.mkdir("/tmp/tmp")
    _mount("tmpfs", "/tmp/tmp", "tmpfs", _NO_SUID | _NO_DEVICES, f"size={tmp_bytes},nr_inodes=1024,mode=1777")
    try:
        _mount("proc", "/tmp/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXEC)
    except OSError:  # refused in containers that mask parts of /proc: then nobody watches the memory of all together
        os.rmdir("/tmp/proc")
    os.chdir("/tmp")
    syscall(155 if platform.machine() == "x86_64" else 41, b".", b".")
    call("umount2", b".", _DETACH)
    os.chdir("/")
    _mount(None, "/", None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir("/tmp")


def hide_proc() -> int | None:
    """Open /proc, then unmount it: the open directory, None where there is no /proc.

    A child must close it before it runs anything.
    """
    if not os.path.isdir("/proc/1"):
        return None
    descriptor = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # Under bubblewrap it stays: it shows the sandbox's processes only, and landlock closes it to programs.
    with suppress(OSError):
        call("umount2", b"/proc", _DETACH)
    return descriptor


def _drop_nested(paths: list[str]) -> list[str]:
    """The real directories among the paths, without those inside another."""
    real = sorted({os.path.abspath(path) for path in paths if os.path.isdir(path) and not os.path.islink(path)})
    return [path for path in real if not any(path.startswith(f"{other}/") for other in real if other != path)]


def _locked_flags(target: str) -> int:
    flags = os.statvfs(target).f_flag
    kept = (os.ST_NOSUID, _NO_SUID), (os.ST_NODEV, _NO_DEVICES), (os.ST_NOEXEC, _NO_EXEC)
    atime = (os.ST_NOATIME, 1024), (os.ST_NODIRATIME, 2048), (os.ST_RELATIME, 1 << 21)
    return sum(flag for shown, flag in (*kept, *atime) if flags & shown) | _NO_SUID | _NO_DEVICES


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind, options)]
    call("mount", given[0], given[1], given[2], ctypes.c_ulong(flags), given[3])


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
