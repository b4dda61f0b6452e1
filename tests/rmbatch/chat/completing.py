"""A chat server that echoes, and how the tests of this folder ask it."""

import asyncio
from typing import Any

from rmbatch.chat.client import ChatClient, ChatRequest, ChatSpec, Completion
from rmbatch.endpoints.balancer import Patience
from tests.servers.hostile import HostileServer

KEY = "sk-secret-123"
CALM = Patience(attempts=4, timeout_s=10, backoff_s=0.01, max_backoff_s=0.05, cooldown_s=0.1, lost_after_s=10)


def content(body: Any) -> Any:
    return body["messages"][-1]["content"]


def key(path: str, body: Any) -> Any:
    return path if body is None else content(body)


def says(text: Any, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
    }


def echo(path: str, body: Any) -> Any:
    """What a good server says."""
    if body is None:
        return {"data": [{"id": "judge"}]}
    answer = says(f"said {content(body)}")
    answer["choices"] = [answer["choices"][0] | {"index": n} for n in range(body["n"])]
    return answer


def spec(*servers: HostileServer, **settings: Any) -> ChatSpec:
    urls = [server.url for server in servers]
    return ChatSpec(**{"endpoints": urls, "model": "judge", "in_flight": 8, **settings})


def asked(*names: str) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": name}]) for name in names]


def completed(
    *servers: HostileServer, requests: list[ChatRequest], patience: Patience = CALM, **settings: Any
) -> list[Completion]:
    async def work() -> list[Completion]:
        async with ChatClient(spec(*servers, **settings), patience=patience) as client:
            return await client.complete(iter(requests))

    return asyncio.run(work())


def chats(server: HostileServer) -> list[Any]:
    return [body for _, body, _ in server.asked if body is not None]
