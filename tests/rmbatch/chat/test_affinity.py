"""Requests that begin alike follow each other to a server, while that is hardly busier than the others."""

from collections import defaultdict

import pytest

from rmbatch.chat.client import ChatRequest
from tests.rmbatch.chat.completing import chats, completed, content
from tests.servers.hostile import HostileServer, Late

NUM_PROMPTS, NUM_CANDIDATES = 40, 4


def candidates(affinity: bool) -> list[ChatRequest]:
    """Those of a prompt next to each other."""
    return [
        ChatRequest([{"role": "user", "content": f"q{prompt}"}], seed=seed, affinity=f"q{prompt}" if affinity else "")
        for prompt in range(NUM_PROMPTS)
        for seed in range(NUM_CANDIDATES)
    ]


def count_whole_prompts(one: HostileServer, other: HostileServer) -> int:
    """Prompts of which one server has got all candidates."""
    seen: dict[str, set[str]] = defaultdict(set)
    for server in (one, other):
        for body in chats(server):
            seen[content(body)].add(server.url)
    return sum(len(urls) == 1 for urls in seen.values())


@pytest.mark.parametrize(("affinity", "num_whole"), [(False, 0), (True, NUM_PROMPTS)])
def test_one_after_the_other_all_candidates_of_a_prompt_go_to_one_server(
    one: HostileServer, other: HostileServer, affinity: bool, num_whole: int
) -> None:
    completed(one, other, requests=candidates(affinity), in_flight=1)
    assert count_whole_prompts(one, other) == num_whole
    assert len(chats(one)) == len(chats(other))


def test_candidates_of_a_prompt_stay_together(one: HostileServer, other: HostileServer) -> None:
    one.always = other.always = Late(0.01)
    found = completed(one, other, requests=candidates(affinity=True), in_flight=16)
    assert all(completion.texts for completion in found)
    assert count_whole_prompts(one, other) >= NUM_PROMPTS * 0.6
    shares = sorted(len(chats(server)) for server in (one, other))
    assert shares[0] >= sum(shares) * 0.3  # neither is left idle


def test_affinity_is_not_sent_and_does_not_change_what_is_kept(one: HostileServer, other: HostileServer) -> None:
    completed(one, requests=candidates(affinity=True)[:1])
    completed(other, requests=candidates(affinity=False)[:1])
    assert chats(one) == chats(other)


def test_one_prompt_alone_does_not_wait_for_its_server(one: HostileServer, other: HostileServer) -> None:
    one.always = other.always = Late(0.05)
    requests = [ChatRequest([{"role": "user", "content": "q"}], seed=seed, affinity="q") for seed in range(64)]
    completed(one, other, requests=requests, in_flight=32)
    assert min(len(chats(server)) for server in (one, other)) >= 16
