"""What the errors of stores mean: a passing fault, a failed condition, an object that was cut short.

if is_transient(error): ...    # the same request may succeed a moment later
with explained("s3://team/best"): write()    # a full disk, a missing bucket: one line with the cure
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from connectors.errors import JobError


def check_length(url: str, data: bytes, start: int | None, stop: int | None) -> None:
    if start is not None and stop is not None and len(data) != stop - start:
        raise OSError(f"{url}: {len(data)} bytes came for a range of {stop - start}; was the file changed?")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(
        error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError | NotADirectoryError
    ) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return False
    if says_exists(error) or any(word in str(error) for word in _FINAL):
        return False
    return is_storage_error(error) or isinstance(error, EOFError)


def is_storage_error(error: BaseException) -> bool:
    """Whether a store raised it: s3fs lets errors of botocore and aiohttp through that are no OSError."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("aiohttp", "botocore", "aiobotocore")


_NO_CREDENTIALS = ("Unable to locate credentials", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_DENIED = ("ACCESS_DENIED", "AccessDenied", "Access Denied", "Forbidden")
_FINAL = (*_NO_CREDENTIALS, *_DENIED, "NoSuchBucket")


def says_exists(error: BaseException) -> bool:
    """A failed condition, in the words of the stores that do not raise FileExistsError for it.

    radosgw says no word of it: s3fs makes OSError(22) of its 412, whose code only the cause tells.
    """
    said = f"{error} {error.__cause__}"
    return isinstance(error, FileExistsError) or any(
        word in said for word in ("PreconditionFailed", "pre-conditions", "ConditionalRequestConflict")
    )


def explain(error: BaseException, where: str = "") -> str | None:
    """What has happened to a store and how to mend it, in one line; None for an error that this knows nothing of.

    ``where``: the path or URL, for errors that do not tell it.
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
def explained(where: str) -> Iterator[None]:
    """Turns errors of a store that ``explain`` knows into a JobError."""
    try:
        yield
    except Exception as error:
        if is_storage_error(error) and (told := explain(error, where)):
            raise JobError(told) from error
        raise
