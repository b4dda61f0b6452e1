"""Starts Ray on this machine, or attaches to a cluster that runs already.

with attached(address=None, num_cpus=None): ...     # RAY_ADDRESS if set, else a Ray of our own that ends with us
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError, RayError

from connectors.errors import JobError, UserError

CONNECT_TIMEOUT_S = 10.0
STARTS = 2
"""Tries to start a local Ray: on a busy machine the first one may take longer than Ray waits for it."""
QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}


@contextmanager
def attached(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """A Ray to work on; a Ray that was there before stays, one that we started is shut down.

    ``address``: of a running cluster ("auto", "host:port", "ray://…"); None: RAY_ADDRESS, else a local Ray with
    ``num_cpus`` CPUs (None: all of this machine's). Under ``ray job submit`` RAY_ADDRESS is set. Raises UserError for a
    cluster that is not there or does not let us in, JobError for a local Ray that does not start.
    """
    if ray.is_initialized():
        yield
        return
    where = cluster_address(address)
    if where:
        _attach(where)
    else:
        _start(num_cpus)
    try:
        yield
    finally:
        ray.shutdown()


def cluster_address(address: str | None = None) -> str | None:
    """The cluster that ``attached(address)`` works on; None: a local Ray of our own."""
    return address or os.environ.get("RAY_ADDRESS") or None


def _attach(address: str) -> None:
    _check_there(address)
    try:
        ray.init(address=address, **QUIET)
    except AuthenticationError as error:
        said = str(error).split(". ", 1)[0]
        raise UserError(f"the Ray cluster at {address!r} lets nobody in without its token ({said}); {_TOKEN}") from None
    except ConnectionError as error:
        raise UserError(
            f"the Ray cluster at {address!r} (run.address, RAY_ADDRESS) does not let this process in. If it asks for a "
            f"token, {_TOKEN}; otherwise see that it runs Ray {ray.__version__} ({_last_line(error)})"
        ) from None
    except (RuntimeError, ValueError, RayError) as error:
        said = _last_line(error)
        raise UserError(f"cannot work on the Ray cluster {address!r} (run.address, RAY_ADDRESS): {said}") from error


_TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or the file ~/.ray/auth_token) to the cluster's token"


def _start(num_cpus: int | None) -> None:
    for tries_left in reversed(range(STARTS)):
        try:
            ray.init(
                address="local", num_cpus=num_cpus, include_dashboard=False, **QUIET
            )  # not one that happens to run
            return
        except Exception as error:  # Ray raises plain Exception where a process of it does not come up in time
            ray.shutdown()
            if not tries_left:
                raise JobError(
                    f"Ray did not start on this machine, in {STARTS} tries: {_last_line(error)} The machine may be too "
                    "busy or short of memory: try again when it is quieter, give Ray less with run.cpus=1, or see "
                    "docs/troubleshooting.md"
                ) from None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _check_there(address: str) -> None:
    """Raises UserError where nobody listens at ``host:port``; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():
        return  # auto, ray://…: Ray knows what these are
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster listens at {address!r} (run.address, RAY_ADDRESS): {error.strerror or error}"
        ) from None


def read_resources() -> tuple[int, int]:
    """CPUs and GPUs of the Ray that this process is connected to, over all nodes."""
    found = ray.cluster_resources()
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))
