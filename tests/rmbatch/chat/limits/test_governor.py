"""What the governor grants, with a clock that the test turns: rates, shares, debts, budgets, deaths and restarts."""

import heapq
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbatch.chat.limits.governor import AWAY_S, GATHER_S, GONE_S, NOTHING, Consumption, Governor, Report, Try
from rmbatch.chat.spec import Limits
from rmbatch.costs.prices import Price

PRICE = Price(input=1.0, output=10.0, cached=0.1)
ONE = Consumption(requests=1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Worker:
    """A client by the book: ``in_flight`` at a time, each answered after ``latency_s`` with ``cost``."""

    name: str
    in_flight: int = 64
    latency_s: float = 0.05
    likely: Consumption = ONE
    worst: Consumption = ONE
    cost: Consumption = ONE
    left: float = float("inf")
    numbers: "count[int]" = field(default_factory=count)
    reports: "count[int]" = field(default_factory=count)
    waiting: dict[int, Try] = field(default_factory=dict)
    ends: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    used: Consumption = NOTHING
    correction: Consumption = NOTHING
    exhausted: str = ""

    def report(self, now: float) -> Report:
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
            self.used += self.cost - ONE
            self.correction += self.cost - self.likely
        while len(self.waiting) + len(self.ends) < self.in_flight and self.left > 0:
            number = next(self.numbers)
            self.left -= 1
            self.waiting[number] = Try(number, self.likely, self.worst)
        worst, likely = times(self.worst, len(self.ends)), times(self.likely, len(self.ends))
        tries = tuple(self.waiting.values())
        return Report(self.name, next(self.reports), tries, self.used, worst, likely, self.correction)

    def ask(self, governor: Governor, now: float) -> float:
        """Returns when to ask again."""
        grant = governor.grant(self.report(now))
        for number in grant.numbers:
            del self.waiting[number]
            self.sent.append(now)
            heapq.heappush(self.ends, now + self.latency_s)
            self.used += ONE
        self.exhausted = grant.exhausted
        return now + grant.report_in_s


def times(used: Consumption, number: int) -> Consumption:
    return Consumption(*(number * getattr(used, name) for name in Consumption.__slots__))


def simulate(governor: Governor, clock: Clock, workers: list[Worker], seconds: float) -> None:
    """All ask when they should, for so long or until the budget is exhausted."""
    end, dues = clock.now + seconds, [(clock.now + 0.013 * place, place) for place in range(len(workers))]
    heapq.heapify(dues)
    while dues and dues[0][0] < end:
        clock.now, place = heapq.heappop(dues)
        again = workers[place].ask(governor, clock.now)
        if not workers[place].exhausted:
            heapq.heappush(dues, (again, place))
    clock.now = max(clock.now, end) if dues else clock.now


def in_any_minute(sent: list[float], weigh: Callable[[float], float] = lambda _: 1.0) -> float:
    """The most in 60 seconds, wherever they begin."""
    most, total, first = 0.0, 0.0, 0
    sent = sorted(sent)
    for at in sent:
        total += weigh(at)
        while sent[first] <= at - 60:
            total -= weigh(sent[first])
            first += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize(
    ("per_minute", "num_workers"),
    [
        (1200, 2),
        (1200, 1),
        (12_000, 3),
        (600, 12),  # less than one for each at a time
        (300, 2),
    ],
)
def test_a_rate_is_never_exceeded_and_always_reached(per_minute: int, num_workers: int) -> None:
    clock = Clock()
    governor = Governor(Limits(requests=per_minute), None, clock=clock)
    workers = [Worker(f"w{i}", in_flight=max(4, per_minute // 20 // num_workers)) for i in range(num_workers)]
    simulate(governor, clock, workers, 150)
    sent = [at for worker in workers for at in worker.sent]
    assert in_any_minute(sent) <= per_minute
    for start in (1000.0, 1030.0, 1090.0):  # the first minute too
        assert sum(start <= at < start + 60 for at in sent) >= 0.98 * per_minute
    shares = [len(worker.sent) for worker in workers]
    assert max(shares) <= 1.1 * min(shares) + 0.02 * per_minute  # the first gets what has gathered


def test_a_rate_of_a_few_a_minute() -> None:
    clock = Clock()
    workers = [Worker(f"w{i}") for i in range(4)]
    simulate(Governor(Limits(requests=10), None, clock=clock), clock, workers, 600)
    assert in_any_minute([at for worker in workers for at in worker.sent]) <= 10
    assert sum(len(worker.sent) for worker in workers) >= 96
    assert min(len(worker.sent) for worker in workers) >= 20  # none starves


def test_who_has_more_waiting_gets_more_and_nobody_starves() -> None:
    clock = Clock()
    large, small = Worker("large", in_flight=300), Worker("small", in_flight=30)
    simulate(Governor(Limits(requests=1200), None, clock=clock), clock, [large, small], 120)
    assert 7 < len(large.sent) / len(small.sent) < 13


def test_what_one_does_not_want_others_get() -> None:
    clock = Clock()
    busy, lazy = Worker("busy"), Worker("lazy", in_flight=1, latency_s=5.0)
    simulate(Governor(Limits(requests=1200), None, clock=clock), clock, [busy, lazy], 60)
    assert len(busy.sent) > 1140
    assert len(lazy.sent) >= 10


def test_who_was_silent_does_not_catch_up() -> None:
    clock = Clock()
    governor = Governor(Limits(requests=1200), None, clock=clock)
    early, late = Worker("early"), Worker("late")
    simulate(governor, clock, [early], 60)
    before = len(early.sent)
    simulate(governor, clock, [early, late], 10)
    assert len(early.sent) - before > 85  # half of 200


def test_without_a_limit_nothing_waits() -> None:
    governor = Governor(None, Limits(requests=10_000))
    worker = Worker("w", in_flight=500)
    again = worker.ask(governor, 0.0)
    assert len(worker.sent) == 500
    assert again < 0.05


@pytest.mark.parametrize("guess", [100, 1000, 5000])  # far too little, right, far too much
def test_tokens_are_corrected_by_what_answers_say(guess: int) -> None:
    clock = Clock()
    cost, likely = Consumption(1, 600, 400), Consumption(1, guess // 2, guess // 2)
    workers = [Worker(f"w{i}", latency_s=0.5, likely=likely, cost=cost) for i in range(2)]
    simulate(Governor(Limits(tokens=1_200_000), None, clock=clock), clock, workers, 240)
    sent = [at for worker in workers for at in worker.sent]
    settled = [at for at in sent if at > 1060]  # the first may be off by what was under way
    assert in_any_minute(settled) * 1000 <= 1_200_000 * (1.02 if guess >= 1000 else 1.15)
    assert sum(1090 <= at < 1210 for at in sent) * 1000 >= 0.97 * 2 * 1_200_000


def test_money_per_minute() -> None:
    clock = Clock()
    cost = Consumption(1, 1000, 100, 500)  # $0.0005 + 0.00005 + 0.001
    workers = [Worker(f"w{i}", likely=cost, cost=cost) for i in range(2)]
    simulate(Governor(Limits(usd=1.55), None, PRICE, clock=clock), clock, workers, 180)
    assert 980 <= in_any_minute([at for worker in workers for at in worker.sent]) <= 1001


def test_a_request_larger_than_a_minute_goes_and_is_waited_off() -> None:
    clock = Clock()
    huge = Consumption(1, 3000, 0)
    worker = Worker("w", likely=huge, cost=huge)
    simulate(Governor(Limits(tokens=1000), None, clock=clock), clock, [worker], 600)
    gaps = [later - earlier for earlier, later in zip(worker.sent, worker.sent[1:])]
    assert len(worker.sent) == 4
    assert all(180 < gap < 186 for gap in gaps[1:])


def test_all_limits_hold_together() -> None:
    clock = Clock()
    cost = Consumption(1, 500, 500)
    worker = Worker("w", likely=cost, cost=cost)
    simulate(Governor(Limits(requests=600, tokens=120_000), None, clock=clock), clock, [worker], 120)
    assert 117 <= in_any_minute(worker.sent) <= 121


def test_a_budget_of_requests_is_exact() -> None:
    clock = Clock()
    workers = [Worker(f"w{i}") for i in range(3)]
    governor = Governor(None, Limits(requests=1000), clock=clock)
    simulate(governor, clock, workers, 60)
    assert sum(len(worker.sent) for worker in workers) == 1000
    assert all("1,000 requests of 1,000 requests" in worker.exhausted for worker in workers)
    assert "raise budget.requests" in workers[0].exhausted
    assert governor.usage()["requests"] == 1000


@pytest.mark.parametrize("budget", [Limits(tokens=100_000), Limits(usd=0.5)])
def test_a_budget_is_never_exceeded_where_the_worst_is_known(budget: Limits) -> None:
    clock = Clock()
    workers = [
        Worker("cheap", cost=Consumption(1, 300, 20), likely=Consumption(1, 300, 100), worst=Consumption(1, 400, 1000)),
        Worker(
            "dear", cost=Consumption(1, 400, 1000), likely=Consumption(1, 300, 100), worst=Consumption(1, 400, 1000)
        ),
    ]
    governor = Governor(None, budget, PRICE, clock=clock)
    simulate(governor, clock, workers, 600)
    spent = Consumption(**governor.usage())
    assert all(worker.exhausted for worker in workers)
    for what, cap, worst in (("tokens", budget.tokens, 1400), ("usd", budget.usd, 0.0104)):
        if cap is not None:
            assert cap - worst < spent.measure(what, PRICE) <= cap  # type: ignore[arg-type]


def test_what_does_not_fit_the_whole_budget_is_said_at_once() -> None:
    governor = Governor(None, Limits(tokens=1000))
    worker = Worker("w", worst=Consumption(1, 500, 600))
    worker.ask(governor, 0.0)
    assert not worker.sent
    assert "0 tokens of 1,000 tokens are spent, and the next request may take 1,100 tokens" in worker.exhausted


def test_not_exhausted_while_running_requests_may_leave_some() -> None:
    clock = Clock()
    governor = Governor(None, Limits(tokens=1000), clock=clock)
    worker = Worker("w", in_flight=2, latency_s=10, worst=Consumption(1, 0, 600), cost=Consumption(1, 0, 100))
    worker.ask(governor, clock.now)
    assert (len(worker.sent), worker.exhausted) == (1, "")
    clock.now += 10
    worker.ask(governor, clock.now)
    assert (len(worker.sent), worker.exhausted) == (2, "")


def test_a_budget_is_the_jobs_and_not_the_runs() -> None:
    clock, sent, spent = Clock(), 0, "{}"
    for run in range(3):
        governor = Governor(None, Limits(requests=1000), used_before=json.loads(spent), clock=clock)
        worker = Worker(f"run {run}", left=400)
        simulate(governor, clock, [worker], 5)
        sent, spent = sent + len(worker.sent), json.dumps(governor.usage())
    assert sent == 1000
    assert worker.exhausted
    more = Worker("with more")
    simulate(Governor(None, Limits(requests=1200), used_before=json.loads(spent), clock=clock), clock, [more], 5)
    assert len(more.sent) == 200


def test_usage_is_plain_counts() -> None:
    governor = Governor(None, Limits(tokens=10**9), used_before={"requests": 5, "prompt_tokens": 7})
    worker = Worker("w", in_flight=2, cost=Consumption(1, 100, 10, 50), left=2)
    worker.ask(governor, 0.0)
    worker.ask(governor, 1.0)
    assert governor.usage() == {"requests": 7, "prompt_tokens": 207, "completion_tokens": 20, "cached_tokens": 100}


def test_of_a_dead_worker_others_get_the_share() -> None:
    clock = Clock()
    governor = Governor(Limits(requests=1200), None, clock=clock)
    alive, dead = Worker("alive"), Worker("dead")
    simulate(governor, clock, [alive, dead], 30)
    before = len(alive.sent)
    simulate(governor, clock, [alive], 30)
    assert len(alive.sent) - before > 590 - 20 * AWAY_S


def test_what_a_dead_worker_had_under_way_counts_as_answered() -> None:
    clock = Clock()
    governor = Governor(None, Limits(tokens=10_000), clock=clock)
    worst, likely = Consumption(1, 500, 4000), Consumption(1, 500, 500)
    dead = Worker("dead", latency_s=100, worst=worst, likely=likely)
    dead.ask(governor, clock.now)
    dead.ask(governor, clock.now)
    assert len(dead.sent) == 2
    other = Worker("other", worst=worst, likely=likely, cost=likely)
    other.ask(governor, clock.now)
    assert (other.sent, other.exhausted) == ([], "")  # it may still be answered, and cost its worst
    clock.now += GONE_S + 1
    other.ask(governor, clock.now)
    assert len(other.sent) == 1
    assert governor.usage()["completion_tokens"] == 1000
    clock.now += 100
    dead.ask(governor, clock.now)  # it was not dead, and its answers have cost nothing
    other.ask(governor, clock.now)
    assert governor.usage()["completion_tokens"] == 500


def test_a_worker_that_leaves_gives_back_what_was_set_aside() -> None:
    clock = Clock()
    governor = Governor(Limits(requests=60), Limits(requests=10), clock=clock)
    one, other = Worker("one", in_flight=1), Worker("an other", in_flight=1)
    one.ask(governor, clock.now)
    other.ask(governor, clock.now)  # nothing left
    clock.now += 1.1
    one.ask(governor, clock.now)  # the next is for the other, whose turn it is
    assert (len(one.sent), len(other.sent)) == (1, 0)
    governor.grant(replace(other.report(clock.now), waiting=(), leaves=True))
    one.ask(governor, clock.now)
    assert len(one.sent) == 2


def test_grants_that_were_not_used_come_back() -> None:
    clock = Clock()
    governor = Governor(Limits(requests=1200), Limits(requests=20), clock=clock)
    tries = tuple(Try(number, ONE, ONE) for number in range(10))
    numbers = governor.grant(Report("w", 1, tries)).numbers
    assert len(numbers) == 10
    unused = Report("w", 2, (), correction=Consumption(requests=-10))
    governor.grant(unused)
    assert governor.usage()["requests"] == 0
    again = tuple(Try(number, ONE, ONE) for number in range(10, 20))
    assert len(governor.grant(Report("w", 3, again, correction=Consumption(requests=-10))).numbers) == 10


def test_a_lease_that_was_lost_is_given_again_and_counted_once() -> None:
    clock = Clock()
    governor = Governor(Limits(requests=600), Limits(requests=10), clock=clock)
    worker = Worker("w", in_flight=5)
    first = governor.grant(worker.report(clock.now))  # and the answer is lost
    assert len(first.numbers) == 5
    clock.now += 0.5
    worker.ask(governor, clock.now)
    assert len(worker.sent) == 5
    clock.now += 0.5
    simulate(governor, clock, [worker], 10)
    assert len(worker.sent) == 10
    assert governor.usage()["requests"] == 10


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["ask", "lose", "stale", "restart"]), st.floats(0, 1.5))),
    st.integers(1, 60),
)
def test_no_order_of_reports_and_restarts_exceeds_a_budget(steps: list[Any], cap: int) -> None:
    clock = Clock()
    budget, worst = Limits(requests=cap, tokens=cap * 100), Consumption(1, 60, 40)
    governor = Governor(Limits(requests=600), budget, clock=clock)
    workers = [Worker(f"w{i}", 8, 0.3, Consumption(1, 10, 10), worst, Consumption(1, 50, 40)) for i in range(3)]
    old: Report | None = None
    for place, what, seconds in steps:
        clock.now += seconds
        if what == "ask":
            workers[place].ask(governor, clock.now)
        elif what == "lose":
            old = workers[place].report(clock.now)
            governor.grant(old)
        elif what == "stale" and old is not None:
            governor.grant(old)
        elif what == "restart":
            memory = governor.memory()
            governor = Governor(Limits(requests=600), budget, clock=clock, is_replacement=True)
            governor.remember(memory)
            simulate(governor, clock, workers, GATHER_S)
    simulate(governor, clock, workers, 30)
    sent = sum(len(worker.sent) for worker in workers)
    assert sent == cap
    assert governor.usage()["requests"] == cap
    assert Consumption(**governor.usage()).measure("tokens", None) == sum(
        worker.used.measure("tokens", None) for worker in workers
    )


def test_a_report_that_was_overtaken_changes_nothing() -> None:
    governor = Governor(None, Limits(requests=10))
    worker = Worker("w", in_flight=2)
    old = worker.report(0.0)
    worker.ask(governor, 0.0)
    worker.ask(governor, 1.0)
    spent = governor.usage()
    assert governor.grant(old).numbers == ()
    assert governor.usage() == spent


def test_restarted_governor_hears_all_before_it_grants() -> None:
    clock = Clock()
    cost = Consumption(1, 100, 100)
    workers = [Worker(f"w{i}", in_flight=8, likely=cost, worst=cost, cost=cost) for i in range(3)]
    first = Governor(None, Limits(tokens=100_000), used_before={"prompt_tokens": 1000}, clock=clock)
    simulate(first, clock, workers, 2)
    (dead, *alive), memory = workers, first.memory()
    clock.now += 1
    second = Governor(
        None, Limits(tokens=100_000), used_before={"prompt_tokens": 1000}, clock=clock, is_replacement=True
    )
    before = sum(len(worker.sent) for worker in alive)
    second.remember(memory)
    assert second.usage() == first.usage()
    simulate(second, clock, alive, GATHER_S - 1)
    assert sum(len(worker.sent) for worker in alive) == before
    simulate(second, clock, alive, 60)
    assert alive[0].exhausted
    second.remember(memory)
    told = Consumption(**second.usage()).measure("tokens", None)
    assert told == 1000 + sum(worker.used.measure("tokens", None) for worker in (*alive, dead))
    assert 100_000 - 200 < told <= 100_000


def test_a_wait_that_a_server_asked_for_is_told_to_all() -> None:
    clock = Clock()
    governor = Governor(Limits(requests=600), None, clock=clock)
    governor.grant(Report("one", 1, holds={"http://a": 5.0}))
    clock.now += 1
    # told to the other, and told back by it a little later than it is: that does not make it longer
    for number in range(1, 20):
        holds = governor.grant(Report("other", number, holds={"http://a": 4.1 - number / 10})).holds
        assert holds == {"http://a": pytest.approx(5.0 - (clock.now - 1000))}
        clock.now += 0.1
    clock.now += 5
    assert governor.grant(Report("other", 100)).holds == {}


def test_money_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="give its price"):
        Governor(None, Limits(usd=1.0))


def test_used_adds_and_is_measured() -> None:
    used = Consumption(1, 1000, 100, 400) + Consumption(2, 0, 100) - Consumption(0, 0, 100)
    assert used == Consumption(3, 1000, 100, 400)
    assert used.measure("requests", None) == 3
    assert used.measure("tokens", None) == 1100
    assert used.measure("usd", PRICE) == pytest.approx((600 * 1 + 400 * 0.1 + 100 * 10) / 1e6)
    assert Counter(json.loads(json.dumps({"requests": 3}))) == {"requests": 3}
