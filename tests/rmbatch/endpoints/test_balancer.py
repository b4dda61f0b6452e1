"""Many servers as one: every request has one outcome, in order, and none is sent again after it was answered."""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import orjson
import pytest

from rmbatch.endpoints.balancer import Answer, Ask, Endpoints, Failure, Patience, Post, Target
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.http import BadAnswer, Reply
from tests.servers.hostile import Cut, Deed, HostileServer, Json, Late, Reset, Stall, Status, Truncated

CALM = Patience(attempts=4, timeout_s=10, backoff_s=0.01, max_backoff_s=0.05, cooldown_s=0.1, lost_after_s=10)
"""For servers that answer in time, however busy the machine is."""
QUICK = replace(CALM, timeout_s=0.5, connect_timeout_s=0.3, give_up_s=0.6, lost_after_s=0.3)
"""For servers that do not."""


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


@pytest.fixture
def one() -> Iterator[HostileServer]:
    with HostileServer(doubled, key) as server:
        yield server


@pytest.fixture
def other() -> Iterator[HostileServer]:
    with HostileServer(doubled, key) as server:
        yield server


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


@pytest.mark.parametrize(
    ("deeds", "seen"),
    [
        ([], ["200"]),
        ([Status(500)], ["500", "200"]),
        ([Status(502, body=b"<html>bad gateway</html>")], ["502", "200"]),
        ([Status(503)] * 6, ["503"] * 6 + ["200"]),  # busy: more tries than ``attempts``
        ([Status(429)] * 6, ["429"] * 6 + ["200"]),
        ([Status(429, {"Retry-After": "0"})], ["429", "200"]),
        ([Status(429, {"Retry-After": "soon"})], ["429", "200"]),  # neither a number nor a date
        ([Status(408), Status(409), Status(425)], ["408", "409", "425", "200"]),
        ([Status(424)], ["424", "200"]),  # TEI's way to say 500
        ([Late(0.2)], ["200"]),  # slow is not dead
        ([Late(0.8)], ["200", "200"]),  # answered too late: nobody was there to hear it
        ([Stall()], ["Stall", "200"]),
        ([Reset()], ["Reset", "200"]),
        ([Cut()], ["Cut", "200"]),
        ([Truncated()], ["Truncated", "200"]),
        ([Json({"wrong": 1}), Json([]), Json(None)], ["Json", "Json", "Json", "200"]),
        ([Status(400, body={"error": {"message": "too\n  long"}})], ["400"]),
    ],
)
def test_each_failure_of_a_try_has_its_outcome(one: HostileServer, deeds: list[Deed], seen: list[str]) -> None:
    one.plan(5, *deeds)
    is_slow = deeds in ([Late(0.8)], [Stall()])
    answers = asked(one, numbers=range(10), patience=QUICK if is_slow else CALM)
    assert one.seen[5] == seen
    assert [answer.num_tries for answer in answers] == [1] * 5 + [len(seen)] + [1] * 4
    if seen[-1] == "200":
        assert [answer.value for answer in answers] == [2 * n for n in range(10)]
    else:
        assert str(answers[5].failure) == "endpoint_refused: 400 too long"
    assert all(one.seen[n] == ["200"] for n in range(10) if n != 5)


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        (Status(500), "endpoint_error"),
        (Status(409), "endpoint_error"),
        (Stall(), "endpoint_timeout"),
        (Reset(), "endpoint_unreachable"),
        (Cut(), "endpoint_unreachable"),
        (Truncated(), "endpoint_bad_answer"),
        (Json({"twice": "four"}), "endpoint_bad_answer"),
        (Status(200, body=b"<html>log in</html>"), "endpoint_bad_answer"),
        (Status(429), "endpoint_overloaded"),
        (Status(503), "endpoint_overloaded"),
    ],
)
def test_request_that_fails_while_others_succeed_has_a_code(one: HostileServer, deed: Deed, code: str) -> None:
    one.plan(3, *[deed] * 1000)
    timeout_s, give_up_s = (0.3 if deed == Stall() else 10), (0.6 if "overloaded" in code else None)
    patience = replace(CALM, timeout_s=timeout_s, give_up_s=give_up_s)
    answers = asked(one, numbers=range(40), in_flight=2, patience=patience)
    assert answers[3].failure.code == code
    assert answers[3].value is None
    assert one.url in answers[3].failure.message
    assert [answer.value for answer in answers if answer is not answers[3]] == [2 * n for n in range(40) if n != 3]
    if code not in ("endpoint_overloaded", "endpoint_timeout"):  # these end by time
        assert answers[3].num_tries >= CALM.attempts


