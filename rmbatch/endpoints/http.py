"""One request to one server over HTTP, tried once, and what its answer means: JSON, wait, try again, or do not.

No balancing and no second try: those are ``endpoints.py``.

    client = Client(api_key=os.environ.get("KEY"))
    reply = await client.ask("http://host:8000", "/classify", body)     # Reply; raises Refused, TryFailed, BadAnswer
    client.close()
"""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.masking import Mask

_PASSING = frozenset({408, 409, 424, 425})
"""4xx that may be gone at the next try; 424 is how TEI says that its backend failed."""
_SAID = 300
"""Characters of a server's message that are kept."""
_IDLE_S = 3.0
"""Connections are kept so long for the next request: uvicorn closes its own after 5 s, and a request may meet that."""


@dataclass(frozen=True)
class Reply:
    """What a server answered with status 2xx."""

    body: Any
    """Its JSON."""
    headers: Mapping[str, str]
    """By names in any case."""

    @property
    def is_answer(self) -> bool:
        """Whether it is what was asked for, which proves that the server serves."""
        return True


class BadAnswer(Exception):  # noqa: N818 - as error columns call it
    """Status 2xx, and not what was asked for."""


class Refused(Exception):  # noqa: N818 - as error columns call it
    """A status that trying again does not change."""

    def __init__(self, status: int, message: str, *, concerns_all: bool = False) -> None:
        """``concerns_all``: it says so itself, whatever its status."""
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


class Client:
    """Connections to servers, with a key for all; used from one event loop at a time."""

    def __init__(
        self, *, api_key: str | None = None, timeout_s: float = 600.0, connect_timeout_s: float = 10.0
    ) -> None:
        """``timeout_s``: for a whole try, the connection included. Raises ServiceError."""
        self._key = (api_key or "").strip()
        if not self._key.isprintable():
            raise ServiceError("the endpoints' API key has characters that an HTTP header cannot hold")
        self._mask = Mask([self._key])
        self._timeout_s, self._connect_timeout_s = timeout_s, connect_timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def ask(self, url: str, path: str, body: bytes | None = None) -> Reply:
        """The answer to a GET, or to a POST of JSON. Raises Refused, TryFailed and BadAnswer."""
        method = "GET" if body is None else "POST"
        try:
            async with self._here().request(method, url + path, data=body, allow_redirects=False) as response:
                raw = self._mask.raw(await response.read())
        except aiohttp.ConnectionTimeoutError:
            raise TryFailed("endpoint_unreachable", f"no connection within {self._connect_timeout_s:g} s") from None
        except TimeoutError:
            raise TryFailed("endpoint_timeout", f"no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TryFailed("endpoint_unreachable", self.clean(f"{type(error).__name__}: {error}")) from None
        if not 200 <= response.status < 300:
            raise self.refusal(response.status, response.headers, raw)
        try:
            return Reply(orjson.loads(raw), response.headers)
        except orjson.JSONDecodeError:
            raise BadAnswer(f"no JSON: {raw[:80].decode(errors='replace')!r}") from None

    def clean(self, text: str) -> str:
        """In one short line, and without any key, which servers like to repeat."""
        line = " ".join(self._mask.text(text).split())
        return line if len(line) <= _SAID else line[:_SAID] + "…"

    async def disconnect(self) -> None:
        """Close all connections; another request would open new ones, in another event loop too."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def close(self) -> None:
        """Close all for good, from any thread, whether or not the event loop runs; it must not be closed itself yet."""
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

    def _here(self) -> aiohttp.ClientSession:
        """The session of the running event loop."""
        if self._is_closed:
            raise ServiceLost("the endpoints were closed")
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._loop, self._thread = loop, threading.get_ident()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=self._connect_timeout_s),
                headers=headers,
            )
        return self._session

    def refusal(self, status: int, headers: Mapping[str, str], raw: bytes) -> Refused | TryFailed:
        said = self.clean(_message(raw))
        if status in (429, 503):
            return TryFailed("endpoint_overloaded", f"{status} {said}", _retry_after_s(headers, status))
        if status < 400 and "Location" in headers:
            said = f"leads to {self.clean(headers['Location'])}"
        if status in (401, 403):
            said += f" ({'this API key is not accepted' if self._key else 'no API key is set'})"
        refused = Refused(status, said)
        if status in _PASSING or (status >= 500 and not refused.is_mistake):
            return TryFailed("endpoint_error", str(refused))
        return refused


def base_url(url: str) -> str:
    """The URL that paths are put behind; without the ``/v1`` that OpenAI's clients want. Raises ServiceError."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query:
        raise ServiceError(
            f"endpoints: the URL of {parts.hostname} holds credentials or a query; they belong elsewhere"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceError(f"endpoints: {url!r} is no URL of a server; write it like http://host:8000")
    return url.rstrip("/").removesuffix("/v1")


def _message(raw: bytes) -> str:
    """What a server says in an error's body: the text in its JSON, where vLLM, SGLang, TEI and OpenAI put it."""
    text = raw.decode(errors="replace")
    try:
        said = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return text
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return said if isinstance(said, str) else text


def _retry_after_s(headers: Mapping[str, str], status: int) -> float | None:
    """The seconds that the server asks to wait, from a number or a date; None where a 503 says nothing of it."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return float(asked)
    try:
        then = parsedate_to_datetime(asked)
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):  # TypeError: one of the dates has no zone
        return 0.0 if status == 429 else None
