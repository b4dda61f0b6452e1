"""What openai's client sends through: the interface of httpx, and right below it aiohttp.

openai hands its requests to an ``httpx2.AsyncClient``. What httpx does with one (parse the URL, three kinds of
timeouts, cookies, redirects, authentication, a pool) costs as much CPU as sending it, and a chat request needs none of
it: the URL is known, the timeout is the caller's, a redirect is a mistake. Proxies are those of the environment.

    wire = Wire(connect_timeout_s=10)                                    # in the event loop that uses it
    response = await OpenAi(wire, "http://host:8000/v1", api_key).exchange("/chat/completions", body)
    await wire.aclose()

Errors come as openai (a status of 300 or more) and aiohttp raise them.
"""

import ssl
from collections.abc import AsyncIterator, Iterable
from functools import cache, cached_property
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import openai

_IDLE_S = 3.0
"""As in ``endpoint_client``: uvicorn closes idle connections after 5 s."""


class OpenAi(openai.AsyncOpenAI):
    """openai's client for one server, which retries nothing, keeps no time, and gives answers as they came."""

    def __init__(self, wire: "Wire", base_url: str, api_key: str) -> None:
        """``api_key``: "" sends none."""
        super().__init__(
            http_client=wire,
            base_url=base_url,
            api_key=api_key or "none",  # it insists on one
            max_retries=0,
            timeout=None,
        )
        self._urls: dict[str, httpx2.URL] = {}
        # What is not given openai finds out anew for each request, at a third of what that costs.
        headers: dict[str, str | openai.Omit] = {"x-stainless-retry-count": openai.Omit()}
        self._given: openai.RequestOptions = {
            "headers": headers if api_key else {**headers, "Authorization": openai.Omit()},
            "params": {},
            "max_retries": 0,
            "timeout": None,
            "follow_redirects": False,
            "idempotency_key": "",
            "security": {"bearer_auth": True},
        }

    async def exchange(self, path: str, body: bytes | None, *, stream: bool = False) -> httpx2.Response:
        """The answer to a GET, or to a POST of JSON; its body is still to be read if ``stream``."""
        if body is None:
            return await self.get(path, cast_to=httpx2.Response, options=self._given)
        return await self.post(path, cast_to=httpx2.Response, content=body, options=self._given, stream=stream)

    @cached_property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        """openai's, made once, and without those that only count who uses it."""
        return {name: told for name, told in super().default_headers.items() if not name.startswith("X-Stainless")}

    def _prepare_url(self, url: str) -> httpx2.URL:
        """openai's own subclass for Azure does this too; if it is called no more, requests are only slower."""
        if url not in self._urls:
            self._urls[url] = super()._prepare_url(url)
        return self._urls[url]


class Wire(httpx2.AsyncClient):
    """As much of httpx's client as openai calls."""

    def __init__(self, *, connect_timeout_s: float) -> None:
        super().__init__(transport=httpx2.AsyncBaseTransport(), trust_env=False)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, ssl=_tls()),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def build_request(
        self,
        method: str,
        url: httpx2.URL | str,
        *,
        content: Any = None,
        headers: Any = None,
        **_: Any,
    ) -> "_Request":
        """The request as it is; openai gives the headers as pairs."""
        return _Request(method, str(url), headers or (), content)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        """The answer, whose body is still to be read if ``stream``. Raises aiohttp.ClientError and TimeoutError."""
        assert isinstance(request, _Request)
        response = await self._session.request(
            request.method,
            request.target,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            proxy=_proxy_of(request.target),
        )
        headers = [each for each in response.raw_headers if each[0].lower() not in _NO_LONGER]
        if stream:
            return httpx2.Response(response.status, headers=headers, stream=_Body(response), request=request)
        async with response:
            content = await response.read()
        return httpx2.Response(response.status, headers=headers, content=content, request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()


_NO_LONGER = frozenset({b"content-encoding", b"transfer-encoding", b"content-length"})
"""What is no longer true of a body that aiohttp has unpacked."""


class _Request(httpx2.Request):
    """What openai asks a request for, without what httpx would make of it."""

    def __init__(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None) -> None:
        self.method, self.url, self.target, self.body = method, _parsed(target), target, body
        self.headers = dict(headers)  # type: ignore[assignment]


class _Body(httpx2.AsyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._response.content.iter_any():
            yield piece

    async def aclose(self) -> None:
        """Give the connection back, or close it where the body was not read to its end."""
        self._response.release()


@cache
def _tls() -> ssl.SSLContext:
    """One for all, for reading the authorities takes 30 ms."""
    return httpx2.create_ssl_context()


_parsed = cache(httpx2.URL)


@cache
def _proxy_of(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say for it."""
    parts, proxies = urlsplit(url), getproxies()
    return None if proxy_bypass(parts.netloc) else proxies.get(parts.scheme, proxies.get("all"))