def test_last_request_may_fail_alone(one: HostileServer) -> None:
    # Nothing else is under way that could show the server to be alive: it is asked.
    one.plan(0, *[Status(500)] * 1000)
    (answer,) = asked(one, numbers=[0])
    assert answer.failure.code == "endpoint_error"
    # At the start, and whenever the request was about to be given up: it may have met an outage each time but the last.
    assert one.seen["/up"] == ["200"] * 5
    assert len(one.seen[0]) <= 4 * (CALM.attempts + 1)


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


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        (Status(401, body={"detail": "bad key"}), "401 bad key (no API key is set)"),
        (Status(403), "403 planned by the test (no API key is set)"),
        (Status(404, body={"error": {"message": "The model `m` does not exist."}}), "404 The model `m` does not exist"),
        (Status(402), "402"),
        (Status(301, {"Location": "http://elsewhere/"}), "301 leads to http://elsewhere/"),  # the key would follow
    ],
)
def test_mistake_of_the_user_stops_the_job(one: HostileServer, deed: Deed, says: str) -> None:
    one.plan(7, deed)
    with pytest.raises(ServiceError) as error:
        asked(one, numbers=range(100))
    assert str(error.value).startswith(f"{one.url}/double: ")
    assert says in str(error.value)
    assert one.num_scored < 50  # what was not yet sent is not sent any more


