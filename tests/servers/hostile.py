"""A real HTTP server on loopback that misbehaves as it is told: late, broken, refusing, dying; and keeps count.

    def answer(path, body): return {"data": [...]}                 # what a good server says; or a Status
    with HostileServer(answer) as server:
        server.plan(7, Status(429, {"Retry-After": "1"}), Reset())      # the first two requests with key 7
        server.always = Stall()                                        # all others, until it is None again
        ...
        assert server.seen[7] == ["429", "Reset", "200"]

It runs in a thread of its own, so tests may be written with or without asyncio. ``key`` tells requests apart; by
default the sum of the token ids in ``input``.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.servers.s3 import free_port

Body = Any


@dataclass(frozen=True)
class Status:
    """An answer with this status and these headers; ``body`` as it is, or as JSON."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = b"planned by the test"

    def __str__(self) -> str:
        return str(self.status)


@dataclass(frozen=True)
class Late:
    """The right answer, its headers only after so long."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """Half of the right answer, and then nothing more."""


@dataclass(frozen=True)
class Reset:
    """The connection is reset (RST) after the request was read."""


@dataclass(frozen=True)
class Cut:
    """Half of the right answer, then the end of the connection, before the length that was promised."""


@dataclass(frozen=True)
class Truncated:
    """Half of the right answer, as if that were all."""


@dataclass(frozen=True)
class Json:
    """Status 200 and this."""

    body: Any


@dataclass(frozen=True)
class Events:
    """Status 200 and server-sent events: bytes as they are, each in a write of its own, and seconds of silence."""

    pieces: Sequence[bytes | float]
    is_cut: bool = False
    """The connection then breaks off, instead of ending."""


Deed = Events | Status | Late | Stall | Reset | Cut | Truncated | Json


def sum_of_ids(path: str, body: Body) -> Hashable:
    """The key of a scoring request: of token ids, their sum; of GET, the path."""
    ids = (body or {}).get("input", body and body.get("input_ids"))
    return path if ids is None else sum(ids)


class HostileServer:
    """A server at ``url`` between ``with`` and the end of its block."""

    def __init__(self, answer: Callable[[str, Body], Any], key: Callable[[str, Body], Hashable] = sum_of_ids) -> None:
        self._answer, self._key = answer, key
        self._plans: dict[Hashable, list[Deed]] = defaultdict(list)
        self.always: Deed | None = None
        """What becomes of all requests that have no plan of their own."""
        self.capacity: int | None = None
        """More requests than so many at a time get 429."""
        self.seen: dict[Hashable, list[str]] = defaultdict(list)
        """By key, what each request got, in the order in which they came."""
        self.asked: list[tuple[str, Body, Mapping[str, str]]] = []
        """Path, body and headers of each request."""
        self.under_way = self.most_under_way = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hostile server", daemon=True)
        self._runner: web.AppRunner | None = None
        self._connections: set[asyncio.BaseTransport] = set()

    def __enter__(self) -> "HostileServer":
        self._thread.start()
        self.revive()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def plan(self, key: Hashable, *deeds: Deed) -> None:
        """What becomes of the next requests with this key, one after the other."""
        self._plans[key].extend(deeds)

    def die(self) -> None:
        """Reset all connections and accept none, as if the process had been killed."""
        self._run(self._stop())

    def revive(self) -> None:
        """Be there again, at the same URL."""
        self._run(self._start())

    @property
    def num_scored(self) -> int:
        """Requests with a body that got status 200."""
        return sum(got.count("200") for key, got in self.seen.items() if not isinstance(key, str))

    @property
    def num_connections(self) -> int:
        """How many connections have brought requests since it lives."""
        return len(self._connections)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handled)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, backlog=2048).start()

    async def _stop(self) -> None:
        for transport in self._connections:
            _reset(transport)
        self._connections.clear()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def _handled(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self._connections.add(request.transport)
        raw = await request.read()
        body = orjson.loads(raw) if raw else None
        key = self._key(request.path, body)
        self.asked.append((request.path, body, request.headers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._done(request, key, body)
        finally:
            self.under_way -= 1

    async def _done(self, request: web.Request, key: Hashable, body: Body) -> web.StreamResponse:
        plan = self._plans[key]
        is_full = self.capacity is not None and self.under_way > self.capacity
        deed = plan.pop(0) if plan else Status(429) if is_full else self.always
        right = self._answer(request.path, body)
        if deed is None and isinstance(right, Status):
            deed = right
        seen = self.seen[key]
        seen.append("200" if deed is None or isinstance(deed, Late) else str(deed).partition("(")[0])
        if isinstance(deed, Status):
            content = deed.body if isinstance(deed.body, bytes) else orjson.dumps(deed.body)
            return web.Response(status=deed.status, headers=dict(deed.headers), body=content)
        if isinstance(deed, Late):
            await asyncio.sleep(deed.seconds)
        if isinstance(deed, Reset):
            _reset(request.transport)
        if isinstance(deed, Events):
            return await self._streamed(request, deed)
        content = orjson.dumps(deed.body if isinstance(deed, Json) else right)
        if isinstance(deed, Truncated):
            content = content[: len(content) // 2]
        if isinstance(deed, Stall | Cut):
            return await self._half(request, content, deed)
        return web.Response(body=content, content_type="application/json")

    async def _streamed(self, request: web.Request, deed: Events) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in deed.pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await asyncio.sleep(piece)
        if deed.is_cut and request.transport is not None:
            request.transport.close()
        return response

    async def _half(self, request: web.Request, content: bytes, deed: Stall | Cut) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        if isinstance(deed, Stall):
            await asyncio.sleep(3600)
        assert request.transport is not None
        request.transport.close()
        return response


def _reset(transport: asyncio.BaseTransport | None) -> None:
    """End a connection with RST instead of FIN."""
    if transport is None or transport.is_closing():
        return
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()
