"""Uses equal servers as one: balances requests, tries them again, and keeps them from servers that are dead.

It does not know what a request means: reward models and judges alike say how to ask (``Post``) and what to check.

    endpoints = Endpoints(urls, check, in_flight=256, api_key=os.environ.get("KEY"))
    await endpoints.start()                              # ServiceError if none is up, or one has another model
    answers = await endpoints.post_all(Post("/classify", body, read) for body in bodies)
    endpoints.close()

A request goes to the server with the fewest requests under way for its ``weight``, or to the one that was asked last
with its ``affinity``. A server of a lower ``priority`` is asked only while none of a higher one is up: those are dead,
out of quota, or have asked to wait (a full one is up).
The answer decides what happens next:

    connection lost, timeout, 5xx, 408, 409, 424, 425, nonsense   tried again, elsewhere first, ``attempts`` times
    429, 503                        tried again after Retry-After or a backoff, with fewer at a time for that server
    out of quota                    tried elsewhere, and that server never again; BudgetExhausted when all are
    other 4xx                       the request's fault, at once: ``endpoint_refused``
    3xx, 401 to 405, 501            a mistake in the job: ServiceError

A server that keeps failing is left alone; every ``cooldown_s`` one ``check`` asks whether it is back. A check that
asks for no answer (``probe`` is given) proves nothing: then a few requests are sent, and only a good answer brings the
server back. A request is given up only if a server that failed it has answered others that were sent after the middle
one of its tries, for only then is it the request's fault; tries before a server came back do not count. Else all
requests wait. When no server has come back within ``lost_after_s`` (``whole_s`` where they say that they are busy),
ServiceLost stops everything: the job can go on another day, and no row has a null for another's fault.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from connectors.errors import JobError
from rmbatch.endpoints.admission import Admission, Permit
from rmbatch.endpoints.errors import Failure, ServiceError, ServiceLost
from rmbatch.endpoints.http import BadAnswer, HttpClient, Refused, Reply, TryFailed, normalize_base_url
from rmbatch.endpoints.server import Patience, Server, Target
from rmbatch.endpoints.tries import Tries

# fmt: off
__all__ = [
    "Admission", "Answer", "Ask", "BudgetExhausted", "Check", "Endpoints", "Failure", "OutOfQuota", "Patience",
    "Permit", "Post", "Target",
]
# fmt: on

T = TypeVar("T")

_log = logging.getLogger(__name__)

_START_TRIES = 3
_CHECK_TIMEOUT_S = 60.0
_POLL_S = 0.1
_TRIALS = 3
"""Requests that show whether a server is back: a single one may be at fault itself."""
_MOST_OUTAGES = 3
"""Outages after which a request is tried anew; it may be the request that takes the servers down."""
_MOST_BUSIER = 0.5
"""How much busier than the least busy one the home of a request's affinity may be, in parts of a server's share."""
_MOST_HOMES = 10_000
"""Affinities whose server is remembered."""
_MAY_HAVE_COST = ("endpoint_timeout", "endpoint_bad_answer")
"""Failures of a try that a server may have worked on, and then charges for."""


class BudgetExhausted(JobError):  # noqa: N818 - what has happened is no fault
    """The providers' quota, or the job's budget, is exhausted; the job stops, and goes on when there is more."""


class OutOfQuota(BudgetExhausted):
    """The key of one server has no quota left; other servers may go on."""


class Ask(Protocol):
    """One try at one server."""

    def __call__(self, path: str, body: bytes | None = None, /) -> Awaitable[Reply]:
        """As ``HttpClient.ask``."""


Check = Callable[[Ask], Awaitable[None]]
"""Checks that a server is the right one, by a request like those that it will get.

Raises ServiceError where it has another model, BadAnswer, and what ``Ask`` raises."""


@dataclass(frozen=True)
class Post(Generic[T]):
    """A request, and the function that reads its answer."""

    path: str
    """Below the server's URL, with a leading slash."""
    body: bytes
    """JSON."""
    read: Callable[[Reply], T]
    """Raises BadAnswer."""
    max_tokens: int | None = None
    """The most tokens that the answer may have, for the admission. None: without a bound."""
    affinity: str = ""
    """Requests with the same go to the same server while that is hardly busier than the others: it has computed what
    they begin with. Empty: any server will do."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The outcome of a request."""

    value: T | None
    """What ``read`` made of the answer; None where there is a failure."""
    failure: Failure | None = None
    num_tries: int = 0
    """How often it was sent."""


