"""Chat completions from servers that speak OpenAI's API: each request one outcome, none paid for twice.

vLLM, a provider, or a gateway such as New API. Balancing, failover and backoff are ``rmbatch/endpoints/balancer.py``,
one try is ``transport.py``, kept answers are ``rmbatch/stores/answers.py``; where the spec has ``batch``,
``batch/client.py`` takes the place of the first two. It writes no prompts and reads no verdicts.

    spec = ChatSpec(endpoints=["http://host:8000"], model="Qwen/Qwen3-32B", max_tokens=2048, cache="s3://team/answers")
    async with ChatClient(spec) as client:               # ServiceError if none is up
        for completion in await client.complete([ChatRequest([{"role": "user", "content": "…"}])]):
            completion.texts or completion.failure
        async with aclosing(client.as_completed(requests)) as found:
            async for place, completion in found: ...    # each as soon as it is there

Equal requests are one: the answer is found in the cache (the newest, where a retry has asked for another one), or the
second waits for the first. For several samples set ``n``, or give requests seeds. Both methods raise ServiceError (a
mistake in the job: key, model, URL), BudgetExhausted (the job goes on when there is money again) and ServiceLost; then
nothing more is sent, and the answers to what was sent are waited for and kept.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterable, Sized
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Self

import orjson

from connectors.storage import StorageOptions
from rmbatch.chat.batch.api import BatchApi
from rmbatch.chat.batch.client import LINGER_S, BatchClient
from rmbatch.chat.completion import Completion, read_completion
from rmbatch.chat.limits.admission import GovernedAdmission
from rmbatch.chat.request import ChatRequest, CompleteRequest, build_body, with_defaults
from rmbatch.chat.serve import Directory, Places
from rmbatch.chat.spec import Batch, ChatSpec
from rmbatch.chat.transport import ChatEndpoints
from rmbatch.endpoints.balancer import Admission, Ask, BudgetExhausted, Failure, Patience, Post
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.http import BadAnswer, Refused, Reply, TryFailed
from rmbatch.stores.answers import ResponseCache, key_of, next_key

__all__ = ["BudgetExhausted", "ChatClient", "ChatRequest", "ChatSpec", "Completion"]

PATH = "/chat/completions"
_PROBE = ({"role": "user", "content": "Say hi."},)
"""Sent to a server that has failed all the requests that are left, to see whether it is the requests' fault."""
REFRESH_S = 30.0
"""How often the cache is read again, for answers that other workers have kept."""
FOLLOW_S = 1.0
"""How often servers of the job's own are looked up."""


