"""Copies of remote segments on this machine's disk, so that they can be memory-mapped.

A segment is copied once per machine, to ``rmbatch-scores-UID`` in the temporary folder (TMPDIR). The folder must have
room for all segments. Copies of segments that are gone are removed after an hour.

    copies = LocalCopies(folder)
    path = copies.get(name)
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from connectors.local import LocalStore
from connectors.storage import Folder

UNUSED_S = 3600.0
"""Age at which the copy of a segment that is gone is removed."""

_LOCK = "lock"
_NETWORK = ("nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "glusterfs", "fuse", "9p", "virtiofs")


class LocalCopies:
    """Copies of the files of one folder. Raises PermissionError where somebody else could write them."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        root = Path(tempfile.gettempdir()) / f"rmbatch-scores-{os.getuid()}"
        root.mkdir(mode=0o700, exist_ok=True)
        if root.stat().st_uid != os.getuid():
            raise PermissionError(f"{root} belongs to somebody else; set TMPDIR to another folder")
        self._path = root / xxhash.xxh3_128_hexdigest(repr((folder.url, folder.options.endpoint)).encode())
        self._path.mkdir(exist_ok=True)

    def get(self, name: str, data: bytes | None = None) -> str:
        """The path of a file's copy. One process makes it, of ``data`` where given, while the others wait."""
        copy = self._path / name
        with self._only_one():
            if not copy.exists():
                LocalStore().write(str(copy), self._folder.read(name) if data is None else data, durable=False)
        return str(copy)

    def remove_unused(self, names: Collection[str]) -> None:
        """Remove old copies of all but these files. A process that has one mapped keeps it."""
        with self._only_one():
            for copy in self._path.iterdir():
                if copy.name not in names and copy.name != _LOCK and copy.stat().st_mtime < time.time() - UNUSED_S:
                    copy.unlink()

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Let one process and thread of this machine at a time change the copies."""
        with open(self._path / _LOCK, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def is_mappable(folder: Folder) -> bool:
    """Whether a folder is on a disk of this machine.

    A mapped file of a network file system ends the process (SIGBUS) when another machine deletes it.
    """
    if not isinstance(folder.store, LocalStore):
        return False
    import psutil  # takes 50 ms, and every command imports this module

    path = os.path.realpath(folder.path())
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if os.path.commonpath([path, mount.mountpoint]) == mount.mountpoint
    ]
    kind = max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""
    return not kind.startswith(_NETWORK)
