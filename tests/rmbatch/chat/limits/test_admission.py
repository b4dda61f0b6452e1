"""How a client waits for its governor: in order, cancelled, out of budget, without a governor for a while."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rmbatch.chat.client import BudgetExhausted, ChatClient, ChatRequest, ChatSpec
from rmbatch.chat.completion import Completion
from rmbatch.chat.limits import admission
from rmbatch.chat.limits.admission import GovernedAdmission, SourceLost, admission_for, local_source
from rmbatch.chat.limits.governor import BURST_S, SHARE, Governor, Grant, Report
from rmbatch.chat.spec import Endpoint, Limits
from rmbatch.costs.prices import Price, Usage
from rmbatch.endpoints.balancer import Patience
from rmbatch.endpoints.errors import ServiceLost
from tests.servers.hostile import HostileServer, Status

PRICE = Price(input=1.0, output=10.0)


class Scripted:
    """A source that grants as the test says, and keeps the reports."""

    def __init__(self, *most: int) -> None:
        self.most = list(most)
        self.reports: list[Report] = []
        self.holds: Mapping[str, float] = {}
        self.exhausted = ""

    async def __call__(self, report: Report) -> Grant:
        self.reports.append(report)
        most = self.most.pop(0) if self.most else 1000
        if most < 0:
            raise SourceLost("away")
        numbers = tuple(each.number for each in report.waiting[:most])
        return Grant(numbers, 0.001, self.holds, self.exhausted)


class Lagging:
    """A governor that is far away."""

    def __init__(self, governor: Governor, lag_s: float) -> None:
        self.governor, self.lag_s = governor, lag_s

    async def __call__(self, report: Report) -> Grant:
        await asyncio.sleep(self.lag_s)
        grant = self.governor.grant(report)
        await asyncio.sleep(self.lag_s)
        return grant


def said(prompt: int, completion: int) -> Completion:
    return Completion(("yes",), usage=Usage(prompt, completion))


def test_earlier_tries_go_first_and_all_in_order() -> None:
    async def work() -> list[str]:
        made, order = GovernedAdmission(Scripted(0, 1, 2, 1)), []

        async def one(name: str, again: bool) -> None:
            permit = await made.admit(100, again=again)
            order.append(name)
            permit.settle(None)

        async with asyncio.TaskGroup() as tasks:
            for name, again in (("a", False), ("b", False), ("c", True), ("d", False), ("e", True)):
                tasks.create_task(one(name, again))
        await made.close()
        return order

    assert asyncio.run(work()) == ["c", "e", "a", "b", "d"]


def test_who_is_cancelled_loses_nothing() -> None:
    class Slow(Scripted):
        async def __call__(self, report: Report) -> Grant:
            grant = await super().__call__(report)
            await asyncio.sleep(0.02)
            return grant

    async def work() -> list[Report]:
        source = Slow(0)
        made = GovernedAdmission(source)
        early, late, stays = (asyncio.create_task(made.admit(100, again=False)) for _ in range(3))
        await asyncio.sleep(0)
        early.cancel()  # while it waits
        await asyncio.sleep(0.03)
        late.cancel()  # while the grant for it is on its way
        (await stays).settle(None)
        await asyncio.wait([early, late])
        assert early.cancelled()
        assert late.cancelled()
        await made.close()
        return source.reports

    last = asyncio.run(work())[-1]
    assert last.leaves
    assert last.used.requests == 1
    assert last.under_way.requests == last.likely.requests == 0
    assert last.correction.requests == -1  # numbers to who was gone


def test_cancelled_caller_gives_its_grant_back() -> None:
    class Cancelling(Scripted):
        waits: "asyncio.Task[Any]"

        async def __call__(self, report: Report) -> Grant:
            asyncio.get_running_loop().call_soon(self.waits.cancel)  # after it is numbers, before who waits can run
            return await super().__call__(report)

    async def work() -> Report:
        source = Cancelling()
        made = GovernedAdmission(source)
        source.waits = waits = asyncio.create_task(made.admit(100, again=False))
        await asyncio.wait([waits])
        assert waits.cancelled()
        await made.close()
        return source.reports[-1]

    last = asyncio.run(work())
    assert (last.used.requests, last.under_way.requests, last.correction.requests) == (0, 0, -1)


def test_usage_is_told_as_totals_and_corrects_what_was_likely() -> None:
    async def work() -> list[Report]:
        source = Scripted()
        made = GovernedAdmission(source)
        for completion in (said(200, 50), None, Completion(("untold",)), said(200, 50)):
            permit = await made.admit(400, again=False, max_tokens=500)
            permit.settle(completion)
            permit.settle(completion)  # once is enough
        await made.close()
        return source.reports

    *_, first, last = asyncio.run(work())
    assert last.used.requests == 4
    assert last.used.prompt_tokens == 200 + 0 + 200 + 200  # nothing for a failure, the likely where it is not told
    assert last.used.completion_tokens == 50 + 0 + 50 + 50
    assert last.under_way.requests == 0
    # likely were 100 + 500 in the first, then what the first had
    assert (last.correction.prompt_tokens, last.correction.completion_tokens) == (100 - 200, -450 - 50)
    assert first.number < last.number


def test_the_worst_is_what_can_happen() -> None:
    async def work() -> tuple[Report, Report]:
        source = Scripted(0)
        made = GovernedAdmission(source)
        task = asyncio.create_task(made.admit(400, again=False, max_tokens=500))
        (await task).settle(said(900, 700))  # pictures in the prompt, and more than was asked for
        (await made.admit(400, again=False, max_tokens=500)).settle(None)
        await made.close()
        return source.reports[-2], source.reports[0]

    later, first = asyncio.run(work())
    (tried,) = first.waiting
    assert (tried.worst.prompt_tokens, tried.worst.completion_tokens) == (400, 500)
    (tried,) = later.waiting
    assert (tried.worst.prompt_tokens, tried.worst.completion_tokens) == (900, 700)


def test_used_up_budget_is_told_to_waiting_and_later_callers() -> None:
    async def work() -> None:
        made = GovernedAdmission(local_source(Governor(None, Limits(requests=3))))
        tasks = [asyncio.create_task(made.admit(100, again=False)) for _ in range(5)]
        for task in tasks[:3]:
            (await task).settle(said(1, 1))
        done = await asyncio.gather(*tasks[3:], return_exceptions=True)
        assert [type(each) for each in done] == [BudgetExhausted] * 2
        with pytest.raises(BudgetExhausted, match=r"3 requests of 3 requests are spent.*raise budget.requests"):
            await made.admit(100, again=True)
        await made.close()

    asyncio.run(work())


def test_a_source_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_PAUSE_S", 0.01)

    async def work() -> Scripted:
        source = Scripted(-1, -1, 1, -1)
        made = GovernedAdmission(source)
        for _ in range(2):
            (await made.admit(100, again=False)).settle(said(10, 10))
        await made.close()
        return source

    source = asyncio.run(work())
    assert source.reports[-1].used.requests == 2
    assert [each.number for each in source.reports] == list(range(len(source.reports)))


def test_a_source_that_stays_away_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_PAUSE_S", 0.01)

    async def work() -> None:
        made = GovernedAdmission(Scripted(*[-1] * 1000), lost_after_s=0.05)
        with pytest.raises(ServiceLost, match="the governor does not answer for 0 s: away"):
            await made.admit(100, again=False)
        await made.close()

    asyncio.run(work())


def test_an_error_in_the_source_reaches_who_waits() -> None:
    class Broken:
        async def __call__(self, report: Report) -> Grant:
            raise ZeroDivisionError("a mistake")

    async def work() -> None:
        with pytest.raises(ZeroDivisionError):
            await GovernedAdmission(Broken()).admit(100, again=False)

    asyncio.run(work())


def test_closing_ends_who_waits_and_leaves_no_task() -> None:
    async def work() -> None:
        source = Scripted(*[0] * 1000)
        made = GovernedAdmission(source)
        waits = asyncio.create_task(made.admit(100, again=False))
        await asyncio.sleep(0.01)
        await made.close()
        with pytest.raises(ServiceLost):
            await waits
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert source.reports[-1].leaves
        unused = GovernedAdmission(source)
        num_reports = len(source.reports)
        await unused.close()
        assert len(source.reports) == num_reports

    asyncio.run(work())


def test_it_serves_one_event_loop_after_the_other() -> None:
    source = Scripted()
    made = GovernedAdmission(source)

    async def work() -> None:
        (await made.admit(100, again=False)).settle(said(1, 1))

    for _ in range(3):
        asyncio.run(work())
    asyncio.run(made.close())
    assert source.reports[-1].used.requests == 3
    assert source.reports[-1].leaves


def test_one_report_serves_many() -> None:
    async def work() -> Scripted:
        source = Scripted()
        made = GovernedAdmission(source)

        async def one() -> None:
            for _ in range(5):
                permit = await made.admit(100, again=False)
                await asyncio.sleep(0.02)
                permit.settle(None)

        await asyncio.gather(*(one() for _ in range(100)))
        await made.close()
        return source

    assert len(asyncio.run(work()).reports) < 100  # for 500 requests


@pytest.mark.parametrize("lag_s", [0.0, 0.05])
def test_two_clients_share_a_rate(lag_s: float) -> None:
    per_minute, seconds = 12_000, 1.5
    sent: list[float] = []

    async def work() -> None:
        governor = Governor(Limits(requests=per_minute), None)
        clients = [GovernedAdmission(Lagging(governor, lag_s)) for _ in range(2)]
        ends = time.monotonic() + seconds

        async def one(client: GovernedAdmission) -> None:
            while time.monotonic() < ends:
                permit = await client.admit(100, again=False)
                sent.append(time.monotonic())
                await asyncio.sleep(0.05)
                permit.settle(said(10, 10))

        await asyncio.gather(*(one(client) for client in clients for _ in range(64)))
        await asyncio.gather(*(client.close() for client in clients))

    asyncio.run(work())
    began = sent[0]
    num = sum(at < began + seconds for at in sent)
    expected = SHARE * per_minute / 60 * seconds
    assert 0.95 * expected < num <= expected + SHARE * BURST_S * per_minute / 60 + 1  # what had gathered


def test_without_limits_there_is_none() -> None:
    assert admission_for(ChatSpec(endpoints=[Endpoint(url="http://a")], model="m")) is None


# With real clients and servers.

CALM = Patience(attempts=4, timeout_s=10, backoff_s=0.01, max_backoff_s=0.05, cooldown_s=0.1, lost_after_s=10)


def key(path: str, body: Any) -> Any:
    return path if body is None else body["messages"][-1]["content"]


def yes(path: str, body: Any) -> Any:
    if body is None:
        return {"data": [{"id": "judge"}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 5}}


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer(yes, key) as running:
        yield running


def asked(*names: str) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": name}]) for name in names]


@pytest.mark.parametrize(
    ("settings", "request_settings", "bound"),
    [
        ({}, {}, 1024),  # nothing bounds it: a guess
        ({"max_tokens": 100}, {}, 100),
        ({"max_tokens": 100, "n": 3, "temperature": 1.0}, {}, 300),
        ({"extra_body": {"max_completion_tokens": 50}}, {}, 50),
        ({"max_tokens": 100}, {"max_tokens": 7000}, 7000),
        ({"max_tokens": 100, "n": 3, "temperature": 1.0}, {"max_tokens": 7, "n": 2}, 14),
        ({"extra_body": {"max_completion_tokens": 50}}, {"max_tokens": 8}, 8),
    ],
)
def test_budget_reserves_bound_of_request(
    server: HostileServer, settings: dict[str, Any], request_settings: dict[str, Any], bound: int
) -> None:
    spec = ChatSpec(endpoints=[Endpoint(url=server.url)], model="judge", budget=Limits(requests=10), **settings)
    source = Scripted()

    async def work() -> None:
        async with ChatClient(spec, patience=CALM, admission=admission_for(spec, source)) as client:
            await client.complete([ChatRequest([{"role": "user", "content": "a"}], **request_settings)])

    asyncio.run(work())
    (tried,) = source.reports[0].waiting
    assert (tried.likely.completion_tokens, tried.worst.completion_tokens) == (bound, bound)


def test_budget_reserves_more_where_answers_exceed_their_bound() -> None:
    async def work() -> Report:
        source = Scripted()
        made = GovernedAdmission(source)
        (await made.admit(400, again=False, max_tokens=10)).settle(said(100, 15))
        (await made.admit(400, again=False, max_tokens=1000)).settle(said(100, 900))
        (await made.admit(400, again=False, max_tokens=10)).settle(said(100, 5))
        await made.close()
        return [report for report in source.reports if report.waiting][-1]

    (tried,) = asyncio.run(work()).waiting
    assert (tried.likely.completion_tokens, tried.worst.completion_tokens) == (15, 15)


def test_a_budget_stops_a_client_and_goes_on_with_more(server: HostileServer, tmp_path: Path) -> None:
    spec = ChatSpec(endpoints=[Endpoint(url=server.url)], model="judge", in_flight=4, max_tokens=5, cache=str(tmp_path))
    requests = asked(*(f"question {number}" for number in range(16)))

    async def run(budget: Limits, spent: dict[str, int]) -> dict[str, int]:
        governor = Governor(None, budget, PRICE, spent)
        made = GovernedAdmission(local_source(governor))
        try:
            async with ChatClient(spec, patience=CALM, admission=made) as client:
                await client.complete(requests)
        finally:
            await made.close()
            spent.update(governor.usage())
        return spent

    spent: dict[str, int] = {}
    server.plan("question 2", Status(500))
    with pytest.raises(BudgetExhausted, match="10 requests of 10 requests"):
        asyncio.run(run(Limits(requests=10), spent))
    assert spent == {"requests": 10, "prompt_tokens": 180, "completion_tokens": 45, "cached_tokens": 0}
    asyncio.run(run(Limits(requests=17), spent))
    assert spent == {"requests": 17, "prompt_tokens": 320, "completion_tokens": 80, "cached_tokens": 0}
    assert all(server.seen[f"question {number}"].count("200") == 1 for number in range(16))  # none was paid for twice


def test_a_wait_that_one_was_asked_for_is_kept_by_the_other(server: HostileServer) -> None:
    times: dict[str, float] = {}

    def told(path: str, body: Any) -> Any:
        times.setdefault(key(path, body), time.monotonic())
        return yes(path, body)

    server._answer = told
    spec = ChatSpec(endpoints=[Endpoint(url=server.url)], model="judge", in_flight=4, rate=Limits(requests=6000))

    async def work() -> None:
        source = local_source(Governor(spec.rate, None))
        made = [admission_for(spec, source) for _ in range(2)]
        clients = [ChatClient(spec, patience=CALM, admission=each) for each in made]
        for each, client in zip(made, clients):
            assert each is not None
            each.servers = client._endpoints
            await client.complete(asked(f"first {id(client)}"))
        server.plan("slow", Status(429, {"Retry-After": "1"}))
        slow = asyncio.create_task(clients[0].complete(asked("slow")))
        await asyncio.sleep(0.6)  # reports are made every half a second while nothing waits
        await clients[1].complete(asked("warm"))
        times["asked"] = time.monotonic()
        await clients[1].complete(asked("other"))
        await slow
        for each, client in zip(made, clients):
            assert each is not None
            await each.close()
            await client.close()

    asyncio.run(work())
    assert times["other"] - times["slow"] > 0.9


def test_a_wait_for_a_server_that_only_others_ask_is_no_fault() -> None:
    class Held:
        def holds(self) -> dict[str, float]:
            return {}

        def hold(self, url: str, seconds: float) -> None:
            raise KeyError(url)

    async def work() -> None:
        source = Scripted()
        source.holds = {"http://other": 5.0}
        made = GovernedAdmission(source, servers=Held())
        (await made.admit(10, again=False)).settle(said(10, 1))
        (await made.admit(10, again=False)).settle(said(10, 1))
        await made.close()

    asyncio.run(work())


def test_possible_costs_count_and_unsent_requests_do_not() -> None:
    async def work() -> dict[str, int]:
        governor = Governor(None, Limits(requests=100), PRICE)
        made = GovernedAdmission(local_source(governor))
        (await made.admit(400, again=False, max_tokens=50)).settle(None)  # turned away
        (await made.admit(400, again=False, max_tokens=50)).settle(None, may_have_cost=True)  # a timeout
        (await made.admit(400, again=False, max_tokens=50)).give_back()
        made.count_answer(said(7, 3))  # of a batch that an earlier run has sent
        await made.close()
        return governor.usage()

    spent = asyncio.run(work())
    assert spent["requests"] == 2
    assert spent["completion_tokens"] == 50 + 3
    assert spent["prompt_tokens"] > 7
