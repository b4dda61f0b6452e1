"""Servers that double numbers, and requests to them."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson

from rmbatch.endpoints.balancer import Answer, Ask, Endpoints, Patience, Post, Target
from rmbatch.endpoints.http import BadAnswer, Reply
from tests.servers.hostile import HostileServer

CALM = Patience(attempts=4, timeout_s=10, backoff_s=0.01, max_backoff_s=0.05, cooldown_s=0.1, lost_after_s=10)


QUICK = replace(CALM, timeout_s=0.5, connect_timeout_s=0.3, give_up_s=0.6, lost_after_s=0.3)


def doubled(path: str, body: Any) -> Any:
    """What a good server says."""
    return {"up": True} if body is None else {"twice": 2 * body["n"]}


def key(path: str, body: Any) -> Any:
    return path if body is None else body["n"]


def read(reply: Reply) -> int:
    twice = reply.body.get("twice") if isinstance(reply.body, dict) else None
    if not isinstance(twice, int):
        raise BadAnswer(f"no number in {reply.body}")
    return twice


async def is_up(ask: Ask) -> None:
    reply = await ask("/up")
    if reply.body != {"up": True}:
        raise BadAnswer("not up")


def posts(*numbers: int) -> list[Post[int]]:
    return [Post("/double", orjson.dumps({"n": n}), read) for n in numbers]


def asked(
    *servers: HostileServer | str | Target, numbers: range | list[int], patience: Patience = CALM, **settings: Any
) -> Any:
    """The answers of freshly started endpoints."""

    async def work() -> list[Answer[int]]:
        urls = [server.url if isinstance(server, HostileServer) else server for server in servers]
        endpoints = Endpoints(urls, is_up, **{"in_flight": 8, "seed": 0, **settings}, patience=patience)
        try:
            await endpoints.start()
            return await endpoints.post_all(posts(*numbers))
        finally:
            endpoints.close()

    return asyncio.run(work())


def tried_until_answered(*servers: HostileServer) -> bool:
    """Whether no number was answered twice, or asked again after its answer."""
    by_number: dict[int, int] = {}
    for server in servers:
        for number, got in server.seen.items():
            if isinstance(number, int):
                assert got.count("200") <= 1, (number, got)
                assert "200" not in got[:-1], (number, got)
                by_number[number] = by_number.get(number, 0) + got.count("200")
    return set(by_number.values()) <= {0, 1}
