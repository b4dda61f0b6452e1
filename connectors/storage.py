"""Opens the places of input and output: local disk, S3 and compatible stores, everything that fsspec knows.

A ``Store`` reads, lists and writes whole objects by path. A ``Folder`` is a store and a prefix. The rest of the project
passes folders around: a folder pickles without secrets and opens itself again in another process. Credentials come from
the environment or a named profile.

The ledger needs three promises from every store:
``write`` replaces an object as a whole, so no reader ever sees half of one.
``create`` writes only if the path has no object, and says whether the object there is now ours.
Temporary faults are retried, and an object counts as absent only if the store said so.

    out = Folder.open("s3://team/best", StorageOptions(endpoint="http://localhost:9000"))
    out.write("data/a.parquet", payload)
    out.create("_rmbatch/commits/a.json", record)    # False: another record is there
    [entry.name for entry in out.entries("data")]
"""

import copy
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeVar

import fsspec
import fsspec.asyn
import pyarrow.fs
from fsspec.registry import get_filesystem_class
from fsspec.utils import get_protocol
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from connectors.errors import JobError, UserError
from connectors.faults import check_length, is_conflict, is_transient
from connectors.local import LocalStore

T = TypeVar("T")

PARALLEL_REQUESTS = 32
"""The number of requests in flight when many small objects are read or deleted."""


@dataclass(frozen=True)
class StorageOptions:
    """How to reach a store. It holds no secrets."""

    endpoint: str | None = None
    """URL of an S3-compatible server. None: AWS_ENDPOINT_URL, or else AWS."""
    region: str | None = None
    """Region name. None: from the environment."""
    profile: str | None = None
    """Profile of the shared AWS credentials file. None: credentials from the environment."""
    anonymous: bool = False
    """Read a public bucket without credentials."""
    checksums: Literal["default", "when_required"] = "default"
    """when_required: for older servers, which answer 411 or 501 to the checksum trailers of new clients."""
    max_attempts: int = 10
    """Tries of a request before its error is final."""


@dataclass(frozen=True)
class Entry:
    """One listed object."""

    name: str
    """Path relative to the listed folder."""
    size: int
    """Bytes."""
    etag: str
    """Changes with the content: the store's etag, or on a local disk size, mtime and inode. See ``same_object``."""


class Store(Protocol):
    """Reads and writes whole objects by path. Every call can be repeated safely."""

    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes: ...
    def read_many(self, paths: Sequence[str]) -> list[bytes | None]: ...
    def open(self, path: str) -> BinaryIO: ...
    def write(self, path: str, data: bytes | memoryview, *, durable: bool = True) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def honours_conditions(self, path: str) -> bool: ...
    def delete(self, paths: Sequence[str]) -> None: ...
    def remove_folder(self, path: str) -> None: ...
    def remove_empty(self, path: str) -> None: ...
    def walk(self, path: str) -> list[tuple[str, int, str]]: ...
    def glob(self, pattern: str) -> list[str]: ...
    def stat(self, path: str) -> tuple[str, int, str] | None: ...
    def is_folder(self, path: str) -> bool: ...
    def parquet_source(self, path: str) -> tuple[Any, pyarrow.fs.FileSystem | None]: ...
    def pin(self, etag: str) -> "Store": ...
    def url(self, path: str) -> str: ...


