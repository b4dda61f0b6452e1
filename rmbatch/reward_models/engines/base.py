"""What an engine is: token ids in, a model's raw outputs out; and which module runs which kind.

An engine batches for itself: any number of ``score`` calls may be under way at once, and their requests share its
batches. It never raises because of a request: that gets no values and an error. It raises ``ServiceError`` when it
cannot be loaded, and ``ServiceLost`` when it must be started again.

    engine = open_engine(spec)                       # loads; takes minutes for a large model
    outputs = await engine.score(ids)                # large_list<int32>, one conversation each
    engine.close()
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from rmbatch.reward_models.spec import ServedModel

ENGINES = {
    "vllm": "rmbatch.reward_models.engines.vllm:VllmEngine",
    "transformers": "rmbatch.reward_models.engines.transformers:TransformersEngine",
    "endpoint": "rmbatch.reward_models.engines.endpoint:EndpointEngine",
}
"""By ``ServedModel.engine``: classes that are made from the spec alone."""


@dataclass(frozen=True)
class Outputs:
    """What an engine says of n requests, in their order."""

    values: pa.Array
    """VALUES [n]: raw float32 outputs before any activation, ``width`` of them for each request; of a process reward
    model ``width`` for each of its steps, one step after the other. Null where there is an error."""
    error: pa.Array
    """string [n]: ``stable_code: message`` where values are null, null elsewhere."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """What it cost: ``tokens`` in the requests; of these ``cached_tokens``, not computed anew; ``padded_tokens``,
    computed on top of them for nothing; ``requests``."""


class Engine(Protocol):
    """One loaded model, or the servers that have loaded it."""

    width: int
    """Outputs of a request, or of a step."""

    async def score(self, ids: pa.Array) -> Outputs:
        """The outputs of conversations (IDS [n], no nulls, none empty or longer than ``max_length``)."""

    def close(self) -> None:
        """Let go of the model."""


def open_engine(spec: ServedModel) -> Engine:
    """The engine for a model, loaded; raises ServiceError."""
    where, _, name = ENGINES[spec.engine].partition(":")
    made: Any = getattr(importlib.import_module(where), name)
    engine: Engine = made(spec)
    return engine
