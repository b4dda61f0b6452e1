"""Asks a provider's batch API on loopback, from this process and from others that are killed."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from connectors.storage import StorageOptions
from rmbatch.chat.client import ChatClient, ChatRequest, ChatSpec, Completion
from rmbatch.endpoints.balancer import Patience
from tests.rmbatch.chat.completing import content, says
from tests.servers.batch import BatchServer

ROOT = Path(__file__).parents[4]
CALM = Patience(timeout_s=10, backoff_s=0.01, max_backoff_s=0.05)
NAMES = [f"n{n}" for n in range(20)]


class Provider(BatchServer):
    """Says what a good one says, but for requests of which a test has said what they get, one time after the other."""

    def __init__(self) -> None:
        super().__init__(self._said, content)
        self.gets: dict[str, list[Any]] = {}

    def _said(self, body: Any) -> Any:
        answers = self.gets.get(content(body))
        return answers.pop(0) if answers else says(f"said {content(body)}")


def spec(server: BatchServer, cache: Path | str | None = None, **batch: Any) -> ChatSpec:
    cache = None if cache is None else str(cache)
    settings = {"poll_s": 0.02, **batch}
    return ChatSpec(endpoint=server.url, model="judge", in_flight=1, cache=cache, batch=settings)


def asked(*names: str) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": name}]) for name in names]


def completed(
    server: BatchServer,
    *names: str,
    cache: Path | str | None = None,
    options: StorageOptions | None = None,
    **batch: Any,
) -> list[Completion]:
    async def work() -> list[Completion]:
        async with ChatClient(spec(server, cache, **batch), options, patience=CALM) as client:
            return await client.complete(iter(asked(*names)))

    return asyncio.run(work())


def are_said(completions: list[Completion], *names: str) -> bool:
    return [completion.texts for completion in completions] == [(f"said {name}",) for name in names]


def records(folder: Path) -> list[Any]:
    return [orjson.loads(path.read_bytes()) for path in folder.rglob("*.batch.json")]


def started(server: BatchServer, cache: Path, *names: str) -> subprocess.Popen[bytes]:
    """Another process that asks."""
    call = f"completed(Url({server.url!r}), *{names!r}, cache={str(cache)!r})"
    script = f"from tests.rmbatch.chat.batch.asking import *\n{call}"
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)


class Url:
    """A server that another process has."""

    def __init__(self, url: str) -> None:
        self.url = url


def killed(worker: subprocess.Popen[bytes]) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
