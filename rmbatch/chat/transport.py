"""Sends one chat request to one server, once, and says what its answer means.

It does not balance and does not try again: ``rmbatch/endpoints/balancer.py`` does, and sends through this client.
Chat servers say more than HTTP does (``refusals.py``): a server out of quota is OutOfQuota, and a request that is
refused for what it asks has its answer. Keys that servers repeat are masked before anybody sees them.

    client = ChatTransport(api_key=os.environ.get("KEY"), timeout_s=600, connect_timeout_s=10)
    reply = await client.ask("http://host:8000/v1", "/chat/completions", body)
    await client.disconnect()
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson

from rmbatch.chat.refusals import ServerError, find_meaning, find_wait_s, read_error, read_error_json
from rmbatch.chat.spec import ChatSpec, normalize_url
from rmbatch.chat.streaming import StreamedAnswer, StreamError, ask_for_stream, read_events
from rmbatch.endpoints.balancer import Admission, Check, Endpoints, OutOfQuota, Patience, Post, Target
from rmbatch.endpoints.http import BadAnswer, Data, HttpClient, Refused, Reply, TryFailed

_OF_THE_REQUEST = frozenset({400, 413, 422})
"""These statuses mean that this one request cannot be answered, unless the error's words say more."""
_END_S = 1.0
"""After [DONE], how long to wait for the connection's last bytes: then it can be used again."""


