"""Where a job works: in processes of this machine, or on Ray.

with choose_executor(job.run, needs, num_bytes, display) as executor: ...
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from connectors.errors import UserError
from jobs.config.sections import RunConfig
from jobs.show.display import Display
from rmbatch.pipeline.executor import Executor
from rmbatch.pipeline.worker_process import end_early_workers
from rmbatch.stages.base import Needs

SMALL_BYTES = 32 << 20
"""Of input. The processes of this machine work off as much in about the time that a local Ray takes to start."""


def runs_here(config: RunConfig, needs: Needs, num_bytes: int) -> bool:
    """Whether the job works in processes of this machine. Raises UserError where it is told to and cannot."""
    engines = [name for name, each in needs.models.items() if not each.spec.is_remote]
    actors = [name for name, each in needs.askers.items() if each.chat.actors > 1]
    if config.on == "here" and engines:
        raise UserError(f"run.on: here starts no engine, and the model {engines[0]!r} needs one; write ray or auto")
    if config.on == "here" and config.address:
        raise UserError(f"run.on: here works on no cluster; leave out run.address ({config.address}), or write ray")
    if config.on != "auto":
        return config.on == "here"
    address = config.address or os.environ.get("RAY_ADDRESS") or _is_attached()
    return not (address or engines or actors) and num_bytes <= SMALL_BYTES


def _is_attached() -> bool:
    """Whether this process works on a Ray already."""
    ray = sys.modules.get("ray")
    return bool(ray is not None and ray.is_initialized())


@contextmanager
def choose_executor(config: RunConfig, needs: Needs, num_bytes: int, display: Display) -> Iterator[Executor]:
    """Somewhere to work off an input of so many bytes, for as long as the job works."""
    if runs_here(config, needs, num_bytes):
        from rmbatch.pipeline.here import Here

        with Here(config.cpus) as here:
            yield here
        return
    end_early_workers()
    from cluster.local import attached, cluster_address

    where = cluster_address(config.address)
    with ExitStack() as stack:
        with display.doing(f"joining the Ray cluster {where}" if where else "starting Ray"):
            stack.enter_context(attached(config.address, config.cpus))
        from rmbatch.pipeline.on_ray import OnRay

        yield OnRay(may_grow=where is not None)
