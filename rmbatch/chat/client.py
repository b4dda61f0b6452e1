"""Chat completions from servers that speak OpenAI's API: each request one outcome, none paid for twice.

vLLM, a provider, or a gateway such as New API. Balancing, failover and backoff are ``served/endpoints.py``, one
try is ``transport.py``, what is kept is ``cache.py``; where the spec has ``batch``, ``batch.py`` takes the place of
the first two. It writes no prompts and reads no verdicts.

    spec = ChatSpec(endpoints=["http://host:8000"], model="Qwen/Qwen3-32B", max_tokens=2048, cache="s3://team/answers")
    async with ChatClient(spec) as client:               # ServiceError if none is up
        for completion in await client.complete([ChatRequest([{"role": "user", "content": "…"}])]):
            completion.texts or completion.failure

Equal requests are one: found in the cache, or waiting for each other. Who wants several samples says ``n`` or gives
them seeds. ``complete`` raises ServiceError (a mistake in the job: key, model, URL), BudgetExhausted (the job goes on
when there is money again) and ServiceLost; what was on its way then is waited for and kept, and nothing more is sent.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

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

PATH = "/chat/completions"
_PROBE = ({"role": "user", "content": "Say hi."},)
"""What a server is asked that has failed each request that is left, to see whether it is the requests' fault."""
REFRESH_S = 30.0
"""How often it is looked for what other workers have kept."""


@dataclass(frozen=True)
class ChatRequest:
    """One question."""

    messages: Sequence[Mapping[str, Any]]
    """As OpenAI's API has them."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; OpenAI itself wants all properties required and ``additionalProperties: false``."""
    seed: int | None = None
    """None: the spec's."""
    n: int | None = None
    """None: the spec's."""


class ChatClient:
    """Servers and kept answers as one; used from one event loop."""

    def __init__(
        self,
        spec: ChatSpec,
        options: StorageOptions | None = None,
        patience: Patience | None = None,
        admission: LeasedAdmission | None = None,
    ) -> None:
        """``options``: of the cache's store; ``patience``: instead of what the spec says; ``admission``: who holds the
        spec's ``rate`` and ``budget`` (None: this client alone does). Raises ServiceError.
        """
        self._spec = spec
        patience = patience or Patience(
            attempts=spec.attempts,
            timeout_s=spec.timeout_s,
            connect_timeout_s=spec.connect_timeout_s,
            give_up_s=spec.give_up_s,
            lost_after_s=spec.lost_after_s,
        )
        probe = Post(PATH, self.body(ChatRequest(_PROBE, n=1)), partial(read_completion, n=1))
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
        self._batches = None if spec.batch is None else self._opened_batches(spec, spec.batch, patience, admission)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def complete(self, requests: Iterable[ChatRequest]) -> list[Completion]:
        """What became of each, in their order; they are taken as they are needed.

        Servers are first asked for when something is not kept, so that a finished job needs none. Raises ServiceError,
        BudgetExhausted, ServiceLost, and OSError where an answer cannot be kept.
        """
        if self._cache is not None and time.monotonic() - self._cache.refreshed_at > REFRESH_S:
            await asyncio.to_thread(self._cache.refresh)
        done: dict[int, Completion] = {}
        if self._batches is not None:
            requests = list(requests)  # all of them wait together
        waiting = enumerate(requests)

        async def work() -> None:
            for place, request in waiting:
                done[place] = await self._outcome(request)

        most = len(requests) if isinstance(requests, Sized) else self._spec.in_flight
        at_a_time = most if self._batches is not None else min(most, self._spec.in_flight)
        workers = [asyncio.create_task(work()) for _ in range(at_a_time)]
        try:
            await asyncio.gather(*workers)
        except Exception as error:  # whatever it is: nothing more is sent, and what is paid for is waited for
            self._client.stopped = self._client.stopped or error
            if self._batches is not None:
                self._batches.stop(error)
            while self._client.num_under_way:
                await asyncio.sleep(0.02)
            raise
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            if self._cache is not None:
                await asyncio.to_thread(self._cache.flush)
        return [done[place] for place in range(len(done))]

    async def close(self) -> None:
        """Close all connections; what is under way is lost, but batches of which there are records."""
        closed = ServiceLost("the client was closed")  # what is under way would be tried again
        self._client.stopped = self._client.stopped or closed
        await self._client.disconnect()
        if self._batches is not None:
            await self._batches.close()
        if self._admission is not None:
            await self._admission.close()
        if self._cache is not None:
            await asyncio.to_thread(self._cache.flush)

    async def compact(self) -> None:
        """Tidy up where answers are kept."""
        if self._cache is not None:
            await asyncio.to_thread(self._cache.compact)

    def body(self, request: ChatRequest) -> bytes:
        """What is sent, always the same bytes for the same request."""
        spec = self._spec
        seed = spec.seed if request.seed is None else request.seed
        options = {
            "model": spec.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "max_tokens": spec.max_tokens,
            "seed": seed,
            "n": request.n or spec.n,
            "stop": spec.stop or None,
            "presence_penalty": spec.presence_penalty,
            "frequency_penalty": spec.frequency_penalty,
            "logprobs": None if spec.logprobs is None else True,
            "top_logprobs": spec.logprobs or None,
            "reasoning_effort": spec.reasoning_effort,
            "response_format": _response_format(spec.structured, request.schema),
        }
        sent = {name: value for name, value in options.items() if value is not None}
        return orjson.dumps(sent | dict(sorted(spec.extra_body.items())))

    async def _outcome(self, request: ChatRequest) -> Completion:
        try:
            body = self.body(request)
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
                return await self._outcome(request)
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await self._asked(key, body, n)
            future.set_result(completion)
            return completion
        finally:
            del self._under_way[key]
            future.cancel()  # without effect if it has a result; else who waits for it asks for itself

    async def _asked(self, key: bytes, body: bytes, n: int) -> Completion:
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
        """What the answer says, and the answer kept before anybody acts on it. Raises BadAnswer."""
        completion = read_completion(reply, n)
        if self._cache is not None:
            self._cache.add(key, {"endpoint": reply.url, "status": reply.status, "body": reply.body})
        return completion

    def _keep(self, key: bytes, reply: Reply) -> None:
        """Keep an answer that nobody waits for, so that nobody knows how many samples were wanted. Raises BadAnswer."""
        choices = reply.body.get("choices") if isinstance(reply.body, dict) else None
        self._read(reply, key, len(choices) if isinstance(choices, list) else 1)

    def _opened_batches(
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
        """Look whether a server is there, once; ``complete`` does so when it first needs one. Raises ServiceError."""
        if self._batches is None and not self._has_started:
            async with self._starting:
                if not self._has_started:
                    await self._endpoints.start()
                    self._has_started = True

    async def _check(self, ask: Ask) -> None:
        """Whether a server is there: it lists its models, or has no list. Gateways do so whatever has become of the
        model, so only an answer proves that it serves; and that costs money.
        """
        if self._has_started and self._client.stopped is not None:
            raise TryFailed("endpoint_unreachable", "all has been stopped")
        try:
            await ask("/models")
        except Refused as refused:
            if refused.status not in (404, 405, 501):
                raise


def _response_format(structured: str, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None or structured == "text":
        return None
    if structured == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "verdict", "schema": dict(schema), "strict": True}}