class FsspecStore:
    """Any fsspec file system. Parquet on S3 uses pyarrow's own client: 2 to 20 times cheaper for few columns."""

    def __init__(self, protocol: str, options: StorageOptions) -> None:
        self.protocol, self.options = protocol, options
        self.fs = _open_filesystem(protocol, options)
        self._if_match = ""
        self._retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(options.max_attempts),
            wait=wait_random_exponential(multiplier=0.1, max=10),
            reraise=True,
        )

    def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return self._retrying(function, *args, **kwargs)

    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        return self._call(self._read_exactly, path, start, stop)

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Read objects; None for absent ones. On an asynchronous file system, many requests are in flight at once."""
        found: dict[str, bytes] = {}
        if self.fs.async_impl:
            gets = [self.fs._cat_file(path, **self._one_request) for path in paths]
            answers = fsspec.asyn.sync(self.fs.loop, self._gather, gets)
            found = {path: answer for path, answer in zip(paths, answers) if isinstance(answer, bytes)}
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:  # read failed ones again, with retries
            return list(pool.map(lambda path: found[path] if path in found else self._read_if_there(path), paths))

    @staticmethod
    async def _gather(gets: list[Any]) -> list[Any]:
        answers: list[Any] = await fsspec.asyn._run_coros_in_chunks(
            gets, batch_size=PARALLEL_REQUESTS, return_exceptions=True
        )
        return answers

    def _read_if_there(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def _read_exactly(self, path: str, start: int | None, stop: int | None) -> bytes:
        if self._if_match:
            data = self._read_if_unchanged(path, start, stop)
        else:
            data = bytes(self.fs.cat_file(path, start=start, end=stop, **self._one_request))
        check_length(self.url(path), data, start, stop)
        return data

    @property
    def _one_request(self) -> dict[str, int]:
        """Options to read with one request. Without them, s3fs first asks for the size, to read in parts."""
        return {"max_concurrency": 1} if self.protocol == "s3" else {}

    def pin(self, etag: str) -> "FsspecStore":
        """Make a store that, on S3, reads objects only if they have this etag. Else reading raises JobError."""
        pinned = copy.copy(self)
        pinned._if_match = etag if self.protocol == "s3" else ""
        return pinned

    def _read_if_unchanged(self, path: str, start: int | None, stop: int | None) -> bytes:
        try:
            data: bytes = fsspec.asyn.sync(self.fs.loop, self._get_if_match, path, start, stop)
        except OSError as error:
            if not is_conflict(error):
                raise
            found = self.stat(path)
            if found is None or found[2] != self._if_match:
                raise JobError(f"{self.url(path)} has changed while it was read") from None
            return bytes(self.fs.cat_file(path, start=start, end=stop))  # this server refuses the right etag too
        return data

    async def _get_if_match(self, path: str, start: int | None, stop: int | None) -> bytes:
        bucket, key, version = self.fs.split_path(path)
        options = {"VersionId": version} if version else {}
        if start is not None or stop is not None:
            options["Range"] = f"bytes={start or 0}-{'' if stop is None else stop - 1}"
        etag = f'"{self._if_match}"'
        answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=key, IfMatch=etag, **options)
        async with answer["Body"] as body:
            return bytes(await body.read())

    def open(self, path: str) -> BinaryIO:
        return io.BufferedReader(_RangeReader(self, path), buffer_size=8 << 20)

    def write(self, path: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        self._call(self._write_and_verify, path, bytes(data))

    def _write_and_verify(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(path, data)
        size = self.fs.info(path)["size"]
        if size != len(data):
            raise OSError(f"{self.url(path)}: wrote {len(data)} bytes, the store holds {size}")

    def create(self, path: str, data: bytes) -> bool:
        with suppress(FileExistsError):
            self._call(self._put_if_absent, path, data)
        # The stored object decides, not the answer to the put: if an answer was lost, the retry finds our own object,
        # and some stores ignore the condition.
        return self.read(path) == data

    def honours_conditions(self, path: str) -> bool:
        """Whether the store refuses the second of two conditional puts. Tries it at ``path`` and cleans up."""
        self.write(path, b"first")
        try:
            self._call(self.fs.pipe_file, path, b"second", mode="create")
        except OSError as error:
            return is_conflict(error)
        else:
            return False
        finally:
            self.delete([path])

    def _put_if_absent(self, path: str, data: bytes) -> None:
        if self.stat(path) is not None:  # the only protection on a store that ignores the condition
            raise FileExistsError(path)
        try:
            self.fs.pipe_file(path, data, mode="create")
        except OSError as error:
            if is_conflict(error):
                raise FileExistsError(path) from None
            if "NotImplemented" not in str(error):
                raise
            self.fs.pipe_file(path, data)

    def delete(self, paths: Sequence[str]) -> None:
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            list(pool.map(self._delete_one, paths))

    def _delete_one(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._call(self.fs.rm_file, path)

    def remove_folder(self, path: str) -> None:
        self.delete([found[0] for found in self.walk(path)])

    def remove_empty(self, path: str) -> None:
        """Do nothing: an object store has no empty folders."""

    def walk(self, path: str) -> list[tuple[str, int, str]]:
        try:
            found = self._call(self.fs.find, path, detail=True)
        except FileNotFoundError:
            return []
        return sorted((name, info["size"], _get_etag(info)) for name, info in found.items() if info["type"] == "file")

    def glob(self, pattern: str) -> list[str]:
        return sorted(self._call(self.fs.glob, pattern))

    def stat(self, path: str) -> tuple[str, int, str] | None:
        try:
            info = self._call(self.fs.info, path)
        except FileNotFoundError:
            return None
        return path, int(info["size"]), _get_etag(info)

    def is_folder(self, path: str) -> bool:
        return bool(self._call(self.fs.isdir, path))

    def parquet_source(self, path: str) -> tuple[Any, pyarrow.fs.FileSystem | None]:
        if self.protocol == "s3":
            return path, _open_native_s3(self.options)
        return self.fs.open(path, cache_type="none"), None

    def url(self, path: str) -> str:
        return str(self.fs.unstrip_protocol(path))


class _RangeReader(io.RawIOBase):
    """Reads a remote object by ranges, and retries each of them by itself."""

    def __init__(self, store: FsspecStore, path: str) -> None:
        self.store, self.path, self.position = store, path, 0
        found = store.stat(path)
        if found is None:
            raise FileNotFoundError(store.url(path))
        self.end = found[1]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        stop = min(self.position + len(buffer), self.end)
        if stop <= self.position:
            return 0
        data = self.store.read(self.path, self.position, stop)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


@dataclass(frozen=True)
class Folder:
    """A prefix of a store. It pickles as its URL and options, and opens the store again in another process."""

    url: str
    options: StorageOptions = field(default_factory=StorageOptions)

    @classmethod
    def open(cls, url: str, options: StorageOptions | None = None) -> "Folder":
        """Open the folder of a URL or local path. Raises UserError for a protocol that is not installed."""
        options = options or StorageOptions()
        store, path = open_url(url, options)
        return cls(store.url(path.rstrip("/")), options)

    @property
    def store(self) -> Store:
        return open_url(self.url, self.options)[0]

    def path(self, name: str = "") -> str:
        root = open_url(self.url, self.options)[1]
        return f"{root}/{name}" if name else root

    def folder(self, name: str) -> "Folder":
        return replace(self, url=f"{self.url}/{name}")

    def read(self, name: str) -> bytes:
        return self.store.read(self.path(name))

    def read_if_exists(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Read objects in parallel; None for absent ones."""
        return self.store.read_many([self.path(name) for name in names])

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Replace the object as a whole. ``durable=False`` skips the fsync of a local disk."""
        self.store.write(self.path(name), data, durable=durable)

    def create(self, name: str, data: bytes) -> bool:
        """Write if there is no object yet. Return whether the object there now holds ``data``."""
        return self.store.create(self.path(name), data)

    def delete(self, names: Sequence[str]) -> None:
        self.store.delete([self.path(name) for name in names])

    def remove(self, prefix: str) -> None:
        """Delete everything below ``prefix`` (a folder)."""
        self.store.remove_folder(self.path(prefix))

    def remove_if_empty(self, above: int = 0) -> None:
        """Remove the folder if it is empty, and likewise the ``above`` folders above it."""
        path = self.path()
        for _ in range(above + 1):
            self.store.remove_empty(path)
            path = path.rpartition("/")[0]

    def entries(self, prefix: str = "") -> list[Entry]:
        """List all objects below ``prefix`` (a folder), sorted by name."""
        root = self.path() + "/"
        listed = self.store.walk(self.path(prefix))
        return [Entry(path.removeprefix(root), size, etag) for path, size, etag in listed if not _is_temporary(path)]

    def leftovers(self, prefix: str) -> list[str]:
        """List the temporary files that killed writers left below ``prefix``. Only a local disk has such files."""
        if not isinstance(self.store, LocalStore):  # a listing of 100,000 files takes 100 requests
            return []
        root = self.path() + "/"
        return [path.removeprefix(root) for path, _, _ in self.store.walk(self.path(prefix)) if _is_temporary(path)]

    def exists(self, name: str) -> bool:
        return self.store.stat(self.path(name)) is not None


def open_url(url: str, options: StorageOptions) -> tuple[Store, str]:
    """Open the store of a URL; return it and the path in it. A path without a protocol is local."""
    if "://" not in url:  # a local name may contain "::" and "?"
        return _LOCAL, str(Path(url).expanduser().absolute())
    if "::" in url:
        raise UserError(f"{url} opens one store inside another (::), which is not read; unpack it to a folder first")
    protocol = get_protocol(url)
    if protocol.startswith("s3") and "?versionId=" in url:
        raise UserError(f"{url} names a version of an object, which is not read; copy it to a key of its own first")
    if protocol in ("file", "local"):
        return _LOCAL, str(Path(url.split("://", 1)[-1]).expanduser().absolute())
    store = _open_fsspec_store("s3" if protocol == "s3a" else protocol, options)
    return store, str(store.fs._strip_protocol(url))


def same_object(planned: str, found: str) -> bool:
    """Whether two etags may be of the same object. Inodes are compared only on the same machine and mount."""
    if planned in (found, "", "None"):  # a store without etags: only sizes can be compared
        return True
    if "@" in planned and "@" in found and planned.split("@")[1] != found.split("@")[1]:
        return planned.split("@")[0].rsplit("-", 1)[0] == found.split("@")[0].rsplit("-", 1)[0]
    return False


_LOCAL = LocalStore()


@lru_cache(maxsize=64)
def _open_fsspec_store(protocol: str, options: StorageOptions) -> FsspecStore:
    return FsspecStore(protocol, options)


def _open_filesystem(protocol: str, options: StorageOptions) -> Any:
    try:
        get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot open {protocol}:// ({error})") from None
    if protocol != "s3":
        return fsspec.filesystem(protocol)
    filesystem = fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        anon=options.anonymous,
        session=_make_aws_session(options.profile),
        endpoint_url=options.endpoint,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs={
            "retries": {"total_max_attempts": 1},  # only FsspecStore retries: layers of retries multiply
            "max_pool_connections": 2 * PARALLEL_REQUESTS,
            "connect_timeout": 10,
            "read_timeout": 60,
        }
        | (_WHEN_REQUIRED if options.checksums == "when_required" else {}),
        use_listings_cache=False,
        default_cache_type="none",
    )
    filesystem.retries = 2
    return filesystem


def _make_aws_session(profile: str | None) -> Any:
    """Make a session with a faster parser of times: lists objects three times as fast as botocore's own."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=profile)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    return session


