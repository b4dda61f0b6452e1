"""What a source of candidates is asked about a row: the conversation, the tools, and the seed of each candidate.

    writer = RequestWriter(source)                       # UserError for a template that cannot be read
    rows = writer.read(view)                             # what it shows of each row
    writer.write(rows[0], number=3)                      # a ChatRequest; the same bytes whenever it is written

The seed of a candidate is a hash of the source's seed, the conversation and the candidate's number, not of where the
row stands: a resumed job, a renamed file and a longer input ask the same, and find the answers that were kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import xxhash

from connectors.errors import UserError
from rmbatch.chat.request import ChatRequest, make_affinity
from rmbatch.chat.spec import ChatSpec
from rmbatch.chat.templates import Template, TemplateFailed, format_conversation, read_template
from rmbatch.generation.spec import GeneratorSpec
from rmbatch.rows.roles import FlatView

SEED_BITS = 31
"""Of the seeds that are sent: some servers take no more."""
_KEPT = ("tool_calls", "tool_call_id", "name")
"""Keys of a message, beside role and content, that a server reads."""
_ANSWERS = ("assistant",)


@dataclass(frozen=True)
class Prompt:
    """What is asked about a row, or why nothing can be."""

    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] | None = None
    own_seed: str = ""
    """The row's value in ``seed_by``."""
    error: str | None = None
    """``stable_code: message``; then there are no messages."""
    key: bytes = field(default=b"", compare=False)
    """The messages and tools as bytes, for seeds."""


@dataclass(frozen=True)
class CandidateInquiry:
    """What would be asked for one candidate, for an estimate."""

    text: str
    num_votes: int = 1


class RequestWriter:
    """Writes the requests of one source. It is what asks, as a job's services know it (``Asker``). Pickles."""

    takes_offsets = False
    asks_all = True

    def __init__(self, source: GeneratorSpec) -> None:
        """Raises UserError for a template that cannot be read, or shows nothing of a row."""
        self.source = source
        self._template = None if source.template is None else Template(read_template(source.template))
        used = set() if self._template is None else self._template.variables
        shows = {"prompt", "conversation", "messages"}
        if self._template is not None and not used:
            raise UserError("template: it shows nothing of a row, so all rows would ask the same")
        self.reads_prompt = self._template is None or not used.isdisjoint(shows)
        named = [source.tools] if isinstance(source.tools, str) else []
        self.columns = tuple(dict.fromkeys([*sorted(used - shows), *named, *filter(None, [source.seed_by])]))
        """Columns of the rows that it reads beside the prompt."""

    @property
    def chat(self) -> ChatSpec:
        """Who is asked."""
        return self.source.chat()

    @property
    def counted_as(self) -> str:
        """The name that what it uses is counted under."""
        return f"generate.{self.source.digest}"

    def column_types(self, name: str) -> dict[str, Any]:
        """Nothing under its own name: all sources fill the same columns."""
        del name
        return {}

    def questions(self, column: Any, offsets: Any = None) -> list[CandidateInquiry]:
        """What would be asked about rows, without asking it."""
        del offsets
        shown = [format_conversation(_plain(prompt.messages)) for prompt in self._read(column, None)]
        return [CandidateInquiry(text) for text in shown for _ in range(self.source.n)]

    def read(self, view: FlatView, raw_prompts: Sequence[Any] | None = None) -> list[Prompt]:
        """What is asked about each row. ``raw_prompts``: messages with keys that ``view`` does not give."""
        return self._read(view.column, raw_prompts)

    def write(self, prompt: Prompt, number: int, attempt: int = 0) -> ChatRequest:
        """The request for a candidate. ``attempt``: which of several tries to get one that repeats no other."""
        seed = self.seed(prompt, number, attempt)
        return ChatRequest(prompt.messages, seed=seed, n=1, tools=prompt.tools, affinity=make_affinity(prompt.key))

    def seed(self, prompt: Prompt, number: int, attempt: int = 0) -> int:
        """The seed of a candidate."""
        address = f"{self.source.seed} {number} {attempt} {prompt.own_seed}".encode() + b"\0" + prompt.key
        return xxhash.xxh3_64_intdigest(address) >> (64 - SEED_BITS)

    def _read(self, column: Any, raw_prompts: Sequence[Any] | None) -> list[Prompt]:
        columns = {name: column(name).to_pylist() for name in self.columns}
        num_rows = len(next(iter(columns.values()), ()))
        conversations: Sequence[Any] = [()] * num_rows
        if self.reads_prompt:
            conversations = column("prompt").to_pylist()
        raw = raw_prompts if raw_prompts is not None and self.reads_prompt else [None] * len(conversations)
        return [
            self._prompt(messages, own, {name: values[row] for name, values in columns.items()})
            for row, (messages, own) in enumerate(zip(conversations, raw, strict=True))
        ]

    def _prompt(self, conversation: Any, raw: Any, row: Mapping[str, Any]) -> Prompt:
        messages = [dict(message) for message in conversation or ()]
        if isinstance(raw, list) and len(raw) == len(messages):
            messages = [message | _more_keys(own) for message, own in zip(messages, raw)]
        while self.source.regenerate and messages and messages[-1]["role"] in _ANSWERS:
            messages.pop()
        if self._template is not None:
            if self.reads_prompt and (error := _find_fault(messages)):
                return Prompt(error=error)
            try:
                text = self._template.render(**{**row, **_shown(messages)})
            except TemplateFailed as failed:
                return Prompt(error=f"template_failed: {failed}")
            messages = [*messages[:-1], {"role": "user", "content": text}]
        if error := _find_fault(messages):
            return Prompt(error=error)
        if self.source.system is not None:
            others = [message for message in messages if message["role"] not in ("system", "developer")]
            messages = [{"role": "system", "content": self.source.system}, *others]
        try:
            tools = self._read_tools(row)
            key = orjson.dumps([messages, tools])
        except (ValueError, orjson.JSONEncodeError) as error:
            return Prompt(error=f"malformed_tools: {error}")
        own_seed = "" if self.source.seed_by is None else str(row[self.source.seed_by])
        return Prompt(messages, tools, own_seed, key=key)

    def _read_tools(self, row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
        """The tools of a row. Raises ValueError for what are none."""
        tools: Any = self.source.tools
        if isinstance(tools, str):
            tools = row[tools]
            tools = orjson.loads(tools) if isinstance(tools, str) and tools else tools
        if not tools:
            return None
        if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
            raise ValueError("a list of functions is needed")
        return [_without_nulls(tool) for tool in tools]


def _shown(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a template can show of a conversation."""
    last = messages[-1].get("content") if messages else None
    return {"prompt": last, "conversation": format_conversation(_plain(messages)), "messages": messages}


def _find_fault(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a conversation cannot be continued."""
    if not messages:
        return "missing_prompt: prompt is null, or has no message"
    if any(message.get("content") is None and not message.get("tool_calls") for message in messages):
        return "malformed_conversation: a message has no text, but an image perhaps"
    if messages[-1]["role"] in _ANSWERS:
        return "answered_prompt: the conversation ends with an answer; set regenerate: true to answer it anew"
    return None


def _more_keys(message: Any) -> dict[str, Any]:
    """What a message holds beside role and content."""
    if not isinstance(message, Mapping):
        return {}
    return {key: _without_nulls(message[key]) for key in _KEPT if message.get(key)}


def _without_nulls(value: Any) -> Any:
    """The value without the keys that only other rows have: Arrow gives every row the keys of all."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, str | None]]:
    return [{"role": message["role"], "content": message.get("content")} for message in messages]
