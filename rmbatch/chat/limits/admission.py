"""When a chat client may send its next request: its side of the governor that holds a job's limits.

It asks the governor a few times a second while something waits, never once per request, and tells it what answers have
cost. It keeps no limits itself: those are in ``governor.py``, and how many requests are under way at each server is in
``endpoints/balancer.py``.

    admission = admission_for(spec)                      # None where the spec has no rate and no budget
    async with ChatClient(spec, admission=admission) as client:
        await client.complete(requests)                  # BudgetExhausted when the budget is used up
    await admission.close()

Tries that were made before go first, for they are the oldest. Where the governor is away for a while, all wait for it.
"""

import asyncio
import itertools
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from rmbatch.chat.limits.governor import NOTHING, Governor, Lease, Report, Try, Used
from rmbatch.chat.spec import ChatSpec
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.errors import ServiceLost

REPORT_S = 0.5
"""Between reports while something is under way and nothing waits."""
IDLE_S = 5.0
"""Between reports while there is nothing to say, so that a governor that has lost its memory hears of this client."""
LOST_AFTER_S = 120.0
"""How long the governor may be away before all is given up."""
_MOST = 1000
"""Tries in a report."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_SAME_HOLD_S = 0.25
_GUESS = 1024
"""Tokens of an answer before one has come, where they have no bound."""
_BYTES_PER_TOKEN = 4
"""Of a prompt, before a server has said how many tokens it has."""
_FADES = 0.99
"""What an answer counts for after the next one: means are of about the last hundred."""
_log = logging.getLogger(__name__)


class SourceLost(Exception):  # noqa: N818 - it may come back
    """The governor cannot be asked now."""


LeaseSource = Callable[[Report], Awaitable[Lease]]
"""The governor, wherever it is: as ``Governor.lease``. Raises SourceLost."""


class Holding(Protocol):
    """Who knows which servers have asked to wait: ``Endpoints``."""

    def holds(self) -> Mapping[str, float]:
        """The seconds left, by URL."""

    def hold(self, url: str, seconds: float) -> None:
        """Ask a server nothing for so long."""


def here(governor: Governor) -> LeaseSource:
    """A governor in this process."""

    async def lease(report: Report) -> Lease:
        return governor.lease(report)

    return lease


class LeasedAdmission:
    """Lets requests out as the governor grants them; an ``Admission``, used from one event loop at a time."""

    def __init__(
        self,
        source: LeaseSource,
        *,
        max_tokens: int | None = None,
        holding: Holding | None = None,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        """``max_tokens``: of an answer, all its samples together; None: without bound, so budgets hold as far as the
        longest answer yet tells."""
        self.holding = holding
        """Whose holds are shared; may be set later."""
        self._source = source
        self._expected = _Expected(max_tokens)
        self._lost_after_s = lost_after_s
        self._name, self._reports, self._numbers = secrets.token_hex(8), itertools.count(), itertools.count()
        self._again: dict[int, _Waiter] = {}
        self._first: dict[int, _Waiter] = {}
        self._offered: dict[int, Try] = {}
        self._under_way = self._likely = self._spent = self._correction = NOTHING
        self._told: tuple[Used, ...] = ()
        self._ended: Exception | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def admit(self, num_bytes: int, *, again: bool) -> "LeasedPermit":
        """Waits until one more request may be sent. Raises BudgetExhausted, and ServiceLost where the governor is."""
        if self._ended is not None:
            raise self._ended
        self._begin()
        queue, number = self._again if again else self._first, next(self._numbers)
        likely, worst = self._expected.likely(num_bytes), self._expected.worst(num_bytes)
        waiter = _Waiter(Try(number, likely, worst), num_bytes, asyncio.get_running_loop().create_future())
        queue[number] = waiter
        self._wake.set()
        try:
            return await waiter.permit
        except asyncio.CancelledError:
            if waiter.permit.done() and not waiter.permit.cancelled() and waiter.permit.exception() is None:
                waiter.permit.result().give_back()
            raise
        finally:
            queue.pop(number, None)

    def paid(self, value: object) -> None:
        """An answer for which no leave was asked here; who sent it has counted its request."""
        usage: Usage | None = getattr(value, "usage", None)
        if usage is not None:
            self._begin()
            self._spent += Used(0, usage.prompt, usage.completion, usage.cached)
            self._wake.set()

    async def close(self) -> None:
        """Tell the governor the last, and let nothing out any more. What is under way then counts as answered."""
        task, self._task = self._task, None
        self._end(ServiceLost("the endpoints were closed"))
        if task is not None and self._loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])
        if task is not None:
            try:
                await self._source(self._report(leaves=True))
            except SourceLost as lost:
                _log.warning("the governor has not heard what was used last: %s", lost)

    def _begin(self) -> None:
        """Have the task that reports run in this event loop."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._loop is not loop:
            self._loop, self._wake = loop, asyncio.Event()
            self._task = loop.create_task(self._work())
            self._task.add_done_callback(self._has_stopped)

    async def _work(self) -> None:
        while self._ended is None:
            lease = await self._leased()
            self._apply(lease)
            await asyncio.sleep(lease.again_s)
            if not self._again and not self._first:
                is_settled = self._under_way == NOTHING and self._told == self._state
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S if is_settled else REPORT_S):
                        await self._wake.wait()
            self._wake.clear()

    async def _leased(self) -> Lease:
        """The answer to a report; a new one is made for each try. Raises ServiceLost."""
        loop, pause_s, since = asyncio.get_running_loop(), _PAUSE_S, None
        while True:
            try:
                return await self._source(self._report())
            except SourceLost as lost:
                since = loop.time() if since is None else since
                if (away_s := loop.time() - since) > self._lost_after_s:
                    raise ServiceLost(f"the governor does not answer for {away_s:.0f} s: {lost}") from None
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _report(self, leaves: bool = False) -> Report:
        waiting = itertools.chain(self._again.values(), self._first.values())
        tries = tuple(each.tried for each in itertools.islice(waiting, _MOST))
        self._offered = {each.number: each for each in tries}
        self._told = self._state
        holds = {} if self.holding is None else dict(self.holding.holds())
        return Report(self._name, next(self._reports), tries, *self._state, holds=holds, leaves=leaves)

    @property
    def _state(self) -> tuple[Used, Used, Used, Used]:
        return self._spent, self._under_way, self._likely, self._correction

    def _apply(self, lease: Lease) -> None:
        for number in lease.granted:
            waiter = self._again.pop(number, None) or self._first.pop(number, None)
            if waiter is None or waiter.permit.done():  # it was cancelled while the report was on its way
                self._correction -= self._offered[number].likely
            else:
                self._grant(waiter)
        if self.holding is not None:
            known = self.holding.holds()
            for url, wait_s in lease.holds.items():
                if wait_s > known.get(url, 0.0) + _SAME_HOLD_S:
                    with suppress(KeyError):  # a server that only others ask
                        self.holding.hold(url, wait_s)
        if lease.exhausted:
            from rmbatch.endpoints.balancer import BudgetExhausted  # loads aiohttp

            self._end(BudgetExhausted(lease.exhausted))

    def _grant(self, waiter: "_Waiter") -> None:
        tried = waiter.tried
        self._spent += Used(requests=1)
        self._under_way += tried.worst
        self._likely += tried.likely
        waiter.permit.set_result(LeasedPermit(self, tried, waiter.num_bytes))

    def _has_settled(self, permit: "LeasedPermit", used: Used) -> None:
        """``used``: of it one request, or none where it was not sent."""
        tried = permit.tried
        self._under_way -= tried.worst
        self._likely -= tried.likely
        self._spent += used - Used(requests=1)
        self._correction += used - tried.likely

    def _has_stopped(self, task: "asyncio.Task[None]") -> None:
        """Whatever has ended the task ends all who wait for it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(error if isinstance(error, Exception) else ServiceLost(str(error)))

    def _end(self, error: Exception) -> None:
        self._ended = self._ended or error
        for waiter in (*self._again.values(), *self._first.values()):
            if not waiter.permit.done():
                waiter.permit.set_exception(self._ended)


class LeasedPermit:
    """That one request may be sent; a ``Permit``."""

    def __init__(self, admission: LeasedAdmission, tried: Try, num_bytes: int) -> None:
        self.tried = tried
        self._admission: LeasedAdmission | None = admission
        self._num_bytes = num_bytes

    def settle(self, value: object | None, *, may_have_cost: bool = False) -> None:
        """It was sent. Of a failed try the request counts, and its likely tokens where the server may have worked on
        it; where an answer does not say its tokens, the likely ones."""
        admission, self._admission = self._admission, None
        if admission is None:
            return
        usage: Usage | None = getattr(value, "usage", None)
        if usage is not None:
            admission._expected.learn(self._num_bytes, usage)
            used = Used(1, usage.prompt, usage.completion, usage.cached)
        else:
            used = self.tried.likely if value is not None or may_have_cost else Used(requests=1)
        admission._has_settled(self, used)
        if value is None:
            admission._wake.set()  # the server may have asked to wait, which the others should hear

    def give_back(self) -> None:
        """It was not sent, and will not be."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._has_settled(self, NOTHING)


