"""Starts Ray on this machine, or attaches to a cluster that runs already.

with attached(address=None, num_cpus=None): ...     # RAY_ADDRESS if set, else a Ray of our own that ends with us
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from connectors.errors import UserError

CONNECT_TIMEOUT_S = 10.0


@contextmanager
def attached(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """A Ray to work on; a Ray that was there before stays, one that we started is shut down.

    ``address``: of a running cluster ("auto", "host:port", "ray://…"); None: RAY_ADDRESS, else a local Ray with
    ``num_cpus`` CPUs (None: all of this machine's). Under ``ray job submit`` RAY_ADDRESS is set. Raises UserError for a
    cluster that is not there or does not let us in.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        _check_there(address)
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            said = str(error).strip().splitlines()[-1]
            raise UserError(f"cannot work on the Ray cluster {address!r} (run.address, RAY_ADDRESS): {said}") from error
    else:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)  # not one that happens to run
    try:
        yield
    finally:
        ray.shutdown()


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
