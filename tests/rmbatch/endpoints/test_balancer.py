"""Several servers as one: each request has one outcome, in order, and none is sent again after it was answered."""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from rmbatch.endpoints.balancer import Answer, Endpoints, Failure, Patience
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from tests.rmbatch.endpoints.doubling import CALM, QUICK, asked, is_up, posts
from tests.servers.hostile import Cut, Deed, HostileServer, Json, Late, Reset, Stall, Status, Truncated


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