def admission_for(spec: ChatSpec, source: LeaseSource | None = None) -> LeasedAdmission | None:
    """Who holds a spec's rate and budget; None where it has neither. ``source``: None is a governor of its own."""
    if spec.rate is None and spec.budget is None:
        return None
    written = spec.extra_body.get("max_completion_tokens", spec.max_tokens)
    bound = written * spec.n if isinstance(written, int) else None
    return LeasedAdmission(source or here(Governor(spec.rate, spec.budget, spec.price)), max_tokens=bound)


@dataclass(eq=False)
class _Waiter:
    tried: Try
    num_bytes: int
    permit: "asyncio.Future[LeasedPermit]"


class _Expected:
    """What requests will use, from what answers have used."""

    def __init__(self, max_tokens: int | None) -> None:
        self._bound = max_tokens
        self._num = self._bytes = self._prompt = self._completion = self._cached = 0.0
        self._most_completion = 0
        self._most_per_byte = 1.0

    def likely(self, num_bytes: int) -> Used:
        """The mean for a request of so many bytes; before there is one, the bound, or a guess."""
        if not self._num:
            return Used(1, num_bytes // _BYTES_PER_TOKEN, self._bound or _GUESS)
        per_byte = self._prompt / self._bytes if self._bytes else 1 / _BYTES_PER_TOKEN
        prompt, cached = per_byte * num_bytes, self._cached / self._prompt if self._prompt else 0.0
        return Used(1, round(prompt), round(self._completion / self._num), round(prompt * cached))

    def worst(self, num_bytes: int) -> Used:
        """No text has more tokens than bytes; what does, for it has pictures, is learnt."""
        bound = self._bound or _GUESS
        return Used(1, round(num_bytes * self._most_per_byte), max(bound, self._most_completion))

    def learn(self, num_bytes: int, usage: Usage) -> None:
        self._num = self._num * _FADES + 1
        self._bytes = self._bytes * _FADES + num_bytes
        self._prompt = self._prompt * _FADES + usage.prompt
        self._completion = self._completion * _FADES + usage.completion
        self._cached = self._cached * _FADES + usage.cached
        self._most_completion = max(self._most_completion, usage.completion)
        if num_bytes:
            self._most_per_byte = max(self._most_per_byte, usage.prompt / num_bytes)
