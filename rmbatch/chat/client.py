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

Equal requests are one: the answer is found in the cache, or the second waits for the first. For several samples set
``n``, or give requests seeds. Both methods raise ServiceError (a mistake in the job: key, model, URL), BudgetExhausted
(the job goes on when there is money again) and ServiceLost; then nothing more is sent, and the answers to what was sent
are waited for and kept.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence, Sized
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import orjson

from connectors.storage import StorageOptions
from rmbatch.chat.batch.api import BatchApi
from rmbatch.chat.batch.client import LINGER_S, BatchClient
from rmbatch.chat.completion import Completion, read_completion
from rmbatch.chat.limits.admission import LeasedAdmission
from rmbatch.chat.spec import Batch, ChatSpec
from rmbatch.chat.transport import ChatEndpoints
from rmbatch.endpoints.balancer import Admission, Ask, BudgetExhausted, Failure, Patience, Post
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.http import BadAnswer, Refused, Reply, TryFailed
from rmbatch.stores.answers import ResponseCache, key_of

__all__ = ["BudgetExhausted", "ChatClient", "ChatRequest", "ChatSpec", "Completion"]

T = TypeVar("T")

PATH = "/chat/completions"
_PROBE = ({"role": "user", "content": "Say hi."},)
"""Sent to a server that has failed all the requests that are left, to see whether it is the requests' fault."""
REFRESH_S = 30.0
"""How often the cache is read again, for answers that other workers have kept."""


@dataclass(frozen=True)
class ChatRequest:
    """One question, and how it is sampled; where a setting is None, the spec's."""

    messages: Sequence[Mapping[str, Any]]
    """As OpenAI's API has them."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; OpenAI itself wants all properties required and ``additionalProperties: false``."""
    _: KW_ONLY
    schema_name: str = "verdict"
    """The schema's name for the server, part of what is sent and so of the key under which the answer is kept. The
    default is the name of all schemas before they had one of their own, so answers of that time are found."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """The longest answer; sent as ``max_completion_tokens`` where the spec's ``extra_body`` has that."""
    seed: int | None = None
    n: int | None = None
    stop: str | Sequence[str] | None = None
    """Texts that end the answer; an empty list: none."""
    logprobs: int | None = None
    """Alternatives to each token whose log probabilities come along."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Functions that the model may call, as OpenAI's API has them. None: those of the spec's ``extra_body``."""
    tool_choice: str | Mapping[str, Any] | None = None
    """``auto``, ``none``, ``required`` or one function. None: as ``tools``."""


class ChatClient:
    """Servers and kept answers as one; used from one event loop."""

    def __init__(
        self,
        spec: ChatSpec,
        options: StorageOptions | None = None,
        patience: Patience | None = None,
        admission: LeasedAdmission | None = None,
    ) -> None:
        """``options``: of the cache's store; ``patience``: in place of the spec's; ``admission``: holds the spec's
        ``rate`` and ``budget`` (None: this client alone does). Raises ServiceError.
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
        self._endpoints = ChatEndpoints(spec, self._check, probe, patience=patience, admission=admission)
        self._client = self._endpoints.client
        self._admission = admission
        if admission is not None:
            admission.holding = self._endpoints
        self._service = spec.service_name
        self._under_way: dict[bytes, asyncio.Future[Completion]] = {}
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
        requests that are under way are then dropped.
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
        """What is sent, always the same bytes for the same request: answers are kept under them."""
        spec, extra = self._spec, dict(sorted(self._spec.extra_body.items()))
        max_tokens = _or_default(request.max_tokens, spec.max_tokens)
        logprobs = _or_default(request.logprobs, spec.logprobs)
        if request.max_tokens is not None and "max_completion_tokens" in extra:
            max_tokens, extra["max_completion_tokens"] = spec.max_tokens, request.max_tokens
        options = {
            "model": spec.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": _or_default(request.temperature, spec.temperature),
            "top_p": _or_default(request.top_p, spec.top_p),
            "max_tokens": max_tokens,
            "seed": _or_default(request.seed, spec.seed),
            "n": request.n or spec.n,
            "stop": _or_default(request.stop, spec.stop) or None,
            "presence_penalty": spec.presence_penalty,
            "frequency_penalty": spec.frequency_penalty,
            "logprobs": None if logprobs is None else True,
            "top_logprobs": logprobs or None,
            "reasoning_effort": spec.reasoning_effort,
            "response_format": _build_response_format(spec.structured, request),
        }
        tools = {
            "tools": None if request.tools is None else [dict(tool) for tool in request.tools],
            "tool_choice": request.tool_choice,
        }
        sent = {name: value for name, value in options.items() if value is not None}
        return orjson.dumps(sent | extra | {name: value for name, value in tools.items() if value is not None})

    async def _complete_one(self, request: ChatRequest) -> Completion:
        try:
            body = self.build_body(request)
        except orjson.JSONEncodeError as error:
            return Completion(failure=Failure("request_unreadable", f"it cannot be written as JSON: {error}"))
        key, n = key_of(self._service, body), request.n or self._spec.n
        while (other := self._under_way.get(key)) is not None:
            await asyncio.wait([other])
            if not other.cancelled():
                return replace(other.result(), num_tries=0, from_cache=True)
        if self._cache is not None and key in self._cache:
            kept = await asyncio.to_thread(self._cache.find, key)
            try:
                if kept is not None:
                    reply = Reply(kept["body"], {}, kept["endpoint"], kept["status"])
                    return replace(read_completion(reply, n), from_cache=True)
            except (BadAnswer, KeyError):  # damaged, or kept by another version: it is asked again, here once
                self._cache.forget(key)
            if key in self._under_way:
                return await self._complete_one(request)
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await self._send(key, body, n)
            future.set_result(completion)
            return completion
        finally:
            del self._under_way[key]
            future.cancel()  # without effect if it has a result; else each request that waits for it is sent itself

    async def _send(self, key: bytes, body: bytes, n: int) -> Completion:
        post = Post(PATH, body, partial(self._read, key=key, n=n))
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
            self._cache.add(key, {"endpoint": reply.url, "status": reply.status, "body": reply.body})
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
                    await self._endpoints.start()
                    self._has_started = True

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


def _build_response_format(structured: str, request: ChatRequest) -> dict[str, Any] | None:
    if request.schema is None or structured == "text":
        return None
    if structured == "json_object":
        return {"type": "json_object"}
    schema = {"name": request.schema_name, "schema": dict(request.schema), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _or_default(own: T | None, default: T | None) -> T | None:
    return default if own is None else own
