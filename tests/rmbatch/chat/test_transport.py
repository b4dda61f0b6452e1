"""One try at a chat server: streamed or not, each with its key, and what out of quota means where there are several."""

import asyncio
import gzip
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from rmbatch.chat.client import BudgetExhausted, Completion
from rmbatch.chat.spec import Endpoint
from rmbatch.chat.streaming import read_events
from rmbatch.endpoints.errors import ServiceError
from tests.rmbatch.chat.completing import CALM, KEY, asked, chats, completed, says
from tests.servers.hostile import Deed, Events, HostileServer, Json, Late, Stall, Status

DONE = b"data: [DONE]\n\n"
QUOTA = {"error": {"code": "insufficient_quota", "message": "used up"}}
FAST = replace(CALM, timeout_s=5)


def chunk(*deltas: dict[str, Any], usage: Any = None, **more: Any) -> bytes:
    """One event; a delta that has a finish_reason, an index or logprobs gives it to its choice."""
    choices = []
    for delta in deltas:
        about = {name: delta[name] for name in ("finish_reason", "logprobs") if name in delta}
        message = {name: text for name, text in delta.items() if name not in ("index", *about)}
        choices.append({"index": delta.get("index", 0), "delta": message, "finish_reason": None, **about})
    event = {"id": "x", "object": "chat.completion.chunk", "choices": choices, "usage": usage, **more}
    return b"data: " + orjson.dumps(event) + b"\n\n"


COUNTED = chunk(usage={"prompt_tokens": 10, "completion_tokens": 3})
BEGUN, END = chunk({"role": "assistant", "content": ""}), chunk({"finish_reason": "stop"})
GOOD = Events([BEGUN, chunk({"content": "said "}), chunk({"content": "q"}), END, COUNTED, DONE])


def answered(server: HostileServer, *deeds: Deed, **settings: Any) -> Completion:
    """What becomes of one request whose answer is streamed."""
    server.plan("q", *deeds)
    settings = {"first_token_timeout_s": 5, "patience": CALM, **settings}
    (completion,) = completed(server, requests=asked("q"), **settings)
    return completion


@pytest.mark.parametrize(
    ("sent", "data"),
    [
        (b"", []),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),  # only one space belongs to the form
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: {\ndata: }\n\n", [b"{\n}"]),
        (b": wait\n\n: wait\n\ndata: a\n: b\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data: a\n\n\n\ndata\ndata: b", [b"a", b"\nb"]),  # a line without a colon; the end without an empty line
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        ("data: é\u2028ü\x85\n\n".encode(), ["é\u2028ü\x85".encode()]),  # line ends elsewhere, not here
    ],
)
def test_events_do_not_depend_on_where_pieces_are_cut(sent: bytes, data: list[bytes]) -> None:
    async def read(size: int) -> list[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(sent), size):
                yield sent[start : start + size]

        return [each async for each in read_events(pieces())]

    for size in range(1, len(sent) + 2):
        assert asyncio.run(read(size)) == data, size


