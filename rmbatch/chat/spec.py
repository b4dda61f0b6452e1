"""Who is asked for chat completions, how it samples, and how patiently; the same in job files and in Python.

    spec = ChatSpec(endpoints=["http://host:8000"], model="Qwen/Qwen3-32B", temperature=0.7, n=8, seed=1)
    spec.identity()                                      # what decides the answers, for a job's fingerprint

Importing it loads no client.
"""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rmbatch.served.engine import EngineError
from rmbatch.served.spec import Part, Positive, Seconds

_OWN = {
    *("model", "messages", "temperature", "top_p", "max_tokens", "seed", "n", "stop", "presence_penalty"),
    *("frequency_penalty", "logprobs", "top_logprobs", "reasoning_effort", "response_format", "stream"),
}
_HOW_IT_RUNS = {
    *("endpoints", "api_key_env", "timeout_s", "connect_timeout_s", "give_up_s", "in_flight", "attempts", "cache"),
}


class ChatSpec(Part):
    """Who is asked, how it samples, and how patiently."""

    endpoints: Annotated[list[str], Field(min_length=1)]
    """Base URLs as OpenAI's clients take them (``https://api.openai.com/v1``); a bare ``http://host:8000`` gets /v1."""
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
    """What else is sent, as it is: ``top_k``, ``chat_template_kwargs``, …"""
    structured: Literal["json_schema", "json_object", "text"] = "json_schema"
    """How a request's schema is asked for: held by the server, any JSON object, or not at all (the prompt says it)."""
    timeout_s: Seconds = 600.0
    """The longest that one try may take."""
    connect_timeout_s: Seconds = 10.0
    """Of that, the longest to get a connection."""
    give_up_s: Seconds | None = None
    """The longest from a request's first try to its last. None: three times ``timeout_s``."""
    in_flight: Positive = 256
    """Requests under way at a time, all endpoints together."""
    attempts: Positive = 8
    """Tries of one request; being told to wait is not one."""
    cache: str | None = None
    """A folder or URL where answers are kept and found again by other jobs. None: nothing is kept."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if own := sorted(_OWN & self.extra_body.keys()):
            raise ValueError(f"extra_body: {own[0]} has a key of its own, or is set by rmbatch; write it there")
        if self.n > 1 and self.temperature == 0:
            raise ValueError(f"n: {self.n} samples of temperature 0 are the same; set a temperature above 0")
        for url in self.endpoints:
            try:
                api_url(url)
            except EngineError as error:
                raise ValueError(str(error)) from None
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the answers, as plain values: everything but where and how fast it runs."""
        return {**self.model_dump(mode="json", exclude=_HOW_IT_RUNS), "service": self.service_name}

    @property
    def service_name(self) -> str:
        """``service``, with None filled in."""
        hosts = (api_url(url).split("://", 1)[1].removesuffix("/v1") for url in self.endpoints)
        return self.service or ",".join(sorted(set(hosts)))


def api_url(url: str) -> str:
    """The URL that ``/chat/completions`` is put behind, as OpenAI's clients want it; a bare server's gets ``/v1``.

    Raises EngineError for what is no URL, or holds credentials.
    """
    from rmbatch.served.endpoint_client import base_url  # loads aiohttp

    base_url(url)
    if urlsplit(url).fragment:
        raise EngineError(f"endpoints: {url!r} has a fragment (#…), which no server sees")
    url = url.rstrip("/").removesuffix("/chat/completions")
    return url if urlsplit(url).path else f"{url}/v1"
