"""A reverse proxy on loopback that keeps every request which it passes on, to tell what a chat server was asked.

    with vllm_server(model, log=log, runner="generate") as target, CountingProxy(target) as proxy:
        ...                                              # ask proxy.url
        assert len(proxy.asked) == 32

A request whose client goes away is ended at the server too.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from tests.servers.s3 import free_port

CHAT = "/v1/chat/completions"


class CountingProxy:
    """A proxy at ``url`` between ``with`` and the end of its block."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.asked: list[bytes] = []
        """The body of each chat request, in the order in which they came."""
        self.num_answered = 0
        """Chat requests that were answered whole, with status 200."""
        self.most_under_way = self._under_way = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="counting proxy", daemon=True)

    def __enter__(self) -> "CountingProxy":
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_for_clients_to_leave(self, timeout_s: float = 30) -> None:
        """Wait until no connection is open: what a killed client has sent is counted by then."""
        deadline = time.monotonic() + timeout_s
        while self._runner.server is not None and self._runner.server.connections:
            assert time.monotonic() < deadline, "a client is still connected"
            time.sleep(0.02)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        # uvicorn ends a kept connection after 5 s: a request that meets this end fails, and its client asks again.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=None)
        )
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=2048).start()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        body, is_chat = await request.read(), request.path == CHAT
        if is_chat:
            self.asked.append(body)
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
            url = self._target + request.path_qs
            async with self._session.request(request.method, url, data=body or None, headers=headers) as got:
                answer = await got.read()
        finally:
            self._under_way -= 1
        self.num_answered += is_chat and got.status == 200
        return web.Response(status=got.status, body=answer, content_type=got.content_type)
