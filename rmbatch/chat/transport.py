"""One chat request to one server, tried once, with OpenAI's own client underneath; and what its answer means.

No balancing and no second try: those are ``served/endpoints.py``, which sends through ``OpenAiClient`` as it does
through ``served/endpoint_client.py``. openai's own retries are off, for layers of retries multiply; how it sends is
``wire.py``. What chat servers say beyond HTTP (``refusals.py``) is acted on here: out of quota is OutOfQuota, a request
that is refused for what it is has its answer. Keys that servers repeat are masked before anybody sees them.

    client = OpenAiClient(api_key=os.environ.get("KEY"), timeout_s=600, connect_timeout_s=10)
    reply = await client.ask("http://host:8000/v1", "/chat/completions", body)
    await client.disconnect()
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import openai
import orjson

from rmbatch.chat.refusals import ServerError, asked_wait_s, error_in, meaning, read_error
from rmbatch.chat.spec import ChatSpec, api_url
from rmbatch.chat.streaming import StreamedAnswer, StreamError, events, streamed
from rmbatch.chat.wire import OpenAi, Wire
from rmbatch.endpoints.balancer import Admission, BudgetExhausted, Check, Endpoints, OutOfQuota, Patience, Post, Target
from rmbatch.endpoints.errors import ServiceError
from rmbatch.endpoints.http import BadAnswer, Client, Refused, Reply, TryFailed
from rmbatch.endpoints.masking import Mask

__all__ = ["BudgetExhausted", "ChatEndpoints", "ChatReply", "OpenAiClient"]

_OF_THE_REQUEST = frozenset({400, 413, 422})
"""Statuses that say that this request cannot be answered, if nothing else is known of it."""
_END_S = 1.0
"""After [DONE] the connection's last bytes are waited for so long, for then it can be used again."""


@dataclass(frozen=True)
class ChatReply(Reply):
    """An answer, and whose it is."""

    url: str = ""
    """The server's."""
    status: int = 200
    """2xx; another one where the request was refused, which is kept like an answer."""

    @property
    def is_answer(self) -> bool:
        return self.status < 300