TOKENS: dict[str, Any] = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
HM = [chunk({"reasoning_content": "h"}), chunk({"reasoning_content": "m"})]
TWO_TOKENS = [chunk({"content": "a", "logprobs": TOKENS})] * 2
LENGTH = chunk({"finish_reason": "length"})
REFUSAL = [BEGUN, chunk({"refusal": "I "}), chunk({"refusal": "cannot"})]
USAGE = {
    **{"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([BEGUN, chunk({"content": "a"}), chunk({"content": "b"}), END, COUNTED, DONE], says("ab")),
        ([chunk({"content": "ab", "finish_reason": "length"}), COUNTED, DONE], says("ab", "length")),
        ([chunk({"content": "a"}), END, DONE], says("a") | {"usage": None}),
        ([chunk({"content": "a"}), END, COUNTED], says("a")),  # no [DONE]
        ([b": wait\n\n", b"event: x\r\n", BEGUN.replace(b"\n", b"\r\n"), END, COUNTED, DONE], says("")),
        ([BEGUN, *HM, chunk({"content": "a"}), END, COUNTED, DONE], says("a", reasoning_content="hm")),
        ([chunk({"reasoning": "hm"}), LENGTH, COUNTED, DONE], says(None, "length", reasoning="hm")),
        ([*REFUSAL, END, COUNTED, DONE], says("", refusal="I cannot")),
        ([BEGUN, chunk({"finish_reason": "content_filter"}), COUNTED, DONE], says("", "content_filter")),
        ([chunk({"content": [{"type": "thinking"}]}), chunk({"content": "a"}), END, COUNTED, DONE], says("a")),
        (
            [*TWO_TOKENS, END, COUNTED, DONE],
            {**says("aa"), "choices": [{**says("aa")["choices"][0], "logprobs": {"content": TOKENS["content"] * 2}}]},
        ),
        (
            [chunk({"content": "a"}, usage=USAGE | {"completion_tokens": 1}), END, chunk(usage=USAGE), DONE],
            says("a") | {"usage": USAGE},  # the last count counts
        ),
    ],
)
@pytest.mark.parametrize("size", [None, 7])
def test_streamed_answer_equals_whole_answer(
    one: HostileServer, pieces: list[bytes], whole: Any, size: int | None
) -> None:
    sent = b"".join(pieces)
    cut = pieces if size is None else [sent[start : start + size] for start in range(0, len(sent), size)]
    completion = answered(one, Events(cut))
    assert completion == answered(one, Json(whole), first_token_timeout_s=None)
    assert completion.num_tries == 1


def test_streamed_samples_may_come_in_turns(one: HostileServer) -> None:
    pieces = [
        chunk({"index": 1, "content": "b"}, {"index": 0, "content": "a"}),
        chunk({"index": 0, "content": "a"}),
        chunk({"index": 1, "finish_reason": "length"}),
        chunk({"index": 0, "finish_reason": "stop"}),
    ]
    completion = answered(one, Events([*pieces, COUNTED, DONE]), n=2, temperature=1.0)
    assert completion.texts == ("aa", "b")
    assert completion.finish_reasons == ("stop", "length")


def test_stream_option_is_no_part_of_the_kept_request(one: HostileServer, tmp_path: Path) -> None:
    answered(one, GOOD, cache=str(tmp_path))
    (body,) = chats(one)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    kept = answered(one, cache=str(tmp_path), first_token_timeout_s=None)
    assert kept.from_cache
    assert kept.texts == ("said q",)
    answered(one, first_token_timeout_s=None)
    assert not {"stream", "stream_options"} & chats(one)[-1].keys()


@pytest.mark.parametrize(
    "broken",
    [
        Events([]),
        Events([BEGUN, chunk({"content": "hal"})]),
        Events([BEGUN, chunk({"content": "hal"})], is_cut=True),
        Events([chunk({"content": "hal"}), END], is_cut=True),  # of more samples one may be missing
        Events([chunk({"content": "hal"}), DONE]),  # gateways end so where the server behind them was lost
        Events([chunk({"content": "hal"}), chunk()[:20]]),
        Events([chunk({"content": "hal"}, {"index": 1, "content": "half"}), END, COUNTED, DONE]),
        Events([DONE]),
        Events([chunk({"content": "hal"}), b'data: {"error": {"message": "CUDA", "code": 500}}\n\n', DONE]),
        Events([b'event: error\ndata: {"error": "overloaded"}\n\n']),
        Events([b"data: <html>\n\n"]),
        Events([b"data: []\n\n", b"data: 7\n\n"]),
        Events([b'data: {"choices": [7]}\n\n']),
        Events([chunk({"content": 7, "finish_reason": "stop"}), DONE]),
        Status(500),
        Status(200, {"Content-Type": "text/event-stream"}, b""),
        Status(200, {"Content-Type": "text/html"}, b"<html>"),
    ],
)
def test_broken_stream_is_tried_again(one: HostileServer, broken: Deed) -> None:
    completion = answered(one, broken, GOOD, patience=FAST)
    assert completion.texts == ("said q",)
    assert completion.num_tries == 2


