"""How requests are shared among servers: by weight, by priority, by what a server asks for."""

import asyncio
import time
from email.utils import formatdate

import pytest

from rmbatch.endpoints.balancer import Endpoints, Patience, Target
from tests.rmbatch.endpoints.doubling import CALM, asked, is_up, posts, tried_until_answered
from tests.servers.hostile import HostileServer, Json, Late, Status


def test_two_servers_share_the_work(one: HostileServer, other: HostileServer) -> None:
    one.always = other.always = Late(0.02)
    answers = asked(one, other, numbers=range(100), in_flight=10)
    assert [answer.value for answer in answers] == [2 * n for n in range(100)]
    assert abs(one.num_scored - 50) < 10
    assert (one.most_under_way, other.most_under_way) == (5, 5)


def test_the_slower_of_two_servers_gets_less(one: HostileServer, other: HostileServer) -> None:
    one.always, other.always = Late(0.1), Late(0.01)
    asked(one, other, numbers=range(100), in_flight=10)
    assert one.num_scored + other.num_scored == 100
    assert one.num_scored < 30


def test_failed_try_goes_to_another_server_at_once(one: HostileServer, other: HostileServer) -> None:
    one.always = Status(500)
    one.plan("/up", Json({"up": True}))
    slow = Patience(backoff_s=60, max_backoff_s=60, cooldown_s=60)  # a backoff would show
    began = time.monotonic()
    answers = asked(one, other, numbers=range(30), patience=slow)
    assert [answer.value for answer in answers] == [2 * n for n in range(30)]
    assert time.monotonic() - began < 5
    assert sum(len(got) for n, got in one.seen.items() if n != "/up") < 5 + 8  # left alone from then on
    assert tried_until_answered(one, other)


def ask_to_wait(seconds: int, clock: str) -> dict[str, str]:
    if clock == "none":
        return {"Retry-After": str(seconds)}
    now = time.time() - (3600 if clock == "slow" else 0)
    return {"Retry-After": formatdate(now + seconds, usegmt=True), "Date": formatdate(now, usegmt=True)}


@pytest.mark.parametrize("clock", ["none", "right", "slow"])
def test_retry_after_concerns_one_server(one: HostileServer, other: HostileServer, clock: str) -> None:
    one.plan(0, Status(429, ask_to_wait(1, clock)))
    other.always = Late(0.02)
    began = time.monotonic()
    asked(one, numbers=[0, 1])
    assert 0.5 < time.monotonic() - began < 3
    one.plan(10, Status(503, ask_to_wait(8, clock)))
    began = time.monotonic()
    answers = asked(one, other, numbers=range(10, 40))
    assert [answer.value for answer in answers] == [2 * n for n in range(10, 40)]
    assert time.monotonic() - began < 7  # the other one went on
    assert other.num_scored > 20


def test_weights_share_the_work(one: HostileServer, other: HostileServer) -> None:
    one.always = other.always = Late(0.02)
    targets = [Target(one.url, weight=3), Target(other.url)]
    answers = asked(*targets, numbers=range(120), in_flight=12)
    assert [answer.value for answer in answers] == [2 * n for n in range(120)]
    assert (one.most_under_way, other.most_under_way) == (9, 3)
    assert abs(one.num_scored - 90) < 12


def test_weights_hold_for_one_request_at_a_time(one: HostileServer, other: HostileServer) -> None:
    asked(Target(one.url, weight=3), Target(other.url), numbers=range(40), in_flight=1)
    assert (one.num_scored, other.num_scored) == (30, 10)


def test_lower_priority_is_not_asked_while_higher_is_full(one: HostileServer, other: HostileServer) -> None:
    one.always, one.capacity = Late(0.01), 2
    answers = asked(Target(one.url, priority=1), other.url, numbers=range(60), in_flight=16)
    assert [answer.value for answer in answers] == [2 * n for n in range(60)]
    assert one.seen[0]
    assert not other.num_scored


def test_lower_priority_is_asked_only_while_higher_is_dead(one: HostileServer, other: HostileServer) -> None:
    async def work() -> None:
        endpoints = Endpoints([other.url, Target(one.url, priority=7)], is_up, in_flight=4, patience=CALM, seed=0)
        await endpoints.start()
        await endpoints.post_all(posts(*range(20)))
        assert (one.num_scored, other.num_scored) == (20, 0)
        await asyncio.to_thread(one.die)
        answers = await endpoints.post_all(posts(*range(20, 60)))
        assert [answer.value for answer in answers] == [2 * n for n in range(20, 60)]
        assert (one.num_scored, other.num_scored) == (20, 40)
        await asyncio.to_thread(one.revive)
        number = 60
        while one.num_scored == 20:
            await asyncio.sleep(0.02)
            await endpoints.post_all(posts(number))
            number += 1
        before = other.num_scored
        await endpoints.post_all(posts(*range(1000, 1020)))
        assert other.num_scored == before
        endpoints.close()

    asyncio.run(work())


def test_lower_priority_is_asked_while_higher_asks_to_wait(one: HostileServer, other: HostileServer) -> None:
    one.plan(0, Status(429, {"Retry-After": "8"}))
    other.always = Late(0.02)
    began = time.monotonic()
    asked(Target(one.url, priority=1), other.url, numbers=range(20), in_flight=1)
    assert time.monotonic() - began < 7
    assert (one.num_scored, other.num_scored) == (0, 20)


def test_retry_after_can_be_shared_with_other_clients(one: HostileServer, other: HostileServer) -> None:
    async def work() -> None:
        first, second = (Endpoints([one.url, other.url], is_up, in_flight=4, patience=CALM, seed=0) for _ in range(2))
        await asyncio.gather(first.start(), second.start())
        assert first.holds() == {}
        one.plan(0, Status(429, {"Retry-After": "2"}))
        other.plan(0, Status(429, {"Retry-After": "1"}))
        asking = asyncio.create_task(first.post_all(posts(0)))
        while len(first.holds()) < 2:
            await asyncio.sleep(0.01)
        holds = first.holds()
        assert 1 < holds[one.url] <= 2
        assert 0 < holds[other.url] <= 1
        asking.cancel()
        second.hold(one.url, holds[one.url])
        second.hold(one.url, 0.1)  # what is longer holds
        await second.post_all(posts(*range(1, 21)))
        assert (one.num_scored, other.num_scored) == (0, 20)
        second.hold(one.url, 1e9)  # no longer than requests are tried
        assert second.holds()[one.url] <= CALM.whole_s
        with pytest.raises(KeyError):
            second.hold("http://elsewhere", 1)
        first.close()
        second.close()

    asyncio.run(work())


def test_overloaded_server_gets_fewer_requests_and_none_starves(one: HostileServer) -> None:
    one.always, one.capacity = Late(0.01), 4
    answers = asked(one, numbers=range(200), in_flight=64)
    assert [answer.value for answer in answers] == [2 * n for n in range(200)]
    assert sum(answer.num_tries for answer in answers) < 4 * 200
    assert tried_until_answered(one)
