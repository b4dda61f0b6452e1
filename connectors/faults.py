"""Interprets the errors of stores: temporary faults, failed conditions, objects that were cut short.

if is_transient(error): ...    # the same request may succeed a moment later
with explain_errors("s3://team/best"): write()    # a full disk or a missing bucket: one line with the cure
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from connectors.errors import JobError


def check_length(url: str, data: bytes, start: int | None, stop: int | None) -> None:
    """Raise OSError where a range came with fewer or more bytes than asked for."""
    if start is not None and stop is not None and len(data) != stop - start:
        raise OSError(f"{url}: {len(data)} bytes came for a range of {stop - start}; was the file changed?")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(
        error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError | NotADirectoryError
    ) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return False
    if is_conflict(error) or any(word in str(error) for word in _FINAL):
        return False
    return is_storage_error(error) or isinstance(error, EOFError)


def is_storage_error(error: BaseException) -> bool:
    """Whether a store raised the error. s3fs passes on errors of botocore and aiohttp that are not OSError."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("aiohttp", "botocore", "aiobotocore")


_NO_CREDENTIALS = ("Unable to locate credentials", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_DENIED = ("ACCESS_DENIED", "AccessDenied", "Access Denied", "Forbidden")
_FINAL = (*_NO_CREDENTIALS, *_DENIED, "NoSuchBucket")


def is_conflict(error: BaseException) -> bool:
    """Whether a conditional put failed because the object exists. Not all stores raise FileExistsError for that.

    radosgw gives no message. s3fs turns its status 412 into OSError(22), and only the cause has the status.
    """
    said = f"{error} {error.__cause__}"
    return isinstance(error, FileExistsError) or any(
        word in said for word in ("PreconditionFailed", "pre-conditions", "ConditionalRequestConflict")
    )


def explain(error: BaseException, where: str = "") -> str | None:
    """Say in one line what went wrong in a store, and the cure. None for an error that is not known here.

    ``where``: the path or URL, for errors that do not contain it.
    """
    said, code = f"{error} {error.__cause__}", getattr(error, "errno", None)
    place = getattr(error, "filename", None) or where or "the output"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}: no space is left on the disk; free some and run the same command again"
    if "NoSuchBucket" in said or "bucket does not exist" in said:
        return f"{place}: the bucket does not exist; create it, or write another path"
    if any(word in said for word in _NO_CREDENTIALS):
        return (
            f"{place}: the machine {socket.gethostname()} has no valid credentials for it; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or a profile) where Ray is started, on every node of the cluster"
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or any(word in said for word in _DENIED):
        return f"{place}: permission denied; let this user read and write there, or write another path"
    return None


@contextmanager
def explain_errors(where: str) -> Iterator[None]:
    """Turn the store errors that ``explain`` knows into a JobError."""
    try:
        yield
    except Exception as error:
        if is_storage_error(error) and (explanation := explain(error, where)):
            raise JobError(explanation) from error
        raise
