"""What the errors of stores mean: a passing fault, a failed condition, an object that was cut short.

if is_transient(error): ...    # the same request may succeed a moment later
"""


def check_length(url: str, data: bytes, start: int | None, stop: int | None) -> None:
    if start is not None and stop is not None and len(data) != stop - start:
        raise OSError(f"{url}: {len(data)} bytes came for a range of {stop - start}; was the file changed?")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(
        error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError | NotADirectoryError
    ):
        return False
    if says_exists(error) or any(word in str(error) for word in _FINAL):
        return False
    return is_storage_error(error) or isinstance(error, EOFError)


def is_storage_error(error: BaseException) -> bool:
    """Whether a store raised it: s3fs lets errors of botocore and aiohttp through that are no OSError."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("aiohttp", "botocore", "aiobotocore")


_FINAL = ("ACCESS_DENIED", "Forbidden", "Unable to locate credentials", "InvalidAccessKeyId", "SignatureDoesNotMatch")


def says_exists(error: BaseException) -> bool:
    """A failed condition, in the words of the stores that do not raise FileExistsError for it."""
    return isinstance(error, FileExistsError) or any(
        word in str(error) for word in ("PreconditionFailed", "pre-conditions", "ConditionalRequestConflict")
    )
