"""The tries of one request at several servers: which have failed it, and since when.

tries.record_failure(server, TryFailed("endpoint_timeout", "…"), sent_at)
tries.midway                                         # when the middle one of its failed tries was sent
"""

import math
from dataclasses import dataclass, field

from rmbatch.endpoints.errors import Failure
from rmbatch.endpoints.http import TryFailed
from rmbatch.endpoints.server import Server


@dataclass
class Tries:
    """The tries of one request so far."""

    num: int = 0
    counted: int = 0
    rounds: int = 0
    began: float = math.inf
    this_round: set[Server] = field(default_factory=set)
    failed_on: set[Server] = field(default_factory=set)
    last: Failure | None = None
    num_outages: int = 0
    """How often it was tried anew because a server had come back."""
    is_trial: bool = False
    """Whether it is sent to see if a server is back."""
    probed: object = None
    """The answer to a probe that was sent in its place."""

    failed_sent_at: list[float] = field(default_factory=list)

    @property
    def midway(self) -> float:
        """When the middle one of its failed tries was sent."""
        return self.failed_sent_at[(len(self.failed_sent_at) - 1) // 2] if self.failed_sent_at else math.inf

    def reset(self) -> None:
        """Forget the failures of an outage."""
        self.counted = self.rounds = 0
        self.began = math.inf
        self.this_round.clear()
        self.failed_on.clear()
        self.failed_sent_at.clear()
        self.num_outages += 1

    def take_probe_value(self) -> object:
        """The answer to the probe, once."""
        value, self.probed = self.probed, None
        return value

    def record_failure(self, endpoint: Server, failed: TryFailed, sent_at: float) -> None:
        """Record a failed try; it does not count where the server was only busy."""
        self.failed_sent_at.append(sent_at)
        self.counted += failed.code != "endpoint_overloaded"
        self.this_round.add(endpoint)
        self.failed_on.add(endpoint)
        self.last = Failure(failed.code, f"{endpoint.url}: {failed}")
