"""A model that is down behind a gateway that lists it: everybody waits, then the job stops, and no row is null."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from rmbatch.chat.client import ChatClient, Completion
from rmbatch.endpoints.balancer import Patience
from rmbatch.endpoints.errors import ServiceLost
from tests.rmbatch.chat.completing import CALM, asked, chats, completed, content, spec
from tests.servers.hostile import Deed, HostileServer, Json, Late, Reset, Stall, Status

LISTED = [Json({"data": [{"id": "judge"}]})] * 10_000
NAMES = [f"n{number}" for number in range(60)]
DOWN = [
    Status(500, body={"error": {"message": "litellm.InternalServerError: Connection error.", "code": "500"}}),
    Status(502, body=b"<html>bad gateway</html>"),
    Status(503, body={"error": {"code": "model_not_found", "message": "No available channel for model judge"}}),
    Status(429, body={"error": {"message": "No deployments available for selected model", "code": "429"}}),
    Json({"error": {"message": "Provider returned error", "code": 502}}),
    Reset(),
    Stall(),
]
QUICK = replace(CALM, timeout_s=0.5, give_up_s=1.5, lost_after_s=1.0)


@pytest.fixture
def gateway(one: HostileServer) -> HostileServer:
    one.plan("/v1/models", *LISTED)
    return one


def asked_until(
    gateway: HostileServer, down: Deed, seconds: float, patience: Patience, **settings: object
) -> list[Completion]:
    """What becomes of all requests where the model goes down after 20 answers, for so long."""

    async def work() -> list[Completion]:
        async with ChatClient(spec(gateway, **settings), patience=patience) as client:
            under_way = asyncio.create_task(client.complete(asked(*NAMES)))
            while len(chats(gateway)) < 20:
                await asyncio.sleep(0.005)
            gateway.always = down
            done, _ = await asyncio.wait([under_way], timeout=seconds)
            if not done:
                gateway.always = None
            return await under_way

    gateway.always = Late(0.01)
    return asyncio.run(work())


@pytest.mark.parametrize("down", DOWN, ids=str)
def test_every_request_is_answered_after_an_outage(gateway: HostileServer, down: Deed) -> None:
    patience = replace(CALM, timeout_s=0.5, lost_after_s=30)
    completions = asked_until(gateway, down, 2.5, patience)
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in NAMES]
    assert all(gateway.seen[name].count("200") == 1 for name in NAMES)


@pytest.mark.parametrize("down", DOWN, ids=str)
def test_model_that_stays_down_stops_the_job_resumably(gateway: HostileServer, tmp_path: Path, down: Deed) -> None:
    with pytest.raises(ServiceLost, match="no endpoint answers for"):
        asked_until(gateway, down, 60, QUICK, cache=str(tmp_path))
    gateway.always = None
    answered = {name for name in NAMES if "200" in gateway.seen[name]}
    completions = completed(gateway, requests=asked(*NAMES), cache=str(tmp_path))
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in NAMES]
    assert len(answered) >= 12
    assert {name for name, completion in zip(NAMES, completions) if completion.from_cache} == answered


def test_model_that_is_down_gets_few_requests(gateway: HostileServer) -> None:
    patience = replace(CALM, cooldown_s=0.1, max_backoff_s=5.0, lost_after_s=30)
    asked_until(gateway, Status(500), 3.0, patience)
    num_failed = sum(got.count("500") for got in gateway.seen.values())
    assert num_failed < 8 + 5 + 3 * 7  # what was under way, and then three at a time, 0.1, 0.2, 0.4, 0.8 … s apart


def test_refused_probe_is_sent_ever_more_rarely(gateway: HostileServer) -> None:
    gateway.plan("Say hi.", *[Status(400)] * 1000)
    patience = replace(CALM, attempts=1, cooldown_s=0.1, backoff_s=0.01, max_backoff_s=5.0, lost_after_s=3)
    with pytest.raises(ServiceLost, match="no endpoint answers"):
        asked_until(gateway, Status(500), 60, patience)
    assert 3 <= len(gateway.seen["Say hi."]) <= 3 * 6  # three at a time, 0.1, 0.2, 0.4 … s apart


def test_last_request_that_fails_is_given_up_after_a_good_probe(gateway: HostileServer) -> None:
    gateway.plan("q", *[Status(500)] * 1000)
    (completion,) = completed(gateway, requests=asked("q"))
    assert str(completion.failure).startswith("endpoint_error: ")
    asked_else = {content(body) for body in chats(gateway)} - {"q"}
    assert asked_else == {"Say hi."}  # an answer to that shows that the model serves


def test_one_failing_request_of_many_is_given_up_unprobed(gateway: HostileServer) -> None:
    gateway.plan("n3", *[Status(500)] * 1000)
    completions = completed(gateway, requests=asked(*NAMES), in_flight=2)
    assert [name for name, each in zip(NAMES, completions) if each.failure] == ["n3"]
    assert len(gateway.seen["n3"]) == CALM.attempts
    assert "Say hi." not in {content(body) for body in chats(gateway)}
