"""Chat clients on the cluster, each an asynchronous actor with many requests in flight, and their connections to tasks.

Tasks keep the rows: they send questions and get answers. A hash of a request chooses its actor, so equal requests of
all tasks meet there and are sent once. Ray restarts a lost actor, and tasks ask it again. Its answers are kept
(``rmbatch/stores/answers.py``), so none is paid for twice.

    with start_chats({spec.client_key: ("kind", spec)}, options, usage, say=print, save_usage=…) as chats:
        ...                                             # chats.connections are for tasks
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
from rmbatch.chat.connect import ChatConnection, collect, open_client
from rmbatch.chat.limits.accounts import check_limits
from rmbatch.chat.serve import Directory
from rmbatch.chat.spec import ChatSpec
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.pipeline.actors.governor import GovernorHandle
from rmbatch.pipeline.actors.pools import TASK_CPUS

ACTOR_CPUS = 0.1
"""The CPUs of an actor, which mostly waits for servers."""
GATHER_S, NOTE_S = 0.1, 1.0
"""The times between messages to a task, each of which costs about a millisecond: to one that takes completions as they
come, and to one that waits for all and only counts them meanwhile."""
MAX_LOSSES = 30
"""The most times that a task asks again, a second apart, after an actor was lost. A restart takes some seconds."""
AGAIN_S = 1.0
MIN_BLOCK_ROWS = 128
CLOSE_S, COMPACT_S = 30.0, 600.0
PLACED_S, LONGEST_S = 60.0, 600.0
"""The times that actors may take to start and check their servers: until a message, and then until the job stops."""
_log = logging.getLogger(__name__)


class ChatActor:
    """One client, as an asynchronous Ray actor."""

    def __init__(
        self, spec: ChatSpec, options: StorageOptions, governor: GovernorHandle | None, directory: Directory | None
    ) -> None:
        """``directory``: of servers of the job's own."""
        self._spec, self._options, self._governor, self._directory = spec, options, governor, directory
        self._client: ChatClient | None = None

    async def load(self) -> str:
        """Open the client and check that a server answers. Return why that is impossible, or an empty text."""
        try:
            await self._open_client().start()
        except (ServiceError, UserError, JobError) as error:
            return str(error)
        return ""

    async def as_completed(
        self, requests: Sequence[ChatRequest], gather_s: float
    ) -> AsyncIterator[list[tuple[int, Completion]]]:
        """As in ``ChatClient``, with the completions of so long together. Raises JobError where all must stop."""
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
                await asyncio.wait([work], timeout=gather_s)
                is_there.clear()
                some, found[:] = found[:], []
                if some:
                    yield some
            await work
        finally:
            work.cancel()

    async def compact(self) -> None:
        """Merge the small files of kept answers."""
        await self._open_client().compact()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    def _open_client(self) -> ChatClient:
        if self._client is None:
            source = self._governor.grant if self._governor else None
            self._client = open_client(self._spec, self._options, source, self._directory)
        return self._client


