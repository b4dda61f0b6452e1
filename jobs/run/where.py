"""Decides where a job runs: in processes of this machine, or on Ray.

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

SMALL_BYTES = 256 << 20
"""Input that processes of this machine finish before a local Ray does: 363 MB in 0.42 of its time, on two cores."""
ASKED_BYTES = 32 << 20
"""The same for jobs that ask chat models: here they have one worker, which waits for the last answers of each block."""


def runs_here(config: RunConfig, needs: Needs, num_bytes: int) -> bool:
    """Whether the job runs in processes of this machine. Raises UserError for ``run.on: here`` where it cannot."""
    engines = [name for name, each in needs.models.items() if not each.spec.is_remote]
    actors = [name for name, each in needs.askers.items() if each.chat.actors > 1]
    served = [(name, each.chat.serve.model) for name, each in needs.askers.items() if each.chat.serve is not None]
    if config.on == "here" and engines:
        raise UserError(f"run.on: here starts no engine, and the model {engines[0]!r} needs one; write ray or auto")
    if config.on == "here" and served:
        name, model = served[0]
        raise UserError(f"run.on: here starts no server, and {name!r} wants {model} served; write ray or auto")
    if config.on == "here" and config.address:
        raise UserError(f"run.on: here works on no cluster; leave out run.address ({config.address}), or write ray")
    if config.on != "auto":
        return config.on == "here"
    address = config.address or os.environ.get("RAY_ADDRESS") or _is_attached()
    is_small = num_bytes <= (ASKED_BYTES if needs.askers else SMALL_BYTES)
    return is_small and not (address or engines or actors or served)


def _is_attached() -> bool:
    """Whether this process is connected to a Ray already."""
    ray = sys.modules.get("ray")
    return bool(ray is not None and ray.is_initialized())


@contextmanager
def choose_executor(config: RunConfig, needs: Needs, num_bytes: int, display: Display) -> Iterator[Executor]:
    """Open the executor for an input of this many bytes, and close it at the end."""
    if runs_here(config, needs, num_bytes):
        from rmbatch.pipeline.here import Here

        with Here(config.cpus) as here:
            yield here
        return
    end_early_workers()
    from cluster.local import attached, cluster_address

    where = cluster_address(config.address)
    with ExitStack() as stack:
        with display.show_step(f"joining the Ray cluster {where}" if where else "starting Ray"):
            stack.enter_context(attached(config.address, config.cpus))
        from rmbatch.pipeline.on_ray import OnRay

        yield stack.enter_context(OnRay(may_grow=where is not None))
