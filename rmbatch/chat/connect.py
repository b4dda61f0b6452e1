"""The way to chat servers: a client in this process, or the actors of a job (``rmbatch/endpoints/connections.py``).

    completions = connect_chat(spec).complete([ChatRequest(…), …])
    for place, completion in connect_chat(spec).as_completed(requests): ...      # each as soon as it is there

Called from ordinary code; the client's event loop runs in a thread of its own, so this works inside a notebook's loop.
"""

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from connectors.errors import JobError, UserError
from connectors.storage import StorageOptions
from rmbatch.chat.again import current_retry
from rmbatch.chat.spec import ChatSpec
from rmbatch.costs import usage
from rmbatch.endpoints.connections import close_connection, find_or_open
from rmbatch.endpoints.errors import ServiceError, ServiceLost

if TYPE_CHECKING:
    from rmbatch.chat.client import ChatClient, ChatRequest
    from rmbatch.chat.completion import Completion
    from rmbatch.chat.limits.admission import GrantSource
    from rmbatch.chat.serve import Directory


LOOK_S = 0.2
CLOSE_S = 30.0
"""A batch that has ended is still read."""
PRETENDED_TOKENS = 512
"""The longest of pretended answers."""
END_S = 1.0
"""How long tasks that were cancelled may take to end, before they are cancelled again."""
FindErrors = Callable[[int, "Completion"], Iterable[str]]
"""Why the completion of the request at a place cannot be used, as ``stable_code: message`` of its samples."""


class ChatConnection(Protocol):
    """A way to a client, or to several."""

    def as_completed(self, requests: Sequence["ChatRequest"]) -> Iterator[tuple[int, "Completion"]]:
        """Each completion as soon as it is there, with the place of its request. Requests are sent when the first is
        taken; where the iterator is closed early, what is under way is dropped. Raises JobError where all must stop.
        """
        ...

    def complete(
        self, requests: Sequence["ChatRequest"], note: Callable[["Completion"], object] | None = None
    ) -> list["Completion"]:
        """The completion of each request, in their order. Raises JobError where all must stop.

        ``note`` is called with each completion a second or two after it came, in this thread.
        """
        return collect(self.as_completed(requests), note)


def collect(
    completions: Iterable[tuple[int, "Completion"]], note: Callable[["Completion"], object] | None
) -> list["Completion"]:
    """The completions in the order of their requests; ``note`` is called with each as it comes."""
    found = {}
    for place, completion in completions:
        found[place] = completion
        if note is not None:
            note(completion)
    return [found[place] for place in range(len(found))]


def connect_chat(spec: ChatSpec) -> ChatConnection:
    """The way to these servers, for requests that are sampled as in the spec where they do not say.

    Opens a client in this process where there is none. Raises UserError.
    """
    return _SampledConnection(find_or_open(spec.client_key, lambda: _ClientThread(spec.place())), spec)


def complete_counted(
    spec: ChatSpec, requests: Sequence["ChatRequest"], user: str, find_errors: FindErrors
) -> "list[Completion]":
    """The completion of each request, in their order; what they use is counted under ``user`` while they come.

    ``find_errors``: for a retry, which asks for some of the kept answers again. Raises JobError where all must stop.
    What has come by then is counted.
    """
    again = current_retry()
    if again is None:
        return _complete_counted(spec, requests, user)
    requests = [replace(request, retry=again.retry) for request in requests]
    completions = _complete_counted(spec, requests, user)
    rejected = [
        place
        for place, completion in enumerate(completions)
        if completion.kept_by not in (None, again.retry) and again.rejects(user, find_errors(place, completion))
    ]
    renewed = _complete_counted(spec, [replace(requests[place], renew=True) for place in rejected], user)
    for place, completion in zip(rejected, renewed, strict=True):
        if completion.endpoint:  # else nobody has answered: the old answer stays, to be asked for again
            completions[place] = completion
    return completions


def _complete_counted(spec: ChatSpec, requests: Sequence["ChatRequest"], user: str) -> "list[Completion]":
    if not requests:
        return []
    from rmbatch.costs.prices import count

    return connect_chat(spec).complete(requests, lambda completion: usage.record(user, count([completion])))


class _SampledConnection(ChatConnection):
    """A way to a client that is shared with others who sample differently."""

    def __init__(self, shared: ChatConnection, spec: ChatSpec) -> None:
        self._shared, self._spec = shared, spec

    def as_completed(self, requests: Sequence["ChatRequest"]) -> Iterator[tuple[int, "Completion"]]:
        return self._shared.as_completed(self._fill_in(requests))

    def complete(
        self, requests: Sequence["ChatRequest"], note: Callable[["Completion"], object] | None = None
    ) -> list["Completion"]:
        return self._shared.complete(self._fill_in(requests), note)

    def _fill_in(self, requests: Sequence["ChatRequest"]) -> list["ChatRequest"]:
        from rmbatch.chat.request import with_defaults

        return [with_defaults(request, self._spec) for request in requests]


