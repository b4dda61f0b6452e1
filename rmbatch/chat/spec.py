"""Who is asked for chat completions, how it samples, and how patiently; the same in job files and in Python.

    spec = ChatSpec(endpoints=["http://host:8000"], model="Qwen/Qwen3-32B", temperature=0.7, n=8, seed=1)
    spec.identity()                                      # what decides the answers, for a job's fingerprint

Importing it loads no client.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rmbatch.costs.prices import Price
from rmbatch.endpoints.errors import ServiceError
from rmbatch.settings.base import Positive, Seconds, Settings

_OWN = {
    *("model", "messages", "temperature", "top_p", "max_tokens", "seed", "n", "stop", "presence_penalty"),
    *("frequency_penalty", "logprobs", "top_logprobs", "reasoning_effort", "response_format", "stream"),
}
HOW_IT_RUNS = {
    *("endpoints", "api_key_env", "timeout_s", "connect_timeout_s", "first_token_timeout_s", "give_up_s"),
    *("lost_after_s", "stop_on"),
    *("in_flight", "actors", "attempts", "cache", "rate", "budget", "price", "batch"),
}
"""Settings that change no answer, and so may change between runs of one job."""


class Endpoint(Settings):
    """One server among several that answer the same."""

    url: str
    """Base URL as OpenAI's clients take it (``https://api.openai.com/v1``); a bare ``http://host:8000`` gets /v1."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Its share of the requests, against those of the same priority."""
    priority: int = 0
    """Servers of the highest priority are asked; the next ones only while none of those is up, or all are out of quota
    or have asked to wait."""
    api_key_env: str | None = None
    """The environment variable that has its key. None: the spec's ``api_key_env``."""


class Limits(Settings):
    """How much may be used; None: without limit."""

    requests: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """HTTP requests, every try counted."""
    tokens: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Of prompts and answers together, as the server counts them."""
    usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """US dollars, by ``price``."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.requests is None and self.tokens is None and self.usd is None:
            raise ValueError("write at least one of requests, tokens and usd")
        return self


class Batch(Settings):
    """Requests go through the provider's batch API: cheaper, and answered within a day or so.

    At one endpoint only. After a crash the batches that were sent are waited for, where answers are kept (``cache``, as
    in each job); else they are paid for again. ``rate`` counts their requests too, though most providers do not.
    """

    window: str = "24h"
    """The ``completion_window`` that is asked for."""
    poll_s: Seconds = 30.0
    """How often it is looked whether a batch is done."""
    max_requests: Positive = 50_000
    """Requests in one batch; OpenAI takes 50,000."""
    max_mb: Positive = 100
    """Size of one batch's file; OpenAI takes 200 MB."""
    deadline_s: Seconds | None = None
    """How long a batch is waited for before it is cancelled and what it has not answered has no score. None: until the
    provider ends it."""


