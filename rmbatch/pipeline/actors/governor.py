"""One governor for all of a job's workers: an actor that clients in other actors ask for grants.

``rmbatch/chat/limits/governor.py`` decides. ``rmbatch/chat/limits/admission.py`` is the client's side.

    governor = GovernorHandle.start(spec.rate, spec.budget, spec.price, used_before)     # on the driver
    admission = admission_for(spec, governor.grant)                                      # in any actor
    governor.usage()                                                                     # on the driver, now and then
    governor.close()

When the actor dies Ray starts another one, which first reads the reports of all clients. Clients may have died as well.
The driver's handle remembers their usage from its last call, and sends it with the next one.
"""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rmbatch.chat.limits.admission import SourceLost
from rmbatch.chat.limits.governor import Consumption, Governor, Grant, Report
from rmbatch.chat.spec import Limits
from rmbatch.costs.prices import Price

_ANSWERS_WITHIN_S = 10.0


class _GovernorActor:
    """The actor behind a GovernorHandle."""

    def __init__(
        self, rate: Limits | None, budget: Limits | None, price: Price | None, used_before: Mapping[str, int]
    ) -> None:
        is_another = ray.get_runtime_context().was_current_actor_reconstructed
        self._governor = Governor(rate, budget, price, used_before, is_replacement=is_another)

    def grant(self, report: Report) -> Grant:
        return self._governor.grant(report)

    def usage(self, memory: Mapping[str, Consumption]) -> tuple[dict[str, int], dict[str, Consumption]]:
        self._governor.remember(memory)
        return self._governor.usage(), self._governor.memory()


@dataclass
class GovernorHandle:
    """A handle on the governor; travels to actors by name, for Ray warns of handles among what restarts an actor."""

    actor: Any
    name: str
    _usage: dict[str, int] = field(default_factory=dict)
    _memory: dict[str, Consumption] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        rate: Limits | None,
        budget: Limits | None,
        price: Price | None = None,
        used_before: Mapping[str, int] | None = None,
    ) -> "GovernorHandle":
        """``used_before``: the usage of the job's earlier runs."""
        name = f"rmbatch-governor-{secrets.token_hex(8)}"
        # Ray must not repeat calls: the client reports again by itself.
        governing = ray.remote(_GovernorActor).options(num_cpus=0, max_restarts=-1, name=name)
        actor = governing.remote(rate, budget, price, dict(used_before or {}))
        return cls(actor, name, asdict(Consumption(**(used_before or {}))))

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_handle, (self.name,)

    async def grant(self, report: Report) -> Grant:
        """As ``Governor.grant``; a ``GrantSource``. Raises SourceLost while the actor is away."""
        try:
            grant: Grant = await asyncio.wait_for(self.actor.grant.remote(report), _ANSWERS_WITHIN_S)
        except (RayActorError, TimeoutError) as error:
            raise SourceLost(" ".join(f"{type(error).__name__} {error}".split())[:300]) from None
        return grant

    def usage(self) -> dict[str, int]:
        """The usage of the job, as plain counts. While the actor is away, the last known usage."""
        with suppress(RayError):  # the job itself will stop
            call = self.actor.usage.remote(self._memory)
            self._usage, self._memory = ray.get(call, timeout=_ANSWERS_WITHIN_S)
        return dict(self._usage)

    def close(self) -> None:
        """End the actor. Before that, close all admissions and read ``usage``."""
        ray.kill(self.actor)


def _find_handle(name: str) -> GovernorHandle:
    return GovernorHandle(ray.get_actor(name), name)
