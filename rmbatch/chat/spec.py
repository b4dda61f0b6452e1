"""Which chat model is asked, how it samples and how failures are handled; the same in job files and in Python.

    spec = ChatSpec(endpoints=["http://host:8000"], model="Qwen/Qwen3-32B", temperature=0.7, n=8, seed=1)
    spec.identity()                                      # all that decides the answers, for a job's fingerprint

Importing it loads no client.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, model_validator

from rmbatch.chat.serve import ServeSpec, read_short_form
from rmbatch.costs.prices import Price
from rmbatch.endpoints.errors import ServiceError
from rmbatch.settings.base import Positive, Seconds, Settings
from rmbatch.settings.names import nearest

_OWN = {
    *("model", "messages", "temperature", "top_p", "max_tokens", "seed", "n", "stop", "presence_penalty"),
    *("frequency_penalty", "logprobs", "top_logprobs", "reasoning_effort", "response_format", "stream"),
}
HOW_IT_RUNS = {
    *("endpoints", "serve", "api_key_env", "timeout_s", "connect_timeout_s", "first_token_timeout_s", "give_up_s"),
    *("lost_after_s", "stop_on"),
    *("in_flight", "actors", "attempts", "cache", "rate", "budget", "price", "batch"),
}
"""Settings that change no answer, and so may change between runs of one job."""
OF_MODEL = HOW_IT_RUNS | {"endpoint", "model", "service"}
"""Settings that say which model this is, where it is and what it may cost: what stands in ``models:`` of a job file."""


Structured = Literal["json_schema", "json_object", "text"]


class Endpoint(Settings):
    """One server among several that answer the same."""

    url: str
    """Base URL as OpenAI's clients take it (``https://api.openai.com/v1``); a bare ``http://host:8000`` gets /v1."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Its share of the requests among servers of the same priority."""
    priority: int = 0
    """Only servers of the highest priority are asked. The next ones are asked while none of those is up, or all are
    out of quota or have asked to wait."""
    api_key_env: str | None = None
    """The environment variable that holds its key. None: the spec's ``api_key_env``."""