class Endpoints:
    """Equal servers; used from one event loop at a time."""

    def __init__(
        self,
        targets: Sequence[str | Target],
        check: Check,
        *,
        in_flight: int,
        api_key: str | None = None,
        patience: Patience | None = None,
        seed: int | None = None,
        client: HttpClient | None = None,
        admission: Admission | None = None,
        probe: Post[Any] | None = None,
    ) -> None:
        """``in_flight``: requests under way at a time, all servers together; ``seed``: of the backoff's jitter;
        ``client``: how one try is sent, where it is not plain HTTP with that key and patience; ``admission``: who
        decides when (None: whenever there is room); ``probe``: a request that any server that serves answers, needed
        where ``check`` does not ask for an answer."""
        self._probe = probe
        self._patience = patience = patience or Patience()
        self._client = client or HttpClient(
            api_key=api_key, timeout_s=patience.timeout_s, connect_timeout_s=patience.connect_timeout_s
        )
        by_url: dict[str, Target] = {}
        for each in targets:
            target = Target(each) if isinstance(each, str) else each
            by_url.setdefault(normalize_base_url(target.url), target)
        self._endpoints = [Server(url, float(in_flight), it.weight, it.priority) for url, it in by_url.items()]
        self._check = check
        self._in_flight = in_flight
        self._admission = admission
        self._slots = asyncio.Semaphore(in_flight)
        self._random = random.Random(seed)
        self._turn = 0.0
        self._homes: dict[str, Server] = {}  # the server that was asked last, by affinity; the oldest first
        self._in_line, self._room = asyncio.Lock(), asyncio.Event()
        self._checks: set[asyncio.Task[None]] = set()
        self._lost = ""

    def follow(self, urls: Sequence[str | None]) -> None:
        """Use servers that somebody runs and watches: where each is now, always in the same order; None: it is away.

        One that is away is not asked, nor checked, until it is said to be up.
        """
        now = time.monotonic()
        for place, url in enumerate(urls):
            if place == len(self._endpoints):
                self._endpoints.append(Server("", float(self._in_flight), 1.0, 0))
                self._endpoints[-1].leave(now)
            server = self._endpoints[place]
            if url is None:
                server.leave(now)
            elif server.is_away or server.url != url:
                server.come_back(url, now)
        self._room.set()

    def give_up(self, why: str) -> None:
        """No server will come any more: all who wait for one get ServiceLost."""
        self._lost = why
        self._room.set()

    async def start(self) -> None:
        """Check all servers, and leave those alone that are down; may be called in an event loop of its own.

        Raises ServiceError where all are down, or one is not what is wanted, and BudgetExhausted where all are out of
        quota.
        """
        try:
            await asyncio.gather(*map(self._check_at_start, self._endpoints))
        finally:
            await self._client.disconnect()
        self._stop_if_all_out()
        if all(each.is_open or each.is_out for each in self._endpoints):
            raise ServiceError(f"no endpoint answers: {self._describe_failures()}")

    async def post_all(self, posts: Iterable[Post[T] | Failure]) -> list[Answer[T]]:
        """The outcome of each, in their order; they are taken as they are needed, and a failure stays one.

        Raises ServiceError, ServiceLost and BudgetExhausted; what is under way is then dropped.
        """
        answers: dict[int, Answer[T]] = {}
        waiting = enumerate(posts)

        async def work() -> None:
            for place, post in waiting:
                answers[place] = Answer(None, post) if isinstance(post, Failure) else await self.post(post)

        workers = [asyncio.create_task(work()) for _ in range(self._in_flight)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [answers[place] for place in range(len(answers))]

    async def post(self, post: Post[T]) -> Answer[T]:
        """The outcome of one request. Raises ServiceError, ServiceLost and BudgetExhausted."""
        async with self._slots:
            tries = Tries()
            while True:
                answer = await self._try_when_admitted(post, tries)
                if answer is not None:
                    return answer
                if self._is_its_fault(tries):
                    return Answer(None, tries.last, tries.num)
                await asyncio.sleep(self._choose_pause_s(tries))

    async def _try_when_admitted(self, post: Post[T], tries: Tries) -> Answer[T] | None:
        if self._admission is None:
            return await self._try_once(await self._pick_server(post, tries), post, tries)
        async with self._in_line:  # no permit is taken while all servers are full or have asked to wait
            await self._wait_for_servers()
        permit = await self._admission.admit(len(post.body), again=tries.num > 0, max_tokens=post.max_tokens)
        num_sent, answer = tries.num, None
        try:
            answer = await self._try_once(await self._pick_server(post, tries), post, tries)
            return answer
        finally:
            if tries.num == num_sent:  # no server was free any more, or nobody waits for it
                permit.give_back()
            else:
                value = tries.take_probe_value() if answer is None else answer.value
                is_late = answer is None and tries.last is not None and tries.last.code in _MAY_HAVE_COST
                permit.settle(value, may_have_cost=value is None and is_late)

    def holds(self) -> dict[str, float]:
        """The servers that have asked to wait (Retry-After), by URL, and the seconds that are left."""
        now = time.monotonic()
        return {each.url: each.wait_until - now for each in self._endpoints if each.wait_until > now}

    def hold(self, url: str, seconds: float) -> None:
        """Leave a server alone for so long, as it has asked another worker. Raises KeyError for an unknown URL."""
        {each.url: each for each in self._endpoints}[url].leave_alone(seconds, time.monotonic(), self._patience)

    def close(self) -> None:
        """Close all connections, from any thread, while the event loop still exists; what is under way is lost."""
        self._client.close()

    async def _pick_server(self, post: Post[Any], tries: Tries) -> Server:
        """The server to try next, once there is one; the request is counted as under way there.

        Raises ServiceLost and BudgetExhausted.
        """
        async with self._in_line:  # of the thousands who may wait only the first looks for room
            free = await self._wait_for_servers()
            best = min(free, key=lambda each: (each in tries.this_round, each.load, each.turn))
            if post.affinity:
                home = self._homes.pop(post.affinity, best)
                if home in free and home not in tries.this_round and home.load <= best.load + self._find_slack():
                    best = home
                self._homes[post.affinity] = best
                if len(self._homes) > _MOST_HOMES:
                    del self._homes[next(iter(self._homes))]
            self._turn = max(self._turn, best.turn)
            best.turn = self._turn + 1 / best.weight
            best.in_flight += 1
            if best.is_open:
                best.trials_due -= 1
                best.on_trial += 1
                tries.is_trial = True
            return best

    def _find_slack(self) -> float:
        """How much more load than the least busy one the home of a request's affinity may have."""
        return _MOST_BUSIER * self._in_flight / sum(each.weight for each in self._endpoints)

    async def _wait_for_servers(self) -> list[Server]:
        """The servers that may be asked, once there are any. Raises ServiceLost and BudgetExhausted."""
        while True:
            if self._lost:
                raise ServiceLost(self._lost)
            now = time.monotonic()
            self._begin_checks(now)
            if free := self._find_free(now):
                return free
            self._stop_if_all_out()
            self._stop_if_lost(now)
            await self._wait_for_room()

    def _find_free(self, now: float) -> list[Server]:
        """The servers of the highest priority that is up and that have room; or one that is due for a trial."""
        if due := next((each for each in self._endpoints if each.is_trial_due(now)), None):
            return [due]
        up = [each for each in self._endpoints if each.is_up(now)]
        highest = max((each.priority for each in up), default=0)
        return [each for each in up if each.priority == highest and each.in_flight < each.limit]

    async def _wait_for_room(self) -> None:
        self._room.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await self._room.wait()

    async def _try_once(self, endpoint: Server, post: Post[T], tries: Tries) -> Answer[T] | None:
        """The outcome of one try; None where there may be another."""
        sent_at, is_trial, tries.is_trial = time.monotonic(), tries.is_trial, False
        probe = (
            self._probe if is_trial and self._is_used_up(tries, sent_at) else None
        )  # the request itself would not show anything
        asked: Post[Any] = probe or post
        tries.num += 1
        tries.began = min(tries.began, sent_at)
        failed: TryFailed | None = None
        refusal: Failure | None = None
        try:
            reply = await self._client.ask(endpoint.url, asked.path, asked.body)
            value = asked.read(reply)
        except Refused as refused:
            if refused.is_mistake:
                raise ServiceError(f"{endpoint.url}{post.path}: {refused}") from None
            refusal = Failure("endpoint_refused", str(refused))
        except BadAnswer as bad:
            failed = TryFailed("endpoint_bad_answer", self._client.clean(str(bad)))
        except OutOfQuota as out:
            endpoint.mark_out_of_quota(str(out))
            self._stop_if_all_out()
            return None
        except TryFailed as why:
            failed = why
        else:
            if reply.is_answer:
                endpoint.record_success(sent_at, time.monotonic())
            if not probe:
                return Answer(value, None, tries.num)
            tries.probed = value
        finally:
            endpoint.in_flight -= 1
            endpoint.on_trial -= is_trial
            self._room.set()
        if failed:
            endpoint.record_failure(failed, sent_at, time.monotonic(), self._patience)
            tries.record_failure(endpoint, failed, sent_at)
        if is_trial:  # a refusal does not show that the server serves
            endpoint.record_failed_trial(time.monotonic(), self._patience)
        return None if refusal is None or probe else Answer(None, refusal, tries.num)

    def _is_used_up(self, tries: Tries, now: float) -> bool:
        return tries.counted >= self._patience.attempts or now - tries.began >= self._patience.whole_s

    def _is_its_fault(self, tries: Tries) -> bool:
        """Whether a request has failed for good; servers that have answered no other either are left alone."""
        now = time.monotonic()
        if tries.num_outages < _MOST_OUTAGES and any(each.back_at > tries.began for each in tries.failed_on):
            tries.reset()
            return False
        if not self._is_used_up(tries, now):
            return False
        if any(each.served_sent_at > tries.midway for each in tries.failed_on):
            return True
        for each in tries.failed_on:
            each.open(now, self._patience)
        return False

    def _choose_pause_s(self, tries: Tries) -> float:
        """The pause before the next try: none while there is a server that was not tried yet."""
        now = time.monotonic()
        if any(each not in tries.this_round for each in self._find_free(now)):
            return 0.0
        longest = self._patience.backoff_s * 2.0 ** min(tries.rounds, 30)
        tries.this_round.clear()
        tries.rounds += 1
        return self._random.uniform(0, min(longest, self._patience.max_backoff_s))

    def _stop_if_all_out(self) -> None:
        if all(each.is_out for each in self._endpoints):
            raise BudgetExhausted("; ".join(f"{each.url} is out of quota: {each.why}" for each in self._endpoints))

    def _stop_if_lost(self, now: float) -> None:
        left = [each for each in self._endpoints if not each.is_out]
        if any(each.on_trial for each in left):
            return
        for each in left:
            limit = self._patience.whole_s if each.is_busy else self._patience.lost_after_s
            if not each.is_open or now - each.opened_at <= limit:
                return
        since = max(each.opened_at for each in left)
        raise ServiceLost(f"no endpoint answers for {now - since:.0f} s: {self._describe_failures()}")

    def _describe_failures(self) -> str:
        return "; ".join(f"{each.url}: {each.why}" for each in self._endpoints)

    async def _check_at_start(self, endpoint: Server) -> None:
        for left in reversed(range(_START_TRIES)):
            try:
                await self._run_check(endpoint)
            except TryFailed as failed:
                endpoint.why = str(failed)
                if left:
                    wait = failed.wait_s or self._patience.backoff_s
                    await asyncio.sleep(min(wait, self._patience.max_backoff_s))
            except OutOfQuota as out:
                endpoint.mark_out_of_quota(str(out))
                return
            except (Refused, ServiceError) as mistake:
                raise ServiceError(f"{endpoint.url}: {mistake}") from None
            else:
                return
        endpoint.open(time.monotonic(), self._patience)

    def _begin_checks(self, now: float) -> None:
        for each in self._endpoints:
            if each.is_checkable(now):
                each.is_checked = True
                task = asyncio.create_task(self._check_again(each))
                self._checks.add(task)  # a loop holds its tasks only weakly
                task.add_done_callback(self._checks.discard)

    async def _check_again(self, endpoint: Server) -> None:
        sent_at, wait_s = time.monotonic(), self._patience.cooldown_s
        try:
            await self._run_check(endpoint)
        except OutOfQuota as out:
            endpoint.mark_out_of_quota(str(out))
        except (TryFailed, Refused, ServiceError, ServiceLost) as why:  # concerns no request: it only stays dead
            endpoint.why = str(why)
            asked = why.wait_s if isinstance(why, TryFailed) else None
            endpoint.is_busy = asked is not None
            wait_s = max(wait_s, asked or 0.0)
        else:
            if self._probe is None:
                endpoint.record_success(sent_at, time.monotonic())
            else:
                endpoint.trials_due = _TRIALS
        finally:
            endpoint.check_at = time.monotonic() + wait_s
            endpoint.is_checked = False
            self._room.set()

    async def _run_check(self, endpoint: Server) -> None:
        limit = min(self._patience.timeout_s, _CHECK_TIMEOUT_S)
        try:
            async with asyncio.timeout(limit):
                await self._check(partial(self._client.ask, endpoint.url))
        except TimeoutError:
            raise TryFailed("endpoint_timeout", f"no answer within {limit:g} s") from None
        except BadAnswer as bad:
            raise TryFailed("endpoint_bad_answer", self._client.clean(str(bad))) from None
