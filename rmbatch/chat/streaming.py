"""Joins a chat completion that comes in pieces (server-sent events) to what it would be in one piece.

It knows bytes and JSON, no connections and no clock. The caller says what an error inside a stream means.

    answer = StreamedAnswer()
    async for data in read_events(pieces):               # pieces of bytes, cut anywhere
        answer.add(data)                                 # raises StreamError, BadAnswer
        if answer.is_done: ...
    answer.build()                                       # as without ``stream``; raises BadAnswer for half an answer
"""

import re
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

import orjson

from rmbatch.endpoints.http import BadAnswer

_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)
"""A CR at the end of a piece may be half of CR LF; the next piece tells."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JOINED = ("content", "reasoning_content", "reasoning", "refusal")
"""Texts of a message that come in pieces."""


class StreamError(Exception):
    """An error that came as an event."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data
        """JSON."""


async def read_events(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each event; also of the last one if the stream ends without an empty line."""
    rest, data = b"", list[bytes]()
    async for piece in pieces:
        *lines, rest = _LINE_END.split(rest + piece)
        for line in lines:
            if line:
                data += _read_line(line)
            elif data:
                yield b"\n".join(data)
                data = []
    for line in rest.splitlines():
        data += _read_line(line)
    if data:
        yield b"\n".join(data)


def ask_for_stream(body: bytes) -> bytes:
    """The same request, asking for a streamed answer; ``body`` is a JSON object that is not empty."""
    return body[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'


class StreamedAnswer:
    """The part of an answer that has come so far."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether the first token has come: some text, a tool call, or an end without either."""
        self.is_done = False
        """Whether [DONE] has come; no more will."""
        self._about: dict[str, Any] = {}
        self._usage: Any = None
        self._choices: dict[int, _Choice] = {}

    def add(self, data: bytes) -> None:
        """Add one event. Raises StreamError, and BadAnswer where it is no event of a completion."""
        if data.strip() == b"[DONE]":
            self.is_done = True
            return
        try:
            event = orjson.loads(data)
            if event.get("error"):
                raise StreamError(data)
            self._about = self._about or event
            self._usage = event.get("usage") or self._usage
            for piece in event.get("choices") or ():
                choice = self._choices.setdefault(int(piece.get("index") or 0), _Choice())
                self.has_begun |= choice.add(piece)
        except (AttributeError, TypeError, ValueError) as error:
            raise BadAnswer(f"no chat completion: {type(error).__name__} {error}") from None

    @property
    def is_whole(self) -> bool:
        """Whether only [DONE] is missing: the count of tokens, which comes last, is there."""
        return self._has_ended and (self.is_done or self._usage is not None)

    @property
    def _has_ended(self) -> bool:
        """Gateways send [DONE] also where the server behind them was lost, so each choice must say how it ended."""
        return bool(self._choices) and all(each.finish_reason is not None for each in self._choices.values())

    def build(self) -> dict[str, Any]:
        """The answer as the server would give it in one piece. Raises BadAnswer where the stream broke off."""
        if not self._has_ended:
            raise BadAnswer("the stream ended before the answer")
        choices = [choice.build(index) for index, choice in sorted(self._choices.items())]
        return {**self._about, "object": "chat.completion", "choices": choices, "usage": self._usage}


class _Choice:
    """One sample, as far as it has come."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._texts: dict[str, list[Any]] = {}
        self._calls: dict[int, _Call] = {}
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, piece: dict[str, Any]) -> bool:
        """Add one event's part; returns whether there is anything in it."""
        delta, reason = piece.get("delta") or {}, piece.get("finish_reason")
        self.finish_reason = reason or self.finish_reason
        for name in _JOINED:
            text = delta.get(name)
            if not isinstance(text, str | list | None):
                raise TypeError(f"{name} of type {type(text).__name__}")
            if text is not None:
                self._texts.setdefault(name, []).append(text)
        for name, tokens in (piece.get("logprobs") or {}).items():
            self._logprobs.setdefault(name, []).extend(tokens or ())
        for call in delta.get("tool_calls") or ():
            index = call.get("index")
            if index is None:  # some gateways give none, and each call an id where it begins
                index = max(len(self._calls) - (not call.get("id")), 0)
            self._calls.setdefault(int(index), _Call()).add(call)
        return bool(reason) or any(delta.get(name) for name in (*_JOINED, "tool_calls"))

    def build(self, index: int) -> dict[str, Any]:
        """The choice as it would stand in an answer of one piece. Raises BadAnswer."""
        texts = {name: _join(pieces) for name, pieces in self._texts.items()}
        calls = {"tool_calls": [call.build() for _, call in sorted(self._calls.items())]} if self._calls else {}
        return {
            "index": index,
            "message": {"role": "assistant", "content": None, **texts, **calls},
            "logprobs": self._logprobs or None,
            "finish_reason": self.finish_reason,
        }


class _Call:
    """A tool call, as far as it has come: its arguments come in pieces, all else at once."""

    def __init__(self) -> None:
        self._about: dict[str, Any] = {}
        self._function: dict[str, Any] = {}
        self._arguments = ""

    def add(self, piece: dict[str, Any]) -> None:
        """Add one event's part; some servers repeat ids and names as empty texts."""
        function = piece.get("function") or {}
        self._about |= {name: value for name, value in piece.items() if value and name not in ("index", "function")}
        self._function |= {name: value for name, value in function.items() if value and name != "arguments"}
        self._arguments += function.get("arguments") or ""

    def build(self) -> dict[str, Any]:
        """The call as it would stand in an answer of one piece."""
        return {"type": "function", **self._about, "function": {**self._function, "arguments": self._arguments}}


def _join(pieces: list[Any]) -> Any:
    """One text; or one list of parts, which is how Mistral's reasoning models answer."""
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    parts = list[Any]()
    for piece in pieces:
        parts += piece if isinstance(piece, list) else [{"type": "text", "text": piece}]
    return parts


def _read_line(line: bytes) -> list[bytes]:
    """What a line adds to an event's data: nothing for comments and other fields."""
    name, _, value = line.removeprefix(_BYTE_ORDER_MARK).partition(b":")
    return [value.removeprefix(b" ")] if name == b"data" else []
