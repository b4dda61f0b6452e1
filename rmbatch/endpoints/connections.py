"""Where engines and servers are reached from: this process, or wherever a job has put them.

Rewards ask by a key and do not know. A job that has started engines or clients elsewhere connects them before rewards
are asked; without that, the first question opens a connection here, once for all rewards that share the key.

    engine = find_or_open(spec.engine_key, lambda: open_engine(spec))
    with use_connections({spec.engine_key: pool}): ...
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_connections: dict[str, Any] = {}
_lock = threading.Lock()


def _clear_after_fork() -> None:
    """In a forked process the threads and event loops of its parent are not there."""
    global _lock
    _lock = threading.Lock()
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clear_after_fork)


def find_or_open(key: str, open_connection: Callable[[], T]) -> T:
    """The connection under the key; where there is none, a new one, which stays open."""
    with _lock:
        if key not in _connections:
            _connections[key] = open_connection()
        found: T = _connections[key]
        return found


def close_connection(key: str) -> None:
    """Close the connection under a key; the next question opens a new one."""
    with _lock:
        closed = _connections.pop(key, None)
    if hasattr(closed, "close"):
        closed.close()


@contextmanager
def use_connections(connections: Mapping[str, Any]) -> Iterator[None]:
    """Inside the ``with`` block, these keys lead to these connections."""
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
    """Close all connections that were opened in this process."""
    with _lock:
        opened = [each for each in _connections.values() if hasattr(each, "close")]
        _connections.clear()
    for each in opened:
        each.close()