def test_key_is_sent_and_never_shown(one: HostileServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = b"Incorrect API key provided: sk-secret."
    one.plan(1, Status(400, body=told))
    answers = asked(one, numbers=range(3), api_key=" sk-secret\n")
    assert {headers["Authorization"] for _, _, headers in one.asked} == {"Bearer sk-secret"}
    assert str(answers[1].failure) == "endpoint_refused: 400 Incorrect API key provided: ***."
    one.plan(2, *[Status(500, body=told)] * 100)
    one.plan(3, Status(401, body=told))
    with pytest.raises(ServiceError) as error:
        asked(one, numbers=[2, 3], api_key="sk-secret")
    assert "provided: ***. (this API key is not accepted)" in str(error.value)
    assert "sk-secret" not in caplog.text


@pytest.mark.parametrize("waits", ["1", "date", "date of a clock that is slow"])
def test_retry_after_concerns_one_server(one: HostileServer, other: HostileServer, waits: str) -> None:
    slow_by = 3600 if "slow" in waits else 0
    headers = {"Retry-After": waits}
    if waits != "1":
        now = time.time() - slow_by
        headers = {"Retry-After": formatdate(now + 1, usegmt=True), "Date": formatdate(now, usegmt=True)}
    one.plan(0, Status(429, headers))
    other.always = Late(0.02)
    began = time.monotonic()
    asked(one, numbers=[0, 1])
    assert 0.5 < time.monotonic() - began < 3
    one.plan(10, Status(503, headers))
    began = time.monotonic()
    answers = asked(one, other, numbers=range(10, 40))
    assert [answer.value for answer in answers] == [2 * n for n in range(10, 40)]
    assert time.monotonic() - began < 0.9  # the other one went on
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
    one.plan(0, Status(429, {"Retry-After": "1"}))
    other.always = Late(0.02)
    began = time.monotonic()
    asked(Target(one.url, priority=1), other.url, numbers=range(20), in_flight=1)
    assert time.monotonic() - began < 0.95
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


def test_waiting_requests_are_served_in_order(one: HostileServer) -> None:
    async def work() -> None:
        endpoints = Endpoints([one.url], is_up, in_flight=500, patience=CALM, seed=0)
        await endpoints.start()
        endpoints.hold(one.url, 0.5)
        began = time.process_time()
        asking = asyncio.create_task(endpoints.post_all(posts(*range(500))))
        await asyncio.sleep(0.4)
        assert time.process_time() - began < 0.3  # one of them looks, not all
        assert [answer.value for answer in await asking] == [2 * n for n in range(500)]
        endpoints.close()

    asyncio.run(work())
    numbers = [body["n"] for _, body, _ in one.asked if body is not None]
    assert sum(numbers[:250]) < sum(numbers[250:])


def test_overloaded_server_gets_fewer_requests_and_none_starves(one: HostileServer) -> None:
    one.always, one.capacity = Late(0.01), 4
    answers = asked(one, numbers=range(200), in_flight=64)
    assert [answer.value for answer in answers] == [2 * n for n in range(200)]
    assert sum(answer.num_tries for answer in answers) < 4 * 200
    assert tried_until_answered(one)


def test_in_flight_limits_all_calls_together(one: HostileServer) -> None:
    async def work() -> None:
        endpoints = Endpoints([one.url], is_up, in_flight=5, patience=CALM)
        await endpoints.start()
        calls = [endpoints.post_all(posts(*range(20 * call, 20 * call + 20))) for call in range(4)]
        for call, answers in enumerate(await asyncio.gather(*calls)):
            assert [answer.value for answer in answers] == [2 * n for n in range(20 * call, 20 * call + 20)]
        endpoints.close()

    one.always = Late(0.01)
    asyncio.run(work())
    assert one.most_under_way == 5
    assert one.num_scored == 80


def test_hundreds_at_a_time(one: HostileServer) -> None:
    one.plan("/up", Json({"up": True}))
    one.always = Late(1)
    answers = asked(one, numbers=range(400), in_flight=400, patience=Patience())
    assert [answer.value for answer in answers] == [2 * n for n in range(400)]
    assert one.most_under_way > 200


def test_failures_pass_through_and_no_posts_give_no_answers(one: HostileServer) -> None:
    async def work() -> None:
        endpoints = Endpoints([one.url], is_up, in_flight=2, patience=CALM)
        await endpoints.start()
        assert await endpoints.post_all([]) == []
        failure = Failure("endpoint_other", "no request could be made")
        answers = await endpoints.post_all([failure, *posts(1)])
        assert answers == [Answer(None, failure), Answer(2, None, 1)]
        endpoints.close()
        with pytest.raises(ServiceLost, match="were closed"):
            await endpoints.post(posts(1)[0])
        await asyncio.sleep(0)

    asyncio.run(work())


def test_cancelled_call_leaves_nothing_under_way(one: HostileServer) -> None:
    async def work() -> None:
        endpoints = Endpoints([one.url], is_up, in_flight=4, patience=Patience())
        await endpoints.start()
        asking = asyncio.create_task(endpoints.post_all(posts(*range(20))))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        one.always = None
        assert [answer.value for answer in await endpoints.post_all(posts(100, 101, 102, 103, 104))] == [
            200, 202, 204, 206, 208,
        ]  # fmt: skip
        endpoints.close()

    one.plan("/up", Json({"up": True}))
    one.always = Stall()
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


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("host:8000", "'host:8000' is no URL of a server; write it like http://host:8000"),
        ("ftp://host", "is no URL of a server"),
        ("", "'' is no URL"),
        ("http://me:secret@host:8000", "the URL of host holds credentials"),
        ("http://host?key=secret", "the URL of host holds credentials"),
    ],
)
def test_malformed_urls_are_refused(url: str, says: str) -> None:
    with pytest.raises(ServiceError, match="endpoints:") as error:
        Endpoints([url], is_up, in_flight=1)
    assert says in str(error.value)
    assert "secret" not in str(error.value)


def test_urls_are_normalized(one: HostileServer) -> None:
    answers = asked(one.url + "/", one.url + "/v1", one.url, numbers=range(3))
    assert [answer.value for answer in answers] == [0, 2, 4]
    assert one.seen["/up"] == ["200"]  # one server, not three


def test_key_that_no_header_can_hold_is_not_shown() -> None:
    with pytest.raises(ServiceError) as error:
        Endpoints(["http://host"], is_up, in_flight=1, api_key="sec\nret")
    assert "sec" not in str(error.value)


@pytest.mark.parametrize("where", ["inside", "outside", "other thread"])
def test_close_from_any_thread_leaves_no_connection(one: HostileServer, where: str, recwarn: Any) -> None:
    async def ask(endpoints: Endpoints) -> None:
        await endpoints.start()
        await endpoints.post_all(posts(*range(4)))
        if where == "inside":
            endpoints.close()
            await asyncio.sleep(0.05)
        if where == "other thread":
            await asyncio.to_thread(endpoints.close)

    endpoints = Endpoints([one.url], is_up, in_flight=4, patience=CALM)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask(endpoints))
    if where == "outside":
        endpoints.close()
    endpoints.close()
    loop.close()
    assert not [str(warning.message) for warning in recwarn]
