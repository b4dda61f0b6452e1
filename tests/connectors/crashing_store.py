"""A store that dies after its k-th change, as if the process had been killed there; and one that ignores conditions.

Reads change nothing, so that being killed after every single write and removal is being killed anywhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from connectors.storage import Folder

CHANGES = ("pipe_file", "rm_file")
READS = ("cat_file", "info", "find")


class KilledError(BaseException):
    """No Exception, so that nothing in between handles it; a killed process handles nothing either."""


@dataclass
class Changes:
    """How many the store has taken."""

    number: int = 0


@contextmanager
def killed_after(folder: Folder, number: int) -> Iterator[Changes]:
    """The change with this number (from 1) is done, and its caller never hears of it; no later request reaches it."""
    fs, changes = folder.store.fs, Changes()  # type: ignore[attr-defined]

    def killing(call: Callable[..., Any], changing: int) -> Callable[..., Any]:
        def request(*args: Any, **kwargs: Any) -> Any:
            if changes.number >= number:
                raise KilledError
            answer = call(*args, **kwargs)
            changes.number += changing
            if changes.number >= number:
                raise KilledError
            return answer

        return request

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectors.storage.PARALLEL_REQUESTS", 1)  # in one order, so that every point is reached
        for name in (*CHANGES, *READS):
            patch.setattr(fs, name, killing(getattr(fs, name), name in CHANGES))
        yield changes


@contextmanager
def ignoring_conditions(folder: Folder) -> Iterator[None]:
    """A store that overwrites on a conditional put, and lets no look beforehand protect: two writers race each time."""
    fs = folder.store.fs  # type: ignore[attr-defined]
    put, look = fs.pipe_file, fs.info

    def pipe_file(path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        put(path, value, **kwargs)

    def info(path: str, **kwargs: Any) -> Any:
        if "/commits/" in path:
            raise FileNotFoundError(path)
        return look(path, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "pipe_file", pipe_file)
        patch.setattr(fs, "info", info)
        yield
