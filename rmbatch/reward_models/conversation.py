"""Writes a prompt and a response as the token ids that a reward model reads: chat template, truncation, steps.

It is CPU work, and needs no engine. The template writes all special tokens, the tokenizer adds none. The conversation
ends where the template ends an assistant's turn, because the output of that token is the score.

    encoder = Encoder(spec)
    encoded = encoder.encode(prompts, responses)     # prompts MESSAGES [n], responses text [n]
    encoded.ids, encoded.error, encoded.reason, encoded.prompt
"""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from connectors.errors import UserError
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.rows.messages import TEXT
from rmbatch.stores.scores import IDS

Message = dict[str, str]

_STEP_ENDS = {"paragraphs": r"\n[ \t]*\n\s*", "lines": r"\n\s*"}
UNKNOWN_LENGTH = 1 << 30
"""Transformers writes 1e30 for a tokenizer whose longest input is unknown."""
_MAX_CUTS = 8
"""Tries to cut a prompt to a length: text cut at a token may become a token more or less."""


@dataclass(frozen=True)
class Encoded:
    """The conversations of n responses, ready for an engine."""

    ids: pa.Array
    """IDS [n]; null where there is an error."""
    error: pa.Array
    """TEXT [n]: ``stable_code: message`` where there are no ids."""
    reason: pa.Array
    """TEXT [n]: what truncation left out; null where it left out nothing."""
    prompt: np.ndarray
    """int64 [n]: a hash of the prompt's messages, equal for responses to the same prompt in any batch."""