def parse_time(text: Any) -> datetime:
    """Parse a time in a store's answer: ISO 8601 in listings, RFC 822 or a number elsewhere."""
    from botocore.utils import parse_timestamp

    if isinstance(text, str) and text[4:5] == "-":
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    found: datetime = parse_timestamp(text)
    return found


_WHEN_REQUIRED = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}


@lru_cache(maxsize=8)
def _open_native_s3(options: StorageOptions) -> pyarrow.fs.S3FileSystem:
    keys: dict[str, Any] = {"anonymous": True} if options.anonymous else {}
    if options.profile:  # without a profile, pyarrow finds credentials itself and renews them
        import botocore.session

        credentials = botocore.session.Session(profile=options.profile).get_credentials().get_frozen_credentials()
        keys = {
            "access_key": credentials.access_key,
            "secret_key": credentials.secret_key,
            "session_token": credentials.token,
        }
    return pyarrow.fs.S3FileSystem(
        endpoint_override=options.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL"),
        region=options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        # pyarrow retries a ranged read by itself; formats/parquet.py retries what still fails.
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=3),
        connect_timeout=10,
        request_timeout=60,
        **keys,
    )


def _get_etag(info: dict[str, Any]) -> str:
    names = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "created")
    tag = next((info[name] for name in names if info.get(name)), None)
    return str(tag.timestamp() if isinstance(tag, datetime) else tag).strip('"')  # some listings give no quotes


def _is_temporary(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.startswith(".") and name.endswith(".tmp")
