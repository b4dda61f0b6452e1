"""Starts Ray on this machine, or attaches to a cluster that runs already.

with attached(address=None, num_cpus=None): ...     # RAY_ADDRESS if set, else a Ray of our own that ends with us
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def attached(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """A Ray to work on; a Ray that was there before stays, one that we started is shut down.

    ``address``: of a running cluster ("auto", "host:port", "ray://…"); None: RAY_ADDRESS, else a local Ray with
    ``num_cpus`` CPUs (None: all of this machine's). Under ``ray job submit`` RAY_ADDRESS is set.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        ray.init(address=address, **options)
    else:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)  # not one that happens to run
    try:
        yield
    finally:
        ray.shutdown()
