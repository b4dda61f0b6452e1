"""Where an export is written: a folder that is found whole or not at all, on a disk or in a bucket.

    place = open_place("pairs/", options)
    found = place.read_finished(identity)       # what it counted; None: the place is free; UserError: it is taken
    with place.writing(identity) as create:
        with create("data/train-00000.parquet") as file: ...
        with create(MARK) as file: ...          # the last one

On a disk the files are written into a folder beside the place, which takes its name when all went well. In a bucket
they are written where they stay, and ``export.json`` comes last; until then ``export.begun.json`` says whose they are.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, BinaryIO, Protocol

import orjson

from connectors.errors import UserError
from connectors.local import LocalStore
from connectors.storage import Folder, StorageOptions

MARK = "export.json"
"""Stands in each finished export: what it was made from, and how."""
BEGUN = "export.begun.json"
"""Stands in an unfinished export in a bucket: what it is made from."""

Create = Callable[[str], AbstractContextManager[BinaryIO]]
"""A file of the export to write, by its name. It is whole when its context has ended."""


class ExportPlace(Protocol):
    """A folder for an export."""

    @property
    def name(self) -> str:
        """Its name, without the folders above."""

    @property
    def url(self) -> str:
        """Its path or address."""

    def read_finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a finished export of the same identity says of itself. None: there is none, and the place is free.

        Raises UserError where something else is there.
        """

    def is_free(self) -> bool:
        """Whether nothing is there."""

    def writing(self, identity: Mapping[str, Any]) -> AbstractContextManager[Create]:
        """A context that gives the function to create files with."""

    def discard(self, output: str) -> bool:
        """Delete what is there if it is an export of this output. Return whether it was."""


def open_place(out: str, options: StorageOptions) -> ExportPlace:
    """The place of a path or an address. Raises UserError for one that cannot be opened."""
    folder = Folder.open(out, options)
    return DiskPlace(Path(folder.path())) if isinstance(folder.store, LocalStore) else BucketPlace(folder)


@dataclass(frozen=True)
class DiskPlace:
    """A folder on a disk of this machine."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def url(self) -> str:
        return str(self.path)

    def read_finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """See ``ExportPlace``."""
        return None if self.is_free() else _compare(self._read_mark(), identity, self.url)

    def is_free(self) -> bool:
        """See ``ExportPlace``. An empty folder is free."""
        return not os.path.lexists(self.path) or (self.path.is_dir() and not any(self.path.iterdir()))

    def _read_mark(self) -> bytes | None:
        try:
            return (self.path / MARK).read_bytes()
        except OSError:
            return None

    @contextmanager
    def writing(self, identity: Mapping[str, Any]) -> Iterator[Create]:
        """See ``ExportPlace``. What killed exports have left beside the place is removed first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self.name}.partial-"
        for left in self.path.parent.iterdir():
            if left.name.startswith(prefix):
                _remove_if_dead(left)
        scratch = Path(mkdtemp(prefix=prefix, dir=self.path.parent))
        lock = os.open(scratch, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield lambda name: _create_durably(scratch / name)
            scratch.chmod(0o777 & ~_umask())
            self._take_name(scratch, identity)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finally:
            os.close(lock)

    def _take_name(self, scratch: Path, identity: Mapping[str, Any]) -> None:
        try:
            scratch.rename(self.path)  # onto nothing, or onto an empty folder
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            self.read_finished(identity)  # another process has written the same meanwhile, or else UserError
            shutil.rmtree(scratch, ignore_errors=True)

    def discard(self, output: str) -> bool:
        """See ``ExportPlace``."""
        is_ours = _output_of(self._read_mark()) == output
        if is_ours:
            (self.path / MARK).unlink()
            shutil.rmtree(self.path)
        return is_ours


@dataclass(frozen=True)
class BucketPlace:
    """A prefix of a bucket."""

    folder: Folder

    @property
    def name(self) -> str:
        return self.folder.url.rpartition("/")[2]

    @property
    def url(self) -> str:
        return self.folder.url

    def read_finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """See ``ExportPlace``. An unfinished export of the same identity is free."""
        mark = self.folder.read_if_exists(MARK)
        if mark is not None:
            return _compare(mark, identity, self.url)
        begun = self.folder.read_if_exists(BEGUN)
        if begun is None and self.folder.entries():
            return _compare(None, identity, self.url)
        if begun is not None:
            _compare(begun, identity, self.url)
        return None

    def is_free(self) -> bool:
        """See ``ExportPlace``."""
        return not self.folder.entries()

    @contextmanager
    def writing(self, identity: Mapping[str, Any]) -> Iterator[Create]:
        """See ``ExportPlace``. Files of an export that was killed are deleted first."""
        self.folder.write(BEGUN, orjson.dumps({"made_from": identity}))
        self.folder.delete([entry.name for entry in self.folder.entries() if entry.name != BEGUN])
        yield self._create
        self.folder.delete([BEGUN])

    @contextmanager
    def _create(self, name: str) -> Iterator[BytesIO]:
        file = BytesIO()
        yield file
        self.folder.write(name, file.getbuffer())

    def discard(self, output: str) -> bool:
        """See ``ExportPlace``."""
        marks = [self.folder.read_if_exists(name) for name in (MARK, BEGUN)]
        is_ours = output in map(_output_of, marks)
        if is_ours:
            self.folder.delete([MARK])
            self.folder.remove("")
        return is_ours


def _compare(mark: bytes | None, identity: Mapping[str, Any], url: str) -> dict[str, Any]:
    """What an export says of itself. Raises UserError where it was made otherwise, or is no export."""
    try:
        known: dict[str, Any] = orjson.loads(mark or b"")
        before = known["made_from"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{url} holds something else than an export; choose another folder, or delete it") from None
    if before != orjson.loads(orjson.dumps(identity)):
        changed = ", ".join(name for name in identity if before.get(name) != identity[name])
        raise UserError(f"{url} holds another export (other {changed}); choose another folder, or delete it")
    return known


def _output_of(mark: bytes | None) -> str | None:
    """The output that an export was made from. None: there is no export."""
    try:
        output: str = orjson.loads(mark or b"")["made_from"]["output"]
    except (ValueError, KeyError, TypeError):
        return None
    return output


@contextmanager
def _create_durably(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _remove_if_dead(folder: Path) -> None:
    """Remove what a killed export has left; a living one holds its lock."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
