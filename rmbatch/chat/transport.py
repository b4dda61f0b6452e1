"""One chat request to one server, tried once, with OpenAI's own client underneath; and what its answer means.

No balancing and no second try: those are ``served/endpoints.py``, which sends through ``OpenAiClient`` as it does
through ``served/endpoint_client.py``. openai's own retries are off, for layers of retries multiply; how it sends is
``wire.py``. What chat servers say beyond HTTP is read here: out of quota is OutOfQuota, a prompt that a filter refuses
is an answer.

    client = OpenAiClient(api_key=os.environ.get("KEY"), timeout_s=600, connect_timeout_s=10)
    reply = await client.ask("http://host:8000/v1", "/chat/completions", body)
    await client.disconnect()
"""

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import openai
import orjson

from rmbatch.chat.spec import ChatSpec, api_url
from rmbatch.chat.streaming import StreamedAnswer, StreamError, events, streamed
from rmbatch.chat.wire import OpenAi, Wire
from rmbatch.served.endpoint_client import BadAnswer, Client, Refused, Reply, TryFailed
from rmbatch.served.endpoints import Admission, BudgetExhausted, Check, Endpoints, OutOfQuota, Patience, Post, Target
from rmbatch.served.engine import EngineError

__all__ = ["BudgetExhausted", "ChatEndpoints", "ChatReply", "OpenAiClient"]

_OUT_OF_QUOTA = frozenset(
    {
        "insufficient_quota",  # OpenAI, with 429
        "insufficient_user_quota",  # New API and One API, with 403: the account's
        "pre_consume_token_quota_failed",  # the same: the key's
        *("billing_hard_limit_reached", "billing_not_active", "insufficient_balance", "quota_exhausted"),
    }
)
_SAYS_QUOTA = re.compile(r"\bquota|\bbalance\b|\bcredits?\b|额度|余额", re.IGNORECASE)
"""Of a key that is used up New API says 401 and has no code for it."""
_FILTERED = frozenset(
    {
        *("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"),  # OpenAI and Azure
        *("sensitive_words_detected", "data_inspection_failed"),  # New API, DashScope
    }
)
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
    ) -> None:
        """``keys``: of servers that have one of their own, by URL; ``first_token_timeout_s``: answers are streamed, and
        must begin by then (None: not streamed). Raises EngineError for a key that no header can hold."""
        super().__init__(api_key=api_key, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
        self._keys = {url: key.strip() for url, key in (keys or {}).items()}
        for key in (self._key, *self._keys.values()):
            if not (key.isascii() and key.isprintable()):
                raise EngineError("an endpoint's API key has characters that an HTTP header cannot hold")
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
        server = self._server(url)
        self.num_under_way += 1
        try:
            if body is not None and self._first_token_timeout_s is not None:
                return await self._streamed(url, server, path, body, self._first_token_timeout_s)
            async with asyncio.timeout(self._timeout_s):
                response = await server.exchange(path, body)
            return self._read(url, response)
        except openai.APIStatusError as refused:
            return self._refused(url, refused.response)
        except StreamError as error:
            return self._broken_off(url, error)
        except TimeoutError as late:
            if not isinstance(late, aiohttp.ServerTimeoutError):
                raise TryFailed("endpoint_timeout", f"no answer within {self._timeout_s:g} s") from None
            raise TryFailed("endpoint_unreachable", self._why_lost(late)) from None
        except (openai.APIConnectionError, aiohttp.ClientError, OSError) as lost:
            raise TryFailed("endpoint_unreachable", self._why_lost(lost)) from None
        finally:
            self.num_under_way -= 1

    def clean(self, text: str) -> str:
        """As in ``Client``, without any server's key."""
        for key in sorted(filter(None, (self._key, *self._keys.values())), key=len, reverse=True):
            text = text.replace(key, "***")
        return super().clean(text)

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

    def _read(self, url: str, response: httpx2.Response) -> ChatReply:
        try:
            return ChatReply(orjson.loads(response.content), response.headers, url, response.status_code)
        except orjson.JSONDecodeError:
            said = response.content[:80].decode(errors="replace")
            raise BadAnswer(self.clean(f"no JSON: {said!r}")) from None

    async def _streamed(self, url: str, server: OpenAi, path: str, body: bytes, first_s: float) -> ChatReply:
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
        return ChatReply(answer.body(), response.headers, url, response.status_code)

    def _why_lost(self, lost: BaseException) -> str:
        """What happened below openai."""
        while lost.__cause__ is not None:
            lost = lost.__cause__
        if isinstance(lost, aiohttp.ServerTimeoutError):
            return f"no connection within {self._connect_timeout_s:g} s"
        return self.clean(f"{type(lost).__name__}: {lost}")

    def _refused(self, url: str, response: httpx2.Response) -> ChatReply:
        """The answer of a filter, or what another refusal means, raised."""
        code, message = _error_of(response.content)
        status, said = response.status_code, self.clean(message or code)
        is_quota = code in _OUT_OF_QUOTA or (status in (401, 403) and _SAYS_QUOTA.search(message))
        if status == 402 or (status < 500 and is_quota):
            raise OutOfQuota(f"{status} {said}")
        if 400 <= status < 500 and code in _FILTERED:
            return ChatReply({"error": said}, response.headers, url, status)
        if status in (401, 403):
            has_key = self._keys.get(url, self._key)
            raise Refused(status, f"{said} ({'this API key is not accepted' if has_key else 'no API key is set'})")
        raise self.refusal(status, response.headers, response.content)

    def _broken_off(self, url: str, error: StreamError) -> ChatReply:
        """As ``_refused``, of an error inside a stream; it has no status, so it may be gone at the next try."""
        code, message = _error_of(error.data)
        said = self.clean(message or code)
        if code in _OUT_OF_QUOTA:
            raise OutOfQuota(said)
        if code in _FILTERED:
            return ChatReply({"error": said}, {}, url, 400)
        raise TryFailed("endpoint_error", f"in the stream: {said}")


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
        """``admission``: who decides when (None: whenever there is room). Raises EngineError for a key that is none."""
        keys = {api_url(each.url): os.environ.get(each.api_key_env or spec.api_key_env, "") for each in spec.endpoints}
        self.client = OpenAiClient(
            keys=keys,
            timeout_s=patience.timeout_s,
            connect_timeout_s=patience.connect_timeout_s,
            first_token_timeout_s=spec.first_token_timeout_s,
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


def _error_of(raw: bytes) -> tuple[str, str]:
    """The code and the message of a refusal, wherever servers put them."""
    try:
        said = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "", raw[:4096].decode(errors="replace")
    error = said.get("error", said) if isinstance(said, dict) else said
    if not isinstance(error, dict):
        return "", str(error)
    codes = [str(error.get("code") or ""), str(error.get("type") or "")]
    known = [code for code in codes if code in _OUT_OF_QUOTA | _FILTERED]
    return (known or codes)[0], str(error.get("message") or "")
