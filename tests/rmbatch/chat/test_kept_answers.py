"""Kept answers: equal requests are answered from the cache, and nothing is paid for twice."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmbatch.chat.client import ChatClient, ChatRequest, Completion
from tests.rmbatch.chat.completing import KEY, asked, chats, completed, says, spec
from tests.servers.hostile import HostileServer, Json, Late, Status

ROOT = Path(__file__).parents[3]


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


def renewed(retry: str, *names: str) -> list[ChatRequest]:
    return [replace(request, retry=retry, renew=True) for request in asked(*names)]


def test_a_retry_asks_once_more_and_its_answer_is_the_newest(one: HostileServer, tmp_path: Path) -> None:
    one.plan("q", Json(says("bad")), Json(says("worse")), Json(says("good")))
    cache = str(tmp_path)
    assert completed(one, requests=asked("q"), cache=cache)[0].texts == ("bad",)
    for num_sent in (1, 0):  # the second time after a crash
        again = completed(one, requests=renewed("first", "q", "q"), cache=cache)
        assert [each.texts for each in again] == [("worse",)] * 2
        assert sum(each.num_tries for each in again) == num_sent
    (kept,) = completed(one, requests=asked("q"), cache=cache)
    assert (kept.texts, kept.kept_by, kept.from_cache) == (("worse",), "first", True)
    assert completed(one, requests=renewed("second", "q"), cache=cache)[0].texts == ("good",)
    assert completed(one, requests=asked("q"), cache=cache)[0].texts == ("good",)
    bodies = [body for body in chats(one) if body["messages"][-1]["content"] == "q"]
    assert bodies == [bodies[0]] * 3


def test_a_retry_sends_what_was_never_kept_and_keeps_it(one: HostileServer, tmp_path: Path) -> None:
    first = completed(one, requests=[replace(asked("q")[0], retry="first")], cache=str(tmp_path))
    again = completed(one, requests=renewed("first", "q"), cache=str(tmp_path))
    assert [first[0].kept_by, again[0].kept_by] == [None, "first"]
    assert one.seen["q"] == ["200"]


def test_a_damaged_newest_answer_is_asked_for_again(one: HostileServer, tmp_path: Path) -> None:
    one.plan("q", Json(says("bad")), Json(says("renewed")), Json(says("after the damage")))
    completed(one, requests=asked("q"), cache=str(tmp_path))
    completed(one, requests=renewed("first", "q"), cache=str(tmp_path))
    for segment in tmp_path.rglob("*.answers"):
        if b"renewed" in (content := segment.read_bytes()):
            segment.write_bytes(content.replace(b"choices", b"chances"))
    assert completed(one, requests=asked("q"), cache=str(tmp_path))[0].texts == ("after the damage",)
    assert len(one.seen["q"]) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_kept_like_an_answer(one: HostileServer, tmp_path: Path, status: int) -> None:
    one.plan("q", Status(status, body={"error": {"message": "too long"}}))
    first, again = (completed(one, requests=asked("q"), cache=str(tmp_path))[0] for _ in range(2))
    assert str(first.failure) == str(again.failure) == f"endpoint_refused: {status} too long"
    assert (first.from_cache, again.from_cache) == (False, True)
    assert one.seen["q"] == [str(status)]


def test_damaged_kept_answer_is_asked_for_again(one: HostileServer, tmp_path: Path) -> None:
    completed(one, requests=asked("q"), cache=str(tmp_path))
    (segment,) = tmp_path.rglob("*.answers")
    segment.write_bytes(segment.read_bytes().replace(b"choices", b"chances"))
    (completion,) = completed(one, requests=asked("q"), cache=str(tmp_path))
    assert completion.texts
    assert not completion.from_cache


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


def test_schemas_with_reordered_names_are_different_requests(one: HostileServer, tmp_path: Path) -> None:
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
