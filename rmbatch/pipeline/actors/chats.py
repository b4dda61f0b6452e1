"""Chat clients on the cluster, each an asynchronous actor with many requests in flight, and the way to them from tasks.

Tasks keep the rows; what they send is questions, and what comes back is answers. A request goes to the actor that its
text leads to, so equal requests of all tasks meet there and are one. An actor that was lost begins anew and is asked
again; what had been answered is kept (``rmbatch/stores/answers.py``) and not paid again.

    with start_chats({spec.client_key: ("kind", spec)}, options, usage, say=print, save_usage=…) as chats:
        ...                                             # tasks reach them by chats.connections
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import orjson
import ray
import xxhash
from ray.exceptions import RayActorError, RayError

from connectors.errors import JobError, UserError
from connectors.storage import StorageOptions
from rmbatch.chat.client import ChatClient, ChatRequest
from rmbatch.chat.completion import Completion
from rmbatch.chat.connect import ChatConnection, open_client
from rmbatch.chat.limits.accounts import check_limits
from rmbatch.chat.spec import ChatSpec
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.pipeline.actors.governor import GovernorActor
from rmbatch.pipeline.actors.pools import TASK_CPUS

ACTOR_CPUS = 0.1
"""What an actor takes of the cluster: it waits for servers most of the time."""
CHUNK = 256
"""Requests that a task sends at a time."""
GATHER_S = 0.1
"""Completions are sent so often to a task that takes them as they come: each message costs about a millisecond."""
MAX_LOSSES = 30
"""Times that a task asks again, a second apart, when an actor was lost: starting anew takes one some seconds."""
AGAIN_S = 1.0
MIN_BLOCK_ROWS = 128
CLOSE_S, COMPACT_S = 30.0, 600.0
PLACED_S, LONGEST_S = 60.0, 600.0
"""How long actors may take to start and look at their servers before that is told, and then before the job stops."""
_log = logging.getLogger(__name__)


class ChatActor:
    """One client; an asynchronous Ray actor."""

    def __init__(self, spec: ChatSpec, options: StorageOptions, governor: GovernorActor | None) -> None:
        self._spec, self._options, self._governor = spec, options, governor
        self._client: ChatClient | None = None

    async def load(self) -> str:
        """Open the client and look whether a server is there; why that is impossible, or empty."""
        try:
            await self._open_client().start()
        except (ServiceError, UserError, JobError) as error:
            return str(error)
        return ""

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """As in ``ChatClient``; raises JobError where all must stop."""
        try:
            return await self._open_client().complete(requests)
        except (ServiceError, ServiceLost) as error:
            raise JobError(f"model {self._spec.model!r}: {error}") from None

    async def as_completed(self, requests: Sequence[ChatRequest]) -> AsyncIterator[list[tuple[int, Completion]]]:
        """As in ``ChatClient``, what comes within GATHER_S together; raises JobError where all must stop."""
        found: list[tuple[int, Completion]] = []
        is_there = asyncio.Event()

        async def take() -> None:
            try:
                async with aclosing(self._open_client().as_completed(requests)) as completions:
                    async for each in completions:
                        found.append(each)
                        is_there.set()
            except (ServiceError, ServiceLost) as error:
                raise JobError(f"model {self._spec.model!r}: {error}") from None
            finally:
                is_there.set()

        work = asyncio.create_task(take())
        try:
            while found or not work.done():
                await is_there.wait()
                await asyncio.wait([work], timeout=GATHER_S)
                is_there.clear()
                some, found[:] = found[:], []
                if some:
                    yield some
            await work
        finally:
            work.cancel()

    async def compact(self) -> None:
        """Tidy up where answers are kept."""
        await self._open_client().compact()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    def _open_client(self) -> ChatClient:
        if self._client is None:
            source = self._governor.lease if self._governor else None
            self._client = open_client(self._spec, self._options, source)
        return self._client


class ActorConnection(ChatConnection):
    """The way from a task to the actors of one client. Travels to tasks."""

    def __init__(self, spec: ChatSpec, actors: Sequence[Any]) -> None:
        self._spec, self._actors = spec, list(actors)

    def as_completed(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, Completion]]:
        """As in ``ChatConnection``."""
        left = set(range(len(requests)))
        for _ in range(MAX_LOSSES):
            streams = {
                self._stream(actor, [requests[place] for place in places]): places
                for actor, places in self._by_actor(requests, left).items()
            }
            try:
                while streams:
                    (stream,), _ = ray.wait(list(streams), num_returns=1)
                    try:
                        found = ray.get(next(stream))
                    except (StopIteration, RayActorError):
                        del streams[stream]
                        continue
                    for number, completion in found:
                        left.remove(place := streams[stream][number])
                        yield place, completion
            finally:
                for stream in streams:
                    ray.cancel(stream)
            if not left:
                return
            time.sleep(AGAIN_S)
        raise self._gone()

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """As in ``ChatConnection``; in a few large messages, where ``as_completed`` has many small ones."""
        chunks = [
            (actor, mine[start : start + CHUNK])
            for actor, mine in self._by_actor(requests, range(len(requests))).items()
            for start in range(0, len(mine), CHUNK)
        ]
        found: dict[int, Completion] = {}
        for _ in range(MAX_LOSSES):
            asked = [self._actors[actor].complete.remote([requests[each] for each in chunk]) for actor, chunk in chunks]
            under_way, chunks = list(zip(chunks, asked)), []
            for (actor, chunk), reference in under_way:
                try:
                    found.update(zip(chunk, ray.get(reference), strict=True))
                except RayActorError:
                    chunks.append((actor, chunk))
            if not chunks:
                return [found[place] for place in range(len(requests))]
            time.sleep(AGAIN_S)
        raise self._gone()

    def _stream(self, actor: int, requests: Sequence[ChatRequest]) -> Any:
        return self._actors[actor].as_completed.options(num_returns="streaming").remote(requests)

    def _by_actor(self, requests: Sequence[ChatRequest], places: Iterable[int]) -> dict[int, list[int]]:
        """The places of each actor's requests, by the actor's number."""
        found: dict[int, list[int]] = {}
        for place in places:
            found.setdefault(self._owner(requests[place]), []).append(place)
        return found

    def _owner(self, request: ChatRequest) -> int:
        if len(self._actors) == 1:
            return 0
        try:
            text = orjson.dumps(request)
        except orjson.JSONEncodeError:  # the client says so of this request
            return 0
        return xxhash.xxh3_64_intdigest(text) % len(self._actors)

    def _gone(self) -> JobError:
        return JobError(f"model {self._spec.model!r}: the process that asks it is gone and does not come back")


class Chats:
    """All chat clients of a job, as the driver sees them."""

    def __init__(
        self, actors: Mapping[str, tuple[ChatSpec, Sequence[Any]]], governors: Mapping[str, GovernorActor]
    ) -> None:
        self._actors, self._governors = actors, governors

    @property
    def connections(self) -> dict[str, ActorConnection]:
        """By client key, for ``use_connections``."""
        return {key: ActorConnection(spec, actors) for key, (spec, actors) in self._actors.items()}

    @property
    def block_rows(self) -> int:
        """Rows that a task should take at a time: all tasks together have twice as many as may be asked about at once.

        With batches that is twice what one batch may hold.
        """
        num_tasks = max(int(ray.cluster_resources().get("CPU", 1.0) / TASK_CPUS), 1)
        at_once = [
            spec.batch.max_requests if spec.batch else spec.in_flight * len(actors)
            for spec, actors in self._actors.values()
        ]
        return max(2 * max(at_once) // num_tasks, MIN_BLOCK_ROWS)

    def usage(self) -> dict[str, Any]:
        """By account: what its governor has counted, in this run and those before."""
        return {account: governor.spent() for account, governor in self._governors.items()}

    def compact(self) -> None:
        """Tidy up where answers are kept."""
        try:
            ray.get([actors[0].compact.remote() for _, actors in self._actors.values()], timeout=COMPACT_S)
        except RayError as error:  # they are as good as before, only in more pieces
            _log.warning("kept answers were not tidied up: %s", str(error).strip().splitlines()[-1])


@contextmanager
def start_chats(
    specs: Mapping[str, tuple[str, ChatSpec]],
    options: StorageOptions,
    usage: Mapping[str, Any],
    say: Callable[[str], None],
    save_usage: Callable[[Mapping[str, Any]], None],
) -> Iterator[Chats]:
    """The clients of these keys, each with the name of a reward that asks it.

    ``options``: of the stores where answers are kept. ``usage``: by account, as ``save_usage`` was given it before;
    that is called once more at the end, when nobody asks any more. Raises UserError where no server is there.
    """
    governors: dict[str, GovernorActor] = {}
    actors: dict[str, tuple[ChatSpec, list[Any]]] = {}
    check_limits({f"reward {name!r}": spec for name, spec in specs.values()})
    _check_fits(specs)
    try:
        for key, (_, spec) in specs.items():
            account = spec.account
            if (spec.rate or spec.budget) and account not in governors:
                governors[account] = GovernorActor.start(spec.rate, spec.budget, spec.price, usage.get(account))
            make = ray.remote(ChatActor).options(
                num_cpus=ACTOR_CPUS, max_restarts=-1, max_task_retries=0, max_concurrency=10_000
            )
            actors[key] = (
                spec,
                [make.remote(spec, options, governors.get(account)) for _ in range(spec.actors)],
            )
        for key, (name, spec) in specs.items():
            for why in _load(name, actors[key][1], say):
                if why:
                    raise UserError(f"reward {name!r}: model {spec.model!r} cannot be asked: {why}")
            say(f"{name}: asks {spec.model} at {spec.service_name}")
        yield Chats(actors, governors)
    finally:
        _close([actor for _, mine in actors.values() for actor in mine])
        save_usage(Chats(actors, governors).usage())
        for governor in governors.values():
            governor.close()


def _load(name: str, actors: Sequence[Any], say: Callable[[str], None]) -> list[str]:
    """What each actor says of its servers, empty where they are there. Raises JobError where none has found a place."""
    loading = [actor.load.remote() for actor in actors]
    for seconds in (PLACED_S, LONGEST_S):
        ready, _ = ray.wait(loading, num_returns=len(loading), timeout=seconds)
        if len(ready) == len(loading):
            return list(ray.get(loading))
        say(f"{name}: {len(loading) - len(ready)} of {len(loading)} actors wait for a place on the cluster")
    raise JobError(f"reward {name!r}: its actors found no free CPUs on the cluster for {PLACED_S + LONGEST_S:.0f} s")


def _check_fits(specs: Mapping[str, tuple[str, ChatSpec]]) -> None:
    """Raises UserError where actors would leave no CPU for a task: they would wait for each other."""
    there = ray.cluster_resources().get("CPU", 0.0)
    taken = sum(spec.actors for _, spec in specs.values()) * ACTOR_CPUS
    if taken + TASK_CPUS > there:
        raise UserError(
            f"the judges' actors take {taken:g} CPUs and the rows {TASK_CPUS:g}, and the cluster has {there:g}; "
            "set fewer actors, or let judges share their settings and so their client"
        )


def _close(actors: Sequence[Any]) -> None:
    with suppress(RayError):
        ray.wait([actor.close.remote() for actor in actors], num_returns=len(actors), timeout=CLOSE_S)
    for actor in actors:
        ray.kill(actor)
