"""The simple way to hold a limit for several processes: an actor that is asked once for each request.

It holds requests per minute, at the governor's share and burst, and counts what answers have cost, which travels with
the next call. It has no tokens per minute, budget, turns, holds or memory of workers, so it is the least that such an
actor costs. ``tests/bench/governor.py`` measures the governor against it.

    actor = OneCall.remote(per_minute)
    permit = await OneCallAdmission(actor).admit(2000, again=False)
"""

import asyncio
import time
from typing import Any

import ray

from rmbatch.chat.limits.governor import BURST_S, SHARE


@ray.remote(num_cpus=0, max_concurrency=20_000)
class OneCall:
    """Holds the limit."""

    def __init__(self, per_minute: float) -> None:
        self._gap_s = 60 / (SHARE * per_minute)
        self._next = 0.0
        self._tokens = 0

    async def admit(self, tokens: int) -> None:
        """Wait until one more request may be sent; ``tokens``: used since this client's last call."""
        self._tokens += tokens
        now = time.monotonic()
        self._next = max(self._next, now - BURST_S) + self._gap_s
        if self._next > now:
            await asyncio.sleep(self._next - now)

    async def cpu(self) -> float:
        """CPU seconds of its process."""
        return time.process_time()


class OneCallAdmission:
    """An ``Admission``."""

    def __init__(self, actor: Any) -> None:
        self.servers: Any = None
        self._actor, self.tokens = actor, 0

    async def admit(self, num_bytes: int, *, again: bool, max_tokens: int | None = None) -> "OneCallPermit":
        tokens, self.tokens = self.tokens, 0
        await self._actor.admit.remote(tokens)
        return OneCallPermit(self)

    def count_answer(self, value: object) -> None:
        """Nothing: it is not counted here."""

    async def close(self) -> None:
        """Nothing to tell."""


class OneCallPermit:
    """A ``Permit``."""

    def __init__(self, admission: OneCallAdmission) -> None:
        self._admission = admission

    def settle(self, value: object | None, *, may_have_cost: bool = False) -> None:
        usage: Any = getattr(value, "usage", None)
        if usage is not None:
            self._admission.tokens += usage.prompt + usage.completion

    def give_back(self) -> None:
        """Lost: the request counts."""
