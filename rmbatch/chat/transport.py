"""One chat request to one server, tried once, with OpenAI's own client underneath; and what its answer means.

No balancing and no second try: those are ``served/endpoints.py``, which sends through ``OpenAiClient`` as it does
through ``served/endpoint_client.py``. openai's own retries are off, for layers of retries multiply, and below it is
aiohttp, with which a request takes 1.3 ms of CPU instead of 2.1. What chat servers say beyond HTTP is read here: out of
quota is BudgetExhausted, a prompt that a filter refuses is an answer.

    client = OpenAiClient(api_key=os.environ.get("KEY"), timeout_s=600, connect_timeout_s=10)
    reply = await client.ask("http://host:8000/v1", "/chat/completions", body)
    await client.disconnect()
"""

import asyncio
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import httpx2
import openai
import orjson

from connectors.errors import JobError
from rmbatch.chat.spec import api_url
from rmbatch.served.endpoint_client import BadAnswer, Client, Reply, TryFailed
from rmbatch.served.endpoints import Admission, Check, Endpoints, Patience

_OUT_OF_BUDGET = frozenset(
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
_IDLE_S = 3.0
"""As in ``endpoint_client``: uvicorn closes idle connections after 5 s."""
_RAW = {"X-Stainless-Raw-Response": "raw"}
"""What ``with_raw_response`` sets: openai then gives the response as it came, without making objects of it."""


class BudgetExhausted(JobError):  # noqa: N818 - what has happened is no fault
    """The provider's quota, or the cap, is used up; the job stops, and goes on when there is more."""


@dataclass(frozen=True)
class ChatReply(Reply):
    """An answer, and whose it is."""

    url: str = ""
    """The server's."""
    status: int = 200
    """2xx; another one where a filter has refused the prompt, which is an answer too."""


class OpenAiClient(Client):
    """As ``Client``, for servers below ``…/v1``; a request is paid for, so it can be stopped without losing any."""

    def __init__(self, *, api_key: str | None, timeout_s: float, connect_timeout_s: float) -> None:
        """Raises EngineError for a key that no header can hold."""
        super().__init__(api_key=api_key, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
        self.stopped: Exception | None = None
        """Raised instead of sending anything more."""
        self.num_under_way = 0
        self._http: httpx2.AsyncClient | None = None
        self._clients: dict[str, openai.AsyncOpenAI] = {}
        self._http_loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, url: str, path: str, body: bytes | None = None) -> ChatReply:
        """As in ``Client``; raises BudgetExhausted too."""
        if self.stopped is not None:
            raise self.stopped
        client = self._client_of(url)
        self.num_under_way += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await self._sent(client, path, body)
        except openai.APIStatusError as refused:
            return self._refused(url, refused.response)
        except openai.APIConnectionError as lost:
            raise TryFailed("endpoint_unreachable", self._why_lost(lost)) from None
        except TimeoutError:
            raise TryFailed("endpoint_timeout", f"no answer within {self._timeout_s:g} s") from None
        finally:
            self.num_under_way -= 1
        try:
            return ChatReply(orjson.loads(raw.content), raw.headers, url, raw.status_code)
        except orjson.JSONDecodeError:
            raise BadAnswer(self.clean(f"no JSON: {raw.content[:80].decode(errors='replace')!r}")) from None

    async def disconnect(self) -> None:
        """Close all connections; another request would open new ones, in another event loop too."""
        http, self._http, self._clients = self._http, None, {}
        if http is not None:
            await http.aclose()

    def _why_lost(self, lost: BaseException) -> str:
        """What happened below openai and httpx, both of which call every lost connection a timeout."""
        while lost.__cause__ is not None:
            lost = lost.__cause__
        if isinstance(lost, aiohttp.ServerTimeoutError):
            return f"no connection within {self._connect_timeout_s:g} s"
        return self.clean(f"{type(lost).__name__}: {lost}")

    async def _sent(self, client: openai.AsyncOpenAI, path: str, body: bytes | None) -> httpx2.Response:
        headers: dict[str, str | openai.Omit] = dict(_RAW) if self._key else {**_RAW, "Authorization": openai.Omit()}
        if body is None:
            raw: Any = await client.get(path, cast_to=object, options={"headers": headers})
        else:
            headers["Content-Type"] = "application/json"
            raw = await client.post(path, cast_to=object, content=body, options={"headers": headers})
        response: httpx2.Response = raw.http_response
        return response

    def _refused(self, url: str, response: httpx2.Response) -> ChatReply:
        """The answer of a filter, or what another refusal means, raised."""
        code, message = _error_of(response.content)
        status = response.status_code
        is_quota = code in _OUT_OF_BUDGET or (status in (401, 403) and _SAYS_QUOTA.search(message))
        if status == 402 or (status < 500 and is_quota):
            raise BudgetExhausted(f"{url} is out of quota: {status} {self.clean(message or code)}")
        if 400 <= status < 500 and code in _FILTERED:
            return ChatReply({"error": self.clean(message or code)}, response.headers, url, status)
        raise self.refusal(status, response.headers, response.content)

    def _client_of(self, url: str) -> openai.AsyncOpenAI:
        """The client for a server, of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._http is None or self._http_loop is not loop:
            self._clients, self._http_loop = {}, loop
            self._http = openai.DefaultAioHttpClient(
                limits=httpx2.Limits(max_connections=0, keepalive_expiry=_IDLE_S),  # to aiohttp 0 is no limit
                timeout=httpx2.Timeout(None, connect=self._connect_timeout_s),
                follow_redirects=False,
                verify=_tls(),
            )
        if url not in self._clients:
            self._clients[url] = openai.AsyncOpenAI(
                base_url=url,
                api_key=self._key or "none",  # it insists on one
                max_retries=0,
                timeout=self._http.timeout,
                http_client=self._http,
            )
        return self._clients[url]


class ChatEndpoints(Endpoints):
    """``Endpoints`` that send through ``OpenAiClient``."""

    def __init__(
        self,
        urls: Sequence[str],
        check: Check,
        *,
        in_flight: int,
        api_key: str | None,
        patience: Patience,
        admission: Admission | None = None,
    ) -> None:
        # Endpoints takes one /v1 off the end, because reward models are asked beside it.
        urls = [f"{api_url(url)}/v1" for url in urls]
        self.client = OpenAiClient(
            api_key=api_key, timeout_s=patience.timeout_s, connect_timeout_s=patience.connect_timeout_s
        )
        super().__init__(urls, check, in_flight=in_flight, patience=patience, client=self.client, admission=admission)


@cache
def _tls() -> ssl.SSLContext:
    """One for all, for reading the authorities takes 30 ms."""
    return httpx2.create_ssl_context()


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
    known = [code for code in codes if code in _OUT_OF_BUDGET | _FILTERED]
    return (known or codes)[0], str(error.get("message") or "")
