"""Chat completions against real servers that misbehave: one outcome each, nothing paid twice, nothing lost."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmbatch.chat.client import BudgetExhausted, ChatClient, ChatRequest, ChatSpec, Completion
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from tests.rmbatch.chat.completing import CALM, KEY, asked, chats, completed, content, says, spec
from tests.servers.hostile import Cut, Deed, HostileServer, Json, Late, Reset, Stall, Status, Truncated

ROOT = Path(__file__).parents[3]
QUICK = replace(CALM, timeout_s=1.0, connect_timeout_s=0.5, give_up_s=3.0, lost_after_s=0.3)


def test_every_option_reaches_the_server(one: HostileServer) -> None:
    options: dict[str, Any] = {
        **{"temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "seed": 3, "n": 2, "presence_penalty": 0.5},
        **{"frequency_penalty": -0.5, "reasoning_effort": "low"},
    }
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    request = ChatRequest([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], schema=schema)
    extra = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}}
    completed(one, requests=[request], **options, stop=["END"], logprobs=4, extra_body=extra)
    (body,) = chats(one)
    assert body == {
        **options,
        **extra,
        "model": "judge",
        "messages": list(request.messages),
        "stop": ["END"],
        "logprobs": True,
        "top_logprobs": 4,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": schema, "strict": True},
        },
    }
    path, _, headers = one.asked[-1]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"


def test_unset_options_are_not_sent_but_zeros_are(one: HostileServer) -> None:
    completed(one, requests=asked("q"), seed=0, logprobs=0)
    (body,) = chats(one)
    assert body == {
        **{"model": "judge", "messages": [{"role": "user", "content": "q"}], "temperature": 0.0, "n": 1},
        **{"seed": 0, "logprobs": True},
    }


@pytest.mark.parametrize(("structured", "sent"), [("json_object", {"type": "json_object"}), ("text", None)])
def test_schema_is_not_sent_where_structured_says_so(one: HostileServer, structured: str, sent: Any) -> None:
    requests = [ChatRequest(asked("q")[0].messages, schema={"type": "object"}), *asked("r")]
    completed(one, requests=requests, structured=structured)
    assert {content(body): body.get("response_format") for body in chats(one)} == {"q": sent, "r": None}


def test_request_sets_its_own_seed_and_n(one: HostileServer) -> None:
    message = asked("q")[0].messages
    requests = [ChatRequest(message, seed=seed, n=n) for seed, n in ((None, None), (7, None), (0, 3))]
    completions = completed(one, requests=requests, temperature=1.0, seed=5)
    assert [len(completion.texts) for completion in completions] == [1, 1, 3]
    assert sorted((body["seed"], body["n"]) for body in chats(one)) == [(0, 3), (5, 1), (7, 1)]


def test_no_key_is_sent_where_none_is_set(one: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "sk-other")
    completed(one, requests=asked("q"), api_key_env="OTHER")
    completed(one, requests=asked("r"), api_key_env="NOT_SET")
    headers = [headers.get("Authorization") for _, body, headers in one.asked if body is not None]
    assert headers == ["Bearer sk-other", None]


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


@pytest.mark.parametrize("store", ["local", "memory"])
def test_restart_answers_all_from_the_cache(one: HostileServer, tmp_path: Path, store: str) -> None:
    cache = str(tmp_path / "answers") if store == "local" else f"memory://{tmp_path.name}"
    one.plan("n1", Json(says("x", "content_filter")))
    one.plan("n2", Status(400, body={"error": {"code": "content_filter", "message": "no"}}))
    one.plan("n3", Json(says("<think>hm</think>A", "length")))
    one.plan("n4", Status(500), Json(says("A")))
    names = [f"n{n}" for n in range(50)]
    first = completed(one, requests=asked(*names), cache=cache)
    num = len(one.asked)
    one.always = Status(500)
    again = completed(one, requests=asked(*names), cache=cache)
    assert len(one.asked) == num  # not even to ask whether it is up
    assert [replace(each, num_tries=0, from_cache=True) for each in first] == again
    assert first[4].num_tries == 2
    content = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in each for each in content)


def test_failure_is_not_kept(one: HostileServer, tmp_path: Path) -> None:
    one.plan("q", *[Status(500)] * 4)
    names = [f"n{n}" for n in range(30)]
    first, *_ = completed(one, requests=asked("q", *names), cache=str(tmp_path), in_flight=2)
    assert first.failure
    assert completed(one, requests=asked("q"), cache=str(tmp_path))[0].texts


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_kept_like_an_answer(one: HostileServer, tmp_path: Path, status: int) -> None:
    one.plan("q", Status(status, body={"error": {"message": "too long"}}))
    first, again = (completed(one, requests=asked("q"), cache=str(tmp_path))[0] for _ in range(2))
    assert str(first.failure) == str(again.failure) == f"endpoint_refused: {status} too long"
    assert (first.from_cache, again.from_cache) == (False, True)
    assert one.seen["q"] == [str(status)]


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


def test_damaged_kept_answer_is_asked_for_again(one: HostileServer, tmp_path: Path) -> None:
    completed(one, requests=asked("q"), cache=str(tmp_path))
    (segment,) = tmp_path.rglob("*.answers")
    segment.write_bytes(segment.read_bytes().replace(b"choices", b"chances"))
    (completion,) = completed(one, requests=asked("q"), cache=str(tmp_path))
    assert completion.texts
    assert not completion.from_cache


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


@pytest.mark.parametrize(
    "change",
    [
        *({"temperature": 0.1}, {"top_p": 0.5}, {"max_tokens": 9}, {"seed": 1}, {"stop": ["x"]}, {"model": "other"}),
        *({"presence_penalty": 0.1}, {"frequency_penalty": 0.1}, {"logprobs": 1}, {"reasoning_effort": "low"}),
        *({"extra_body": {"top_k": 1}}, {"service": "other"}, {"n": 2, "temperature": 1.0}),
    ],
)
def test_any_other_setting_misses_the_cache(one: HostileServer, tmp_path: Path, change: dict[str, Any]) -> None:
    completed(one, requests=asked("q"), cache=str(tmp_path))
    assert not completed(one, requests=asked("q"), cache=str(tmp_path), **change)[0].from_cache
    assert completed(one, requests=asked("q"), cache=str(tmp_path), in_flight=1, attempts=1)[0].from_cache


def test_schemas_with_names_in_another_order_are_different_requests(one: HostileServer, tmp_path: Path) -> None:
    message = asked("q")[0].messages
    names: list[dict[str, Any]] = [{"reason": {}, "verdict": {}}, {"verdict": {}, "reason": {}}]
    requests = [ChatRequest(message, schema={"type": "object", "properties": order}) for order in names]
    assert not any(each.from_cache for each in completed(one, requests=requests, cache=str(tmp_path)))


@pytest.mark.parametrize("has_cache", [True, False])
def test_equal_requests_under_way_are_sent_once(one: HostileServer, tmp_path: Path, has_cache: bool) -> None:
    one.always = Late(0.1)

    async def work() -> list[list[Completion]]:
        async with ChatClient(spec(one, cache=str(tmp_path) if has_cache else None)) as client:
            return await asyncio.gather(*(client.complete(asked("q", "q", "r")) for _ in range(3)))

    completions = [each for part in asyncio.run(work()) for each in part]
    assert one.seen["q"] == one.seen["r"] == ["200"]
    assert [each.texts[0] for each in completions] == ["said q", "said q", "said r"] * 3
    assert sum(not each.from_cache for each in completions) == 2


def test_cancelled_request_is_sent_for_the_one_that_waits(one: HostileServer) -> None:
    one.plan("q", Late(5))

    async def work() -> list[Completion]:
        async with ChatClient(spec(one)) as client:
            begun = asyncio.create_task(client.complete(asked("q")))
            while not chats(one):
                await asyncio.sleep(0.01)
            waits = asyncio.create_task(client.complete(asked("q")))
            await asyncio.sleep(0.05)
            begun.cancel()
            return await waits

    (completion,) = asyncio.run(work())
    assert completion.texts == ("said q",)
    assert not completion.from_cache


def test_request_that_is_no_json_fails_alone(one: HostileServer) -> None:
    completions = completed(one, requests=asked("a", "\ud800", "b"))
    assert [bool(each.texts) for each in completions] == [True, False, True]
    assert str(completions[1].failure).startswith("request_unreadable: ")


def test_no_requests_need_no_server(one: HostileServer) -> None:
    assert completed(one, requests=[]) == []
    assert not one.asked


def test_answered_requests_are_not_sent_again_after_a_kill(one: HostileServer, tmp_path: Path) -> None:
    names = [f"n{n}" for n in range(400)]
    one.always = Late(0.02)
    script = (
        "import asyncio\nfrom rmbatch.chat.client import *\n"
        f"spec = ChatSpec(endpoints=[{one.url!r}], model='judge', in_flight=4, cache={str(tmp_path)!r})\n"
        f"requests = [ChatRequest([{{'role': 'user', 'content': f'n{{n}}'}}]) for n in range({len(names)})]\n"
        "asyncio.run(ChatClient(spec).complete(requests))\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    while len(chats(one)) < 60:
        assert worker.poll() is None
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    time.sleep(0.05)
    one.always = None
    before = len(chats(one))
    completions = completed(one, requests=asked(*names), cache=str(tmp_path))
    assert all(completion.texts for completion in completions)
    num_kept = sum(completion.from_cache for completion in completions)
    assert before - 8 <= num_kept <= before  # what was on its way when it was killed nobody could keep
    assert len(chats(one)) - before == len(names) - num_kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_body": {"temperature": 1}}, "temperature has a key of its own"),
        ({"extra_body": {"stream": True}}, "stream has a key of its own"),
        ({"n": 4}, "samples of temperature 0 are the same"),
        ({"endpoints": []}, "at least 1"),
        ({"endpoints": ["http://user:pw@host"]}, "holds credentials"),
        ({"endpoints": ["host:8000"]}, "is no URL of a server"),
        ({"endpoints": ["http://host/v1?key=1"]}, "holds credentials or a query"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temprature": 1}, "temprature"),
        ({"api_key": KEY}, "api_key"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ChatSpec(**{"endpoints": ["http://host"], "model": "m", **settings})


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://host:8000", "host:8000"),
        ("http://host:8000/v1/", "host:8000"),
        ("https://api.openai.com/v1", "api.openai.com"),
        ("https://open.bigmodel.cn/api/paas/v4", "open.bigmodel.cn/api/paas/v4"),
        ("https://x.com/compatible-mode/v1", "x.com/compatible-mode"),
    ],
)
def test_service_name_is_host_and_path(url: str, service: str) -> None:
    assert ChatSpec(endpoints=[url], model="m").service_name == service


def test_identity_holds_only_what_decides_answers() -> None:
    one = ChatSpec(endpoints=["http://a"], model="m", service="s")
    assert one.identity() == ChatSpec(endpoints=["http://b"], model="m", service="s", attempts=1).identity()
    assert one.identity() != ChatSpec(endpoints=["http://a"], model="m", service="s", seed=1).identity()


def test_a_path_below_a_gateway_is_kept(one: HostileServer) -> None:
    url = f"{one.url}/api/paas/v4"
    (completion,) = completed(requests=asked("q"), endpoints=[url])
    assert completion.endpoint == url
    assert {path for path, _, _ in one.asked} == {"/api/paas/v4/models", "/api/paas/v4/chat/completions"}


def test_spec_imports_no_http_client() -> None:
    script = "import sys, rmbatch.chat.spec\nChat = rmbatch.chat.spec.ChatSpec\nprint('openai' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
