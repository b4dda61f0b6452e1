"""Decides which worker may send the next chat request. One governor holds a job's limits per minute and its budget.

It is pure logic with a clock: it neither waits nor sends. Workers ask it through ``admission.py``, and across processes
through ``pipeline/actors/governor.py``. It does not slow down after a 429: each worker does that itself for each server
(``endpoints/balancer.py``: it falls to 0.7 of the requests under way, and rises as the server serves). Through the
governor workers only tell each other how long a server has asked to wait.

    governor = Governor(Limits(requests=1200), Limits(usd=50), price, used_before=before)
    grant = governor.grant(Report("worker 7", 1, waiting=(Try(1, likely, worst),)))
    grant.numbers, grant.report_in_s, grant.exhausted
    governor.usage()                                     # plain counts: save them for the governor of the next run

Rate: a limit refills evenly, at 98.5 % of its value, and at most 0.75 s of it gathers. So no minute has more requests
than its limit, and none has less than 98 % of it while requests wait. Tokens and money are taken by an estimate, and
corrected when the answer tells its usage. After an underestimate the governor waits until the debt is refilled. So a
minute may exceed the limit by the error of its last estimate, or by its last request where that is large.

Budget: a request is granted only if three things fit into the budget together: the usage so far, the worst case of all
that is under way, and its own worst case. So the limit on requests is exact. The limits on tokens and money hold as far
as ``worst`` is the worst case. When no request fits and nothing is under way, the budget is exhausted for good.

Grants go to waiting requests, by number. Workers take turns, in proportion to the requests that wait there. A report
holds a worker's whole state, as totals. So a report that is lost, comes twice or meets a new governor does no harm.
When a worker dies, what was set aside for it goes back within 2 s. What it had under way counts as answered.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from rmbatch.chat.spec import Limits
from rmbatch.costs.prices import Price, cost

SHARE = 0.985
"""The part of a limit per minute that is granted."""
BURST_S = 0.75
"""The most that gathers while nobody takes it, in seconds of the limit. Workers wait less between two reports."""
SOON_S, LATER_S, LATEST_S = 0.02, 0.2, 0.5
"""The time until a worker's next report: where it got all it asked for, where it did not, and at most."""
REPORTS_PER_S = 400
"""The reports of all workers together. With many workers each reports less often."""
AWAY_S = 2.0
"""A worker without a report for this long gets no turn."""
GONE_S = 30.0
"""A worker without a report for this long counts as dead."""
GATHER_S = 6.0
"""The time for which a replacement only reads reports. All workers report within it."""
_SAME_HOLD_S = 0.5
"""A hold that is longer by less than this is the same hold, delayed on its way."""

What = Literal["requests", "tokens", "usd"]
_WHATS: tuple[What, ...] = ("requests", "tokens", "usd")


@dataclass(frozen=True, slots=True)
class Consumption:
    """Counts of requests and tokens, used or expected. They add and subtract."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """The prompt tokens that the provider had cached."""

    def __add__(self, other: "Consumption") -> "Consumption":
        return Consumption(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )

    def __sub__(self, other: "Consumption") -> "Consumption":
        return Consumption(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.cached_tokens - other.cached_tokens,
        )

    def measure(self, what: What, price: Price | None) -> float:
        """Requests, tokens of prompts and answers, or US dollars."""
        if what == "requests":
            return self.requests
        if what == "tokens":
            return self.prompt_tokens + self.completion_tokens
        if price is None:
            return 0.0
        return cost(asdict(self), price).known_usd


NOTHING = Consumption()


@dataclass(frozen=True, slots=True)
class Try:
    """One request that waits to be sent."""

    number: int
    """Unique in its worker."""
    likely: Consumption
    """The expected usage, for the limits per minute."""
    worst: Consumption
    """The highest possible usage, for the budget."""


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's state. All counts are totals since the worker began."""

    worker: str
    """A unique name."""
    number: int
    """The number of this report. It grows."""
    waiting: tuple[Try, ...] = ()
    """The waiting requests, in the order in which to send them."""
    used: Consumption = NOTHING
    """Requests that were granted and not given back, and the tokens of answers."""
    under_way: Consumption = NOTHING
    """The worst case of the requests under way."""
    likely: Consumption = NOTHING
    """The likely usage of the requests under way."""
    correction: Consumption = NOTHING
    """The usage of answers beyond their likely usage, less the grants that were given back."""
    holds: Mapping[str, float] = field(default_factory=dict)
    """By server that has asked to wait: the seconds left."""
    leaves: bool = False
    """It is the worker's last."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a worker may do until its next report."""

    numbers: tuple[int, ...] = ()
    """The tries to send now."""
    report_in_s: float = LATER_S
    """The time until its next report."""
    holds: Mapping[str, float] = field(default_factory=dict)
    """By server that nobody should ask: the seconds left."""
    exhausted: str = ""
    """Why nothing will be granted any more; else empty."""