class Encoder:
    """Writes and tokenises conversations for one model; loads its tokenizer, never its weights.

    Pickles with all it has read but the tokenizer and configuration, so that a task need not read it again.
    """

    def __init__(self, spec: RewardModelSpec) -> None:
        self._spec = spec

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("tokenizer", "config")}

    def read(self) -> None:
        """Read all files that conversations need. Raises UserError for a missing one."""
        _ = (self.tokenizer, self.tokenizer_class, self.chat_template, self.max_length)

    @cached_property
    def tokenizer_class(self) -> str | None:
        """Module and name of the tokenizer's class; None for a class that comes with the model."""
        kind = type(self.tokenizer)
        return f"{kind.__module__}:{kind.__name__}" if kind.__module__.startswith("transformers.") else None

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer. Raises UserError where there is none to load."""
        spec, known = self._spec, vars(self).get("tokenizer_class")

        def load() -> Any:
            if known is not None:  # AutoTokenizer imports torch, 5 s of processor time in each task's process
                where, _, name = known.partition(":")
                return getattr(importlib.import_module(where), name).from_pretrained(
                    spec.model, revision=spec.hub_revision
                )
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(
                spec.model, revision=spec.hub_revision, trust_remote_code=spec.trust_remote_code
            )

        return load_or_explain(spec, load)

    @cached_property
    def config(self) -> Any:
        """The model's configuration as transformers reads it. Raises UserError where there is none to load."""
        from transformers import AutoConfig

        spec = self._spec
        return load_or_explain(
            spec,
            lambda: AutoConfig.from_pretrained(
                spec.model, revision=spec.hub_revision, trust_remote_code=spec.trust_remote_code
            ),
        )

    @cached_property
    def max_length(self) -> int:
        """The longest conversation in tokens: the spec's, else the model's own limit."""
        if self._spec.max_length is not None:
            return self._spec.max_length
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        limit = min(positions or UNKNOWN_LENGTH, self.tokenizer.model_max_length)  # as vLLM does
        if limit >= UNKNOWN_LENGTH:
            raise UserError(f"model {self._spec.model}: nothing tells its longest input; set max_length, in tokens")
        return int(limit)

    @cached_property
    def chat_template(self) -> str:
        """The template in use. Raises UserError where the model has none and none is given."""
        given = self._spec.chat_template
        if given is not None and given.endswith(".jinja"):
            try:
                return Path(given).read_text(encoding="utf-8")
            except OSError as error:
                raise UserError(f"chat_template: {given} cannot be read: {error.strerror}") from None
        template: str | dict[str, str] | None = given if given is not None else self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise UserError(
                f"model {self._spec.model}: its tokenizer has no chat template; give the one that it was trained with "
                "as chat_template: FILE.jinja"
            )
        return template

    def encode(self, prompts: pa.Array, responses: pa.Array) -> Encoded:
        """Write n responses as conversations. One that cannot be written, or is too long, has an error instead."""
        hashes: dict[Any, int] = {}
        conversations: list[_Conversation] = []
        same = np.empty(len(prompts), dtype=np.int64)
        rows = zip(prompts.to_pylist(), responses.to_pylist(), strict=True)
        for row, (prompt, response) in enumerate(rows):
            key = tuple((message["role"], message["content"]) for message in prompt or ())
            if key not in hashes:
                hashes[key] = xxhash.xxh3_64_intdigest(orjson.dumps(key)) >> 1
            same[row] = hashes[key]
            conversations.append(self._write(prompt, response))
        self._tokenise(conversations)
        for conversation in conversations:
            self._fit(conversation)
        return Encoded(
            pa.array([each.ids for each in conversations], IDS),
            pa.array([each.error for each in conversations], TEXT),
            pa.array([each.reason for each in conversations], TEXT),
            same,
        )

    def _write(self, prompt: Sequence[Mapping[str, Any]] | None, response: str | None) -> "_Conversation":
        if prompt is None:
            return _Conversation(error="missing_prompt: prompt is null")
        if response is None:
            return _Conversation(error="missing_response: response is null")
        messages = [{"role": message["role"], "content": message["content"]} for message in prompt]
        if not messages:
            return _Conversation(error="malformed_conversation: the prompt has no message")
        silent = next((message["role"] for message in messages if message["content"] is None), None)
        if silent is not None:
            return _Conversation(error=f"malformed_conversation: a message of {silent!r} has no content")
        if self._spec.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._spec.system})
        answer, num_steps = self._add_step_tags(response)
        made = _Conversation(messages, answer, num_steps)
        if answer is None:
            made.error = "malformed_conversation: the response holds the steps' own tag"
        self._render(made)
        return made

    def _add_step_tags(self, response: str) -> tuple[str | None, int]:
        """The assistant's message with a tag after each step, and the number of tags."""
        steps = self._spec.steps
        if steps is None:
            return response, 0
        if steps.tag in response:
            return None, 0
        parts = [part for part in re.split(_STEP_ENDS[steps.split], response.strip()) if part] or [""]
        return "".join(part + steps.tag for part in parts), len(parts)

    def _render(self, conversation: "_Conversation") -> None:
        from jinja2 import TemplateError

        if conversation.error is not None:
            return
        said = [*conversation.messages, {"role": "assistant", "content": conversation.answer}]
        try:
            conversation.text = self.tokenizer.apply_chat_template(
                said, chat_template=self.chat_template, tokenize=False, add_generation_prompt=False
            )
        except (TemplateError, TypeError, KeyError) as error:  # what templates raise for roles that they do not know
            conversation.error = f"malformed_conversation: {' '.join(str(error).split())}"

    def _tokenise(self, conversations: Sequence["_Conversation"]) -> None:
        written = [each for each in conversations if each.error is None]
        if written:
            found = self.tokenizer([each.text for each in written], add_special_tokens=False, verbose=False)
            for each, ids in zip(written, found["input_ids"], strict=True):
                each.ids = ids

    def _fit(self, conversation: "_Conversation") -> None:
        """Truncate a conversation to the limit as the spec says, or give it an error."""
        if conversation.ids is None:
            return
        whole = len(conversation.ids)
        cut = _TRUNCATIONS[self._spec.truncation]
        rounds = 0
        while len(conversation.ids) > self.max_length:
            excess = len(conversation.ids) - self.max_length
            if rounds == _MAX_CUTS or not cut(conversation, excess, self.tokenizer):
                conversation.error = f"context_too_long: {whole} tokens, and the model takes {self.max_length}"
                conversation.ids = conversation.reason = None
                return
            rounds += self._spec.truncation == "truncate_prompt"
            self._render(conversation)
            if conversation.error is not None:
                conversation.ids = conversation.reason = None
                return
            self._tokenise([conversation])
        if len(conversation.ids) < whole:
            kept = f"{len(conversation.ids)} of {whole} tokens kept"
            conversation.reason = f"truncated: {conversation.left_out}, {kept}"
        if not conversation.ids:
            conversation.error, conversation.ids = "malformed_conversation: the chat template writes nothing", None
        elif conversation.num_steps and self._count_tags(conversation.ids) != conversation.num_steps:
            conversation.error = "malformed_conversation: the prompt holds the steps' own tag"
            conversation.ids = None

    def _count_tags(self, ids: Sequence[int]) -> int:
        assert self._spec.steps is not None
        return ids.count(self.tokenizer.convert_tokens_to_ids(self._spec.steps.tag))