@pytest.mark.parametrize(
    "deed",
    [
        Events([chunk({"content": "said q"}), END, COUNTED], is_cut=True),
        Events([chunk({"content": "said q"}), END, COUNTED, DONE], is_cut=True),
        Events([chunk({"content": "said q"}), END, COUNTED, DONE, 30.0]),  # it does not close
    ],
)
def test_stream_without_its_end_is_not_paid_for_twice(one: HostileServer, deed: Deed) -> None:
    began = time.monotonic()
    completion = answered(one, deed)
    assert (completion.texts, completion.num_tries) == (("said q",), 1)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "deed",
    [
        Late(3),
        Stall(),
        Events([3.0, *GOOD.pieces]),
        Events([b": wait\n\n", BEGUN, 3.0, *GOOD.pieces]),  # a sign of life is no token
    ],
)
def test_answer_without_a_first_token_in_time_fails(one: HostileServer, deed: Deed) -> None:
    is_json = isinstance(deed, Stall)  # its headers have come: it has begun, and the whole time counts
    one.plan("q", deed)
    completion, *_ = completed(
        one,
        requests=asked("q", *map(str, range(20))),  # the others show that the server lives
        patience=replace(CALM, timeout_s=0.8 if is_json else 10, attempts=1),
        first_token_timeout_s=0.5,
        in_flight=2,
    )
    why = "no answer within 0.8 s" if is_json else "no first token within 0.5 s"
    assert str(completion.failure) == f"endpoint_timeout: {one.url}/v1: {why}"


@pytest.mark.parametrize(
    "deed",
    [
        Events([BEGUN, chunk({"content": "said "}), 0.6, chunk({"content": "q"}), END, COUNTED, DONE]),
        Events([chunk({"reasoning_content": "h"}), 0.6, chunk({"content": "said q"}), END, COUNTED, DONE]),
        Json(says("said q")),  # it cannot stream
    ],
)
def test_answer_that_has_begun_gets_the_whole_timeout(one: HostileServer, deed: Deed) -> None:
    completion = answered(one, deed, first_token_timeout_s=0.4)
    assert (completion.texts, completion.num_tries) == (("said q",), 1)


def test_stream_that_stalls_in_the_middle_times_out(one: HostileServer) -> None:
    stalled = Events([chunk({"content": "said "}), 30.0])
    began = time.monotonic()
    completion = answered(one, stalled, GOOD, patience=replace(CALM, timeout_s=0.5), first_token_timeout_s=0.4)
    assert (completion.texts, completion.num_tries) == (("said q",), 2)
    assert time.monotonic() - began >= 0.5


def test_connection_is_reused_after_a_stream(one: HostileServer) -> None:
    names = [f"n{number}" for number in range(10)]
    for name in names:
        one.plan(name, GOOD)
    completed(one, requests=asked(*names), first_token_timeout_s=5, in_flight=1)
    assert one.num_connections == 2  # one was to see whether it is there


@pytest.mark.parametrize(
    ("code", "failure"),
    [("content_filter", "refused_by_filter: no"), ("data_inspection_failed", "refused_by_filter: no")],
)
def test_filter_error_inside_a_stream_is_a_refusal(one: HostileServer, code: str, failure: str) -> None:
    event = b"data: " + orjson.dumps({"error": {"code": code, "message": "no"}}) + b"\n\n"
    assert str(answered(one, Events([BEGUN, chunk({"content": "ha"}), event])).failure) == failure


def two(one: HostileServer, other: HostileServer, **of_other: Any) -> dict[str, Any]:
    return {"endpoints": [Endpoint(url=one.url), Endpoint(url=other.url, **of_other)]}


