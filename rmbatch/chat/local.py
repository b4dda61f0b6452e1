"""The chat clients of a job that runs in this process: answers are kept, and budgets counted through all its runs.

A job on the cluster has its clients in actors (``rmbatch/pipeline/actors/chats.py``). Who asks does not know: the ways
are connected under the keys by which the specs are asked.

    with clients({"judge": judge.chat(), "writer": writer}, folder) as asked:
        chat_connection(judge.chat()).complete(requests)
    asked.counts(writer)                                 # what its answers have cost, as ``prices.count``

``folder`` gets ``answers/`` and, where there is a budget, ``spent.json``.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from connectors.errors import JobError
from connectors.storage import Folder
from rmbatch.chat.connect import chat_key, opened
from rmbatch.chat.limits.accounts import Spent, check_limits, kept_beside
from rmbatch.chat.limits.governor import Governor
from rmbatch.chat.spec import ChatSpec
from rmbatch.costs.prices import count
from rmbatch.endpoints.connections import connected
from rmbatch.endpoints.errors import ServiceError, ServiceLost

if TYPE_CHECKING:
    from rmbatch.chat.client import ChatClient, ChatRequest
    from rmbatch.chat.completion import Completion

T = TypeVar("T")

CLOSE_S = 10.0
KEEP_S = 0.5
"""How often it is kept what was spent, while something is asked."""
_log = logging.getLogger(__name__)


@contextmanager
def clients(specs: Mapping[str, ChatSpec], folder: Folder) -> Iterator["Clients"]:
    """A client for each spec, by what people call it, all in one event loop. Raises UserError."""
    check_limits(specs)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chats", daemon=True)
    thread.start()
    here = Clients(loop, folder)
    try:
        with connected({chat_key(spec): here.way(spec) for spec in specs.values()}):
            yield here
    finally:
        try:
            here.close()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_S)
            if not thread.is_alive():
                loop.close()


class Clients:
    """The clients, and who holds their limits: those who ask the same model at the same service share them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Folder) -> None:
        self._loop, self._folder = loop, folder
        self._spent = Spent(folder)
        self._governors: dict[str, Governor] = {}
        self._clients: list[ChatClient] = []
        self._counts: dict[str, Counter[str]] = {}

    def way(self, spec: ChatSpec) -> "_Way":
        """The way to a client that is opened for it."""
        from rmbatch.chat.limits.admission import here

        governor = self._governor(spec)
        client = opened(
            kept_beside(spec, self._folder), self._folder.options, None if governor is None else here(governor)
        )
        self._clients.append(client)
        return _Way(self, spec, client)

    def counts(self, spec: ChatSpec) -> Counter[str]:
        """What a spec's answers have cost in this run, as ``prices.count``."""
        return self._counts.setdefault(chat_key(spec), Counter())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what runs in the clients' loop; meanwhile it is kept what was spent."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not wait([future], KEEP_S).done:
                try:
                    self._keep_spent()
                except (OSError, TimeoutError) as error:  # the next look may keep it, and the end will tell
                    _log.warning("what was spent could not be kept: %s", error)
            return future.result()
        finally:
            future.cancel()  # where the user has interrupted it

    def close(self) -> None:
        """Close all connections, and keep what was spent."""
        failed: list[Exception] = []
        for client in self._clients:
            try:
                asyncio.run_coroutine_threadsafe(client.close(), self._loop).result(CLOSE_S)
            except (OSError, TimeoutError) as error:  # the others are closed all the same
                failed.append(error)
        self._keep_spent()
        if failed:
            raise failed[0]

    def _governor(self, spec: ChatSpec) -> Governor | None:
        if spec.rate is None and spec.budget is None:
            return None
        if spec.account not in self._governors:
            before = self._spent.by_account.get(spec.account)
            self._governors[spec.account] = Governor(spec.rate, spec.budget, spec.price, before)
        return self._governors[spec.account]

    def _keep_spent(self) -> None:
        if not self._governors:
            return

        async def told() -> dict[str, Any]:
            return {account: governor.spent() for account, governor in self._governors.items()}

        self._spent.keep(asyncio.run_coroutine_threadsafe(told(), self._loop).result(CLOSE_S))


class _Way:
    """A ``ChatConnection``."""

    def __init__(self, here: Clients, spec: ChatSpec, client: "ChatClient") -> None:
        self._here, self._spec, self._client = here, spec, client

    def complete(self, requests: "Sequence[ChatRequest]") -> "list[Completion]":
        try:
            completions = self._here.run(self._client.complete(requests))
        except (ServiceError, ServiceLost) as error:
            raise JobError(f"model {self._spec.model!r}: {error}") from error
        self._here.counts(self._spec).update(count(completions))
        return completions
