"""Decides when a chat client may send its next request, by asking the governor that holds the job's limits.

It asks a few times a second while requests wait, not once per request. With each report it tells the usage of answers.
It holds no limits itself: ``governor.py`` does. ``endpoints/balancer.py`` counts the requests under way at each server.

    admission = admission_for(spec)                      # None where the spec has no rate and no budget
    async with ChatClient(spec, admission=admission) as client:
        await client.complete(requests)                  # BudgetExhausted when the budget is used up
    await admission.close()

Repeated tries go first, because their requests are the oldest. While the governor does not answer, all requests wait.
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

from rmbatch.chat.limits.governor import NOTHING, Consumption, Governor, Grant, Report, Try
from rmbatch.chat.spec import ChatSpec
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.errors import ServiceLost

REPORT_S = 0.5
"""The time between reports while requests are under way and none waits."""
IDLE_S = 5.0
"""The time between reports while nothing changes, so that a replaced governor learns of this client."""
LOST_AFTER_S = 120.0
"""The longest time without an answer of the governor, before all requests are given up."""
_MOST = 1000
"""The most tries in a report."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_SAME_HOLD_S = 0.25
_GUESS = 1024
"""The tokens of an answer without a bound, before any answer."""
_BYTES_PER_TOKEN = 4
"""The bytes per token of a prompt, before any answer."""
_FADES = 0.99
"""The weight of an answer falls to this with each next one, so means cover about the last hundred."""
_log = logging.getLogger(__name__)


class SourceLost(Exception):  # noqa: N818 - it may come back
    """The governor does not answer now."""


GrantSource = Callable[[Report], Awaitable[Grant]]
"""``Governor.grant``, wherever the governor is. Raises SourceLost."""


class Servers(Protocol):
    """The servers that a client asks, some of which have asked to wait: ``Endpoints``."""

    def holds(self) -> Mapping[str, float]:
        """The seconds left, by URL."""

    def hold(self, url: str, seconds: float) -> None:
        """Send a server nothing for so long."""


def local_source(governor: Governor) -> GrantSource:
    """Ask a governor in this process."""

    async def grant(report: Report) -> Grant:
        return governor.grant(report)

    return grant


class GovernedAdmission:
    """An ``Admission`` that sends requests as the governor grants them. Used from one event loop at a time."""

    def __init__(
        self,
        source: GrantSource,
        *,
        servers: Servers | None = None,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        self.servers = servers
        """The servers whose holds are shared. May be set later."""
        self._source = source
        self._estimator = _Estimator()
        self._lost_after_s = lost_after_s
        self._name, self._reports, self._numbers = secrets.token_hex(8), itertools.count(), itertools.count()
        self._retries: dict[int, _Waiter] = {}
        self._new: dict[int, _Waiter] = {}
        self._reported_tries: dict[int, Try] = {}
        self._under_way = self._likely = self._used = self._correction = NOTHING
        self._reported: tuple[Consumption, ...] = ()
        self._stop_error: Exception | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def admit(self, num_bytes: int, *, again: bool, max_tokens: int | None = None) -> "GovernedPermit":
        """Wait until one more request may be sent. Raises BudgetExhausted, and ServiceLost where the governor is lost.

        ``max_tokens``: of the answer, all its samples together. None: nothing bounds it. Then the budget reserves as
        many tokens as the longest answer so far had, and a longer answer may exceed the budget.
        """
        if self._stop_error is not None:
            raise self._stop_error
        self._start()
        queue, number = self._retries if again else self._new, next(self._numbers)
        size = _Size(num_bytes, max_tokens)
        tried = Try(number, self._estimator.likely(size), self._estimator.worst(size))
        waiter = _Waiter(tried, size, asyncio.get_running_loop().create_future())
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

    def count_answer(self, value: object) -> None:
        """Count the tokens of an answer whose request another run or process has sent and counted."""
        usage: Usage | None = getattr(value, "usage", None)
        if usage is not None:
            self._start()
            self._used += Consumption(0, usage.prompt, usage.completion, usage.cached)
            self._wake.set()

    async def close(self) -> None:
        """Send the governor a last report, and grant nothing more. Requests under way then count as answered."""
        task, self._task = self._task, None
        self._stop(ServiceLost("the endpoints were closed"))
        if task is not None and self._loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])
        if task is not None:
            try:
                await self._source(self._report(leaves=True))
            except SourceLost as lost:
                _log.warning("the governor did not get the last report of usage: %s", lost)

    def _start(self) -> None:
        """Start the task that reports, in this event loop."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._loop is not loop:
            self._loop, self._wake = loop, asyncio.Event()
            self._task = loop.create_task(self._work())
            self._task.add_done_callback(self._handle_stop)

    async def _work(self) -> None:
        while self._stop_error is None:
            grant = await self._ask_governor()
            self._apply(grant)
            await asyncio.sleep(grant.report_in_s)
            if not self._retries and not self._new:
                is_settled = self._under_way == NOTHING and self._reported == self._state
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S if is_settled else REPORT_S):
                        await self._wake.wait()
            self._wake.clear()

    async def _ask_governor(self) -> Grant:
        """Report until the governor answers, each time with the current state. Raises ServiceLost."""
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
        waiting = itertools.chain(self._retries.values(), self._new.values())
        tries = tuple(each.tried for each in itertools.islice(waiting, _MOST))
        self._reported_tries = {each.number: each for each in tries}
        self._reported = self._state
        holds = {} if self.servers is None else dict(self.servers.holds())
        return Report(self._name, next(self._reports), tries, *self._state, holds=holds, leaves=leaves)

    @property
    def _state(self) -> tuple[Consumption, Consumption, Consumption, Consumption]:
        return self._used, self._under_way, self._likely, self._correction

    def _apply(self, grant: Grant) -> None:
        for number in grant.numbers:
            waiter = self._retries.pop(number, None) or self._new.pop(number, None)
            if waiter is None or waiter.permit.done():  # it was cancelled after the report was sent
                self._correction -= self._reported_tries[number].likely
            else:
                self._release(waiter)
        if self.servers is not None:
            known = self.servers.holds()
            for url, wait_s in grant.holds.items():
                if wait_s > known.get(url, 0.0) + _SAME_HOLD_S:
                    with suppress(KeyError):  # a server that only other clients ask
                        self.servers.hold(url, wait_s)
        if grant.exhausted:
            from rmbatch.endpoints.balancer import BudgetExhausted  # loads aiohttp

            self._stop(BudgetExhausted(grant.exhausted))

    def _release(self, waiter: "_Waiter") -> None:
        tried = waiter.tried
        self._used += Consumption(requests=1)
        self._under_way += tried.worst
        self._likely += tried.likely
        waiter.permit.set_result(GovernedPermit(self, tried, waiter.size))

    def _settle(self, permit: "GovernedPermit", used: Consumption) -> None:
        """Count a request that has ended. ``used``: one request and its tokens, or nothing if it was not sent."""
        tried = permit.tried
        self._under_way -= tried.worst
        self._likely -= tried.likely
        self._used += used - Consumption(requests=1)
        self._correction += used - tried.likely

    def _handle_stop(self, task: "asyncio.Task[None]") -> None:
        """Raise the error of the task in all that wait for it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error if isinstance(error, Exception) else ServiceLost(str(error)))

    def _stop(self, error: Exception) -> None:
        self._stop_error = self._stop_error or error
        for waiter in (*self._retries.values(), *self._new.values()):
            if not waiter.permit.done():
                waiter.permit.set_exception(self._stop_error)


