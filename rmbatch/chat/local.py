"""The chat clients of a job that runs in this process: answers are kept, and budgets counted through all its runs.

A job on the cluster has its clients in actors (``rmbatch/pipeline/actors/chats.py``). Who asks does not know: the
connections stand under the specs' client keys.

    with open_clients({"judge": judge.chat(), "writer": writer}, folder) as clients:
        connect_chat(judge.chat()).complete(requests)
    clients.usage(writer)                                # what its answers have cost, as ``prices.count``

``folder`` gets ``answers/`` and, where there is a budget, ``spent.json``.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from connectors.errors import JobError
from connectors.storage import Folder
from rmbatch.chat.connect import ChatConnection, end_loop, iterate, open_client
from rmbatch.chat.limits.accounts import SavedUsage, check_limits, with_default_cache
from rmbatch.chat.limits.governor import Governor
from rmbatch.chat.spec import ChatSpec
from rmbatch.costs.prices import count
from rmbatch.endpoints.connections import use_connections
from rmbatch.endpoints.errors import ServiceError, ServiceLost

if TYPE_CHECKING:
    from rmbatch.chat.client import ChatClient, ChatRequest
    from rmbatch.chat.completion import Completion

CLOSE_S = 10.0
SAVE_S = 0.5
"""How often the usage is saved while requests are under way."""
_log = logging.getLogger(__name__)


@contextmanager
def open_clients(specs: Mapping[str, ChatSpec], folder: Folder) -> Iterator["Clients"]:
    """A client for each place that specs ask at, all in one event loop. Raises UserError.

    ``specs``: by what people call them.
    """
    check_limits(specs)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chats", daemon=True)
    thread.start()
    clients = Clients(loop, folder)
    try:
        places = {spec.client_key: spec.place() for spec in specs.values()}
        with use_connections({key: clients.connect(place) for key, place in places.items()}):
            yield clients
    finally:
        try:
            clients.close()
        finally:
            end_loop(loop, thread)


class Clients:
    """The clients, and who holds their limits: those who ask the same model at the same service share them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Folder) -> None:
        self._loop, self._folder = loop, folder
        self._saved = SavedUsage(folder)
        self._governors: dict[str, Governor] = {}
        self._clients: list[ChatClient] = []
        self._usage: dict[str, Counter[str]] = {}

    def connect(self, spec: ChatSpec) -> ChatConnection:
        """The way to a new client."""
        from rmbatch.chat.limits.admission import local_source

        governor = self._governor(spec)
        source = None if governor is None else local_source(governor)
        client = open_client(with_default_cache(spec, self._folder), self._folder.options, source)
        self._clients.append(client)
        return _Connection(self, spec, client)

    def usage(self, spec: ChatSpec) -> Counter[str]:
        """What the answers of a spec's client have cost in this run, as ``prices.count``."""
        return self._usage.setdefault(spec.client_key, Counter())

    def iterate(self, client: "ChatClient", requests: "Sequence[ChatRequest]") -> "Iterator[tuple[int, Completion]]":
        """Completions of a client; meanwhile the usage is saved."""
        return iterate(client, requests, self._loop, self._try_to_save, SAVE_S)

    def close(self) -> None:
        """Close all connections, and save the usage."""
        failed: list[Exception] = []
        for client in self._clients:
            try:
                asyncio.run_coroutine_threadsafe(client.close(), self._loop).result(CLOSE_S)
            except (OSError, TimeoutError) as error:  # the others are closed all the same
                failed.append(error)
        self._save()
        if failed:
            raise failed[0]

    def _governor(self, spec: ChatSpec) -> Governor | None:
        if spec.rate is None and spec.budget is None:
            return None
        if spec.account not in self._governors:
            before = self._saved.by_account.get(spec.account)
            self._governors[spec.account] = Governor(spec.rate, spec.budget, spec.price, before)
        return self._governors[spec.account]

    def _try_to_save(self) -> None:
        try:
            self._save()
        except (OSError, TimeoutError) as error:  # the next time may go well, and the end will tell
            _log.warning("the usage could not be saved: %s", error)

    def _save(self) -> None:
        if not self._governors:
            return

        async def read() -> dict[str, Any]:
            return {account: governor.usage() for account, governor in self._governors.items()}

        self._saved.save(asyncio.run_coroutine_threadsafe(read(), self._loop).result(CLOSE_S))


class _Connection(ChatConnection):
    """The way to one of the clients."""

    def __init__(self, clients: Clients, spec: ChatSpec, client: "ChatClient") -> None:
        self._clients, self._spec, self._client = clients, spec, client

    def as_completed(self, requests: "Sequence[ChatRequest]") -> "Iterator[tuple[int, Completion]]":
        usage = self._clients.usage(self._spec)
        try:
            for place, completion in self._clients.iterate(self._client, requests):
                usage.update(count([completion]))
                yield place, completion
        except (ServiceError, ServiceLost) as error:
            raise JobError(f"model {self._spec.model!r}: {error}") from error
