"""Requests per minute that a server on loopback sees from two actors, one of which stops halfway.

Once with one governor for both, once with half of the limit for each, which is what one writes without one: that holds
the limit too, and leaves half of it unused when one has nothing to ask. Each request is a whole ``ChatClient`` request
that takes 50 ms; each actor has 64 in flight.

    python -m tests.bench.governor --per-minute 1200 --seconds 90
"""

import argparse
import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import ray

from cluster.local import attached
from rmbatch.chat.client import ChatClient, ChatRequest
from rmbatch.chat.limits.admission import admission_for
from rmbatch.chat.spec import ChatSpec, Limits
from rmbatch.pipeline.actors.governor import GovernorActor
from tests.bench.measuring import print_table
from tests.servers.hostile import HostileServer, Late

LATENCY_S = 0.05
IN_FLIGHT = 64
MINUTE_S = 60.0


@ray.remote(num_cpus=0)
class Asker:
    """Asks as much as it may."""

    async def ask(self, spec: ChatSpec, governor: GovernorActor | None, name: str, seconds: float) -> int:
        """How many were answered."""
        ends = time.monotonic() + seconds
        admission = admission_for(spec, None if governor is None else governor.lease)
        assert admission is not None

        def requests() -> Iterator[ChatRequest]:
            number = 0
            while time.monotonic() < ends:
                number += 1
                yield ChatRequest([{"role": "user", "content": f"{name} {number}"}])

        async with ChatClient(spec, admission=admission) as client:
            admission.holding = client._endpoints
            done = await client.complete(requests())
        await admission.close()
        assert not any(each.failure for each in done)
        return len(done)

    async def ready(self) -> None:
        """It runs."""


def arrivals(per_minute: float, seconds: float, *, is_shared: bool) -> list[float]:
    """When requests came to the server, in seconds since the first."""
    came: list[float] = []

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": []}
        came.append(time.monotonic())
        choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 1}}

    with HostileServer(answer, key=lambda path, body: path) as server:
        server.always = Late(LATENCY_S)
        rate = Limits(requests=per_minute if is_shared else per_minute / 2)
        spec = ChatSpec.model_validate({"endpoint": server.url, "model": "m", "in_flight": IN_FLIGHT, "rate": rate})
        governor = GovernorActor.start(rate, None) if is_shared else None
        askers = [Asker.remote() for _ in range(2)]  # type: ignore[attr-defined]  # mypy does not know Ray
        ray.get([asker.ready.remote() for asker in askers])
        asked = [
            asker.ask.remote(spec, governor, name, part * seconds)
            for asker, name, part in zip(askers, ("all the time", "half the time"), (1.0, 0.5), strict=True)
        ]
        answered = sum(ray.get(asked))
        assert answered == len(came)
        for asker in askers:
            ray.kill(asker)
        if governor is not None:
            assert governor.spent()["requests"] == answered
            governor.close()
    return [at - came[0] for at in came if at - came[0] < seconds]


def in_windows(came: list[float], seconds: float, window_s: float) -> tuple[int, int, float]:
    """The most and the fewest requests in any window, wherever it begins, and the mean for its length."""
    counts = [bisect_left(came, at + window_s) - place for place, at in enumerate(came) if at + window_s <= seconds]
    return max(counts), min(counts), len(came) * window_s / seconds


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--per-minute", type=float, default=1200)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--window-s", type=float, default=MINUTE_S)
    given = parser.parse_args()
    limit = given.per_minute * given.window_s / MINUTE_S
    rows = []
    with attached(num_cpus=2):
        for name, is_shared in (("one governor", True), ("half the limit each", False)):
            came = arrivals(given.per_minute, given.seconds, is_shared=is_shared)
            most, fewest, mean = in_windows(came, given.seconds, given.window_s)
            rows.append([name, int(limit), most, fewest, mean, most / limit, mean / limit])
    header = ["limit held by", f"limit in {given.window_s:g} s", "most", "fewest", "mean", "most/limit", "mean/limit"]
    print_table("requests per minute from two actors, one of which stops halfway", header, rows)
    print(f"used of the limit, against half the limit each: {rows[0][4] / rows[1][4]:.2f} x")


if __name__ == "__main__":
    main()
