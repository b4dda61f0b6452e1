"""One request to one server over HTTP, sent once: the answer as JSON, or why there is none.

It does not balance and does not try again: ``balancer.py`` does. Chat servers say more than HTTP does; what they mean
is read by a subclass, ``rmbatch/chat/transport.py``. Proxies are those of the environment.

    client = HttpClient(api_key=os.environ.get("KEY"))
    reply = await client.ask("http://host:8000", "/classify", body)     # Reply; raises Refused, TryFailed, BadAnswer
    client.close()
"""

import asyncio
import threading
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.masking import Mask

T = TypeVar("T")
Data = bytes | aiohttp.FormData | None
"""What a request carries: JSON, or a form."""

_PASSING = frozenset({408, 409, 424, 425})
"""4xx that may be gone at the next try; 424 is how TEI says that its backend failed."""
_MESSAGE_CHARS = 300
"""Characters of a server's message that are kept."""
_IDLE_S = 3.0
"""Connections are kept so long for the next request: uvicorn closes its own after 5 s, and a request may meet that."""


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    body: Any
    """Its JSON."""
    headers: Mapping[str, str]
    """By names in any case."""
    url: str = ""
    """The server's."""
    status: int = 200
    """2xx; a chat server's refusal of one request has another one, and is kept like an answer."""

    @property
    def is_answer(self) -> bool:
        """Whether the request was answered, which proves that the server serves."""
        return self.status < 300


class BadAnswer(Exception):  # noqa: N818 - as error columns call it
    """Status 2xx, and not what was asked for."""


class Refused(Exception):  # noqa: N818 - as error columns call it
    """A status that trying again does not change."""

    def __init__(self, status: int, message: str, *, concerns_all: bool = False) -> None:
        """``concerns_all``: the server says that every request meets this, whatever the status."""
        super().__init__(f"{status} {message}".strip())
        self.status, self._concerns_all = status, concerns_all

    @property
    def is_mistake(self) -> bool:
        """Whether every request will be refused like this: a wrong URL, model, key or kind of server."""
        return self._concerns_all or self.status < 400 or self.status in (401, 402, 403, 404, 405, 501)