class Governor:
    """The limits of one model's requests, shared by workers."""

    def __init__(
        self,
        rate: Limits | None,
        budget: Limits | None,
        price: Price | None = None,
        used_before: Mapping[str, int] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        is_replacement: bool = False,
    ) -> None:
        """``used_before``: the ``usage()`` of an earlier run. ``is_replacement``: it replaces a dead one, so it reads
        the reports of all workers before it grants anything. Raises ValueError for usd without a price."""
        if price is None and any(limits is not None and limits.usd is not None for limits in (rate, budget)):
            raise ValueError("usd: what a request costs is not known; give its price")
        self._buckets = {what: _Bucket(limit) for what, limit in _limits(rate)}
        self._caps = dict(_limits(budget))
        self._price = price
        self._used_before = Consumption(**(used_before or {}))
        self._committed = self._used_before
        """The usage so far, and the worst case of all grants under way."""
        self._clock = clock
        self._filled_at = clock()
        self._opens_at = self._filled_at + (GATHER_S if is_replacement else 0.0)
        self._workers: dict[str, _Worker] = {}
        self._turn = 0.0
        self._holds: dict[str, float] = {}
        self._exhausted = ""

    def grant(self, report: Report) -> Grant:
        """Read a worker's report, and grant what it may send now."""
        now = self._clock()
        self._fill(now)
        worker = self._workers.setdefault(report.worker, _Worker())
        numbers: tuple[int, ...] = ()
        if report.number > worker.number:  # else a later report has overtaken it
            self._read_report(worker, report, now)
            self._drop_absent(now)
            if now >= self._opens_at and not self._exhausted:
                self._allot()
            numbers = self._deliver(worker)
        holds = {url: until - now for url, until in self._holds.items() if until > now}
        return Grant(numbers, self._next_report_s(worker, now), holds, self._exhausted)

    def usage(self) -> dict[str, int]:
        """Requests that were granted and tokens of answers, in this run and earlier ones.

        The tokens of a request under way count when it is answered, or when its worker is dead.
        """
        return asdict(self._total())

    def memory(self) -> dict[str, Consumption]:
        """The usage of each worker, for a governor that replaces this one."""
        return {name: worker.used for name, worker in self._workers.items()}

    def remember(self, memory: Mapping[str, Consumption]) -> None:
        """Count the usage of workers that may be dead. Workers that live report their usage themselves."""
        for name in memory.keys() - self._workers.keys():
            worker = self._workers[name] = _Worker(used=memory[name], is_gone=True)
            self._count(worker, worker.at_worst())

    def _read_report(self, worker: "_Worker", report: Report, now: float) -> None:
        if not worker.waiting:
            worker.turn = max(worker.turn, self._turn)  # it gets no credit for the time in which it asked for nothing
        if worker.number < 0:
            worker.correction = report.correction  # another governor has applied the corrections up to now
        for what, bucket in self._buckets.items():
            bucket.level -= (report.correction - worker.correction).measure(what, self._price)
        self._give_back(worker.update(report, now))
        for url, wait_s in report.holds.items():
            if now + wait_s > self._holds.get(url, now) + _SAME_HOLD_S:
                self._holds[url] = now + wait_s
        if report.leaves:
            self._give_back(worker.mark_dead())
        self._count(worker, worker.at_worst())

    def _drop_absent(self, now: float) -> None:
        """Take back grants that are set aside for workers that no longer report."""
        for worker in self._workers.values():
            if now - worker.heard_at > AWAY_S and (worker.waiting or worker.allotted):
                self._give_back(worker.forget_waiting())
                self._count(worker, worker.at_worst())
            if now - worker.heard_at > GONE_S and not worker.is_gone:
                self._give_back(worker.mark_dead())
                self._count(worker, worker.at_worst())

    def _fill(self, now: float) -> None:
        for bucket in self._buckets.values():
            bucket.fill(now - self._filled_at)
        self._filled_at = now

    def _allot(self) -> None:
        """Set aside grants for workers, each in its turn, as far as the limits allow."""
        turns = [(worker.turn, name) for name, worker in self._workers.items() if worker.waiting]
        heapq.heapify(turns)
        while turns and all(bucket.level >= 0 for bucket in self._buckets.values()):
            worker = self._workers[turns[0][1]]
            first = worker.waiting[0]
            if (what := self._cap_broken_by(self._committed + first.worst)) is not None:
                if not any(each.has_under_way for each in self._workers.values()):
                    self._exhausted = self._explain_exhausted(what, first)
                return
            worker.allot()
            self._turn = worker.turn
            self._count(worker, worker.counted + first.worst)
            for name, bucket in self._buckets.items():
                bucket.keep(first.likely.measure(name, self._price))
            if worker.waiting:
                heapq.heapreplace(turns, (worker.turn, turns[0][1]))
            else:
                heapq.heappop(turns)

    def _count(self, worker: "_Worker", at_worst: Consumption) -> None:
        self._committed += at_worst - worker.counted
        worker.counted = at_worst

    def _deliver(self, worker: "_Worker") -> tuple[int, ...]:
        """Return a worker's grants: those set aside for it, and those of a grant that did not arrive."""
        for each in worker.allotted.values():
            for what, bucket in self._buckets.items():
                bucket.kept -= each.likely.measure(what, self._price)
        worker.delivered |= worker.allotted
        worker.allotted = {}
        return tuple(worker.delivered)

    def _give_back(self, tries: Iterable[Try]) -> None:
        for each in tries:
            for what, bucket in self._buckets.items():
                bucket.keep(-each.likely.measure(what, self._price))

    def _next_report_s(self, worker: "_Worker", now: float) -> float:
        num_here = sum(now - each.heard_at <= AWAY_S for each in self._workers.values())
        wait_s = SOON_S
        if worker.waiting:
            wait_s = max(LATER_S, *(bucket.wait_s for bucket in self._buckets.values()), self._opens_at - now)
        return min(LATEST_S, max(wait_s, num_here / REPORTS_PER_S))

    def _total(self) -> Consumption:
        return sum((worker.used for worker in self._workers.values()), self._used_before)

    def _cap_broken_by(self, used: Consumption) -> What | None:
        return next((what for what, cap in self._caps.items() if used.measure(what, self._price) > cap), None)

    def _explain_exhausted(self, what: What, first: Try) -> str:
        used, cap = self._total().measure(what, self._price), self._caps[what]
        more = first.worst.measure(what, self._price)
        return (
            f"the budget is used up: {_format(used, what)} of {_format(cap, what)} are spent, and the next request may "
            f"take {_format(more, what)}; raise budget.{what} and run the same command, which goes on from here"
        )