def test_each_server_gets_its_own_key(
    one: HostileServer, other: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", " sk-other-456\n")
    completed(requests=asked(*map(str, range(20))), **two(one, other, api_key_env="OTHER_KEY"))
    completed(requests=asked("q"), **two(one, other, api_key_env="NOT_SET", priority=1))
    shown = [{headers.get("Authorization") for *_, headers in each.asked} for each in (one, other)]
    assert shown == [{f"Bearer {KEY}"}, {"Bearer sk-other-456", None}]


@pytest.mark.parametrize(("is_set", "why"), [(True, "this API key is not accepted"), (False, "no API key is set")])
def test_refused_key_stops_the_job_and_is_not_shown(
    one: HostileServer, other: HostileServer, monkeypatch: pytest.MonkeyPatch, caplog: Any, is_set: bool, why: str
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = [KEY, f"{KEY}-longer"]  # the shorter one is a part of it
    monkeypatch.setenv("OTHER_KEY", secrets[1] if is_set else "")
    other.plan("/v1/models", Json({}), Status(401, body={"error": {"message": f"bad {secrets[1]} and {secrets[0]}"}}))
    other.always = Status(401, body={"error": {"message": f"bad {secrets[1]} and {secrets[0]}"}})
    with pytest.raises(ServiceError, match=f"401 bad .*{why}") as error:
        completed(requests=asked(*map(str, range(8))), **two(one, other, api_key_env="OTHER_KEY"))
    assert f"{other.url}/v1/chat/completions" in str(error.value)
    assert KEY not in str(error.value) + caplog.text
    assert not is_set or "longer" not in str(error.value)


def test_key_that_no_header_can_hold_is_not_shown(one: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-schlüssel")
    with pytest.raises(ServiceError, match="characters that an HTTP header cannot hold") as error:
        completed(one, requests=asked("q"))
    assert "sk-" not in str(error.value)


OUT: list[Deed] = [
    Status(429, body=QUOTA),
    Status(402, body=b"pay"),
    Status(401, body={"error": {"message": "该令牌额度已用尽"}}),
    Events([b"data: " + orjson.dumps(QUOTA) + b"\n\n"]),
]


@pytest.mark.parametrize("out", OUT)
def test_server_out_of_quota_is_left_alone_and_others_go_on(
    one: HostileServer, other: HostileServer, caplog: Any, out: Deed
) -> None:
    one.always = out
    one.plan("/v1/models", *[Json({})] * 99)
    names = [f"n{number}" for number in range(60)]
    settings = {"first_token_timeout_s": 5} if isinstance(out, Events) else {}
    completions = completed(one, other, requests=asked(*names), **settings)
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in names]
    assert len(chats(one)) <= 8  # what was under way
    assert all(other.seen[name] == ["200"] for name in names)
    assert caplog.text.count(f"endpoint {one.url}/v1 is out of quota") == 1


def test_quota_exhausted_at_the_start_concerns_one_server(one: HostileServer, other: HostileServer) -> None:
    one.plan("/v1/models", Status(429, body=QUOTA))
    assert completed(one, other, requests=asked("q"))[0].endpoint == f"{other.url}/v1"
    assert not chats(one)


@pytest.mark.parametrize("is_at_start", [True, False])
def test_quota_exhausted_everywhere_stops_the_job(one: HostileServer, other: HostileServer, is_at_start: bool) -> None:
    for server in (one, other):
        server.always = Status(429, body=QUOTA)
        if not is_at_start:
            server.plan("/v1/models", *[Json({})] * 99)
    began = time.monotonic()
    with pytest.raises(BudgetExhausted) as error:
        completed(one, other, requests=asked(*map(str, range(20))), patience=replace(CALM, backoff_s=30))
    assert time.monotonic() - began < 5  # nothing is waited for
    assert all(f"{server.url}/v1 is out of quota: 429 used up" in str(error.value) for server in (one, other))


def test_weights_and_priorities_of_the_spec_are_used(one: HostileServer, other: HostileServer) -> None:
    names = [f"n{number}" for number in range(40)]
    one.always = other.always = Late(0.02)
    completed(requests=asked(*names), **two(one, other, weight=3.0))
    assert 5 <= len(chats(one)) <= 15
    before = len(chats(one))
    completed(requests=asked("q"), **two(one, other, priority=1))
    assert len(chats(one)) == before


def test_gzip_answer_is_unpacked(one: HostileServer) -> None:
    packed = gzip.compress(orjson.dumps(says("packed")))
    deed = Status(200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, packed)
    assert answered(one, deed, first_token_timeout_s=None).texts == ("packed",)
    assert answered(one, deed).texts == ("packed",)


def test_proxy_of_the_environment_is_used(one: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", one.url.replace("//", "//user:word@"))
    monkeypatch.setenv("no_proxy", "")
    completed(requests=asked("q"), endpoints=["http://judge.invalid:8000"])
    path, _, headers = one.asked[-1]
    assert (path, headers["Host"]) == ("/v1/chat/completions", "judge.invalid:8000")
    assert headers["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    completed(one, requests=asked("q"))
    assert "Proxy-Authorization" not in one.asked[-1][2]