class TryFailed(Exception):  # noqa: N818 - another try may go well
    """No answer this time: ``endpoint_unreachable``, ``_timeout``, ``_error`` (5xx) or ``_overloaded`` (429, 503)."""

    def __init__(self, code: str, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.wait_s = wait_s
        """Seconds for which the server has asked to wait; None where it did not ask."""


class HttpClient:
    """Connections to servers, each with its key; used from one event loop at a time."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        keys: Mapping[str, str] | None = None,
        timeout_s: float = 600.0,
        connect_timeout_s: float = 10.0,
        is_near: bool = False,
    ) -> None:
        """``keys``: by URL, for servers that have their own; ``timeout_s``: for a whole try, the connection included;
        ``is_near``: the servers are on the same cluster, and no proxy of the environment leads there.
        Raises ServiceError for a key that no header can hold."""
        self._key = (api_key or "").strip()
        self._keys = {url: key.strip() for url, key in (keys or {}).items()}
        for key in (self._key, *self._keys.values()):
            if not (key.isascii() and key.isprintable()):
                raise ServiceError("an endpoint's API key has characters that an HTTP header cannot hold")
        self._mask = Mask([self._key, *self._keys.values()])
        self._timeout_s, self._connect_timeout_s, self._is_near = timeout_s, connect_timeout_s, is_near
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def ask(self, url: str, path: str, body: bytes | None = None) -> Reply:
        """The answer to a GET, or to a POST of JSON. Raises Refused, TryFailed and BadAnswer."""
        outcome = await self._try(self._answer(url, path, body))
        if isinstance(outcome, Exception):
            raise outcome  # here, where no other error is being handled whose text may hold a key
        return outcome

    def clean(self, text: str) -> str:
        """The text in one short line, its keys masked: servers like to repeat them."""
        line = " ".join(self._mask.mask_text(text).split())
        return line if len(line) <= _MESSAGE_CHARS else line[:_MESSAGE_CHARS] + "…"

    async def disconnect(self) -> None:
        """Close all connections; another request would open new ones, in another event loop too."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def close(self) -> None:
        """Close all for good, from any thread, whether or not the event loop runs; the loop must not be closed yet."""
        self._is_closed = True
        loop = self._loop
        if self._session is None or loop is None or loop.is_closed():
            return
        if not loop.is_running():
            loop.run_until_complete(self.disconnect())
        elif threading.get_ident() == self._thread:
            self._closing = loop.create_task(self.disconnect())  # kept, for a loop holds its tasks only weakly
        else:
            asyncio.run_coroutine_threadsafe(self.disconnect(), loop).result(timeout=10)

    async def _answer(self, url: str, path: str, data: Data = None, method: str = "") -> Reply | Exception:
        """The answer, or the error that it means. Raises what ``_try`` catches."""
        async with asyncio.timeout(self._timeout_s), self._send(url, path, data, method) as response:
            return self._read(url, response.status, response.headers, await response.read())

    async def _try(self, answer: Awaitable[T]) -> T | Exception:
        """The answer, or TryFailed if none came: returned and not raised, because the error's text may hold a key."""
        try:
            return await answer
        except aiohttp.ConnectionTimeoutError:
            return TryFailed("endpoint_unreachable", f"no connection within {self._connect_timeout_s:g} s")
        except TimeoutError:
            return TryFailed("endpoint_timeout", f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as lost:
            return TryFailed("endpoint_unreachable", self.clean(f"{type(lost).__name__}: {lost}".removesuffix(": ")))

    def _send(
        self, url: str, path: str, data: Data = None, method: str = ""
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request; ``method``: empty for GET without data, and POST with it."""
        key = self._key_for(url)
        return self._open_session().request(
            method or ("GET" if data is None else "POST"),
            url + path,
            data=aiohttp.BytesPayload(data, content_type="application/json") if isinstance(data, bytes) else data,
            headers={"Authorization": f"Bearer {key}"} if key else None,
            allow_redirects=False,
            proxy=None if self._is_near else _find_proxy(url),
        )

    def _open_session(self) -> aiohttp.ClientSession:
        """The session of the running event loop."""
        if self._is_closed:
            raise ServiceLost("the endpoints were closed")
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop, self._thread = loop, threading.get_ident()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _key_for(self, url: str) -> str:
        return self._keys.get(url, self._key)

    def _read(self, url: str, status: int, headers: Mapping[str, str], raw: bytes) -> Reply | Exception:
        """Read an answer; errors are returned."""
        if not 200 <= status < 300:
            return self._read_refusal(url, status, headers, self._mask.mask_raw(raw))
        has_key = self._mask.has_key(raw)
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return BadAnswer(f"no JSON: {self._mask.mask_raw(raw)[:80].decode(errors='replace')!r}")
        if has_key:  # a model may repeat what stands in its prompt, and a gateway what it was sent
            body = self._mask.mask_json(body)
        return Reply(body, headers, url, status)

    def _read_refusal(self, url: str, status: int, headers: Mapping[str, str], raw: bytes) -> Reply | Exception:
        """The error that a refusal means by its status; ``raw`` holds no key."""
        message = self.clean(_read_message(raw))
        if status in (429, 503):
            return TryFailed("endpoint_overloaded", f"{status} {message}", _read_retry_after_s(headers, status))
        if status < 400 and "Location" in headers:
            message = f"leads to {self.clean(headers['Location'])}"
        if status in (401, 403):
            message += f" ({'this API key is not accepted' if self._key_for(url) else 'no API key is set'})"
        refused = Refused(status, message)
        if status in _PASSING or (status >= 500 and not refused.is_mistake):
            return TryFailed("endpoint_error", str(refused))
        return refused


def normalize_base_url(url: str) -> str:
    """The URL that paths are appended to, without the ``/v1`` that OpenAI's clients want. Raises ServiceError."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query:
        raise ServiceError(
            f"endpoints: the URL of {parts.hostname} holds credentials or a query; they belong elsewhere"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceError(f"endpoints: {url!r} is no URL of a server; write it like http://host:8000")
    return url.rstrip("/").removesuffix("/v1")


@cache
def _find_proxy(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say for a URL."""
    parts, proxies = urlsplit(url), getproxies()
    return None if proxy_bypass(parts.netloc) else proxies.get(parts.scheme, proxies.get("all"))


def _read_message(raw: bytes) -> str:
    """The message in an error's body: the text in its JSON, where vLLM, SGLang, TEI and OpenAI put it."""
    text = raw.decode(errors="replace")
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return text
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return found if isinstance(found, str) else text


def _read_retry_after_s(headers: Mapping[str, str], status: int) -> float | None:
    """The seconds that the server asks to wait, from a number or a date; None for a 503 that does not say."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return float(asked)
    try:
        then = parsedate_to_datetime(asked)
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):  # TypeError: one of the dates has no zone
        return 0.0 if status == 429 else None
