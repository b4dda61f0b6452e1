"""Who may send a chat request next, when a job has limits per minute and a budget: one governor for all its workers.

Pure logic with a clock: it neither waits nor sends. Workers ask through ``admission.py``, across processes through
``pipeline/actors/governor.py``. It does not slow down after a 429: each worker does so itself, for each server
(``endpoints/balancer.py``: 0.7 of the requests under way, and more again as it serves), as senders on a shared line do
without talking to each other. What workers do tell each other through it is how long a server has asked to wait.

    governor = Governor(Limits(requests=1200), Limits(usd=50), price, spent=before)
    lease = governor.lease(Report("worker 7", 1, waiting=(Try(1, likely, worst),)))
    lease.granted, lease.again_s, lease.exhausted
    governor.spent()                                     # plain counts: keep them, and give them to the next run's

Per minute: what is limited refills evenly, at 98.5 % of the limit, and 0.75 s of it may gather. So no minute has more
requests than its limit, and none has less than 98 % of it while requests wait. Tokens and money are taken by an
estimate and corrected when the answer says what it cost; a debt is waited off, so a minute may have more of them by
what its last request was underestimated, or by that request where one is large against the limit.

Budget: a request is granted only if what is spent, the worst case of all that is under way and its own worst case fit
together. So requests are exact, and tokens and money hold as far as ``worst`` is the worst. When not even one fits and
nothing is under way any more, the budget is exhausted, for good.

Grants are for requests that wait, by number, in turns between the workers in proportion to what waits there. A report
has a worker's whole state, with totals instead of changes. So one that is lost, comes twice or meets a new governor
does no harm. Of a worker that has died, ungranted shares go back within 2 s; what it had under way counts as answered.
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
"""Of a limit per minute, what is given out."""
BURST_S = 0.75
"""What may gather while nobody takes it, in seconds of the limit; longer than workers wait between two reports."""
SOON_S, LATER_S, LATEST_S = 0.02, 0.2, 0.5
"""Until a worker asks again: where it got all it asked for, where it did not, and at most."""
REPORTS_PER_S = 400
"""Of all workers together; with many, each asks less often."""
AWAY_S = 2.0
"""A worker that was not heard of for so long has no turn."""
GONE_S = 30.0
"""After that it counts as dead."""
GATHER_S = 6.0
"""How long a governor that has lost its memory only listens; all workers report within that."""
_SAME_HOLD_S = 0.5
"""A hold that is longer by less than this is the same one, late by its way."""

What = Literal["requests", "tokens", "usd"]
_WHATS: tuple[What, ...] = ("requests", "tokens", "usd")


@dataclass(frozen=True, slots=True)
class Used:
    """Counts of what was used, or may be; they add and subtract."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, what the provider had cached."""

    def __add__(self, other: "Used") -> "Used":
        return Used(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )

    def __sub__(self, other: "Used") -> "Used":
        return Used(
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


NOTHING = Used()


@dataclass(frozen=True, slots=True)
class Try:
    """One request that waits to be sent."""

    number: int
    """Its own, in its worker."""
    likely: Used
    """What it will use, for the limits per minute."""
    worst: Used
    """The most that it may use, for the budget."""


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's state; all counts are totals since the worker began."""

    worker: str
    """A name of its own, which no other has had."""
    number: int
    """Of this report; it grows."""
    waiting: tuple[Try, ...] = ()
    """In the order in which they should be sent."""
    spent: Used = NOTHING
    """Requests that were granted and not given back; tokens of answers."""
    under_way: Used = NOTHING
    """The worst case of what is under way."""
    likely: Used = NOTHING
    """The likely case of the same."""
    correction: Used = NOTHING
    """What answers have used beyond the likely, less what was granted and given back."""
    holds: Mapping[str, float] = field(default_factory=dict)
    """Servers that have asked to wait, and the seconds left."""
    leaves: bool = False
    """It is the worker's last."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker may do until its next report."""

    granted: tuple[int, ...] = ()
    """The tries to send now."""
    again_s: float = LATER_S
    """Until its next report."""
    holds: Mapping[str, float] = field(default_factory=dict)
    """Servers that nobody should ask, and the seconds left."""
    exhausted: str = ""
    """Why nothing will be granted any more; else empty."""


class Governor:
    """The limits of one model's requests, shared by workers."""

    def __init__(
        self,
        rate: Limits | None,
        budget: Limits | None,
        price: Price | None = None,
        spent: Mapping[str, int] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        has_forgotten: bool = False,
    ) -> None:
        """``spent``: by earlier runs, as ``spent()`` has told; ``has_forgotten``: it takes the place of one that has
        died, so it hears all workers before it grants anything. Raises ValueError for usd without a price."""
        if price is None and any(limits is not None and limits.usd is not None for limits in (rate, budget)):
            raise ValueError("usd: what a request costs is not known; give its price")
        self._buckets = {what: _Bucket(limit) for what, limit in _limits(rate)}
        self._caps = dict(_limits(budget))
        self._price = price
        self._before = Used(**(spent or {}))
        self._committed = self._before
        """What was used, and may be by what was granted."""
        self._clock = clock
        self._filled_at = clock()
        self._opens_at = self._filled_at + (GATHER_S if has_forgotten else 0.0)
        self._workers: dict[str, _Worker] = {}
        self._turn = 0.0
        self._holds: dict[str, float] = {}
        self._exhausted = ""

    def lease(self, report: Report) -> Lease:
        """Hear a worker, and what it may send now."""
        now = self._clock()
        self._fill(now)
        worker = self._workers.setdefault(report.worker, _Worker())
        granted: tuple[int, ...] = ()
        if report.number > worker.number:  # else it was overtaken by a later one
            self._hear(worker, report, now)
            self._miss(now)
            if now >= self._opens_at and not self._exhausted:
                self._allot()
            granted = self._fetched(worker)
        holds = {url: until - now for url, until in self._holds.items() if until > now}
        return Lease(granted, self._again_s(worker, now), holds, self._exhausted)

    def spent(self) -> dict[str, int]:
        """What was used, the earlier runs' included: requests that were granted, tokens of answers.

        What is under way is in it when it is answered, or its worker is dead.
        """
        return asdict(self._total())

    def memory(self) -> dict[str, Used]:
        """What each worker has used, for a governor that takes the place of this one."""
        return {name: worker.spent for name, worker in self._workers.items()}

    def remember(self, memory: Mapping[str, Used]) -> None:
        """Know what workers have used that may be dead; those that are not say so themselves."""
        for name in memory.keys() - self._workers.keys():
            worker = self._workers[name] = _Worker(spent=memory[name], is_gone=True)
            self._count(worker, worker.at_worst())

    def _hear(self, worker: "_Worker", report: Report, now: float) -> None:
        if not worker.waiting:
            worker.turn = max(worker.turn, self._turn)  # who comes does not catch up on what it has not asked for
        if worker.number < 0:
            worker.correction = report.correction  # what came before was corrected in another governor's life
        for what, bucket in self._buckets.items():
            bucket.level -= (report.correction - worker.correction).measure(what, self._price)
        self._give_back(worker.hear(report, now))
        for url, wait_s in report.holds.items():
            if now + wait_s > self._holds.get(url, now) + _SAME_HOLD_S:
                self._holds[url] = now + wait_s
        if report.leaves:
            self._give_back(worker.lose())
        self._count(worker, worker.at_worst())

    def _miss(self, now: float) -> None:
        """Take back what waits for workers that do not come for it."""
        for worker in self._workers.values():
            if now - worker.heard_at > AWAY_S and (worker.waiting or worker.allotted):
                self._give_back(worker.forget_waiting())
                self._count(worker, worker.at_worst())
            if now - worker.heard_at > GONE_S and not worker.is_gone:
                self._give_back(worker.lose())
                self._count(worker, worker.at_worst())

    def _fill(self, now: float) -> None:
        for bucket in self._buckets.values():
            bucket.fill(now - self._filled_at)
        self._filled_at = now

    def _allot(self) -> None:
        """Set aside for workers what may be sent now, each in its turn."""
        turns = [(worker.turn, name) for name, worker in self._workers.items() if worker.waiting]
        heapq.heapify(turns)
        while turns and all(bucket.level >= 0 for bucket in self._buckets.values()):
            worker = self._workers[turns[0][1]]
            first = worker.waiting[0]
            if (what := self._cap_broken_by(self._committed + first.worst)) is not None:
                if not any(each.has_under_way for each in self._workers.values()):
                    self._exhausted = self._told(what, first)
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

    def _count(self, worker: "_Worker", at_worst: Used) -> None:
        self._committed += at_worst - worker.counted
        worker.counted = at_worst

    def _fetched(self, worker: "_Worker") -> tuple[int, ...]:
        """What a worker may send now: what was set aside for it, and what a lease had that has not come."""
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

    def _again_s(self, worker: "_Worker", now: float) -> float:
        num_here = sum(now - each.heard_at <= AWAY_S for each in self._workers.values())
        wait_s = SOON_S
        if worker.waiting:
            wait_s = max(LATER_S, *(bucket.wait_s for bucket in self._buckets.values()), self._opens_at - now)
        return min(LATEST_S, max(wait_s, num_here / REPORTS_PER_S))

    def _total(self) -> Used:
        return sum((worker.spent for worker in self._workers.values()), self._before)

    def _cap_broken_by(self, used: Used) -> What | None:
        return next((what for what, cap in self._caps.items() if used.measure(what, self._price) > cap), None)

    def _told(self, what: What, first: Try) -> str:
        spent, cap = self._total().measure(what, self._price), self._caps[what]
        more = first.worst.measure(what, self._price)
        return (
            f"the budget is used up: {_shown(spent, what)} of {_shown(cap, what)} are spent, and the next request may "
            f"take {_shown(more, what)}; raise budget.{what} and run the same command, which goes on from here"
        )


class _Bucket:
    """What may be used of one thing; it refills evenly, and may be taken from while there is no debt."""

    def __init__(self, per_minute: float) -> None:
        self._per_s = SHARE * per_minute / 60
        self.level = self._most = BURST_S * self._per_s
        self.kept = 0.0
        """Set aside for workers that have not come for it yet."""

    def fill(self, seconds: float) -> None:
        self.level = min(self.level + seconds * self._per_s, self._most - self.kept)

    def keep(self, amount: float) -> None:
        self.level -= amount
        self.kept += amount

    @property
    def wait_s(self) -> float:
        """Until there is no debt."""
        return max(0.0, -self.level / self._per_s)


@dataclass
class _Worker:
    """What is known of one."""

    number: int = -1
    heard_at: float = 0.0
    turn: float = 0.0
    """It is the turn of the worker with the lowest; each grant raises it, by less where more waits."""
    is_gone: bool = False
    waiting: deque[Try] = field(default_factory=deque)
    allotted: dict[int, Try] = field(default_factory=dict)
    """Set aside, for its next report to fetch."""
    delivered: dict[int, Try] = field(default_factory=dict)
    """Granted in the last lease, of which it is not known yet whether that has come."""
    spent: Used = NOTHING
    under_way: Used = NOTHING
    likely: Used = NOTHING
    correction: Used = NOTHING
    counted: Used = NOTHING
    """``at_worst()``, as it is in the governor's sum."""
    _weight: int = 1

    @property
    def has_under_way(self) -> bool:
        return bool(self.under_way.requests or self.allotted or self.delivered)

    def at_worst(self) -> Used:
        """What it has used, and may use of what was granted."""
        total = self.spent + self.under_way - Used(self.under_way.requests)  # which are in both
        for each in (*self.allotted.values(), *self.delivered.values()):
            total += each.worst
        return total

    def hear(self, report: Report, now: float) -> list[Try]:
        """Know what a report says; returns what was set aside for tries that wait no more."""
        listed = {each.number for each in report.waiting}
        given_up = [each for each in self.allotted.values() if each.number not in listed]
        self.allotted = {number: each for number, each in self.allotted.items() if number in listed}
        # What was delivered and waits nonetheless was in a lease that has not come: it is granted again.
        self.delivered = {number: each for number, each in self.delivered.items() if number in listed}
        self.waiting = deque(
            each for each in report.waiting if each.number not in self.allotted and each.number not in self.delivered
        )
        self._weight = max(1, len(report.waiting))
        self.number, self.heard_at, self.is_gone = report.number, now, False
        self.spent, self.under_way, self.likely = report.spent, report.under_way, report.likely
        self.correction = report.correction
        return given_up

    def allot(self) -> None:
        first = self.waiting.popleft()
        self.allotted[first.number] = first
        self.turn += 1 / self._weight

    def forget_waiting(self) -> list[Try]:
        """It does not come; returns what was set aside for it."""
        kept, self.allotted = list(self.allotted.values()), {}
        self.waiting.clear()
        return kept

    def lose(self) -> list[Try]:
        """It is dead: what was under way counts as answered. Returns what was set aside for it."""
        for each in self.delivered.values():
            self.spent += each.likely
        self.spent += self.likely - Used(self.likely.requests)
        self.delivered, self.under_way, self.likely, self.is_gone = {}, NOTHING, NOTHING, True
        return self.forget_waiting()


def _limits(limits: Limits | None) -> list[tuple[What, float]]:
    found = [(what, getattr(limits, what, None)) for what in _WHATS]
    return [(what, limit) for what, limit in found if limit is not None]


def _shown(number: float, what: What) -> str:
    return f"${number:,.4f}" if what == "usd" else f"{number:,.0f} {what}"
