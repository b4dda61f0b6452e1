"""One governor for all of a job's workers: an actor that clients in other actors lease from.

What it decides is in ``rmbatch/chat/limits/governor.py``; how a client asks is in ``rmbatch/chat/limits/admission.py``.

    governor = GovernorActor.start(spec.rate, spec.budget, spec.price, spent)     # on the driver
    admission = admission_for(spec, governor.lease)                               # in any actor
    governor.spent()                                                              # on the driver, every few seconds
    governor.close()

When the actor dies Ray starts another one, which first hears all clients. What those had used that have died as well
the driver's handle remembers from when it last looked, and tells with the next look.
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
from rmbatch.chat.limits.governor import Governor, Lease, Report, Used
from rmbatch.chat.spec import Limits
from rmbatch.costs.prices import Price

_ANSWERS_WITHIN_S = 10.0


class _Governing:
    """The actor behind a GovernorActor."""

    def __init__(
        self, rate: Limits | None, budget: Limits | None, price: Price | None, spent: Mapping[str, int]
    ) -> None:
        is_another = ray.get_runtime_context().was_current_actor_reconstructed
        self._governor = Governor(rate, budget, price, spent, has_forgotten=is_another)

    def lease(self, report: Report) -> Lease:
        return self._governor.lease(report)

    def spent(self, memory: Mapping[str, Used]) -> tuple[dict[str, int], dict[str, Used]]:
        self._governor.remember(memory)
        return self._governor.spent(), self._governor.memory()


@dataclass
class GovernorActor:
    """A handle on the governor; travels to actors by name, for Ray warns of handles among what restarts an actor."""

    actor: Any
    name: str
    _spent: dict[str, int] = field(default_factory=dict)
    _memory: dict[str, Used] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        rate: Limits | None,
        budget: Limits | None,
        price: Price | None = None,
        spent: Mapping[str, int] | None = None,
    ) -> "GovernorActor":
        """``spent``: by the job's earlier runs."""
        name = f"rmbatch-governor-{secrets.token_hex(8)}"
        # A lost lease is not asked for again, so calls are not repeated.
        governing = ray.remote(_Governing).options(num_cpus=0, max_restarts=-1, name=name)
        actor = governing.remote(rate, budget, price, dict(spent or {}))
        return cls(actor, name, asdict(Used(**(spent or {}))))

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (self.name,)

    async def lease(self, report: Report) -> Lease:
        """As ``Governor.lease``; a ``LeaseSource``. Raises SourceLost while the actor is away."""
        try:
            lease: Lease = await asyncio.wait_for(self.actor.lease.remote(report), _ANSWERS_WITHIN_S)
        except (RayActorError, TimeoutError) as error:
            raise SourceLost(" ".join(f"{type(error).__name__} {error}".split())[:300]) from None
        return lease

    def spent(self) -> dict[str, int]:
        """What the job has used, in plain counts; where the actor is away, what was seen last."""
        with suppress(RayError):  # the job itself will hear of it
            asked = self.actor.spent.remote(self._memory)
            self._spent, self._memory = ray.get(asked, timeout=_ANSWERS_WITHIN_S)
        return dict(self._spent)

    def close(self) -> None:
        """End it; read ``spent`` before, and close all admissions before that."""
        ray.kill(self.actor)


def _found(name: str) -> GovernorActor:
    return GovernorActor(ray.get_actor(name), name)