class ChatSpec(Settings):
    """Who is asked, how it samples, and how patiently."""

    asks_differently: ClassVar[bool] = False
    """Whether each of ``n`` samples has a question of its own, so that they differ at temperature 0 too."""

    endpoints: Annotated[list[Endpoint], Field(min_length=1)]
    """Servers that answer the same: URLs, or more about each."""
    model: Annotated[str, Field(min_length=1)]
    """As the servers call it."""
    service: str | None = None
    """A name for who answers, which kept answers belong to: change it when the weights do, keep it when the addresses
    do. None: the endpoints' hosts and ports."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that has the key; if it is not set, no key is sent."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: it is not sent, as some reasoning models want it."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """None: the server's."""
    max_tokens: Positive | None = None
    """The longest answer, thinking included. None: the server's. Where a provider wants ``max_completion_tokens``, put
    that in ``extra_body``."""
    seed: int | None = None
    """None: the server's; then nothing is repeatable but what is kept."""
    n: Positive = 1
    """Samples of each request."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """None: the server's."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """None: the server's."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Alternatives to each token whose log probabilities come along. None: no log probabilities."""
    reasoning_effort: str | None = None
    """As the provider names it (low, medium, high). None: the server's."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """What else is sent, as it is: ``top_k``, ``chat_template_kwargs``, … It is kept in the job's plan, so it is no
    place for secrets."""
    structured: Literal["json_schema", "json_object", "text"] = "json_schema"
    """How a request's schema is asked for: held by the server, any JSON object, or not at all (the prompt says it)."""
    timeout_s: Seconds = 600.0
    """The longest that one try may take."""
    connect_timeout_s: Seconds = 10.0
    """Of that, the longest to get a connection."""
    first_token_timeout_s: Seconds | None = None
    """Of that, the longest until the answer begins; it is then streamed. None: not streamed."""
    give_up_s: Seconds | None = None
    """The longest from a request's first try to its last. None: three times ``timeout_s``."""
    lost_after_s: Seconds = 300.0
    """How long all servers may serve nobody before the job stops, to go on with the same command. Until then all
    requests wait."""
    stop_on: tuple[Annotated[str, Field(min_length=3)], ...] = ()
    """Words of a server's error that mean that the job must stop, to go on with the same command: for gateways whose
    words for a spent budget, a wrong key or an unknown model are not known here (``rmbatch/chat/refusals.py``)."""
    in_flight: Positive = 256
    """Requests under way at a time, all endpoints together, in each actor; batches have as many as they hold."""
    actors: Positive = 1
    """Processes that ask, in a job; one sends some hundred requests a second."""
    attempts: Positive = 8
    """Tries of one request; being told to wait is not one."""
    cache: str | None = None
    """A folder or URL where answers are kept and found again by other jobs. None: beside a job's output; in Python
    nothing is kept."""
    rate: Limits | None = None
    """What may be used each minute, by all workers of a job together."""
    budget: Limits | None = None
    """What may be used by a job in all its runs; then it stops, and goes on when there is more."""
    price: Price | None = None
    """Of a million tokens. None: costs are not known."""
    batch: Batch | None = None
    """None: each request is sent on its own."""

    @model_validator(mode="before")
    @classmethod
    def _plain_urls(cls, written: Any) -> Any:
        """``endpoint: URL`` for one, and URLs for servers of which there is nothing more to say."""
        if not isinstance(written, dict):
            return written
        written = dict(written)
        if "endpoint" in written:
            if "endpoints" in written:
                raise ValueError("write endpoint for one server or endpoints for several, not both")
            if isinstance(written["endpoint"], list):
                raise ValueError("endpoint: one server; write several as endpoints: [...]")
            written["endpoints"] = [written.pop("endpoint")]
        if isinstance(written.get("endpoints"), list):
            written["endpoints"] = [{"url": each} if isinstance(each, str) else each for each in written["endpoints"]]
        return written

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if own := sorted(_OWN & self.extra_body.keys()):
            raise ValueError(f"extra_body: {own[0]} has a key of its own, or is set by rmbatch; write it there")
        if self.n > 1 and self.temperature == 0 and not self.asks_differently:
            raise ValueError(f"n: {self.n} samples of temperature 0 are the same; set a temperature above 0")
        for each in self.endpoints:
            try:
                api_url(each.url)
            except ServiceError as error:
                raise ValueError(str(error)) from None
        if len({api_url(each.url) for each in self.endpoints}) < len(self.endpoints):
            raise ValueError("endpoints: one is there twice; give it more weight instead")
        for limits in (self.rate, self.budget):
            if limits is not None and limits.usd is not None and self.price is None:
                raise ValueError("usd: what a request costs is not known; write price: {input: …, output: …}")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the answers, as plain values: everything but where and how fast it runs."""
        return {**self.model_dump(mode="json", exclude=HOW_IT_RUNS), "service": self.service_name}

    @property
    def digest(self) -> str:
        """16 letters that are the same for equal settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def client_key(self) -> str:
        """What two judges have in common that share a client."""
        return f"chat.{self.digest}"

    @property
    def account(self) -> str:
        """Whose limits it shares: those of its service and model."""
        return f"{self.service_name} {self.model}"

    @property
    def service_name(self) -> str:
        """``service``, with None filled in."""
        hosts = (api_url(each.url).split("://", 1)[1].removesuffix("/v1") for each in self.endpoints)
        return self.service or ",".join(sorted(set(hosts)))


def api_url(url: str) -> str:
    """The URL that ``/chat/completions`` is put behind, as OpenAI's clients want it; a bare server's gets ``/v1``.

    Raises ServiceError for what is no URL, or holds credentials.
    """
    from rmbatch.endpoints.http import base_url  # loads aiohttp

    base_url(url)
    if urlsplit(url).fragment:
        raise ServiceError(f"endpoints: {url!r} has a fragment (#…), which no server sees")
    url = url.rstrip("/").removesuffix("/chat/completions")
    return url if urlsplit(url).path else f"{url}/v1"