class OpenAiClient(Client):
    """As ``Client``, for servers below ``…/v1``; a request is paid for, so it can be stopped without losing any."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        keys: Mapping[str, str] | None = None,
        timeout_s: float,
        connect_timeout_s: float,
        first_token_timeout_s: float | None = None,
        stop_on: Sequence[str] = (),
    ) -> None:
        """``keys``: of servers that have one of their own, by URL; ``first_token_timeout_s``: answers are streamed, and
        must begin by then (None: not streamed); ``stop_on``: words of errors that concern all requests. Raises
        ServiceError for a key that no header can hold."""
        super().__init__(api_key=api_key, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
        self._keys = {url: key.strip() for url, key in (keys or {}).items()}
        for key in (self._key, *self._keys.values()):
            if not (key.isascii() and key.isprintable()):
                raise ServiceError("an endpoint's API key has characters that an HTTP header cannot hold")
        self._mask = Mask([self._key, *self._keys.values()])
        self._stop_on = stop_on
        self.stopped: Exception | None = None
        """Raised instead of sending anything more."""
        self.num_under_way = 0
        self._first_token_timeout_s = first_token_timeout_s
        self._wire: Wire | None = None
        self._wire_loop: asyncio.AbstractEventLoop | None = None
        self._servers: dict[str, OpenAi] = {}

    async def ask(self, url: str, path: str, body: bytes | None = None) -> ChatReply:
        """As in ``Client``; raises OutOfQuota too."""
        if self.stopped is not None:
            raise self.stopped
        self.num_under_way += 1
        try:
            outcome = await self._outcome(url, path, body)
        finally:
            self.num_under_way -= 1
        if isinstance(outcome, Exception):
            raise outcome  # here, where no error is under way whose text may hold a key
        return outcome

    async def _outcome(self, url: str, path: str, body: bytes | None) -> ChatReply | Exception:
        server = self._server(url)
        try:
            if body is not None and self._first_token_timeout_s is not None:
                return await self._streamed(url, server, path, body, self._first_token_timeout_s)
            async with asyncio.timeout(self._timeout_s):
                response = await server.exchange(path, body)
            return self._read(url, response)
        except openai.APIStatusError as refused:
            response = refused.response
            return self._refusal(url, response.status_code, response.headers, response.content)
        except StreamError as error:
            return self._in_an_answer(url, error_in(orjson.loads(self._mask.raw(error.data))), {})
        except (TryFailed, BadAnswer) as why:
            why.__context__ = None  # which may hold the text that could not be read
            return why
        except TimeoutError as late:
            if not isinstance(late, aiohttp.ServerTimeoutError):
                return TryFailed("endpoint_timeout", f"no answer within {self._timeout_s:g} s")
            return TryFailed("endpoint_unreachable", self._why_lost(late))
        except (openai.APIConnectionError, aiohttp.ClientError, OSError) as lost:
            return TryFailed("endpoint_unreachable", self._why_lost(lost))

    async def disconnect(self) -> None:
        """Close all connections; another request would open new ones, in another event loop too."""
        wire, self._wire, self._servers = self._wire, None, {}
        if wire is not None:
            await wire.aclose()

    def _server(self, url: str) -> OpenAi:
        """The client for a server, of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._wire is None or self._wire_loop is not loop:
            self._wire, self._wire_loop = Wire(connect_timeout_s=self._connect_timeout_s), loop
            self._servers = {}
        if url not in self._servers:
            self._servers[url] = OpenAi(self._wire, url, self._keys.get(url, self._key))
        return self._servers[url]

    def _read(self, url: str, response: httpx2.Response) -> ChatReply | Exception:
        content = response.content
        has_key = self._mask.is_in(content)
        try:
            body = orjson.loads(content)
        except orjson.JSONDecodeError:
            return BadAnswer(f"no JSON: {self._mask.raw(content)[:80].decode(errors='replace')!r}")
        if has_key:  # a model may repeat what stands in its prompt, and a gateway what it was sent
            body = self._mask.json(body)
        if (error := _error_inside(body)) is not None:
            return self._in_an_answer(url, error, response.headers)
        return ChatReply(body, response.headers, url, response.status_code)

    async def _streamed(
        self, url: str, server: OpenAi, path: str, body: bytes, first_s: float
    ) -> ChatReply | Exception:
        """The answer, put together if it comes in pieces; one clock runs until the first token, then until the end."""
        answer, now = StreamedAnswer(), asyncio.get_running_loop().time()
        end = now + self._timeout_s
        clock = asyncio.timeout_at(min(end, now + first_s))
        try:
            async with clock:
                response = await server.exchange(path, streamed(body), stream=True)
                async with aclosing(response):
                    if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                        clock.reschedule(end)  # it does not stream, and has its answer
                        await response.aread()
                        return self._read(url, response)
                    await _hear(response, answer, clock, end)
        except (aiohttp.ClientError, OSError):
            if answer.is_done or answer.is_whole:  # it is paid for, and nothing is missing but the connection's end
                pass
            elif clock.expired() and clock.when() != end:
                raise TryFailed("endpoint_timeout", f"no first token within {first_s:g} s") from None
            else:
                raise
        whole = answer.body()
        return ChatReply(self._mask.json(whole), response.headers, url, response.status_code)

    def _why_lost(self, lost: BaseException) -> str:
        """What happened below openai."""
        while lost.__cause__ is not None and not isinstance(lost, aiohttp.ClientError):
            lost = lost.__cause__
        if isinstance(lost, aiohttp.ServerTimeoutError):
            return f"no connection within {self._connect_timeout_s:g} s"
        return self.clean(f"{type(lost).__name__}: {lost}".removesuffix(": "))

    def _refusal(self, url: str, status: int, headers: Mapping[str, str], raw: bytes) -> ChatReply | Exception:
        """What a refusal means: an answer where it concerns this request alone, or else what is to be raised."""
        raw = self._mask.raw(raw)
        return self._meant(url, status, headers, read_error(raw)) or self.refusal(status, headers, raw)

    def _in_an_answer(self, url: str, error: ServerError, headers: Mapping[str, str]) -> ChatReply | Exception:
        """As ``_refusal``, of an error inside an answer; where nobody knows it, it may be gone at the next try."""
        status = error.status or 500
        said = self.clean(error.message or " ".join(error.codes))
        found = self._meant(url, status, headers, error)
        if found is None and status in (429, 503):
            return self.refusal(status, headers, said.encode())
        return found or TryFailed("endpoint_error", f"in the answer: {said}")

    def _meant(
        self, url: str, status: int, headers: Mapping[str, str], error: ServerError
    ) -> ChatReply | Exception | None:
        """What an error means by its codes and words; None where only its status tells."""
        means = meaning(status, error, self._stop_on)
        said = self.clean(error.message or next(iter(error.codes), ""))
        if means == "quota":
            return OutOfQuota(f"{status} {said}")
        if means == "filter":
            return ChatReply({"error": said, "code": "refused_by_filter"}, headers, url, status)
        if means == "down":
            return TryFailed("endpoint_error", f"{status} {said}", asked_wait_s(error))
        if means in ("model", "stop"):
            return Refused(status, said, concerns_all=True)
        if means == "key" or status in (401, 403):
            has_key = self._keys.get(url, self._key)
            why = f"{said} ({'this API key is not accepted' if has_key else 'no API key is set'})"
            return Refused(status, why, concerns_all=True)
        if means == "too_long" or status in _OF_THE_REQUEST:
            return ChatReply({"error": f"{status} {said}", "code": "endpoint_refused"}, headers, url, status)
        if status in (429, 503) and "Retry-After" not in headers and (wait_s := asked_wait_s(error)):
            return TryFailed("endpoint_overloaded", f"{status} {said}", wait_s)
        return None