@dataclass
class _Conversation:
    """One conversation on its way to ids."""

    messages: list[Message] = field(default_factory=list)
    answer: str | None = None
    num_steps: int = 0
    error: str | None = None
    text: str = ""
    ids: list[int] | None = None
    reason: str | None = None
    left_out: str = ""
    num_cut: int = 0


def _refuse(conversation: _Conversation, excess: int, tokenizer: Any) -> bool:
    del conversation, excess, tokenizer
    return False


def _drop_oldest_turn(conversation: _Conversation, excess: int, tokenizer: Any) -> bool:
    """Leave out the oldest messages up to the user's next one; False where only the last is left."""
    del excess, tokenizer
    first = 1 if conversation.messages[0]["role"] == "system" else 0
    later = range(first + 1, len(conversation.messages))
    following = next((place for place in later if conversation.messages[place]["role"] == "user"), None)
    if following is None:
        return False
    conversation.num_cut += following - first
    conversation.messages = [*conversation.messages[:first], *conversation.messages[following:]]
    conversation.left_out = f"the oldest {conversation.num_cut} messages left out"
    return True


def _cut_longest_message(conversation: _Conversation, excess: int, tokenizer: Any) -> bool:
    """Cut ``excess`` tokens off the beginning of the longest message; False where it has no more than that."""
    messages = list(conversation.messages)
    longest = max(range(len(messages)), key=lambda place: len(messages[place]["content"]))
    ids = tokenizer(messages[longest]["content"], add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) <= excess:
        return False
    text = tokenizer.decode(ids[excess:]).lstrip("\ufffd")  # half a character's bytes at the cut
    messages[longest] = {**messages[longest], "content": text}
    conversation.messages = messages
    conversation.num_cut += excess
    conversation.left_out = f"the first {conversation.num_cut} tokens of the longest message left out"
    return True


_TRUNCATIONS: dict[str, Callable[[_Conversation, int, Any], bool]] = {
    "error": _refuse,
    "drop_oldest_turns": _drop_oldest_turn,
    "truncate_prompt": _cut_longest_message,
}


def load_or_explain(spec: RewardModelSpec, load: Callable[[], Any]) -> Any:
    """Call ``load``; errors of transformers about a missing model become a UserError."""
    if spec.model.startswith(("/", "./", "../")) and not Path(spec.model).is_dir():
        raise UserError(f"model: there is no folder {spec.model}")
    try:
        return load()
    except ModuleNotFoundError as missing:
        cure = "pip install 'rmbatch[transformers]'"
        raise UserError(f"served models need the package {missing.name!r}; {cure}") from None
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"model {spec.model!r} cannot be read: {said[:300]}") from error
