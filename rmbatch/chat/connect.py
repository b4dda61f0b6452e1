"""The way to chat servers: a client in this process, or the actors of a job (``rmbatch/endpoints/connections.py``).

    completions = chat_connection(spec).complete([ChatRequest(…), …])

Called from ordinary code; the client's event loop runs in a thread of its own, so this works inside a notebook's loop.
"""

import asyncio
import atexit
import threading
from collections.abc import Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Protocol

from connectors.errors import JobError, UserError
from connectors.storage import StorageOptions
from rmbatch.chat.spec import ChatSpec
from rmbatch.endpoints.connections import forget, reached
from rmbatch.endpoints.errors import ServiceError, ServiceLost

if TYPE_CHECKING:
    from rmbatch.chat.client import ChatClient, ChatRequest
    from rmbatch.chat.completion import Completion
    from rmbatch.chat.limits.admission import LeaseSource


LOOK_S = 0.2
CLOSE_S = 30.0
"""A batch that has ended is still read."""


class ChatConnection(Protocol):
    """A way to a client, or to several."""

    def complete(self, requests: Sequence["ChatRequest"]) -> list["Completion"]:
        """What became of each request, in their order. Raises JobError where all must stop."""


def chat_key(spec: ChatSpec) -> str:
    """What two judges have in common that share a client."""
    return f"chat.{spec.digest}"


def chat_connection(spec: ChatSpec) -> ChatConnection:
    """The way to these servers; opens a client in this process where there is none. Raises UserError."""
    return reached(chat_key(spec), lambda: _Here(spec))


class _Here:
    """A client in this process."""

    def __init__(self, spec: ChatSpec) -> None:
        self._spec = spec
        self._client = opened(spec)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def complete(self, requests: Sequence["ChatRequest"]) -> list["Completion"]:
        future = asyncio.run_coroutine_threadsafe(self._client.complete(requests), self._loop)
        try:
            while not wait([future], LOOK_S).done:  # waiting without an end would not notice Ctrl-C
                if not self._thread.is_alive():
                    raise JobError(f"model {self._spec.model!r}: all has been stopped")
            return future.result()
        except (ServiceError, ServiceLost) as error:
            forget(chat_key(self._spec))
            raise JobError(f"model {self._spec.model!r}: {error}") from error
        except JobError:  # out of budget: the client stays stopped, and another one may have more
            forget(chat_key(self._spec))
            raise
        finally:
            future.cancel()  # where the user has interrupted it

    def close(self) -> None:
        atexit.unregister(self.close)
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(timeout=CLOSE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_S)
        if not self._loop.is_closed() and not self._thread.is_alive():
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


def opened(spec: ChatSpec, options: StorageOptions | None = None, source: "LeaseSource | None" = None) -> "ChatClient":
    """A client of its own for these servers. Raises UserError for settings that cannot work here.

    ``options``: of the store where answers are kept; ``source``: who holds rate and budget, None: this client alone.
    """
    from rmbatch.chat.client import ChatClient
    from rmbatch.chat.limits.admission import admission_for

    try:
        return ChatClient(spec, options, admission=admission_for(spec, source))
    except ServiceError as error:
        raise UserError(f"model {spec.model!r}: {error}") from error


class Unasked:
    """A ``ChatConnection`` to nowhere, for a look at a job that asks nobody: no answers, and an error that says so."""

    def complete(self, requests: Sequence["ChatRequest"]) -> list["Completion"]:
        from rmbatch.chat.completion import Completion
        from rmbatch.endpoints.balancer import Failure

        return [Completion(failure=Failure("not_asked", "no judge is asked for a plan"))] * len(requests)
