"""The settings of generation: who is asked, how many candidates, how they are sampled, when a prompt has enough.

    GenerateSpec.model_validate({"endpoint": "http://host:8000", "model": "qwen3-32b", "n": 8, "max_tokens": 2048})
    GenerateSpec.model_validate({"sources": [{...}, {...}], "stop_when": {"math": 1.0, "count": 2}})

The same in a job file (``generate:``) and in Python (``rmbatch.generate``). Importing it loads no client.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rmbatch.chat.spec import ChatSpec
from rmbatch.settings.base import Finite, Positive, Settings


class GeneratorSpec(ChatSpec):
    """One source of candidates: a chat model and how it is asked for them."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    """None: not sent, which some reasoning models need."""
    n: Positive = 1
    """Candidates of each prompt. Each is a request of its own with a seed of its own, so raising n later asks only for
    the new ones."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed is another draw. The seed of each candidate is a hash of this, the prompt and its number."""
    seed_by: str | None = None
    """A column that goes into the seeds, such as an id. None: equal prompts get equal candidates, paid for once."""
    system: str | None = None
    """A system message before the conversation, in place of the conversation's own. None: as the conversation is."""
    template: str | None = None
    """A jinja2 template of the last message of the user, or the path of one (``*.jinja``); see docs/generation.md for
    what it can show. None: the prompt as it is."""
    tools: str | tuple[dict[str, Any], ...] | None = None
    """Functions that the model may call, as OpenAI's API has them, or the name of the column that holds those of each
    row. None: none."""
    regenerate: bool = False
    """Whether answers at the end of a conversation are taken away, so that its last question is answered anew. Else
    such a conversation gets no candidates."""
    thinking: Literal["keep", "drop"] = "keep"
    """Whether the model's thinking is kept, in ``generation``, apart from the text."""
    retry_repeats: Annotated[int, Field(ge=0, le=16)] = 0
    """How often a candidate is asked for anew that repeats another one of its prompt word for word. It makes the
    candidates more different than the model's own distribution is."""

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if self.retry_repeats and self.temperature == 0:
            raise ValueError("retry_repeats: temperature 0 gives the same again; set a temperature above 0")
        if self.tools is not None and "tools" in self.extra_body:
            raise ValueError("tools: they stand in extra_body too; leave them out there")
        return self

    def chat(self) -> ChatSpec:
        """Who is asked, and how, alone; each request has a seed of its own."""
        return self.as_chat(n=1, seed=None)

    def asks(self) -> dict[str, Any]:
        """All that its requests depend on, beside the row and the candidate's number, as plain values."""
        beside = ("n", "thinking", "retry_repeats")
        return {name: value for name, value in self.identity().items() if name not in beside}


class StopRule(Settings):
    """When a prompt has enough candidates: ``{math: 1.0, count: 2}`` stops it when two of them have passed."""

    scores: Annotated[dict[str, Finite], Field(min_length=1)]
    """The least score by reward; a candidate that reaches all of them has passed. Also written beside ``count``."""
    count: Positive = 1
    """Candidates that have to pass."""
    wave: Positive | None = None
    """Candidates that are asked for at a time. None: as many as may still be missing, ``count`` at the least."""

    @model_validator(mode="before")
    @classmethod
    def _gather_scores(cls, written: Any) -> Any:
        if not isinstance(written, Mapping) or "scores" in written:
            return written
        own = {key: value for key, value in written.items() if key in ("count", "wave")}
        return {**own, "scores": {key: value for key, value in written.items() if key not in own}}


class GenerateSpec(Settings):
    """All candidates of a prompt: of one source or of several, and when a prompt has enough."""

    sources: Annotated[tuple[GeneratorSpec, ...], Field(min_length=1)]
    """Who is asked. One source may be written in place of the whole, several as a list."""
    stop_when: StopRule | None = None
    """None: every prompt gets all its candidates."""

    @model_validator(mode="before")
    @classmethod
    def _gather_sources(cls, written: Any) -> Any:
        """Allow a list of sources, and one source with ``stop_when`` beside its settings."""
        if isinstance(written, list | tuple):
            return {"sources": written}
        if not isinstance(written, Mapping) or "sources" in written:
            return written
        source = {key: value for key, value in written.items() if key != "stop_when"}
        return {"sources": [source], "stop_when": written.get("stop_when")}

    @model_validator(mode="after")
    def _check_sources_differ(self) -> Self:
        asked = [source.asks() for source in self.sources]
        for place, each in enumerate(asked):
            if (first := asked.index(each)) < place:
                raise ValueError(
                    f"sources {first + 1} and {place + 1} ask the same with the same seeds, so their candidates would "
                    "be equal; give one another seed, or write one source with a larger n"
                )
        return self

    @property
    def num_candidates(self) -> int:
        """The most candidates of a prompt."""
        return sum(source.n for source in self.sources)

    def identity(self) -> dict[str, Any]:
        """All that decides the candidates, as plain values."""
        stop = None if self.stop_when is None else self.stop_when.model_dump(mode="json")
        return {"sources": [source.identity() for source in self.sources], "stop_when": stop}
