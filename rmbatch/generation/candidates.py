"""A candidate as it was generated, and the columns that candidates become.

    candidate = read_candidate(completion, source, seed)     # text, or null with a code
    responses, generation = as_columns([[candidate, …], …])  # two lists a row, aligned with each other

A candidate that was cut off keeps its text and has the error ``cut_off``; selection leaves it out unless it is told
otherwise.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa

from rmbatch.generation.spec import GeneratorSpec

if TYPE_CHECKING:
    from rmbatch.chat.completion import Completion

RESPONSES, GENERATION = "responses", "generation"
CUT_OFF = "cut_off"


@dataclass(frozen=True)
class Candidate:
    """One answer to a prompt, or why there is none."""

    text: str | None
    """Never empty; null where there is none, then ``error`` says why, unless the model only calls tools."""
    model: str
    """The model's name at its server."""
    error: str | None = None
    """``stable_code: message``."""
    finish_reason: str | None = None
    """As the server gives it."""
    prompt_tokens: int | None = None
    """As the server counts them; null where it does not."""
    tokens: int | None = None
    """Of the answer, thinking included."""
    seed: int | None = None
    reasoning: str | None = None
    """The model's thinking."""
    tool_calls: str | None = None
    """The calls as JSON, in the form of OpenAI's API."""


_TYPES = {"prompt_tokens": pa.int64(), "tokens": pa.int64(), "seed": pa.int64()}
DETAILS = pa.struct([(each.name, _TYPES.get(each.name, pa.string())) for each in fields(Candidate)[1:]])
COLUMNS = {RESPONSES: pa.list_(pa.string()), GENERATION: pa.list_(DETAILS)}
"""What generation adds to a row, and the types."""


def read_candidate(completion: "Completion", source: GeneratorSpec, seed: int) -> Candidate:
    """The candidate that a completion of one sample holds."""
    if completion.failure is not None:
        return Candidate(None, source.model, str(completion.failure), seed=seed)
    (sample,), usage = completion.samples, completion.usage
    text = sample.text if sample.text and sample.text.strip() else None
    error = None
    if sample.is_cut_off:
        longest = "its longest length" if source.max_tokens is None else f"max_tokens: {source.max_tokens}"
        what = "the answer" if text else "the thinking"
        error = f"{CUT_OFF}: {what} ended at {longest}"
    elif text is None and not sample.tool_calls:
        error = "empty_response: the model said nothing"
    return Candidate(
        text,
        source.model,
        error,
        sample.finish_reason or None,
        None if usage is None else usage.prompt,
        None if usage is None else usage.completion,
        seed,
        (sample.reasoning or None) if source.thinking == "keep" else None,
        orjson.dumps(list(sample.tool_calls)).decode() if sample.tool_calls else None,
    )


def as_columns(rows: Sequence[Sequence[Candidate]]) -> dict[str, pa.Array]:
    """The columns of rows with these candidates."""
    names = [each.name for each in fields(Candidate)[1:]]
    details = [[dict(zip(names, astuple(candidate)[1:])) for candidate in row] for row in rows]
    return {
        RESPONSES: pa.array([[candidate.text for candidate in row] for row in rows], COLUMNS[RESPONSES]),
        GENERATION: pa.array(details, COLUMNS[GENERATION]),
    }