class _Bucket:
    """What is left of one limit per minute. It refills evenly, and grants are taken from it while there is no debt."""

    def __init__(self, per_minute: float) -> None:
        self._per_s = SHARE * per_minute / 60
        self.level = self._most = BURST_S * self._per_s
        self.kept = 0.0
        """Set aside for workers that have not fetched it yet."""

    def fill(self, seconds: float) -> None:
        self.level = min(self.level + seconds * self._per_s, self._most - self.kept)

    def keep(self, amount: float) -> None:
        self.level -= amount
        self.kept += amount

    @property
    def wait_s(self) -> float:
        """The time until there is no debt."""
        return max(0.0, -self.level / self._per_s)


@dataclass
class _Worker:
    """What the governor knows of one worker."""

    number: int = -1
    heard_at: float = 0.0
    turn: float = 0.0
    """The worker with the lowest value has its turn. Each grant raises it, by less where more requests wait."""
    is_gone: bool = False
    waiting: deque[Try] = field(default_factory=deque)
    allotted: dict[int, Try] = field(default_factory=dict)
    """Set aside for its next report."""
    delivered: dict[int, Try] = field(default_factory=dict)
    """Granted in the last grant, which may not have arrived."""
    used: Consumption = NOTHING
    under_way: Consumption = NOTHING
    likely: Consumption = NOTHING
    correction: Consumption = NOTHING
    counted: Consumption = NOTHING
    """The ``at_worst()`` that the governor's sum holds."""
    _weight: int = 1

    @property
    def has_under_way(self) -> bool:
        return bool(self.under_way.requests or self.allotted or self.delivered)

    def at_worst(self) -> Consumption:
        """Its usage so far, and the worst case of its grants."""
        total = self.used + self.under_way - Consumption(self.under_way.requests)  # those are in both
        for each in (*self.allotted.values(), *self.delivered.values()):
            total += each.worst
        return total

    def update(self, report: Report, now: float) -> list[Try]:
        """Take over the state of a report. Return the grants set aside for tries that no longer wait."""
        listed = {each.number for each in report.waiting}
        given_up = [each for each in self.allotted.values() if each.number not in listed]
        self.allotted = {number: each for number, each in self.allotted.items() if number in listed}
        # A try that was delivered and still waits was in a grant that did not arrive: it is granted again.
        self.delivered = {number: each for number, each in self.delivered.items() if number in listed}
        self.waiting = deque(
            each for each in report.waiting if each.number not in self.allotted and each.number not in self.delivered
        )
        self._weight = max(1, len(report.waiting))
        self.number, self.heard_at, self.is_gone = report.number, now, False
        self.used, self.under_way, self.likely = report.used, report.under_way, report.likely
        self.correction = report.correction
        return given_up

    def allot(self) -> None:
        first = self.waiting.popleft()
        self.allotted[first.number] = first
        self.turn += 1 / self._weight

    def forget_waiting(self) -> list[Try]:
        """Drop its waiting tries. Return the grants set aside for it."""
        kept, self.allotted = list(self.allotted.values()), {}
        self.waiting.clear()
        return kept

    def mark_dead(self) -> list[Try]:
        """Count all that was under way as answered. Return the grants set aside for it."""
        for each in self.delivered.values():
            self.used += each.likely
        self.used += self.likely - Consumption(self.likely.requests)
        self.delivered, self.under_way, self.likely, self.is_gone = {}, NOTHING, NOTHING, True
        return self.forget_waiting()


def _limits(limits: Limits | None) -> list[tuple[What, float]]:
    found = [(what, getattr(limits, what, None)) for what in _WHATS]
    return [(what, limit) for what, limit in found if limit is not None]


def _format(number: float, what: What) -> str:
    return f"${number:,.4f}" if what == "usd" else f"{number:,.0f} {what}"