class Limits(Settings):
    """The most usage; None: without limit."""

    requests: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """HTTP requests; every try counts."""
    tokens: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Of prompts and answers together, as the server counts them."""
    usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """US dollars, by ``price``."""

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.requests is None and self.tokens is None and self.usd is None:
            raise ValueError("write at least one of requests, tokens and usd")
        return self


class Batch(Settings):
    """Send requests through the provider's batch API: cheaper, and answered within about a day.

    It works with one endpoint. After a crash the next run waits for the batches that were sent if answers are kept
    (``cache``, as in each job); without that they cost again. ``rate`` counts their requests too, though most
    providers do not.
    """

    window: str = "24h"
    """The ``completion_window`` of the batch."""
    poll_s: Seconds = 30.0
    """How often the provider is asked whether a batch is done."""
    max_requests: Positive = 50_000
    """The most requests in one batch; OpenAI takes 50,000."""
    max_mb: Positive = 100
    """The largest file of one batch; OpenAI takes 200 MB."""
    deadline_s: Seconds | None = None
    """How long to wait for a batch. Then it is cancelled, and requests without an answer have no score. None: until
    the provider ends it."""


class ChatSpec(Settings):
    """Which model is asked where, how it samples, and how failures are handled."""

    asks_differently: ClassVar[bool] = False
    """Whether each of ``n`` samples has its own question, so that they differ at temperature 0 too."""

    endpoints: list[Endpoint] = Field(default_factory=list)
    """Servers with the same model: URLs, or more about each."""
    serve: ServeSpec | None = None
    """Instead of endpoints: a model that the job serves on its own cluster while it runs; its settings may stand beside
    it (``serve: Qwen/Qwen3-8B, gpus: 1, replicas: [1, 8]``)."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name at the servers; of one that is served, its own where it has no other."""
    service: str | None = None
    """A name under which answers are kept: change it when the weights change, keep it when only addresses change.
    None: the endpoints' hosts and ports; of a served model, a digest of it and of the settings that decide its
    answers."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; if it is not set, no key is sent."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: not sent, which some reasoning models need."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """None: the server's default."""
    max_tokens: Positive | None = None
    """The longest answer, thinking included. None: the server's default. Where a provider wants
    ``max_completion_tokens``, put that in ``extra_body``."""
    seed: int | None = None
    """None: the server's default; then only kept answers can be repeated."""
    n: Positive = 1
    """Samples of each request."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """None: the server's default."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """None: the server's default."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """The number of alternatives to each token in the log probabilities. None: no log probabilities."""
    reasoning_effort: str | None = None
    """As the provider names it (low, medium, high). None: the server's default."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More keys to send, as they are: ``top_k``, ``chat_template_kwargs``, … It is kept in the job's plan, so put no
    secrets here."""
    structured: Structured = "json_schema"
    """What the server does about a request's schema: hold the answer to it, or to any JSON object, or nothing (the
    prompt describes it)."""
    timeout_s: Seconds = 600.0
    """The longest time for one try."""
    connect_timeout_s: Seconds = 10.0
    """Of that, the longest time to get a connection."""
    first_token_timeout_s: Seconds | None = None
    """Of that, the longest time until the answer begins; answers are then streamed. None: not streamed."""
    give_up_s: Seconds | None = None
    """The longest time from a request's first try to its last. None: three times ``timeout_s``."""
    lost_after_s: Seconds = 300.0
    """How long no server may answer before the job stops; the same command then goes on. Until then all requests
    wait."""
    stop_on: tuple[Annotated[str, Field(min_length=3)], ...] = ()
    """Words in a server's error that stop the job; the same command then goes on. For gateways whose words for an
    exhausted budget, a wrong key or an unknown model are missing in ``rmbatch/chat/refusals.py``."""
    in_flight: Positive = 256
    """Requests under way at a time in each actor, all endpoints together; a batch has as many as it holds."""
    actors: Positive = 1
    """Processes of a job that send requests; one sends about a thousand a second."""
    attempts: Positive = 8
    """Tries of one request; a try that was told to wait does not count."""
    cache: str | None = None
    """A folder or URL where answers are kept, for other jobs too. None: beside a job's output; in Python nothing is
    kept."""
    rate: Limits | None = None
    """The most usage in each minute, by all workers of a job together."""
    budget: Limits | None = None
    """The most usage of a job in all its runs. Then it stops; the same command goes on when the budget allows more."""
    price: Price | None = None
    """Of a million tokens. None: costs are not known."""
    batch: Batch | None = None
    """None: each request is sent on its own."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, written: Any, info: ValidationInfo) -> Any:
        """Allow ``by: NAME`` for a named model, ``endpoint: URL`` for one server, and plain URLs in ``endpoints``."""
        if not isinstance(written, dict):
            return written
        written = dict(written)
        if "by" in written and "by" not in cls.model_fields:
            fixed = OF_MODEL | (ServeSpec.model_fields.keys() - cls.model_fields.keys())
            written = _find_model(written.pop("by"), written, (info.context or {}).get("models") or {}, fixed)
        if "endpoint" in written:
            if "endpoints" in written:
                raise ValueError("write endpoint for one server or endpoints for several, not both")
            if isinstance(written["endpoint"], list):
                raise ValueError("endpoint: one server; write several as endpoints: [...]")
            written["endpoints"] = [written.pop("endpoint")]
        if written.get("serve") is not None:
            written = read_short_form(written, set(cls.model_fields))
        if isinstance(written.get("endpoints"), list):
            written["endpoints"] = [{"url": each} if isinstance(each, str) else each for each in written["endpoints"]]
        return written

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.serve is None and not self.endpoints:
            raise ValueError("write endpoint: URL of a server, or serve: a model for the job to serve itself")
        if self.serve is not None and (self.endpoints or self.batch):
            other = "endpoints" if self.endpoints else "batch"
            raise ValueError(f"serve: the job's own servers have no {other}; write one of the two")
        if own := sorted(_OWN & self.extra_body.keys()):
            raise ValueError(f"extra_body: {own[0]} has a key of its own, or is set by rmbatch; write it there")
        if self.n > 1 and self.temperature == 0 and not self.asks_differently:
            raise ValueError(f"n: {self.n} samples of temperature 0 are the same; set a temperature above 0")
        for each in self.endpoints:
            try:
                normalize_url(each.url)
            except ServiceError as error:
                raise ValueError(str(error)) from None
        if len({normalize_url(each.url) for each in self.endpoints}) < len(self.endpoints):
            raise ValueError("endpoints: one is there twice; give it more weight instead")
        for limits in (self.rate, self.budget):
            if limits is not None and limits.usd is not None and self.price is None:
                raise ValueError("usd: what a request costs is not known; write price: {input: …, output: …}")
        return self

    def identity(self) -> dict[str, Any]:
        """All that decides the answers, as plain values; not where and how fast it runs."""
        served = {} if self.serve is None else {"serve": self.serve.identity()}
        return {**self.model_dump(mode="json", exclude=HOW_IT_RUNS), "service": self.service_name, **served}

    def as_chat(self, **changes: Any) -> "ChatSpec":
        """The settings of a chat model alone, without those of a subclass, and with some changed."""
        return ChatSpec.model_construct(**{name: getattr(self, name) for name in ChatSpec.model_fields} | changes)

    @property
    def digest(self) -> str:
        """16 letters, the same for equal settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def client_key(self) -> str:
        """The key of the connection: who asks the same model in the same place shares a client, and its
        ``in_flight``, however each samples."""
        return f"chat.{self.place().digest}"

    def place(self) -> "ChatSpec":
        """The model, where it is and how it runs, alone: the spec of a client whose requests say how they sample."""
        settings = {name: getattr(self, name) for name in OF_MODEL & ChatSpec.model_fields.keys()}
        defaults = {name: each.get_default(call_default_factory=True) for name, each in ChatSpec.model_fields.items()}
        return ChatSpec.model_construct(**{**defaults, "temperature": None, **settings})

    @property
    def serve_key(self) -> str:
        """The key of the job's own servers: specs with equal ones share them. Empty where it asks others."""
        if self.serve is None:
            return ""
        text = json.dumps([self.serve.model_dump(mode="json"), self.model], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def account(self) -> str:
        """The name of the limits: specs of the same service and model share them."""
        return f"{self.service_name} {self.model}"

    @property
    def service_name(self) -> str:
        """``service``, or its default."""
        if self.serve is not None:
            return self.service or self.serve.service_name
        hosts = (normalize_url(each.url).split("://", 1)[1].removesuffix("/v1") for each in self.endpoints)
        return self.service or ",".join(sorted(set(hosts)))


def _find_model(name: Any, written: dict[str, Any], models: dict[str, Any], fixed: set[str]) -> dict[str, Any]:
    """The settings with those of the named model. Raises ValueError where it is unknown, or they name another model.

    ``fixed``: keys that only the model may have.
    """
    if not isinstance(name, str) or name not in models:
        known = nearest(str(name), models) if models else "a job file names its models in models:"
        raise ValueError(f"by: no model is called {name!r}; {known}")
    if doubled := sorted(fixed & written.keys()):
        raise ValueError(f"by: {name} says which model is asked and where; leave out {doubled[0]}, or write it there")
    found = {**models[name], **written}
    if isinstance(own := written.get("extra_body"), dict):
        found["extra_body"] = {**models[name].get("extra_body", {}), **own}
    return found


def normalize_url(url: str) -> str:
    """The base URL as OpenAI's clients want it: ``/chat/completions`` comes behind it; a bare server's gets ``/v1``.

    Raises ServiceError for a text that is no URL, or holds credentials.
    """
    from rmbatch.endpoints.http import normalize_base_url  # loads aiohttp

    normalize_base_url(url)
    if urlsplit(url).fragment:
        raise ServiceError(f"endpoints: {url!r} has a fragment (#…), which no server sees")
    url = url.rstrip("/").removesuffix("/chat/completions")
    return url if urlsplit(url).path else f"{url}/v1"