class ChatClient:
    """Servers and kept answers as one; used from one event loop."""

    def __init__(
        self,
        spec: ChatSpec,
        options: StorageOptions | None = None,
        patience: Patience | None = None,
        admission: GovernedAdmission | None = None,
        directory: Directory | None = None,
    ) -> None:
        """``options``: of the cache's store; ``patience``: in place of the spec's; ``admission``: holds the spec's
        ``rate`` and ``budget`` (None: this client alone does); ``directory``: of the servers that a spec with ``serve``
        asks for. Raises ServiceError.
        """
        self._spec = spec
        patience = patience or Patience(
            attempts=spec.attempts,
            timeout_s=spec.timeout_s,
            connect_timeout_s=spec.connect_timeout_s,
            give_up_s=spec.give_up_s,
            lost_after_s=spec.lost_after_s,
        )
        probe = Post(PATH, self.build_body(ChatRequest(_PROBE, n=1)), partial(read_completion, n=1))
        self._endpoints = ChatEndpoints(
            spec,
            self._check,
            probe,
            patience=patience,
            admission=admission,
            api_key=directory.api_key if directory else None,
        )
        self._directory = directory
        self._following: asyncio.Task[None] | None = None
        self._client = self._endpoints.client
        self._admission = admission
        if admission is not None:
            admission.servers = self._endpoints
        self._service = spec.service_name
        self._under_way: dict[bytes, asyncio.Future[Completion]] = {}
        self._retry = ""
        """The retry that all its requests are for."""
        self._has_started, self._starting = False, asyncio.Lock()
        self._cache = None
        if spec.cache is not None:
            options = options or StorageOptions()
            self._cache = ResponseCache.open(spec.cache, options, service=self._service, model=spec.model)
        self._batches = None if spec.batch is None else self._open_batches(spec, spec.batch, patience, admission)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def complete(self, requests: Iterable[ChatRequest]) -> list[Completion]:
        """The completion of each request, in their order; requests are taken as they are needed.

        Servers are first asked for when something is not kept, so that a finished job needs none. Raises ServiceError,
        BudgetExhausted, ServiceLost, and OSError where an answer cannot be kept.
        """
        async with aclosing(self.as_completed(requests)) as found:
            done = {place: completion async for place, completion in found}
        return [done[place] for place in range(len(done))]

    async def as_completed(self, requests: Iterable[ChatRequest]) -> AsyncGenerator[tuple[int, Completion], None]:
        """As ``complete``, but each completion as soon as it is there, with the place of its request.

        New requests are sent only as fast as completions are taken. To stop early, close it (``contextlib.aclosing``);
        requests that are under way are then dropped. An error comes after the answers that were under way before it.
        """
        if self._cache is not None and time.monotonic() - self._cache.refreshed_at > REFRESH_S:
            await asyncio.to_thread(self._cache.refresh)
        if self._batches is not None:
            requests = list(requests)  # all of them wait together
        waiting = enumerate(requests)
        most = len(requests) if isinstance(requests, Sized) else self._spec.in_flight
        num_working = most if self._batches is not None else min(most, self._spec.in_flight)
        done: asyncio.Queue[tuple[int, Completion] | Exception | None] = asyncio.Queue(num_working)

        async def work() -> None:
            try:
                for place, request in waiting:
                    await done.put((place, await self._complete_one(request)))
                await done.put(None)
            except Exception as error:  # whatever it is, it ends all
                await done.put(error)

        workers = [asyncio.create_task(work()) for _ in range(num_working)]
        try:
            while num_working:
                found = await done.get()
                if isinstance(found, Exception):
                    await self._stop(found)
                    for paid in await _take_completions(done):
                        yield paid
                    raise found
                if found is None:
                    num_working -= 1
                else:
                    yield found
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            if self._cache is not None:
                await asyncio.to_thread(self._cache.flush)

    async def _stop(self, error: Exception) -> None:
        """Send nothing more, and wait for the answers that are paid for."""
        self._client.stopped = self._client.stopped or error
        if self._batches is not None:
            self._batches.stop(error)
        while self._client.num_under_way:
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Close all connections; what is under way is lost, except batches of which there are records."""
        closed = ServiceLost("the client was closed")  # without it, requests under way would be tried again
        self._client.stopped = self._client.stopped or closed
        if self._following is not None:
            self._following.cancel()
        await self._client.disconnect()
        if self._batches is not None:
            await self._batches.close()
        if self._admission is not None:
            await self._admission.close()
        if self._cache is not None:
            await asyncio.to_thread(self._cache.flush)

    async def compact(self) -> None:
        """Merge the small files in which answers are kept."""
        if self._cache is not None:
            await asyncio.to_thread(self._cache.compact)

    def build_body(self, request: ChatRequest) -> bytes:
        """What is sent for a request. Raises orjson.JSONEncodeError."""
        return build_body(self._spec.model, with_defaults(request, self._spec))

    async def _complete_one(self, asked: ChatRequest) -> Completion:
        request = with_defaults(asked, self._spec)
        n = request.n or 1
        try:
            body = build_body(self._spec.model, request)
        except orjson.JSONEncodeError as error:
            return Completion(failure=Failure("request_unreadable", f"it cannot be written as JSON: {error}"))
        self._retry = request.retry
        first = key_of(self._service, body)
        while True:  # after a wait the answer may be kept
            key, kept = await self._look_up(first, request, n)
            if kept is not None:
                return kept
            if (other := self._under_way.get(key)) is None:
                break
            await asyncio.wait([other])
            if not other.cancelled():
                return replace(other.result(), num_tries=0, from_cache=True)
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await self._send(key, body, request, n)
            future.set_result(completion)
            return completion
        finally:
            del self._under_way[key]
            future.cancel()  # without effect if it has a result; else each request that waits for it is sent itself

    async def _look_up(self, first: bytes, request: CompleteRequest, n: int) -> tuple[bytes, Completion | None]:
        """The key of the answer to a request, and the answer if it is kept. ``first``: the key of the oldest one."""
        if self._cache is None:
            return first, None
        key = self._cache.newest(first)
        kept = await self._find_kept(self._cache, key, n)
        if kept is None or not request.renew or kept.kept_by == request.retry:
            return key, kept
        if (key := next_key(key)) in self._cache:  # it came meanwhile
            return await self._look_up(first, request, n)
        return key, None

    async def _find_kept(self, cache: ResponseCache, key: bytes, n: int) -> Completion | None:
        """The completion that a kept answer holds. None: there is none that can be read."""
        answer = await asyncio.to_thread(cache.find, key) if key in cache else None
        if answer is None:
            return None
        try:
            completion = read_completion(Reply(answer["body"], {}, answer["endpoint"], answer["status"]), n)
        except (BadAnswer, KeyError):  # damaged, or kept by another version: it is asked again, here once
            cache.forget(key)
            return None
        return replace(completion, from_cache=True, kept_by=answer.get("retry", ""))

    async def _send(self, key: bytes, body: bytes, request: CompleteRequest, n: int) -> Completion:
        post = Post(PATH, body, partial(self._read, key=key, n=n), _bound_answer(request, n), request.affinity)
        if self._batches is not None:
            answer = await self._batches.post(key, post)
        else:
            await self.start()
            answer = await self._endpoints.post(post)
        if answer.value is None:
            return Completion(failure=answer.failure, num_tries=answer.num_tries)
        return replace(answer.value, num_tries=answer.num_tries, from_cache=answer.num_tries == 0)

    def _read(self, reply: Reply, key: bytes, n: int) -> Completion:
        """Read an answer, and keep it before anybody acts on it. Raises BadAnswer."""
        completion = read_completion(reply, n)
        if self._cache is not None:
            by = {"retry": self._retry} if self._retry else {}
            self._cache.add(key, {"endpoint": reply.url, "status": reply.status, "body": reply.body, **by})
        return completion

    def _keep(self, key: bytes, reply: Reply) -> None:
        """Keep an answer that nobody waits for; how many samples were wanted is not known. Raises BadAnswer."""
        choices = reply.body.get("choices") if isinstance(reply.body, dict) else None
        self._read(reply, key, len(choices) if isinstance(choices, list) else 1)

    def _open_batches(
        self, spec: ChatSpec, batch: Batch, patience: Patience, admission: Admission | None
    ) -> BatchClient:
        endpoint, *others = spec.endpoints
        if others:
            raise ServiceError(f"batch: batches are made at one endpoint; write only {endpoint.url} or another one")
        api = BatchApi(
            endpoint.url, api_key=os.environ.get(endpoint.api_key_env or spec.api_key_env), patience=patience
        )
        linger_s = min(LINGER_S, batch.poll_s)
        return BatchClient(api, batch, cache=self._cache, keep=self._keep, linger_s=linger_s, admission=admission)

    async def start(self) -> None:
        """Check once that a server is up; ``complete`` does so when it first needs one. Raises ServiceError."""
        if self._batches is None and not self._has_started:
            async with self._starting:
                if not self._has_started:
                    if self._directory is None:
                        await self._endpoints.start()
                    else:
                        await self._find_servers(self._directory)
                    self._has_started = True

    async def _find_servers(self, directory: Directory) -> None:
        """Wait until a server is up; whoever runs them checks them. Raises ServiceError where none will be."""
        deadline = time.monotonic() + self._spec.lost_after_s
        while not any((places := await directory.look()).urls):
            if places.failure or time.monotonic() > deadline:
                raise ServiceError(places.failure or f"no server is up for {self._spec.lost_after_s:.0f} s")
            await asyncio.sleep(FOLLOW_S)
        self._note(places)
        self._following = asyncio.create_task(self._follow(directory))

    async def _follow(self, directory: Directory) -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            self._note(await directory.look())

    def _note(self, places: Places) -> None:
        self._endpoints.follow(places.urls)
        if places.failure:
            self._endpoints.give_up(places.failure)

    async def _check(self, ask: Ask) -> None:
        """Check that a server is up: it lists its models, or has no list.

        That does not prove that it serves: gateways list a model that is down. Only an answer would, and that costs
        money.
        """
        if self._has_started and self._client.stopped is not None:
            raise TryFailed("endpoint_unreachable", "all has been stopped")
        try:
            await ask("/models")
        except Refused as refused:
            if refused.status not in (404, 405, 501):
                raise


async def _take_completions(
    done: "asyncio.Queue[tuple[int, Completion] | Exception | None]",
) -> list[tuple[int, Completion]]:
    """The completions that wait in the queue, and those that wait for room in it."""
    found: list[tuple[int, Completion]] = []
    while not done.empty():
        each = done.get_nowait()
        if isinstance(each, tuple):
            found.append(each)
        await asyncio.sleep(0)  # whoever waits for room puts the next one
    return found


def _bound_answer(request: CompleteRequest, n: int) -> int | None:
    """The most tokens of all n samples of an answer together. None: nothing bounds them."""
    longest = (request.extra_body or {}).get("max_completion_tokens", request.max_tokens)
    return longest * n if isinstance(longest, int) else None
