"""Chat completions against real servers that misbehave: each request has one outcome, and nothing is lost."""

import asyncio
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmbatch.chat.client import BudgetExhausted, ChatClient, ChatRequest, Completion
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from tests.rmbatch.chat.completing import CALM, KEY, asked, chats, completed, says, spec
from tests.servers.hostile import Cut, Deed, HostileServer, Json, Late, Reset, Stall, Status, Truncated

QUICK = replace(CALM, timeout_s=1.0, connect_timeout_s=0.5, give_up_s=3.0, lost_after_s=0.3)


def test_request_sets_its_own_seed_and_n(one: HostileServer) -> None:
    message = asked("q")[0].messages
    requests = [ChatRequest(message, seed=seed, n=n) for seed, n in ((None, None), (7, None), (0, 3))]
    completions = completed(one, requests=requests, temperature=1.0, seed=5)
    assert [len(completion.texts) for completion in completions] == [1, 1, 3]
    assert sorted((body["seed"], body["n"]) for body in chats(one)) == [(0, 3), (5, 1), (7, 1)]


@pytest.mark.parametrize(
    ("deeds", "seen"),
    [
        ([], ["200"]),
        ([Status(500)], ["500", "200"]),
        ([Status(502, body=b"<html>bad gateway</html>")], ["502", "200"]),
        ([Status(503)] * 6, ["503"] * 6 + ["200"]),  # busy: more tries than ``attempts``
        ([Status(429)] * 6, ["429"] * 6 + ["200"]),
        ([Status(429, {"Retry-After": "0"})], ["429", "200"]),
        ([Late(0.1)], ["200"]),
        ([Stall()], ["Stall", "200"]),
        ([Reset()], ["Reset", "200"]),
        ([Cut()], ["Cut", "200"]),
        ([Truncated()], ["Truncated", "200"]),
        ([Json({"choices": []})] * 3, ["Json"] * 3 + ["200"]),
        ([Json({"error": {"message": "upstream"}}), Json(None), Json({"choices": [{}]})], ["Json"] * 3 + ["200"]),
        ([Json(says("x", "abort")), Json({"choices": [{"index": "x", "message": {}}]})], ["Json"] * 2 + ["200"]),
        ([Json(says(7))], ["Json", "200"]),
    ],
)
def test_failed_tries_of_one_request_are_repeated(one: HostileServer, deeds: list[Deed], seen: list[str]) -> None:
    one.plan("5", *deeds)
    names = [str(n) for n in range(10)]
    completions = completed(one, requests=asked(*names), patience=QUICK if Stall() in deeds else CALM)
    assert one.seen["5"] == seen
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in names]
    assert [completion.num_tries for completion in completions] == [1] * 5 + [len(seen)] + [1] * 4
    assert all(one.seen[name] == ["200"] for name in names if name != "5")
    assert {completion.endpoint for completion in completions} == {f"{one.url}/v1"}


def test_retry_after_is_honoured(one: HostileServer) -> None:
    one.plan("q", Status(429, {"Retry-After": "1"}))
    began = time.monotonic()
    (completion,) = completed(one, requests=asked("q"))
    assert completion.texts
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("deed", "failure"),
    [
        (Json({"choices": []}), "endpoint_bad_answer: {url}/v1: no choices"),
        (Status(400, body={"error": {"message": "too\n long"}}), "endpoint_refused: 400 too long"),
        (Json(says("half", "content_filter")), "refused_by_filter: the answer was withheld"),
        (
            Status(400, body={"error": {"code": "content_filter", "message": "filtered"}}),
            "refused_by_filter: filtered",
        ),
        (
            Status(400, body={"error": {"type": "new_api_error", "code": "sensitive_words_detected", "message": "x"}}),
            "refused_by_filter: x",
        ),
        (Json(says(None, refusal="I cannot")), "refused_by_model: I cannot"),
        (
            Json({"choices": says("x")["choices"] * 2}),
            "endpoint_bad_answer: 2 samples of 1; a server that does not know n is asked for one at a time "
            "(a judge: one_by_one: true)",
        ),
    ],
)
def test_request_without_text_has_a_failure_code(one: HostileServer, deed: Deed, failure: str) -> None:
    one.plan("3", *[deed] * 1000)
    completions = completed(one, requests=asked(*map(str, range(30))), in_flight=2)
    assert str(completions[3].failure) == failure.format(url=one.url)
    assert completions[3].texts == ()
    assert all(completion.texts for completion in completions if completion is not completions[3])
    assert len(one.seen["3"]) == (4 if "no choices" in failure else 1)