class GovernedPermit:
    """A ``Permit`` for one request."""

    def __init__(self, admission: GovernedAdmission, tried: Try, size: "_Size") -> None:
        self.tried = tried
        self._admission: GovernedAdmission | None = admission
        self._size = size

    def settle(self, value: object | None, *, may_have_cost: bool = False) -> None:
        """Count a request that was sent. A failed try counts as one request. Its likely tokens count too where the
        server may have worked on it, or where the answer does not tell its tokens."""
        admission, self._admission = self._admission, None
        if admission is None:
            return
        usage: Usage | None = getattr(value, "usage", None)
        if usage is not None:
            admission._estimator.learn(self._size, usage)
            used = Consumption(1, usage.prompt, usage.completion, usage.cached)
        else:
            used = self.tried.likely if value is not None or may_have_cost else Consumption(requests=1)
        admission._settle(self, used)
        if value is None:
            admission._wake.set()  # the server may have asked to wait, and other clients should know

    def give_back(self) -> None:
        """Give back the grant of a request that was not sent."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._settle(self, NOTHING)


def admission_for(spec: ChatSpec, source: GrantSource | None = None) -> GovernedAdmission | None:
    """The admission for a spec's rate and budget. None: it has neither. Without ``source`` it gets its own governor."""
    if spec.rate is None and spec.budget is None:
        return None
    return GovernedAdmission(source or local_source(Governor(spec.rate, spec.budget, spec.price)))


@dataclass(frozen=True)
class _Size:
    """What is known of a request's tokens before it is sent."""

    num_bytes: int
    max_tokens: int | None
    """Of its answer."""


@dataclass(eq=False)
class _Waiter:
    tried: Try
    size: _Size
    permit: "asyncio.Future[GovernedPermit]"


class _Estimator:
    """Estimates the usage of requests from the usage of answers."""

    def __init__(self) -> None:
        self._num = self._bytes = self._prompt = self._completion = self._cached = 0.0
        self._most_completion = self._most_beyond = 0
        self._most_per_byte = 1.0

    def likely(self, size: _Size) -> Consumption:
        """The mean of answered requests; before any is answered, the request's own bound, or a guess."""
        if not self._num:
            return Consumption(1, size.num_bytes // _BYTES_PER_TOKEN, size.max_tokens or _GUESS)
        per_byte = self._prompt / self._bytes if self._bytes else 1 / _BYTES_PER_TOKEN
        prompt, cached = per_byte * size.num_bytes, self._cached / self._prompt if self._prompt else 0.0
        completion = min(round(self._completion / self._num), self._longest(size))
        return Consumption(1, round(prompt), completion, round(prompt * cached))

    def worst(self, size: _Size) -> Consumption:
        """The most that it may use. No text has more tokens than bytes; a prompt with pictures may, which is learnt."""
        return Consumption(1, round(size.num_bytes * self._most_per_byte), self._longest(size))

    def _longest(self, size: _Size) -> int:
        """The most tokens of an answer. Where a server has answered beyond the bound, it may do so again."""
        if size.max_tokens is None:
            return max(_GUESS, self._most_completion)
        return size.max_tokens + self._most_beyond

    def learn(self, size: _Size, usage: Usage) -> None:
        num_bytes = size.num_bytes
        if size.max_tokens is not None:
            self._most_beyond = max(self._most_beyond, usage.completion - size.max_tokens)
        self._num = self._num * _FADES + 1
        self._bytes = self._bytes * _FADES + num_bytes
        self._prompt = self._prompt * _FADES + usage.prompt
        self._completion = self._completion * _FADES + usage.completion
        self._cached = self._cached * _FADES + usage.cached
        self._most_completion = max(self._most_completion, usage.completion)
        if num_bytes:
            self._most_per_byte = max(self._most_per_byte, usage.prompt / num_bytes)
