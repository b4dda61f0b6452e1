"""The way to a model's engine: in this process, or where a job has put it (``rmbatch/endpoints/connections.py``).

outputs = connection(spec).ask(ids, prompt)
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
from rmbatch.reward_models.spec import ServedModel
from rmbatch.stores.scores import VALUES


class Connection(Protocol):
    """A way to an engine, or to several."""

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        """The outputs of n conversations (IDS, no nulls), in their order; equal ``prompt`` [n] means a shared prefix.

        Raises JobError where no engine can be reached any more.
        """


def connection(spec: ServedModel) -> Connection:
    """The way to the engine of a model; loads it in this process where there is none. Raises UserError."""
    return find_or_open(spec.engine_key, lambda: _Here(spec))


class _Here:
    """The engine in this process, its event loop in a thread of its own."""

    def __init__(self, spec: ServedModel) -> None:
        self._spec = spec
        self._engine = self._opened()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        atexit.register(self.close)

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        order = engine_order(ids, prompt)
        asked = self._engine.score(ids.take(pa.array(order)))
        try:
            outputs = asyncio.run_coroutine_threadsafe(asked, self._loop).result()
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

    def _opened(self) -> Engine:
        try:
            return open_engine(self._spec)
        except ServiceError as error:
            raise UserError(f"model {self._spec.model!r} cannot be served: {error}") from error
        except ModuleNotFoundError as missing:
            raise UserError(
                f"engine: {self._spec.engine} needs the package {missing.name!r}, not installed here"
            ) from None


class Unasked:
    """A ``Connection`` to nowhere, for a look at a job that loads no model: no outputs, and an error that says so."""

    def ask(self, ids: pa.Array, prompt: np.ndarray) -> Outputs:
        del prompt
        why = "not_asked: no model is loaded for a plan"
        return Outputs(pa.nulls(len(ids), VALUES), pa.array([why] * len(ids), pa.string()))