def open_client(
    spec: ChatSpec,
    options: StorageOptions | None = None,
    source: "GrantSource | None" = None,
    directory: "Directory | None" = None,
) -> "ChatClient":
    """A client of its own for these servers. Raises UserError for settings that cannot work here.

    ``options``: of the store where answers are kept; ``source``: who holds rate and budget, None: this client alone;
    ``directory``: of the servers that the job has started for ``serve``.
    """
    if spec.serve is not None and directory is None:
        raise UserError(
            f"serve: {spec.serve.model}: only a job over rows starts servers (rmbatch run JOB.yaml); here start one "
            f"yourself (vllm serve {spec.serve.model}) and write endpoint: its URL"
        )
    from rmbatch.chat.client import ChatClient
    from rmbatch.chat.limits.admission import admission_for

    try:
        return ChatClient(spec, options, admission=admission_for(spec, source), directory=directory)
    except ServiceError as error:
        raise UserError(f"model {spec.model!r}: {error}") from error


def iterate(
    client: "ChatClient",
    requests: Sequence["ChatRequest"],
    loop: asyncio.AbstractEventLoop,
    look: Callable[[], None],
    look_s: float = LOOK_S,
) -> Iterator[tuple[int, "Completion"]]:
    """As ``ChatClient.as_completed``, in another thread than the client's event loop.

    ``look`` is called every ``look_s`` and may raise; waiting without an end would not notice Ctrl-C.
    """
    found: SimpleQueue[tuple[int, Completion] | None] = SimpleQueue()

    async def take() -> None:
        async with aclosing(client.as_completed(requests)) as completions:
            async for each in completions:
                found.put(each)

    work = asyncio.run_coroutine_threadsafe(take(), loop)
    work.add_done_callback(lambda _: found.put(None))
    try:
        look_at = time.monotonic() + look_s
        while True:
            with suppress(Empty):
                if (each := found.get(timeout=look_s)) is None:
                    break
                yield each
            if time.monotonic() >= look_at:
                look()
                look_at = time.monotonic() + look_s
        work.result()
    finally:
        work.cancel()  # where the user has interrupted it, or wants no more


def end_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Let the tasks of an event loop end, and then the loop and the thread that it runs in."""

    async def end() -> None:
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            _, left = await asyncio.wait(tasks, timeout=END_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        await loop.shutdown_default_executor()

    asyncio.run_coroutine_threadsafe(end(), loop).result(timeout=CLOSE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(CLOSE_S)
    if not thread.is_alive():
        loop.close()


class _ClientThread(ChatConnection):
    """A client in this process, its event loop in a thread of its own."""

    def __init__(self, spec: ChatSpec) -> None:
        self._spec = spec
        self._client = open_client(spec)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def as_completed(self, requests: Sequence["ChatRequest"]) -> Iterator[tuple[int, "Completion"]]:
        try:
            yield from iterate(self._client, requests, self._loop, self._check_alive)
        except (ServiceError, ServiceLost) as error:
            close_connection(self._spec.client_key)
            raise JobError(f"model {self._spec.model!r}: {error}") from error
        except JobError:  # out of budget: the client stays stopped, and another one may have more
            close_connection(self._spec.client_key)
            raise

    def close(self) -> None:
        """Close all connections, and end the thread."""
        atexit.unregister(self.close)
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(timeout=CLOSE_S)
            end_loop(self._loop, self._thread)

    def _check_alive(self) -> None:
        if not self._thread.is_alive():
            raise JobError(f"model {self._spec.model!r}: all has been stopped")


class UnaskedChat(ChatConnection):
    """The way to nowhere, for a look at a job that asks nobody: no answers, and an error that says so."""

    def as_completed(self, requests: Sequence["ChatRequest"]) -> Iterator[tuple[int, "Completion"]]:
        from rmbatch.chat.completion import Completion
        from rmbatch.endpoints.balancer import Failure

        return enumerate([Completion(failure=Failure("not_asked", "nobody is asked for a plan"))] * len(requests))


class PretendedChat(ChatConnection):
    """The way to nowhere, for an estimate of what is asked about answers: each is as long as it may be."""

    def as_completed(self, requests: Sequence["ChatRequest"]) -> Iterator[tuple[int, "Completion"]]:
        from rmbatch.chat.completion import Completion

        for place, request in enumerate(requests):
            texts = ("text " * min(request.max_tokens or PRETENDED_TOKENS, PRETENDED_TOKENS),) * (request.n or 1)
            nothing = ("",) * len(texts)
            yield (
                place,
                Completion(texts, nothing, texts, ("stop",) * len(texts), (None,) * len(texts), ((),) * len(texts)),
            )
