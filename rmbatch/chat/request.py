"""One question to a chat model, how it is sampled, and the bytes that are sent for it.

request = ChatRequest([{"role": "user", "content": "…"}], seed=7)
complete = with_defaults(request, spec)              # what the request leaves open is as in the spec
build_body("qwen3-32b", complete)                    # always the same bytes for the same request
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

import orjson
import xxhash

from rmbatch.chat.spec import ChatSpec, Structured

T = TypeVar("T")


@dataclass(frozen=True)
class ChatRequest:
    """One question, and how it is sampled; where a setting is None, as in the spec."""

    messages: Sequence[Mapping[str, Any]]
    """As OpenAI's API has them."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; OpenAI itself wants all properties required and ``additionalProperties: false``."""
    _: KW_ONLY
    schema_name: str = "verdict"
    """The schema's name for the server, part of what is sent and so of the key under which the answer is kept. The
    default is the name of all schemas before they had one of their own, so answers of that time are found."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """The longest answer; sent as ``max_completion_tokens`` where ``extra_body`` has that."""
    seed: int | None = None
    n: int | None = None
    stop: str | Sequence[str] | None = None
    """Texts that end the answer; an empty list: none."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    """Alternatives to each token whose log probabilities come along."""
    reasoning_effort: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    """Functions that the model may call, as OpenAI's API has them. None: those of ``extra_body``."""
    tool_choice: str | Mapping[str, Any] | None = None
    """``auto``, ``none``, ``required`` or one function. None: as ``tools``."""
    extra_body: Mapping[str, Any] | None = None
    """More keys to send, as they are."""
    structured: Structured | None = None
    """What the server does about the schema."""
    affinity: str = ""
    """Not sent. Requests with the same go to the same one of several servers, if that is not busier: give those the
    same that begin alike."""
    retry: str = ""
    """Not sent. The retry that asks; its answer is kept with this name. Empty: none."""
    renew: bool = False
    """Not sent. Whether an answer that was kept before this retry is left aside, and a new one is kept after it."""


@dataclass(frozen=True)
class CompleteRequest(ChatRequest):
    """A request that leaves nothing open: whatever spec it meets, it is sent as it is."""


def with_defaults(request: ChatRequest, spec: ChatSpec) -> CompleteRequest:
    """The request with what it leaves open filled in from the spec; one that is complete stays as it is."""
    if isinstance(request, CompleteRequest):
        return request
    extra = dict(spec.extra_body if request.extra_body is None else request.extra_body)
    max_tokens = _or_default(request.max_tokens, spec.max_tokens)
    if request.max_tokens is not None and "max_completion_tokens" in extra:
        max_tokens, extra["max_completion_tokens"] = spec.max_tokens, request.max_tokens
    filled = {
        "temperature": _or_default(request.temperature, spec.temperature),
        "top_p": _or_default(request.top_p, spec.top_p),
        "max_tokens": max_tokens,
        "seed": _or_default(request.seed, spec.seed),
        "n": request.n or spec.n,
        "stop": _or_default(request.stop, spec.stop),
        "presence_penalty": _or_default(request.presence_penalty, spec.presence_penalty),
        "frequency_penalty": _or_default(request.frequency_penalty, spec.frequency_penalty),
        "logprobs": _or_default(request.logprobs, spec.logprobs),
        "reasoning_effort": request.reasoning_effort or spec.reasoning_effort,
        "extra_body": extra,
        "structured": request.structured or spec.structured,
    }
    return CompleteRequest(**{**vars(request), **filled})


def make_affinity(prompt: str | bytes) -> str:
    """The ``affinity`` of all that is asked about a prompt, for that begins alike."""
    return xxhash.xxh3_64_hexdigest(prompt.encode(errors="replace") if isinstance(prompt, str) else prompt)


def build_body(model: str, request: CompleteRequest) -> bytes:
    """What is sent, always the same bytes for the same request: answers are kept under them.

    Raises orjson.JSONEncodeError for a message that is no JSON.
    """
    options = {
        "model": model,
        "messages": [dict(message) for message in request.messages],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "n": request.n,
        "stop": request.stop or None,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logprobs": None if request.logprobs is None else True,
        "top_logprobs": request.logprobs or None,
        "reasoning_effort": request.reasoning_effort,
        "response_format": _build_response_format(request),
    }
    tools = {
        "tools": None if request.tools is None else [dict(tool) for tool in request.tools],
        "tool_choice": request.tool_choice,
    }
    sent = {name: value for name, value in options.items() if value is not None}
    extra = dict(sorted((request.extra_body or {}).items()))
    return orjson.dumps(sent | extra | {name: value for name, value in tools.items() if value is not None})


def _build_response_format(request: CompleteRequest) -> dict[str, Any] | None:
    if request.schema is None or request.structured == "text":
        return None
    if request.structured == "json_object":
        return {"type": "json_object"}
    schema = {"name": request.schema_name, "schema": dict(request.schema), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _or_default(own: T | None, default: T | None) -> T | None:
    return default if own is None else own
