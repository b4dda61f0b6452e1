"""The outcome of a chat request, read from the answer of an OpenAI-compatible server.

    completion = read_completion(reply, n=1)             # raises BadAnswer for what is no answer
    completion.texts[0], completion.reasonings[0], completion.cut_off[0], completion.usage

The model's thinking is kept apart from its text, whether the server does that (``reasoning_content``, ``reasoning``)
or leaves both in the text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rmbatch.chat.thinking import split_thinking
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.balancer import Failure
from rmbatch.endpoints.http import BadAnswer, Reply

_TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
_ENDED = frozenset({"stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete"})


ToolCall = Mapping[str, Any]
"""A call as OpenAI's API has it: ``id``, ``type``, and ``function`` with its ``name`` and its ``arguments``, which are
JSON as the model wrote it, so perhaps none. In a message it can be sent back as it is."""


@dataclass(frozen=True)
class Completion:
    """The outcome of a request; ``texts`` are empty where there is a failure."""

    texts: tuple[str | None, ...] = ()
    """The text of each of n samples, without its thinking; None where a filter or the model refused that sample."""
    reasonings: tuple[str, ...] = ()
    """The thinking of each sample; "" where there is none."""
    contents: tuple[str | None, ...] = ()
    """The texts as the server gave them, with the thinking where that is part of the text."""
    finish_reasons: tuple[str, ...] = ()
    logprobs: tuple[Any, ...] = ()
    """Of each sample, as the server gives them; None where it gives none."""
    tool_calls: tuple[tuple[ToolCall, ...], ...] = ()
    """The calls of each sample, in its order; empty where it calls nothing."""
    usage: Usage | None = None
    """None where the server does not say."""
    failure: Failure | None = None
    """``refused_by_filter``, ``refused_by_model``, or a code of ``rmbatch/endpoints/balancer.py``."""
    endpoint: str = ""
    """The server that answered."""
    num_tries: int = 0
    """How often the request was sent; 0 where its answer was kept."""
    from_cache: bool = False
    """Not paid for: the answer was kept, or an equal request was under way."""
    kept_by: str | None = field(default=None, compare=False)
    """Of a kept answer, the retry that asked for it, "" where none did. None: the answer was not kept before."""

    @property
    def cut_off(self) -> tuple[bool, ...]:
        """Whether each text ended because it was too long; what it says then may not be its last word."""
        return tuple(sample.is_cut_off for sample in self.samples)

    @property
    def samples(self) -> tuple["Sample", ...]:
        """The n samples, each with all that is known of it; empty where there is a failure."""
        fields = (self.texts, self.contents, self.reasonings, self.finish_reasons, self.logprobs, self.tool_calls)
        return tuple(map(Sample, *fields))


@dataclass(frozen=True)
class Sample:
    """One of the samples of a completion."""

    text: str | None
    content: str | None
    reasoning: str
    finish_reason: str
    logprobs: Any = None
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def is_cut_off(self) -> bool:
        """Whether it ended because it was too long."""
        return self.finish_reason.lower() in _TOO_LONG

    @property
    def has_ended(self) -> bool:
        """Whether the model ended the text; False where the server does not say so."""
        return self.finish_reason.lower() in _ENDED


def read_completion(reply: Reply, n: int) -> Completion:
    """Read the answer to a request for n samples. Raises BadAnswer."""
    try:
        return _read_choices(reply, n)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"no chat completion: {type(error).__name__} {error}") from None


def _read_choices(reply: Reply, n: int) -> Completion:
    if reply.status >= 300:
        refusal = Failure(reply.body.get("code") or "refused_by_filter", _read_message(reply.body))
        return Completion(failure=refusal, endpoint=reply.url, usage=Usage())  # the model never read it
    choices = reply.body.get("choices") if isinstance(reply.body, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BadAnswer(f"no choices: {_read_message(reply.body)}")
    if not choices:
        raise BadAnswer("no choices")
    choices = sorted(choices, key=lambda choice: int(choice.get("index") or 0))
    read = [_read_choice(choice) for choice in choices]
    texts, reasonings, contents, reasons = zip(*read)
    completion = Completion(
        texts,
        reasonings,
        contents,
        reasons,
        tuple(choice.get("logprobs") for choice in choices),
        tuple(_read_tool_calls(choice) for choice in choices),
        _read_usage(reply.body.get("usage")),
        endpoint=reply.url,
    )
    failure: Failure | None = None
    if len(texts) != n:
        cure = "a server that does not know n is asked for one at a time (a judge: one_by_one: true)"
        why = f"{len(texts)} samples of {n}; {cure}"
        failure = Failure("endpoint_bad_answer", why)
    elif all(text is None for text in texts):
        is_filter = "content_filter" in completion.finish_reasons
        failure = Failure("refused_by_filter" if is_filter else "refused_by_model", _read_refusal(choices))
    return completion if failure is None else replace(completion, texts=(), contents=(), tool_calls=(), failure=failure)


def _read_choice(choice: dict[str, Any]) -> tuple[str | None, str, str | None, str]:
    """Text, reasoning, the whole content and finish reason."""
    message, reason = choice.get("message"), str(choice.get("finish_reason") or "")
    if not isinstance(message, dict) or not ("content" in message or message.get("tool_calls")):
        raise BadAnswer("a choice without content")
    if reason in ("abort", "error"):
        raise BadAnswer(f"a choice that did not end well, finish reason {reason!r}")
    content = message.get("content")
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    if isinstance(content, list):  # parts, as Mistral's reasoning models answer
        parts = [part for part in content if isinstance(part, dict)]
        content = "".join(str(part.get("text") or "") for part in parts)
    if not isinstance(content, str | None) or not isinstance(thought, str):
        raise BadAnswer(f"content of type {type(content).__name__}")
    if reason == "content_filter" or message.get("refusal"):
        return None, thought, None, reason
    inner, text = split_thinking(content or "")
    return text, "\n".join(filter(None, (thought, inner))), content or "", reason


def _read_tool_calls(choice: dict[str, Any]) -> tuple[ToolCall, ...]:
    """The calls of a choice. Raises BadAnswer for one that names no function."""
    calls = choice["message"].get("tool_calls") or ()
    for call in calls:
        is_function = call.get("type", "function") == "function"
        if is_function and not all(isinstance(call["function"][name], str) for name in ("name", "arguments")):
            raise BadAnswer("a tool call without a function's name and arguments")
    return tuple(calls)


def _read_usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    of_prompt, of_completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return Usage(
        usage["prompt_tokens"],
        int(usage.get("completion_tokens") or 0),
        int(of_prompt.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0),  # the latter is DeepSeek's
        int(of_completion.get("reasoning_tokens") or 0),
    )


def _read_refusal(choices: list[dict[str, Any]]) -> str:
    return str(choices[0]["message"].get("refusal") or "the answer was withheld")[:300]


def _read_message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") if isinstance(error, dict) else None
    return " ".join(str(message or error).split())[:300]
