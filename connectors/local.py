"""Reads and writes whole objects on a POSIX file system. Implements ``Store`` of connectors/storage.py.

store = LocalStore()
store.create("/data/out/record.json", b"...")    # False: another record exists
"""

import glob
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.fs

from connectors.faults import check_length


class LocalStore:
    """A POSIX file system. Writes go to a temporary name and are synced, then renamed (write) or linked (create)."""

    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        with open(path, "rb") as file:
            file.seek(start or 0)
            data = file.read() if stop is None else file.read(stop - (start or 0))
        check_length(path, data, start, stop)
        return data

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for path in paths:
            try:
                found.append(self.read(path))
            except FileNotFoundError:
                found.append(None)
        return found

    def open(self, path: str) -> BinaryIO:
        return open(path, "rb")

    def write(self, path: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        with self._temporary(path, data, durable) as temporary:
            os.replace(temporary, path)

    def create(self, path: str, data: bytes) -> bool:
        with self._temporary(path, data, durable=True) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return self.read(path) == data
        return True

    def honours_conditions(self, path: str) -> bool:
        return True  # os.link never replaces

    @contextmanager
    def _temporary(self, path: str, data: bytes | memoryview, durable: bool) -> Iterator[str]:
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            yield temporary
        except OSError as error:
            error.filename = error.filename or path  # the error of a full disk has no path
            raise
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def remove_folder(self, path: str) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def remove_empty(self, path: str) -> None:
        with suppress(OSError):  # it does not exist, or it is not empty
            os.rmdir(path)

    def walk(self, path: str) -> list[tuple[str, int, str]]:
        walked = os.walk(path, onerror=_raise_unless_gone)  # a folder that cannot be read must not look empty
        files = (os.path.join(folder, name) for folder, _, names in walked for name in names)
        return sorted(found for found in map(self.stat, files) if found is not None)

    def glob(self, pattern: str) -> list[str]:
        return sorted(glob.glob(pattern, recursive=True))

    def stat(self, path: str) -> tuple[str, int, str] | None:
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            return None
        inode = f"{stat.st_ino:x}@{_read_boot_id()}.{stat.st_dev:x}"
        return path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}-{inode}"

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)

    def parquet_source(self, path: str) -> tuple[Any, pyarrow.fs.FileSystem | None]:
        return path, None

    def pin(self, etag: str) -> "LocalStore":
        return self  # a file system has no conditional read: callers check the file after reading it

    def url(self, path: str) -> str:
        return path


@lru_cache(maxsize=1)
def _read_boot_id() -> str:
    """A short id of this boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return socket.gethostname()


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