class ChatTransport(HttpClient):
    """As ``HttpClient``, for servers below ``…/v1``. It can be stopped without losing answers that are paid for."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        keys: Mapping[str, str] | None = None,
        timeout_s: float,
        connect_timeout_s: float,
        first_token_timeout_s: float | None = None,
        stop_on: Sequence[str] = (),
        is_near: bool = False,
    ) -> None:
        """``first_token_timeout_s``: answers are streamed, and must begin by then (None: not streamed); ``stop_on``:
        words of errors that concern all requests. Raises ServiceError for a key that no header can hold."""
        super().__init__(
            api_key=api_key, keys=keys, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s, is_near=is_near
        )
        self._stop_on = stop_on
        self.stopped: Exception | None = None
        """Raised instead of sending anything more."""
        self.num_under_way = 0
        self._first_token_timeout_s = first_token_timeout_s

    async def ask(self, url: str, path: str, body: bytes | None = None) -> Reply:
        """As in ``HttpClient``; raises OutOfQuota too."""
        if self.stopped is not None:
            raise self.stopped
        self.num_under_way += 1
        try:
            return await super().ask(url, path, body)
        finally:
            self.num_under_way -= 1

    async def _answer(self, url: str, path: str, data: Data = None, method: str = "") -> Reply | Exception:
        if self._first_token_timeout_s is None or not isinstance(data, bytes):
            return await super()._answer(url, path, data, method)
        try:
            return await self._stream(url, path, data, self._first_token_timeout_s)
        except StreamError as error:
            return self._read_error_in_answer(url, read_error_json(orjson.loads(self._mask.mask_raw(error.data))), {})
        except (TryFailed, BadAnswer) as why:
            why.__context__ = None  # which may hold the text that could not be read
            return why

    async def _stream(self, url: str, path: str, body: bytes, first_s: float) -> Reply | Exception:
        """The whole answer, joined if it comes in pieces. One clock runs until the first token, then until the end."""
        answer, now = StreamedAnswer(), asyncio.get_running_loop().time()
        end = now + self._timeout_s
        clock = asyncio.timeout_at(min(end, now + first_s))
        try:
            async with clock, self._send(url, path, ask_for_stream(body)) as response:
                if response.status >= 300 or "text/event-stream" not in response.headers.get("Content-Type", ""):
                    clock.reschedule(end)  # the server does not stream, and has its answer
                    return self._read(url, response.status, response.headers, await response.read())
                await _read_stream(response, answer, clock, end)
        except (aiohttp.ClientError, OSError):
            if answer.is_done or answer.is_whole:  # it is paid for, and nothing is missing but the connection's end
                pass
            elif clock.expired() and clock.when() != end:
                raise TryFailed("endpoint_timeout", f"no first token within {first_s:g} s") from None
            else:
                raise
        return Reply(self._mask.mask_json(answer.build()), response.headers, url, response.status)

    def _read(self, url: str, status: int, headers: Mapping[str, str], raw: bytes) -> Reply | Exception:
        reply = super()._read(url, status, headers, raw)
        if isinstance(reply, Reply) and reply.is_answer and (error := _find_error(reply.body)) is not None:
            return self._read_error_in_answer(url, error, headers)
        return reply

    def _read_refusal(self, url: str, status: int, headers: Mapping[str, str], raw: bytes) -> Reply | Exception:
        """What a refusal means: a Reply if it concerns this request alone, or else the error to raise."""
        found = self._interpret(url, status, headers, read_error(raw))
        return found or super()._read_refusal(url, status, headers, raw)

    def _read_error_in_answer(self, url: str, error: ServerError, headers: Mapping[str, str]) -> Reply | Exception:
        """As ``_read_refusal``, for an error inside an answer; one that is not known may be gone at the next try."""
        status = error.status or 500
        message = self.clean(error.message or " ".join(error.codes))
        found = self._interpret(url, status, headers, error)
        if found is None and status in (429, 503):
            return super()._read_refusal(url, status, headers, message.encode())
        return found or TryFailed("endpoint_error", f"in the answer: {message}")

    def _interpret(
        self, url: str, status: int, headers: Mapping[str, str], error: ServerError
    ) -> Reply | Exception | None:
        """What an error means by its codes and words; None where only its status tells."""
        means = find_meaning(status, error, self._stop_on)
        message = self.clean(error.message or next(iter(error.codes), ""))
        if means == "quota":
            return OutOfQuota(f"{status} {message}")
        if means == "filter":
            return Reply({"error": message, "code": "refused_by_filter"}, headers, url, status)
        if means == "down":
            return TryFailed("endpoint_error", f"{status} {message}", find_wait_s(error))
        if means in ("model", "stop"):
            return Refused(status, message, concerns_all=True)
        if means == "key" or status in (401, 403):
            why = "this API key is not accepted" if self._key_for(url) else "no API key is set"
            return Refused(status, f"{message} ({why})", concerns_all=True)
        if means == "too_long" or status in _OF_THE_REQUEST:
            return Reply({"error": f"{status} {message}", "code": "endpoint_refused"}, headers, url, status)
        if status in (429, 503) and "Retry-After" not in headers and (wait_s := find_wait_s(error)):
            return TryFailed("endpoint_overloaded", f"{status} {message}", wait_s)
        return None


class ChatEndpoints(Endpoints):
    """``Endpoints`` that send through ``ChatTransport``, each with its key."""

    def __init__(
        self,
        spec: ChatSpec,
        check: Check,
        probe: Post[Any],
        *,
        patience: Patience,
        admission: Admission | None = None,
        api_key: str | None = None,
    ) -> None:
        """``admission``: who decides when (None: whenever there is room); ``api_key``: of servers of the job's own,
        whose addresses ``follow`` tells. ServiceError for a key that is none."""
        variables = {normalize_url(each.url): each.api_key_env or spec.api_key_env for each in spec.endpoints}
        self.client = ChatTransport(
            api_key=api_key,
            keys={url: os.environ.get(variable, "") for url, variable in variables.items()},
            timeout_s=patience.timeout_s,
            connect_timeout_s=patience.connect_timeout_s,
            first_token_timeout_s=spec.first_token_timeout_s,
            stop_on=spec.stop_on,
            is_near=spec.serve is not None,
        )
        # Endpoints takes one /v1 off the end, because reward models are asked beside it.
        targets = [Target(f"{normalize_url(each.url)}/v1", each.weight, each.priority) for each in spec.endpoints]
        super().__init__(
            targets,
            check,
            in_flight=spec.in_flight,
            patience=patience,
            client=self.client,
            admission=admission,
            probe=probe,
        )


async def _read_stream(
    response: aiohttp.ClientResponse, answer: StreamedAnswer, clock: asyncio.Timeout, end: float
) -> None:
    """Add each event to the answer, and extend the clock once the answer has begun."""
    async with aclosing(read_events(response.content.iter_any())) as found:
        async for data in found:
            had_begun = answer.has_begun
            answer.add(data)
            if answer.is_done:
                clock.reschedule(min(end, asyncio.get_running_loop().time() + _END_S))
            elif answer.has_begun and not had_begun:
                clock.reschedule(end)


def _find_error(body: Any) -> ServerError | None:
    """The error in an answer of status 200, of all of it or of its choices; None where there is an answer."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    if body.get("error") and not choices:
        return read_error_json(body)
    broken = [each for each in choices or () if isinstance(each, dict) and each.get("error")]
    return read_error_json(broken[0]) if broken else None
