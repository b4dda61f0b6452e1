"""The responses of a batch and what a judge sees beside them, as plain values."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rmbatch.chat.templates import format_conversation
from rmbatch.judges.kinds.outcomes import Outcome


class Responses:
    """The responses of a batch and what a judge sees beside them."""

    def __init__(
        self,
        prompts: Sequence[Sequence[Mapping[str, str | None]] | None],
        responses: Sequence[str | None],
        references: Sequence[str | None] | None,
        columns: Mapping[str, Sequence[Any]],
        offsets: np.ndarray[Any, Any] | None,
        *,
        needs_reference: bool = False,
    ) -> None:
        """``references`` None: no judge sees them; ``offsets`` None: no response is compared with another."""
        self.prompts, self.responses, self.references = prompts, responses, references
        self.columns = {name: [_drop_nulls(value) for value in values] for name, values in columns.items()}
        self.offsets = offsets
        self._needs_reference = needs_reference

    def __len__(self) -> int:
        return len(self.responses)

    def find_missing(self, place: int) -> Outcome | None:
        """The error of a response that cannot be judged; None for one that can."""
        messages = self.prompts[place]
        if not messages:
            return Outcome(error="missing_prompt: prompt is null, or has no message")
        if any(message["content"] is None for message in messages):
            why = "a message has no text, but an image or a tool call perhaps"
            return Outcome(error=f"malformed_conversation: {why}")
        if self.responses[place] is None:
            return Outcome(error="missing_response: response is null")
        if self._needs_reference and (self.references is None or self.references[place] is None):
            return Outcome(error="missing_reference: reference is null")
        return None

    def template_variables(self, place: int) -> dict[str, Any]:
        """A template's variables for this response, without the response itself."""
        messages = self.prompts[place] or ()
        text = format_conversation(messages)
        return {
            **{name: values[place] for name, values in self.columns.items()},
            "prompt": text,
            "messages": messages,
            "reference": None if self.references is None else self.references[place],
        }

    def places_by_prompt(self) -> list[range]:
        """The places of the responses of each prompt."""
        assert self.offsets is not None
        return [range(start, stop) for start, stop in pairwise(self.offsets.tolist())]


def _drop_nulls(value: Any) -> Any:
    """A column's value for a template, without the keys that only other rows have."""
    if isinstance(value, dict):
        return {key: _drop_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_drop_nulls(inner) for inner in value] if isinstance(value, list) else value
