"""The state of one of several equal servers: whether it is up, and how many requests it takes.

It sends nothing and picks nothing: ``balancer.py`` does, and records here how requests went.

    server = Server("http://host:8000", limit=256.0, weight=1.0, priority=0)
    server.record_failure(TryFailed("endpoint_error", "500"), sent_at, now, Patience())
    server.is_up(now)
"""

import logging
import math
from dataclasses import dataclass

from rmbatch.endpoints.http import TryFailed

_log = logging.getLogger(__name__)

_BUSY_S = 30.0
"""A server that has refused everything as busy for so long is left alone."""


@dataclass(frozen=True)
class Target:
    """The URL of one server, with its share of the requests."""

    url: str
    weight: float = 1.0
    """Its share of the requests among servers of the same priority; above 0."""
    priority: int = 0
    """Only servers of the highest priority are asked; the next ones while none of those is up."""


@dataclass(frozen=True)
class Patience:
    """When to try again, and when to stop trying."""

    attempts: int = 8
    """Tries of one request; a try that was told to wait does not count."""
    timeout_s: float = 600.0
    """The longest time for one try."""
    connect_timeout_s: float = 10.0
    """Of that, the longest time to get a connection."""
    give_up_s: float | None = None
    """The longest time from a request's first try to its last. None: three times ``timeout_s``."""
    backoff_s: float = 0.5
    """The longest pause before the second try, doubled with each try; the pause is anything between 0 and that."""
    max_backoff_s: float = 30.0
    failures_to_open: int = 5
    """Failures in a row after which a server is left alone."""
    cooldown_s: float = 5.0
    """How long a server is left alone before a check, and between checks; doubled each time that the requests after a
    good check fail."""
    lost_after_s: float = 120.0
    """How long all servers may be dead before ServiceLost."""

    @property
    def whole_s(self) -> float:
        """``give_up_s``, or its default."""
        return 3 * self.timeout_s if self.give_up_s is None else self.give_up_s


@dataclass(eq=False)
class Server:
    """One server's state. ``is_open`` as of a circuit breaker: no request goes there."""

    url: str
    limit: float
    """The most requests under way: falls when the server is overloaded and names no time, rises as it serves."""
    weight: float
    priority: int
    in_flight: int = 0
    turn: float = 0.0
    """Decides between servers that are equally busy: the least is asked, and grows by 1 / weight with each request."""
    failures: int = 0
    why: str = ""
    is_out: bool = False
    """It is out of quota, and left alone for good."""
    is_open: bool = False
    is_away: bool = False
    """Whoever runs it says that it is not up; then nothing else is tried to find out."""
    is_busy: bool = False
    is_checked: bool = False
    trials_due: int = 0
    """While open, after a good check: how many requests are still to be sent to see whether it serves."""
    on_trial: int = 0
    """Such requests under way."""
    num_rounds: int = 0
    """How often all of them have failed since it was opened."""
    opened_at: float = -math.inf
    check_at: float = -math.inf
    wait_until: float = -math.inf
    served_sent_at: float = -math.inf
    """When the latest request that it has served was sent."""
    back_at: float = -math.inf
    """When it last served again after being left alone."""
    lowered_at: float = -math.inf
    busy_since: float = math.inf

    @property
    def load(self) -> float:
        """Requests under way for its weight."""
        return self.in_flight / self.weight

    def is_up(self, now: float) -> bool:
        """Whether it may be asked, even if it is full."""
        return not self.is_open and not self.is_away and not self.is_out and self.wait_until <= now

    def leave(self, now: float) -> None:
        """It is not up, as whoever runs it says, who will also say when it is back."""
        if not self.is_away:
            self.is_away = self.is_open = True
            self.trials_due, self.opened_at = 0, now

    def come_back(self, url: str, now: float) -> None:
        """It is up, as whoever runs it says, perhaps elsewhere."""
        self.url, self.back_at = url, now
        self.is_away = self.is_open = self.is_busy = False
        self.failures, self.trials_due, self.num_rounds = 0, 0, 0
        self.wait_until, self.busy_since = -math.inf, math.inf

    def mark_out_of_quota(self, why: str) -> None:
        """Leave it alone for good: its key has no quota left."""
        self.why = why
        if not self.is_out:
            _log.warning("endpoint %s is out of quota and not asked any more: %s", self.url, why)
            self.is_out = True

    def leave_alone(self, seconds: float, now: float, patience: Patience) -> None:
        """Send nothing for so long, because it has asked to wait."""
        self.wait_until = max(self.wait_until, now + min(seconds, patience.whole_s))

    def record_success(self, sent_at: float, now: float) -> None:
        """Record an answer: the server serves; one sent before it was opened proves only that it did."""
        if self.is_open and not self.is_away and sent_at >= self.opened_at:
            _log.warning("endpoint %s serves again", self.url)
            self.num_rounds, self.back_at = 0, now
        self.is_open, self.is_busy = self.is_away, False
        self.failures, self.trials_due, self.busy_since = 0, 0, math.inf
        self.served_sent_at = max(self.served_sent_at, sent_at)
        self.limit += max(1 / self.limit, 0.05)

    def is_checkable(self, now: float) -> bool:
        """Whether it is time to check it."""
        is_waited_for = self.is_out or self.is_away or self.is_checked or self.trials_due or self.on_trial
        return self.is_open and not is_waited_for and self.check_at <= now

    def is_trial_due(self, now: float) -> bool:
        """Whether a request may be sent, to see whether it serves again."""
        is_there = not self.is_out and not self.is_away and self.wait_until <= now
        return self.is_open and self.trials_due > 0 and is_there

    def record_failed_trial(self, now: float, patience: Patience) -> None:
        """Record that a trial request has failed; when all of them have, the next check waits, each time longer."""
        if self.trials_due or self.on_trial or not self.is_open:
            return
        pause_s = min(patience.cooldown_s * 2.0 ** min(self.num_rounds, 30), patience.max_backoff_s)
        self.num_rounds += 1
        self.check_at = max(now + pause_s, self.wait_until)

    def record_failure(self, failed: TryFailed, sent_at: float, now: float, patience: Patience) -> None:
        """Record a failed try. A server that says it is busy counts as dead only after saying nothing else for long."""
        self.why = str(failed)
        self.is_busy = failed.wait_s is not None
        if failed.code == "endpoint_overloaded":
            self.busy_since = min(self.busy_since, now)
            self.leave_alone(failed.wait_s or 0.0, now, patience)
            if not failed.wait_s and sent_at > self.lowered_at:  # requests under way together are one reason, not many
                self.limit, self.lowered_at = max(1.0, 0.7 * min(self.limit, self.in_flight + 1)), now
            is_dead = now - self.busy_since > _BUSY_S
        else:
            self.failures += 1
            is_dead = self.failures >= patience.failures_to_open
        if is_dead:
            self.open(now, patience)

    def open(self, now: float, patience: Patience) -> None:
        """Send nothing until a check and some requests have shown that it serves."""
        if not self.is_open:
            _log.warning("endpoint %s is left alone: %s", self.url, self.why)
            self.is_open, self.trials_due, self.opened_at = True, 0, now
            self.check_at = max(now + patience.cooldown_s, self.wait_until)
