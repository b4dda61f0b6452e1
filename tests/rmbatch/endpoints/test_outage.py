"""Servers that die, stay away or come back."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from rmbatch.endpoints.balancer import Answer, Endpoints
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from tests.rmbatch.endpoints.doubling import CALM, QUICK, asked, is_up, posts
from tests.servers.hostile import Deed, HostileServer, Json, Late, Reset, Stall, Status


def test_requests_of_an_outage_are_tried_anew(one: HostileServer) -> None:
    async def work() -> list[Answer[int]]:
        endpoints = Endpoints([one.url], is_up, in_flight=8, patience=CALM, seed=0)
        await endpoints.start()
        asking = asyncio.create_task(endpoints.post_all(posts(*range(60))))
        while one.num_scored < 20:
            await asyncio.sleep(0.005)
        one.always = Status(500)
        one.plan("/up", *[Status(500)] * 5)
        await asyncio.sleep(1.0)  # longer than all tries of a request take
        one.always = None
        answers = await asking
        endpoints.close()
        return answers

    one.always = Late(0.01)
    assert [answer.value for answer in asyncio.run(work())] == [2 * n for n in range(60)]


def test_one_of_two_servers_dies_in_the_middle_and_comes_back(one: HostileServer, other: HostileServer) -> None:
    async def work() -> list[Answer[int]]:
        endpoints = Endpoints([one.url, other.url], is_up, in_flight=8, patience=CALM, seed=0)
        await endpoints.start()
        asking = asyncio.create_task(endpoints.post_all(posts(*range(300))))
        while one.num_scored < 20:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(one.die)
        before = one.num_scored
        while other.num_scored < 100:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(one.revive)
        answers = await asking
        assert one.num_scored > before
        endpoints.close()
        return answers

    one.always = other.always = Late(0.01)
    assert [answer.value for answer in asyncio.run(work())] == [2 * n for n in range(300)]


def test_a_job_survives_the_restart_of_its_only_server(one: HostileServer) -> None:
    async def work() -> list[Answer[int]]:
        endpoints = Endpoints([one.url], is_up, in_flight=8, patience=CALM, seed=0)
        await endpoints.start()
        asking = asyncio.create_task(endpoints.post_all(posts(*range(100))))
        while one.num_scored < 20:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(one.die)
        await asyncio.sleep(0.4)
        await asyncio.to_thread(one.revive)
        answers = await asking
        endpoints.close()
        return answers

    one.always = Late(0.01)
    assert [answer.value for answer in asyncio.run(work())] == [2 * n for n in range(100)]


@pytest.mark.parametrize(
    ("number", "always", "says"),
    [
        (1, Status(500), "500 planned"),
        (40, Status(500, body={"error": {"message": "CUDA error"}}), "500 CUDA error"),
        (40, Reset(), "ServerDisconnectedError|ClientOSError"),
        (40, Stall(), "no answer within 0.5 s"),
        (40, Json({"hello": "world"}), "not up"),
        (1, Status(429, {"Retry-After": "0"}), "429"),  # out of quota
        (1, None, "Cannot connect"),  # dead
        (40, None, "Cannot connect"),
    ],
)
def test_dead_servers_stop_the_job_without_failures(
    one: HostileServer, other: HostileServer, number: int, always: Deed | None, says: str
) -> None:
    for server in (one, other):
        server.plan("/up", Json({"up": True}))
        server.always = always

    async def work() -> None:
        endpoints = Endpoints([one.url, other.url], is_up, in_flight=8, patience=QUICK, seed=0)
        await endpoints.start()
        if always is None:
            await asyncio.gather(asyncio.to_thread(one.die), asyncio.to_thread(other.die))
        try:
            with pytest.raises(ServiceLost, match=says) as lost:
                await endpoints.post_all(posts(*range(number)))
            assert one.url in str(lost.value)
            assert other.url in str(lost.value)
        finally:
            endpoints.close()

    asyncio.run(work())


def test_one_server_may_be_down_at_the_start(one: HostileServer, other: HostileServer, caplog: Any) -> None:
    other.die()
    answers = asked(one, other, numbers=range(20))
    assert [answer.value for answer in answers] == [2 * n for n in range(20)]
    assert f"endpoint {other.url} is left alone: ClientConnectorError" in caplog.text


@pytest.mark.parametrize(
    ("up", "says"),
    [
        (Status(503), "no endpoint answers: .*503 planned by the test; .*Cannot connect"),
        (Json("hello"), "no endpoint answers: .*not up; .*Cannot connect"),
        (Stall(), "no endpoint answers: .*no answer within 0.5 s; .*Cannot connect"),
        (Status(404), "404 planned by the test"),
        (Status(401), "no API key is set"),
    ],
)
def test_start_refuses_all_down_or_one_wrong(one: HostileServer, other: HostileServer, up: Deed, says: str) -> None:
    one.always = up
    other.die()
    with pytest.raises(ServiceError, match=says):
        asked(one, other, numbers=range(20), patience=QUICK)
    assert one.num_scored == 0


def test_busy_server_is_checked_again_at_the_start(one: HostileServer) -> None:
    one.plan("/up", Status(429), Status(503, {"Retry-After": "0"}))
    assert [answer.value for answer in asked(one, numbers=range(3))] == [0, 2, 4]


def test_refused_trials_lengthen_the_pause_between_trials(one: HostileServer) -> None:
    one.plan("/up", *[Json({"up": True})] * 1000)
    one.plan(0, *[Status(500)] * CALM.failures_to_open)
    one.always = Status(400)
    patience = replace(CALM, attempts=8, cooldown_s=0.05, max_backoff_s=10)
    began = time.monotonic()
    answers = asked(one, numbers=range(15), in_flight=1, patience=patience, probe=posts(1000)[0])
    assert [answer.failure.code for answer in answers] == ["endpoint_refused"] * 15
    assert time.monotonic() - began > 0.05 + 0.05 + 0.1 + 0.2 + 0.4  # five rounds of three trials
