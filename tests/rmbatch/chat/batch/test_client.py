"""Chat requests through a provider's batch API: one outcome each, nothing paid twice, whatever ends when."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.storage import StorageOptions
from rmbatch.chat.batch import client as batch_client
from rmbatch.chat.client import BudgetExhausted, ChatClient, ChatSpec, Completion
from rmbatch.chat.limits.admission import admission_for
from rmbatch.chat.spec import Limits
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from tests.rmbatch.chat.batch.asking import (
    CALM,
    NAMES,
    Provider,
    are_said,
    asked,
    completed,
    killed,
    records,
    spec,
    started,
)
from tests.rmbatch.chat.completing import KEY, says
from tests.servers.batch import BatchServer, Ends, Line, Nothing
from tests.servers.hostile import Reset, Status
from tests.servers.s3 import S3Server

FILTERED = {"error": {"code": "content_filter", "message": "no"}}


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with Provider() as provider:
        yield provider


@pytest.fixture(autouse=True)
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_requests_share_a_batch_whose_lines_have_no_order(server: BatchServer, tmp_path: Path) -> None:
    completions = completed(server, *NAMES, cache=tmp_path)
    assert are_said(completions, *NAMES)
    assert [server.sent(n) for n in range(len(server.batches))] == [NAMES]
    assert {(each.num_tries, each.from_cache, each.usage) for each in completions} == {(1, False, Usage(10, 3))}
    (batch,) = server.batches.values()
    assert batch["completion_window"] == "24h"
    assert not records(tmp_path)
    server.die()
    again = completed(server, *NAMES, cache=tmp_path)
    assert again == [replace(each, num_tries=0, from_cache=True) for each in completions]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in each for each in files)


@pytest.mark.parametrize(
    ("gets", "error", "num_tries"),
    [
        ([Status(400, body={"error": {"message": "too long"}})], "endpoint_refused: 400 too long", 1),
        ([Status(400, body=FILTERED)], "refused_by_filter: no", 1),
        ([Status(500, body={}), Status(429, body={})], "", 3),
        ([Status(429, body={"error": {"message": "slow"}})] * 3, "endpoint_overloaded: .* 429 slow", 3),
        ([Line({"code": "server_error", "message": "oops"})] * 3, "endpoint_error: .* server_error oops", 3),
        ([Nothing()] * 3, "batch_expired: batch .* is completed without an answer", 3),
        ([Nothing()], "", 2),
        ([{"nonsense": 1}] * 3, "endpoint_bad_answer: .* no choices", 3),
        ([{"nonsense": 1}], "", 2),
    ],
)
def test_each_kind_of_line_has_its_outcome(
    server: Provider, tmp_path: Path, gets: list[Any], error: str, num_tries: int
) -> None:
    server.gets["bad"] = list(gets)
    one, bad, two = completed(server, "one", "bad", "two", cache=tmp_path)
    assert are_said([one, two], "one", "two")
    assert bad.num_tries == num_tries
    if error:
        assert re.match(error, str(bad.failure))
    else:
        assert are_said([bad], "bad")
    assert server.computed["one"] == server.computed["two"] == 1
    assert not records(tmp_path)
    again = completed(server, "one", "bad", "two", cache=tmp_path)
    is_kept = not error or "refused" in error
    assert again[1].from_cache == is_kept
    assert again[1].failure is None or is_kept


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_unanswered_requests_are_sent_in_another_batch(server: BatchServer, tmp_path: Path, status: str) -> None:
    server.ends += [Ends(status, answered=3), Ends(status, answered=0)]
    completions = completed(server, *NAMES, cache=tmp_path)
    assert are_said(completions, *NAMES)
    assert [len(server.sent(n)) for n in range(3)] == [20, 17, 17]
    assert set(server.computed.values()) == {1}
    assert sorted(each.num_tries for each in completions) == [1] * 3 + [3] * 17


def test_request_unanswered_by_three_batches_fails(server: BatchServer, tmp_path: Path) -> None:
    server.ends += [Ends("expired", answered=1)] * 3
    first, *others = completed(server, "a", "b", "c", "d", "e", cache=tmp_path)
    assert are_said([first], "a")
    assert [each.failure and each.failure.code for each in others] == [None, None, "batch_expired", "batch_expired"]
    assert len(server.batches) == 3
    assert completed(server, "e", cache=tmp_path)[0].texts  # it is not kept that there was no answer


def test_deadline_cancels_a_batch_and_keeps_its_answers(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True
    server.ends.append(Ends(answered=3))
    completions = completed(server, *NAMES, cache=tmp_path, deadline_s=0.3)
    assert are_said(completions[:3], *NAMES[:3])
    assert {each.failure and each.failure.code for each in completions[3:]} == {"batch_deadline"}
    assert "not answered within 0.3 s" in str(completions[3].failure)
    assert [batch["status"] for batch in server.batches.values()] == ["cancelled"]
    assert not records(tmp_path)
    server.is_held = False
    assert are_said(completed(server, *NAMES, cache=tmp_path, deadline_s=20), *NAMES)
    assert set(server.computed.values()) == {1}


@pytest.mark.parametrize(
    ("errors", "raised", "says_so"),
    [
        ([{"code": "invalid_json", "line": 3, "message": f"no JSON {KEY}"}], ServiceError, r"line 3: no JSON \*\*\*"),
        ([{"code": "billing_hard_limit_reached", "message": "limit"}], BudgetExhausted, "out of quota: .* limit"),
        ([{"code": "token_limit_exceeded", "message": "Enqueued"}], ServiceError, "batch.max_requests below"),
    ],
)
def test_refused_batch_stops_the_job(
    server: BatchServer, tmp_path: Path, errors: list[Any], raised: type[Exception], says_so: str
) -> None:
    server.ends.append(Ends("failed", errors=tuple(errors)))
    with pytest.raises(raised, match=says_so):
        completed(server, *NAMES, cache=tmp_path)
    assert not records(tmp_path)
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)


def test_batch_waits_while_the_token_queue_is_full(server: BatchServer, tmp_path: Path) -> None:
    is_full = Ends("failed", errors=({"code": "token_limit_exceeded", "message": "Enqueued"},))
    server.ends += [Ends(), *[is_full] * 10**4]
    server.is_held = True

    def make_room() -> None:
        server.wait_for(lambda: sum(batch["status"] == "failed" for batch in server.batches.values()) >= 2)
        server.ends.clear()
        server.is_held = False

    thread = threading.Thread(target=make_room)
    thread.start()
    assert are_said(completed(server, *NAMES[:8], max_requests=4), *NAMES[:8])
    thread.join()
    assert set(server.computed.values()) == {1}


@pytest.mark.parametrize("name", ["POST /v1/files", "POST /v1/batches"])
@pytest.mark.parametrize(
    ("status", "raised", "says_so"),
    [
        (Status(429, body={"error": {"code": "insufficient_quota", "message": "$"}}), BudgetExhausted, "quota: 429"),
        (Status(401, body={"error": {"message": f"bad {KEY}"}}), ServiceError, r"says 401 bad \*\*\*"),
        (Status(404), ServiceError, "the batch API of .* says 404"),
    ],
)
def test_error_of_all_batches_stops_the_job(
    server: BatchServer, tmp_path: Path, name: str, status: Status, raised: type[Exception], says_so: str
) -> None:
    server.plan(name, status)
    with pytest.raises(raised, match=says_so):
        completed(server, *NAMES, cache=tmp_path)
    assert not server.batches
    assert not records(tmp_path)
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)


def test_exhausted_quota_in_a_batch_stops_and_keeps_answers(server: Provider, tmp_path: Path) -> None:
    quota = Status(429, body={"error": {"code": "insufficient_quota", "message": "$"}})
    server.gets = {name: [quota] for name in NAMES[5:]}
    with pytest.raises(BudgetExhausted):
        completed(server, *NAMES, cache=tmp_path)
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)
    assert [server.computed[name] for name in NAMES] == [1] * 5 + [2] * 15


FLAKY = [Status(500), Reset(), Status(503), Status(429, {"Retry-After": "0"})]


@pytest.mark.parametrize(
    "name", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/{id}", "GET /v1/files/{id}/content"]
)
def test_flaky_provider_gets_each_request_once(server: BatchServer, name: str) -> None:
    server.plan(name, *FLAKY)  # of which the reset comes after the deed
    assert are_said(completed(server, *NAMES), *NAMES)
    assert server.happened[name] >= 5 if name != "POST /v1/batches" else len(server.batches) == 1
    assert set(server.computed.values()) == {1}


def test_absent_provider_is_waited_for(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True

    def leave() -> None:
        server.wait_for(lambda: server.happened["GET /v1/batches/{id}"] >= 2)
        server.die()
        time.sleep(0.2)
        server.is_held = False
        server.revive()

    thread = threading.Thread(target=leave)
    thread.start()
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)
    thread.join()
    assert len(server.batches) == 1


def test_lost_provider_stops_the_job_until_it_is_back(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True

    async def work() -> None:
        patience = replace(CALM, give_up_s=0.2)
        async with ChatClient(spec(server, tmp_path), patience=patience) as client:
            begun = asyncio.create_task(client.complete(asked(*NAMES)))
            await asyncio.to_thread(server.wait_for, lambda: server.batches)
            await asyncio.to_thread(server.die)
            with pytest.raises(ServiceLost, match="has not answered for"):
                await begun

    asyncio.run(work())
    server.is_held = False
    server.revive()
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)
    assert len(server.batches) == 1


def test_batch_is_collected_after_a_kill(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True
    worker = started(server, tmp_path, *NAMES)
    server.wait_for(lambda: server.happened["GET /v1/batches/{id}"] >= 2)
    killed(worker)
    (record,) = records(tmp_path)
    assert record["batch"] in server.batches
    assert record["file"] in server.files
    assert len(record["keys"]) == 20
    server.is_held = False
    completions = completed(server, *NAMES, "another", cache=tmp_path)
    assert are_said(completions, *NAMES, "another")
    assert [server.sent(n) for n in range(len(server.batches))] == [NAMES, ["another"]]
    assert set(server.computed.values()) == {1}
    assert {(each.num_tries, each.from_cache) for each in completions} == {(1, False)}
    assert not records(tmp_path)


def test_collecting_one_request_keeps_the_whole_batch(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True
    worker = started(server, tmp_path, *NAMES)
    server.wait_for(lambda: server.happened["GET /v1/batches/{id}"] >= 2)
    killed(worker)
    server.is_held = False
    assert are_said(completed(server, "n7", cache=tmp_path), "n7")
    assert not records(tmp_path)
    server.die()
    assert all(each.from_cache for each in completed(server, *NAMES, cache=tmp_path))


def test_a_kept_answer_is_renewed_in_another_batch(server: Provider, tmp_path: Path) -> None:
    async def renew() -> list[Completion]:
        async with ChatClient(spec(server, tmp_path), patience=CALM) as client:
            return await client.complete(replace(each, retry="first", renew=True) for each in asked("q"))

    server.gets["q"] = [says("bad"), says("good")]
    completed(server, "q", "r", cache=tmp_path)
    assert asyncio.run(renew())[0].texts == ("good",)
    assert [server.sent(n) for n in range(len(server.batches))] == [["q", "r"], ["q"]]
    server.die()
    assert [(each.texts, each.kept_by) for each in asyncio.run(renew())] == [(("good",), "first")]
    assert completed(server, "q", cache=tmp_path)[0].texts == ("good",)


def test_batch_with_a_lost_id_is_found_by_name(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True
    worker = started(server, tmp_path, *NAMES)
    server.wait_for(lambda: server.happened["GET /v1/batches/{id}"] >= 1)
    killed(worker)
    (path,) = tmp_path.rglob("*.batch.json")
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"batch": None, "file": None}))
    for _ in range(150):  # the list has pages
        server.add_foreign()
    server.is_held = False
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)
    assert len(server.batches) == 151


def test_requests_are_sent_if_a_killed_process_created_no_batch(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plan("POST /v1/batches", *[Status(500)] * 10**4)
    worker = started(server, tmp_path, *NAMES)
    server.wait_for(lambda: server.happened["POST /v1/batches"] >= 1)
    killed(worker)
    assert [record["batch"] for record in records(tmp_path)] == [None]
    server._plans.clear()
    monkeypatch.setattr(batch_client, "PENDING_S", 0.3)
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)
    assert len(server.batches) == 1
    assert not records(tmp_path)


def test_slow_process_sees_that_another_has_sent_its_requests(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plan("POST /v1/files", *[Status(500)] * 10**4)
    worker = started(server, tmp_path, *NAMES)
    server.wait_for(lambda: server.happened["POST /v1/files"] >= 1)
    monkeypatch.setattr(batch_client, "PENDING_S", 0.1)
    server._plans.clear()
    server.plan("POST /v1/files", Status(429, {"Retry-After": "1"}))
    time.sleep(0.2)
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)
    assert worker.wait(20) == 0
    assert len(server.batches) == 1


def test_two_processes_pay_once_for_the_same_requests(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True
    worker = started(server, tmp_path, *NAMES)
    server.wait_for(lambda: server.happened["GET /v1/batches/{id}"] >= 2)
    asker = threading.Thread(target=lambda: found.extend(completed(server, "more", *NAMES[::-1], cache=tmp_path)))
    found: list[Completion] = []
    asker.start()
    server.wait_for(lambda: len(server.batches) == 2)
    server.is_held = False
    asker.join()
    assert worker.wait(20) == 0
    assert are_said(found, "more", *NAMES[::-1])
    assert set(server.computed.values()) == {1}


def test_lost_batch_is_an_error_with_a_cure(server: BatchServer, tmp_path: Path) -> None:
    server.is_held = True
    worker = started(server, tmp_path, *NAMES)
    server.wait_for(lambda: server.happened["GET /v1/batches/{id}"] >= 2)
    killed(worker)
    server.forget_all()
    with pytest.raises(ServiceError, match=r"delete .*\.batch\.json and its 20 requests are sent again"):
        completed(server, *NAMES, cache=tmp_path)
    for path in tmp_path.rglob("*.batch.json"):
        path.unlink()
    server.is_held = False
    assert are_said(completed(server, *NAMES, cache=tmp_path), *NAMES)


def test_records_and_answers_work_in_a_bucket(s3: S3Server, server: BatchServer, tmp_path: Path) -> None:
    options, cache = StorageOptions(endpoint=s3.endpoint), f"s3://bucket/{tmp_path.name}"
    server.is_held = True

    async def work() -> None:
        async with ChatClient(spec(server, cache), options, patience=CALM) as client:
            begun = asyncio.create_task(client.complete(asked(*NAMES)))
            await asyncio.to_thread(server.wait_for, lambda: server.happened["GET /v1/batches/{id}"] >= 2)
            begun.cancel()

    asyncio.run(work())
    server.is_held = False
    assert any(name.endswith(".batch.json") for name in s3.objects("bucket", tmp_path.name))
    assert are_said(completed(server, *NAMES, cache=cache, options=options), *NAMES)
    assert len(server.batches) == 1
    assert not any(name.endswith(".batch.json") for name in s3.objects("bucket", tmp_path.name))


@pytest.mark.parametrize("has_cache", [True, False])
def test_calls_share_a_batch_and_equal_requests_are_one(server: BatchServer, tmp_path: Path, has_cache: bool) -> None:
    async def work() -> list[list[Completion]]:
        async with ChatClient(spec(server, tmp_path if has_cache else None, poll_s=0.1), patience=CALM) as client:
            return await asyncio.gather(*(client.complete(asked("same", f"own {n}", "same")) for n in range(3)))

    parts = asyncio.run(work())
    assert all(are_said(part, "same", f"own {n}", "same") for n, part in enumerate(parts))
    assert [sorted(server.sent(n)) for n in range(len(server.batches))] == [["own 0", "own 1", "own 2", "same"]]
    assert sum(not each.from_cache for part in parts for each in part) == 4


def test_batches_stay_within_their_limits(server: BatchServer) -> None:
    assert are_said(completed(server, *NAMES, max_requests=8), *NAMES)
    assert sorted(len(server.sent(n)) for n in range(3)) == [4, 8, 8]
    large = [f"{n}" * 400_000 for n in range(5)]
    assert are_said(completed(server, *large, max_mb=1), *large)
    assert sorted(len(server.sent(n)) for n in range(3, len(server.batches))) == [1, 2, 2]


def test_request_cancelled_before_sending_is_not_sent(server: BatchServer) -> None:
    async def work() -> list[Completion]:
        async with ChatClient(spec(server, poll_s=0.2), patience=CALM) as client:
            begun = asyncio.create_task(client.complete(asked("gone", "kept")))
            await asyncio.sleep(0.05)
            waits = asyncio.create_task(client.complete(asked("kept")))
            await asyncio.sleep(0.05)
            begun.cancel()
            return await waits

    assert are_said(asyncio.run(work()), "kept")
    assert server.computed == {"kept": 1}


def test_repeated_request_waits_for_the_batch_under_way(server: BatchServer) -> None:
    server.is_held = True

    async def work() -> list[Completion]:
        async with ChatClient(spec(server), patience=CALM) as client:
            begun = asyncio.create_task(client.complete(asked("q")))
            await asyncio.to_thread(server.wait_for, lambda: server.computed["q"])
            begun.cancel()
            await asyncio.sleep(0.01)
            waits = asyncio.create_task(client.complete(asked("q")))
            await asyncio.sleep(0.05)
            server.is_held = False
            return await waits

    assert are_said(asyncio.run(work()), "q")
    assert server.computed == {"q": 1}


def test_budget_stops_the_job_after_its_answers_are_kept(server: BatchServer, tmp_path: Path) -> None:
    settings = spec(server, tmp_path).model_copy(update={"budget": Limits(requests=5)})

    async def work() -> None:
        async with ChatClient(settings, patience=CALM, admission=admission_for(settings)) as client:
            await client.complete(asked(*NAMES))

    with pytest.raises(BudgetExhausted):
        asyncio.run(work())
    assert sum(server.computed.values()) == 5
    assert sum(each.from_cache for each in completed(server, *NAMES, cache=tmp_path)) == 5


def test_several_endpoints_are_refused() -> None:
    two = ChatSpec(endpoints=["http://a", "http://b"], model="judge", batch={})
    with pytest.raises(ServiceError, match="batches are made at one endpoint"):
        ChatClient(two)