class ChatEndpoints(Endpoints):
    """``Endpoints`` that send through ``OpenAiClient``, each with its key."""

    def __init__(
        self,
        spec: ChatSpec,
        check: Check,
        probe: Post[Any],
        *,
        patience: Patience,
        admission: Admission | None = None,
    ) -> None:
        """``admission``: who decides when (None: whenever there is room). ServiceError for a key that is none."""
        keys = {api_url(each.url): os.environ.get(each.api_key_env or spec.api_key_env, "") for each in spec.endpoints}
        self.client = OpenAiClient(
            keys=keys,
            timeout_s=patience.timeout_s,
            connect_timeout_s=patience.connect_timeout_s,
            first_token_timeout_s=spec.first_token_timeout_s,
            stop_on=spec.stop_on,
        )
        # Endpoints takes one /v1 off the end, because reward models are asked beside it.
        targets = [Target(f"{api_url(each.url)}/v1", each.weight, each.priority) for each in spec.endpoints]
        super().__init__(
            targets,
            check,
            in_flight=spec.in_flight,
            patience=patience,
            client=self.client,
            admission=admission,
            probe=probe,
        )


async def _hear(response: httpx2.Response, answer: StreamedAnswer, clock: asyncio.Timeout, end: float) -> None:
    """Add to the answer what comes, and set the clock on once it has begun."""
    async with aclosing(events(response.aiter_raw())) as heard:
        async for data in heard:
            had_begun = answer.has_begun
            answer.add(data)
            if answer.is_done:
                clock.reschedule(min(end, asyncio.get_running_loop().time() + _END_S))
            elif answer.has_begun and not had_begun:
                clock.reschedule(end)


def _error_inside(body: Any) -> ServerError | None:
    """The error in an answer of status 200, of all of it or of its choices; None where there is an answer."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    if body.get("error") and not choices:
        return error_in(body)
    broken = [each for each in choices or () if isinstance(each, dict) and each.get("error")]
    return error_in(broken[0]) if broken else None
