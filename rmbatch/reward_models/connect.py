"""Connect to a model's engine: in this process, or where a job has put it (``rmbatch/endpoints/connections.py``).

outputs = connect(spec).ask(ids, prompt)
"""

import asyncio
import atexit
import threading
from typing import Protocol

import numpy as np
import pyarrow as pa

from connectors.errors import JobError, UserError
from rmbatch.endpoints.connections import close_connection, find_or_open
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.reward_models.engines.base import Engine, Outputs, open_engine
from rmbatch.reward_models.engines.order import engine_order
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.stores.scores import VALUES


class Connection(Protocol):
    """Sends conversations to an engine, or to several."""

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        """The outputs of n conversations (IDS, no nulls), in their order.

        Conversations with equal ``prompt`` [n] begin alike. Raises JobError when all engines are lost.
        """


def connect(spec: RewardModelSpec) -> Connection:
    """The connection to a model's engine. Where there is none, load one in this process. Raises UserError."""
    return find_or_open(spec.engine_key, lambda: _LocalEngine(spec))


class _LocalEngine:
    """An engine in this process, with an event loop in a thread of its own."""

    def __init__(self, spec: RewardModelSpec) -> None:
        self._spec = spec
        self._engine = self._open_engine()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        atexit.register(self.close)

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        order = engine_order(ids, prompt)
        scoring = self._engine.score(ids.take(pa.array(order)))
        try:
            outputs = asyncio.run_coroutine_threadsafe(scoring, self._loop).result()
        except ServiceLost as lost:
            close_connection(self._spec.engine_key)
            raise JobError(f"model {self._spec.model}: {lost}") from lost
        except ServiceError as error:
            raise JobError(f"model {self._spec.model}: {error}") from error
        back = pa.array(np.argsort(order))
        return Outputs(outputs.values.take(back), outputs.error.take(back), outputs.usage)

    def close(self) -> None:
        self._engine.close()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _open_engine(self) -> Engine:
        try:
            return open_engine(self._spec)
        except ServiceError as error:
            raise UserError(f"model {self._spec.model!r} cannot be served: {error}") from error
        except ModuleNotFoundError as missing:
            raise UserError(
                f"engine: {self._spec.engine} needs the package {missing.name!r}, not installed here"
            ) from None


class NoEngine:
    """A ``Connection`` for plans, which load no model: no outputs, and an error that says so."""

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        del prompt
        why = "not_asked: no model is loaded for a plan"
        return Outputs(pa.nulls(len(ids), VALUES), pa.array([why] * len(ids), pa.string()))
