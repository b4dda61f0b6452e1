"""Where engines and servers are reached from: this process, or wherever a job has put them.

Rewards ask by a key and do not know. A job that has started engines or clients elsewhere connects them before rewards
are asked; without that, the first question opens the way here, once for all rewards that share it.

    engine = reached(spec.engine_key, lambda: opened_here(spec))
    with connected({spec.engine_key: pool}): ...
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_connections: dict[str, Any] = {}
_lock = threading.Lock()


def _begin_anew() -> None:
    """In a forked process: threads and event loops of its parent are not there."""
    global _lock
    _lock = threading.Lock()
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def reached(key: str, opened: Callable[[], T]) -> T:
    """What is connected under the key; where there is nothing, ``opened()``, which stays connected."""
    with _lock:
        if key not in _connections:
            _connections[key] = opened()
        found: T = _connections[key]
        return found


def forget(key: str) -> None:
    """Open anew at the next question, and close what was open."""
    with _lock:
        forgotten = _connections.pop(key, None)
    if hasattr(forgotten, "close"):
        forgotten.close()


@contextmanager
def connected(connections: Mapping[str, Any]) -> Iterator[None]:
    """For the time being, these keys are reached like this."""
    with _lock:
        before = dict(_connections)
        _connections.update(connections)
    try:
        yield
    finally:
        with _lock:
            for key in connections:
                _connections.pop(key, None)
                if key in before:
                    _connections[key] = before[key]


def close_all() -> None:
    """Let go of all that was opened in this process."""
    with _lock:
        here = [each for each in _connections.values() if hasattr(each, "close")]
        _connections.clear()
    for each in here:
        each.close()