class ActorConnection(ChatConnection):
    """A connection to the actors of one client. It travels to tasks."""

    def __init__(self, spec: ChatSpec, actors: Sequence[Any]) -> None:
        self._spec, self._actors = spec, list(actors)

    def as_completed(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, Completion]]:
        """As in ``ChatConnection``."""
        return self._ask_until_all_came(requests, GATHER_S)

    def _ask_until_all_came(self, requests: Sequence[ChatRequest], gather_s: float) -> Iterator[tuple[int, Completion]]:
        """Each completion at most ``gather_s`` after it came. Requests of a lost actor are sent again."""
        left = set(range(len(requests)))
        for _ in range(MAX_LOSSES):
            streams = {
                self._stream(actor, [requests[place] for place in places], gather_s): places
                for actor, places in self._group_by_actor(requests, left).items()
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
        raise self._report_loss()

    def complete(
        self, requests: Sequence[ChatRequest], note: Callable[[Completion], object] | None = None
    ) -> list[Completion]:
        """As in ``ChatConnection``. It uses few large messages, where ``as_completed`` uses many small ones."""
        return collect(self._ask_until_all_came(requests, NOTE_S), note)

    def _stream(self, actor: int, requests: Sequence[ChatRequest], gather_s: float) -> Any:
        return self._actors[actor].as_completed.options(num_returns="streaming").remote(requests, gather_s)

    def _group_by_actor(self, requests: Sequence[ChatRequest], places: Iterable[int]) -> dict[int, list[int]]:
        """Group the places of requests by the number of their actor."""
        groups: dict[int, list[int]] = {}
        for place in places:
            groups.setdefault(self._choose_actor(requests[place]), []).append(place)
        return groups

    def _choose_actor(self, request: ChatRequest) -> int:
        if len(self._actors) == 1:
            return 0
        try:
            text = orjson.dumps(request)
        except orjson.JSONEncodeError:  # the client refuses this request
            return 0
        return xxhash.xxh3_64_intdigest(text) % len(self._actors)

    def _report_loss(self) -> JobError:
        return JobError(f"model {self._spec.model!r}: the process that asks it is gone and does not come back")


class Chats:
    """All chat clients of a job, seen from the driver."""

    def __init__(
        self, actors: Mapping[str, tuple[ChatSpec, Sequence[Any]]], governors: Mapping[str, GovernorHandle]
    ) -> None:
        self._actors, self._governors = actors, governors

    @property
    def connections(self) -> dict[str, ActorConnection]:
        """By client key, for ``use_connections``."""
        return {key: ActorConnection(spec, actors) for key, (spec, actors) in self._actors.items()}

    @property
    def block_rows(self) -> int:
        """The rows that a task should take at a time: those of all tasks are twice the requests that may be in flight.

        With batches they are twice the requests of a batch.
        """
        num_tasks = max(int(ray.cluster_resources().get("CPU", 1.0) / TASK_CPUS), 1)
        at_once = [
            spec.batch.max_requests if spec.batch else spec.in_flight * len(actors)
            for spec, actors in self._actors.values()
        ]
        return max(2 * max(at_once) // num_tasks, MIN_BLOCK_ROWS)

    def usage(self) -> dict[str, Any]:
        """By account: the usage in this run and earlier ones."""
        return {account: governor.usage() for account, governor in self._governors.items()}

    def compact(self) -> None:
        """Merge the small files of kept answers."""
        try:
            ray.get([actors[0].compact.remote() for _, actors in self._actors.values()], timeout=COMPACT_S)
        except RayError as error:  # the answers are complete all the same
            _log.warning("the files of kept answers were not merged: %s", str(error).strip().splitlines()[-1])


@contextmanager
def start_chats(
    specs: Mapping[str, tuple[str, ChatSpec]],
    options: StorageOptions,
    usage: Mapping[str, Any],
    say: Callable[[str], None],
    save_usage: Callable[[Mapping[str, Any]], None],
    find_directory: Callable[[ChatSpec], Directory | None] = lambda _: None,
) -> Iterator[Chats]:
    """Start a client for each key, and close it at the end. The values hold a reward's name and the spec.

    ``options``: of the stores where answers are kept. ``usage``: by account, as ``save_usage`` saved it before. At the
    end ``save_usage`` is called once more, when all clients are closed. ``find_directory``: of the servers that the job
    has started for a spec. Raises UserError where no server answers.
    """
    governors: dict[str, GovernorHandle] = {}
    actors: dict[str, tuple[ChatSpec, list[Any]]] = {}
    check_limits({f"reward {name!r}": spec for name, spec in specs.values()})
    _check_fits(specs)
    try:
        for key, (_, spec) in specs.items():
            account = spec.account
            if (spec.rate or spec.budget) and account not in governors:
                governors[account] = GovernorHandle.start(spec.rate, spec.budget, spec.price, usage.get(account))
            make = ray.remote(ChatActor).options(
                num_cpus=ACTOR_CPUS, max_restarts=-1, max_task_retries=0, max_concurrency=10_000
            )
            actors[key] = (
                spec,
                [make.remote(spec, options, governors.get(account), find_directory(spec)) for _ in range(spec.actors)],
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
    """Load the actors. Return what is wrong with each; empty where its servers answer. Raises JobError for no CPUs."""
    loading = [actor.load.remote() for actor in actors]
    for seconds in (PLACED_S, LONGEST_S):
        ready, _ = ray.wait(loading, num_returns=len(loading), timeout=seconds)
        if len(ready) == len(loading):
            return list(ray.get(loading))
        say(f"{name}: {len(loading) - len(ready)} of {len(loading)} actors wait for a place on the cluster")
    raise JobError(f"reward {name!r}: its actors found no free CPUs on the cluster for {PLACED_S + LONGEST_S:.0f} s")


def _check_fits(specs: Mapping[str, tuple[str, ChatSpec]]) -> None:
    """Raises UserError where actors would leave no CPU for a task: actors and tasks would wait for each other."""
    cpus = ray.cluster_resources().get("CPU", 0.0)
    taken = sum(spec.actors for _, spec in specs.values()) * ACTOR_CPUS
    if taken + TASK_CPUS > cpus:
        raise UserError(
            f"the judges' actors take {taken:g} CPUs and the rows {TASK_CPUS:g}, and the cluster has {cpus:g}; "
            "set fewer actors, or let those who ask one model name it in models:, and so share its client"
        )


def _close(actors: Sequence[Any]) -> None:
    with suppress(RayError):
        ray.wait([actor.close.remote() for actor in actors], num_returns=len(actors), timeout=CLOSE_S)
    for actor in actors:
        ray.kill(actor)