@pytest.mark.parametrize(
    ("answer", "text", "reasoning", "cut_off", "usage"),
    [
        (says("A"), "A", "", False, Usage(10, 3)),
        (says("", "length"), "", "", True, Usage(10, 3)),
        (says(None, "length", reasoning_content="hm"), "", "hm", True, Usage(10, 3)),
        (says("A", reasoning="hm"), "A", "hm", False, Usage(10, 3)),
        (says("<think>B?</think>A"), "A", "B?", False, Usage(10, 3)),
        (says("<think>[[B]]", "length"), "", "[[B]]", True, Usage(10, 3)),
        (says([{"type": "thinking", "thinking": []}, {"type": "text", "text": "A"}]), "A", "", False, Usage(10, 3)),
        (says("A") | {"usage": None}, "A", "", False, None),
        (
            says("A")
            | {
                "usage": {
                    **{"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
                    "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 2},
                }
            },
            *("A", "", False),
            Usage(9, 5, 4, 2),
        ),
        (
            says("A") | {"usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}},
            *("A", "", False),
            Usage(9, 1, 8),
        ),
    ],
)
def test_text_reasoning_and_usage_are_read(
    one: HostileServer, answer: Any, text: str, reasoning: str, cut_off: bool, usage: Usage | None
) -> None:
    one.plan("q", Json(answer))
    (completion,) = completed(one, requests=asked("q"))
    assert (completion.texts, completion.reasonings) == ((text,), (reasoning,))
    assert (completion.cut_off, completion.usage) == ((cut_off,), usage)


def test_samples_are_ordered_by_index_and_one_may_be_filtered(one: HostileServer) -> None:
    choices = [
        says(text, reason)["choices"][0] | {"index": index, "logprobs": {"at": index}}
        for index, text, reason in ((2, "c", "length"), (0, "a", "stop"), (1, "b", "content_filter"))
    ]
    one.plan("q", Json({"choices": choices}))
    (completion,) = completed(one, requests=asked("q"), n=3, temperature=1.0)
    assert completion.texts == ("a", None, "c")
    assert completion.cut_off == (False, False, True)
    assert [at["at"] for at in completion.logprobs] == [0, 1, 2]
    assert completion.failure is None


@pytest.mark.parametrize(
    ("deed", "error", "says_so"),
    [
        (Status(401, body={"error": {"message": f"bad key {KEY}"}}), ServiceError, "401 bad key"),
        (Status(403, body={"error": {"message": "no"}}), ServiceError, "403 no"),
        (Status(404, body={"error": {"message": "no model judge"}}), ServiceError, "404 no model judge"),
        (Status(302, {"Location": "http://elsewhere/"}), ServiceError, "302 leads to http://elsewhere/"),
        (
            Status(429, body={"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "$"}}),
            *(BudgetExhausted, "is out of quota: 429 \\$"),
        ),
        (
            Status(
                403,
                body={"error": {"type": "new_api_error", "code": "insufficient_user_quota", "message": "用户额度不足"}},
            ),
            *(BudgetExhausted, "403 用户额度不足"),
        ),
        (
            Status(403, body={"error": {"code": "pre_consume_token_quota_failed", "message": "token"}}),
            *(BudgetExhausted, "403 token"),
        ),
        (Status(401, body={"error": {"message": "该令牌额度已用尽"}}), BudgetExhausted, "401 该令牌额度已用尽"),
        (Status(402, body={"error": {"message": "Insufficient Balance"}}), BudgetExhausted, "402 Insufficient"),
    ],
)
def test_error_of_all_requests_stops_the_job(
    one: HostileServer, tmp_path: Path, caplog: Any, deed: Deed, error: type[Exception], says_so: str
) -> None:
    caplog.set_level(logging.DEBUG)
    names = [f"n{n}" for n in range(40)]
    for name in names[:4]:
        one.plan(name, Late(0.3))  # they are on their way, and will be paid for
    one.plan("n5", deed)
    with pytest.raises(error, match=says_so) as raised:
        completed(one, requests=asked(*names), cache=str(tmp_path))
    assert KEY not in str(raised.value) + caplog.text
    answered = {name for name in names if one.seen[name] == ["200"]}
    assert {"n0", "n1", "n2", "n3"} <= answered
    assert len(chats(one)) < 20  # and nothing more was sent
    completions = completed(one, requests=asked(*names), cache=str(tmp_path))
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in names]
    assert {name for name in names if completions[names.index(name)].from_cache} == answered
    assert all(one.seen[name] == ["200"] for name in answered)


def test_exhausted_key_is_refused_before_any_request(one: HostileServer) -> None:
    one.plan("/v1/models", Status(401, body={"error": {"message": "该令牌额度已用尽"}}))
    with pytest.raises(BudgetExhausted):
        completed(one, requests=asked("q"))
    assert not chats(one)


def test_server_without_json_is_refused_at_the_start(one: HostileServer) -> None:
    one.plan("/v1/models", *[Status(200, body=b"<html>log in</html>")] * 3)
    with pytest.raises(ServiceError, match=r"no endpoint answers: .*/v1: no JSON: '<html>"):
        completed(one, requests=asked("q"))


def test_server_without_a_model_list_is_accepted(one: HostileServer) -> None:
    one.plan("/v1/models", Status(404))
    assert completed(one, requests=asked("q"))[0].texts


def test_death_of_one_of_two_servers_loses_and_repeats_nothing(one: HostileServer, other: HostileServer) -> None:
    names = [f"n{n}" for n in range(200)]
    one.always = other.always = Late(0.005)

    async def work() -> list[Completion]:
        async with ChatClient(spec(one, other), patience=CALM) as client:
            begun = asyncio.create_task(client.complete(asked(*names)))
            while len(chats(one)) < 40:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(one.die)
            return await begun

    completions = asyncio.run(work())
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in names]
    assert all(other.seen[name] in ([], ["200"]) for name in names)
    by_one = [completion for completion in completions if completion.endpoint == f"{one.url}/v1"]
    assert len(by_one) >= 30
    asked_twice = {name for name in names if one.seen[name] and other.seen[name]}
    assert len(asked_twice) <= 8  # what was under way when it died


def test_dead_servers_stop_the_job_and_answers_are_kept(one: HostileServer, tmp_path: Path) -> None:
    names = [f"n{n}" for n in range(30)]
    one.always = Late(0.02)

    async def work() -> None:
        settings = spec(one, cache=str(tmp_path), in_flight=4)
        async with ChatClient(settings, patience=replace(QUICK, failures_to_open=2)) as client:
            begun = asyncio.create_task(client.complete(asked(*names)))
            while len(chats(one)) < 10:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(one.die)
            with pytest.raises(ServiceLost):
                await begun

    asyncio.run(work())
    one.revive()
    before = len(chats(one))
    completions = completed(one, requests=asked(*names), cache=str(tmp_path))
    assert all(completion.texts for completion in completions)
    assert len(chats(one)) - before == sum(not completion.from_cache for completion in completions) <= 24


def test_connect_timeout_is_named() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]  # more than its queue holds, so nobody else gets in
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            with pytest.raises(ServiceError, match=r"/v1: no connection within 0.3 s") as error:
                completed(requests=asked("q"), endpoints=[url], patience=replace(QUICK, connect_timeout_s=0.3))
        finally:
            for each in waiting:
                each.close()
    assert "CancelledError" not in str(error.value)


def test_close_does_not_resend_requests_under_way(one: HostileServer) -> None:
    for name in "abc":
        one.plan(name, Late(30))

    async def work() -> None:
        client = ChatClient(spec(one), patience=CALM)
        under_way = asyncio.create_task(client.complete(asked("a", "b", "c")))
        while one.under_way < 3:
            await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(ServiceLost, match="the client was closed"):
            await under_way
        await asyncio.sleep(0.3)

    asyncio.run(work())
    assert len(chats(one)) == 3


def test_request_that_is_no_json_fails_alone(one: HostileServer) -> None:
    completions = completed(one, requests=asked("a", "\ud800", "b"))
    assert [bool(each.texts) for each in completions] == [True, False, True]
    assert str(completions[1].failure).startswith("request_unreadable: ")


def test_no_requests_need_no_server(one: HostileServer) -> None:
    assert completed(one, requests=[]) == []
    assert not one.asked
