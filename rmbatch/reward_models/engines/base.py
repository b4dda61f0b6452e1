"""The contract of an engine: it takes token ids and gives a model's raw outputs. ``ENGINES`` names the classes.

An engine batches for itself: any number of ``score`` calls may run at once, and their requests share its batches. A bad
request never makes it raise: that request has an error and no values. It raises ``ServiceError`` when it cannot be
loaded, and ``ServiceLost`` when it must be started again.

    engine = open_engine(spec)                       # loads; takes minutes for a large model
    outputs = await engine.score(ids)                # large_list<int32>, one conversation each
    engine.close()
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from rmbatch.endpoints.errors import ServiceError
from rmbatch.reward_models.spec import RewardModelSpec

ENGINES = {
    "vllm": "rmbatch.reward_models.engines.vllm:VllmEngine",
    "transformers": "rmbatch.reward_models.engines.transformers:TransformersEngine",
    "endpoint": "rmbatch.reward_models.engines.endpoint:EndpointEngine",
}
"""By ``RewardModelSpec.engine``: classes that are made from the spec alone."""


@dataclass(frozen=True)
class Outputs:
    """An engine's answers to n requests, in their order."""

    values: pa.Array
    """VALUES [n]: raw float32 outputs before any activation, ``width`` of them for each request; of a process reward
    model ``width`` for each of its steps, one step after the other. Null where there is an error."""
    error: pa.Array
    """string [n]: ``stable_code: message`` where values are null, null elsewhere."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Counts: ``requests``; their ``tokens``; of these ``cached_tokens``, which were not computed anew; and
    ``padded_tokens``, which were computed on top."""


class Engine(Protocol):
    """One loaded model, or the servers that have loaded it."""

    width: int
    """Outputs of a request, or of a step."""

    async def score(self, ids: pa.Array) -> Outputs:
        """The outputs of conversations (IDS [n], no nulls, none empty or longer than ``max_length``)."""

    def close(self) -> None:
        """Free the model."""


def open_engine(spec: RewardModelSpec) -> Engine:
    """The engine for a model, loaded; raises ServiceError."""
    where, _, name = ENGINES[spec.engine].partition(":")
    made: Any = getattr(importlib.import_module(where), name)
    engine: Engine = made(spec)
    return engine


def find_tag_id(spec: RewardModelSpec, tokenizer: Any) -> int | None:
    """The token that ends each step; None for a model without steps. Raises ServiceError where it is not one token."""
    if spec.steps is None:
        return None
    ids = tokenizer(spec.steps.tag, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ServiceError(f"steps.tag: {spec.steps.tag!r} is {len(ids)} tokens of this model; one is needed")
    return int(ids[0])
