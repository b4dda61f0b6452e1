"""What a judge asks of several servers."""

from collections import defaultdict
from typing import Any

import pytest

import rmbatch
from tests.rmbatch.chat.completing import chats, content, key, says
from tests.servers.hostile import HostileServer

pytestmark = pytest.mark.usefixtures("no_client_stays")


def give_half(path: str, body: Any) -> Any:
    """A judge to whom all is as good."""
    return {"data": [{"id": "judge"}]} if body is None else says('{"reason": "so", "score": 5}')


@pytest.mark.parametrize("judge", ["pointwise", "pairwise"])
def test_what_is_asked_about_a_prompt_goes_to_one_server(judge: str) -> None:
    rows = [
        {"prompt": f"What is {number}?", "responses": [f"{number}{letter}" for letter in "abcd"]} for number in range(8)
    ]
    with HostileServer(give_half, key) as one, HostileServer(give_half, key) as other:
        asks = {"endpoints": [one.url, other.url], "model": "judge", "in_flight": 1, "principles": "helpfulness"}
        rmbatch.reward({"judge": judge, **asks}).score(rows)
        seen: dict[int, set[str]] = defaultdict(set)
        for server in (one, other):
            for body in chats(server):
                seen[next(n for n in range(8) if f"What is {n}?" in content(body))].add(server.url)
        assert sorted(seen) == list(range(8))
        assert all(len(urls) == 1 for urls in seen.values())
        assert min(len(chats(one)), len(chats(other))) >= 8
