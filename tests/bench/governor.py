"""The governor of requests per minute, against a part of the limit each, and against an actor call a request.

*A part each* is what one writes without a governor: two actors ask a server on loopback, one of them stops halfway, and
its part of the limit goes unused. Counted at the server.

*A call a request* (``tests/bench/one_call.py``) is the simple governor. Four actors ask as much as they may: through
whole ``ChatClient`` requests (*http*), and with a pause in place of the request (*bare*), which measures the asking for
leave alone, because two cores cannot serve 4,000 HTTP requests a second. *CPU ms* is for each request, of the clients
and of the actor that holds the limit. *wait ms* is what leave takes where the limit is not reached: requests come
evenly at half of it (median and 99%).

    python -m tests.bench.governor --per-minute 1200 --seconds 90
"""

import argparse
import asyncio
import os
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray

from cluster.local import attached
from rmbatch.chat.client import ChatClient, ChatRequest
from rmbatch.chat.limits.admission import admission_for
from rmbatch.chat.spec import ChatSpec, Limits
from rmbatch.costs.prices import Usage
from rmbatch.pipeline.actors.governor import GovernorHandle
from tests.bench.measuring import RAY_ENVIRONMENT, print_table
from tests.bench.one_call import OneCall, OneCallAdmission
from tests.servers.hostile import HostileServer, Late

LATENCY_S = 0.05
IN_FLIGHT = 64
MINUTE_S = 60.0
NUM_CLIENTS = 4
BARE_LATENCY_S = 0.25
PROMPT_BYTES = 2000
CALLS_S, CALLS_WINDOW_S, WAITS_S = 22.0, 20.0, 10.0
"""Of each run against an actor call a request: how long, the windows that are counted, and how long waits are taken."""
ANSWER = SimpleNamespace(usage=Usage(500, 200, 0))


@ray.remote(num_cpus=0)
class Asker:
    """Asks as much as it may. ``holder``: a governor, a ``OneCall`` actor, or None for a limit of its own."""

    async def ask(self, spec: ChatSpec, holder: Any, name: str, seconds: float) -> tuple[int, float]:
        """How many were answered, and the CPU seconds that it took."""
        ends, cpu = time.monotonic() + seconds, time.process_time()
        admission = _admission(spec, holder)

        def requests() -> Iterator[ChatRequest]:
            number = 0
            while time.monotonic() < ends:
                number += 1
                yield ChatRequest([{"role": "user", "content": f"{name} {number}"}])

        async with ChatClient(spec, admission=admission) as client:
            done = await client.complete(requests())
        assert not any(each.failure for each in done)
        return len(done), time.process_time() - cpu

    async def pretend(self, spec: ChatSpec, holder: Any, seconds: float) -> tuple[list[float], float]:
        """When each had leave, with a pause in place of each request, and the CPU seconds."""
        ends, cpu = time.monotonic() + seconds, time.process_time()
        admission, sent = _admission(spec, holder), list[float]()

        async def one() -> None:
            while time.monotonic() < ends:
                permit = await admission.admit(PROMPT_BYTES, again=False)
                sent.append(time.monotonic())
                await asyncio.sleep(BARE_LATENCY_S)
                permit.settle(ANSWER)

        await asyncio.gather(*(one() for _ in range(spec.in_flight)))
        await admission.close()
        return sent, time.process_time() - cpu

    async def trickle(self, spec: ChatSpec, holder: Any, per_s: float, seconds: float) -> list[float]:
        """How long each waited for leave, in seconds, where they come evenly."""
        admission, waits = _admission(spec, holder), list[float]()

        async def one() -> None:
            began = time.monotonic()
            permit = await admission.admit(PROMPT_BYTES, again=False)
            waits.append(time.monotonic() - began)
            permit.settle(ANSWER)

        began, tasks = time.monotonic(), []
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(began + number / per_s - time.monotonic())
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
        await admission.close()
        return waits

    async def ready(self) -> None:
        """It runs."""


def _admission(spec: ChatSpec, holder: Any) -> Any:
    if holder is None or isinstance(holder, GovernorHandle):
        return admission_for(spec, None if holder is None else holder.grant)
    return OneCallAdmission(holder)


def askers(number: int) -> list[Any]:
    """Actors that run."""
    made = [Asker.remote() for _ in range(number)]  # type: ignore[attr-defined]  # mypy does not know Ray
    ray.get([asker.ready.remote() for asker in made])
    return made


def holder_of(way: str, rate: Limits) -> tuple[Any, float]:
    """Who holds the limit, and the CPU seconds of its start."""
    if way == "a part each":
        return None, 0.0
    holder: Any = GovernorHandle.start(rate, None) if way == "the governor" else OneCall.remote(rate.requests)
    return holder, ray.get(_cpu_of(holder))


def _cpu_of(holder: Any) -> Any:
    if isinstance(holder, GovernorHandle):
        return holder.actor.__ray_call__.remote(lambda self: time.process_time())
    return holder.cpu.remote()


def arrivals(
    per_minute: float, seconds: float, way: str, parts: Sequence[float], in_flight: int
) -> tuple[list[float], float, float]:
    """When requests came to the server, in seconds since the first; CPU seconds of the clients and of the holder.

    ``parts``: of the time, for which each client asks.
    """
    came: list[float] = []

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": []}
        came.append(time.monotonic())
        choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 1}}

    with HostileServer(answer, key=lambda path, body: path) as server:
        server.always = Late(LATENCY_S)
        rate = Limits(requests=per_minute / len(parts) if way == "a part each" else per_minute)
        spec = ChatSpec.model_validate({"endpoint": server.url, "model": "m", "in_flight": in_flight, "rate": rate})
        clients, (holder, cpu_before) = askers(len(parts)), holder_of(way, rate)
        asked = [
            client.ask.remote(spec, holder, str(place), part * seconds)
            for place, (client, part) in enumerate(zip(clients, parts, strict=True))
        ]
        answered, cpu = (sum(counts) for counts in zip(*ray.get(asked), strict=True))
        assert answered == len(came)
        held_cpu = 0.0 if holder is None else ray.get(_cpu_of(holder)) - cpu_before
        _end([*clients, holder])
    came.sort()
    return [at - came[0] for at in came if at - came[0] < seconds], cpu, held_cpu


def pretended(per_s: float, seconds: float, way: str) -> tuple[list[float], float, float]:
    """As ``arrivals``, with a pause in place of each request."""
    rate = Limits(requests=per_s * MINUTE_S)
    in_flight = max(2, round(2 * per_s * BARE_LATENCY_S / NUM_CLIENTS))
    spec = ChatSpec.model_validate({"endpoint": "http://none", "model": "m", "in_flight": in_flight, "rate": rate})
    clients, (holder, cpu_before) = askers(NUM_CLIENTS), holder_of(way, rate)
    found = ray.get([client.pretend.remote(spec, holder, seconds) for client in clients])
    held_cpu = ray.get(_cpu_of(holder)) - cpu_before
    _end([*clients, holder])
    sent = sorted(at for times, _ in found for at in times)
    return [at - sent[0] for at in sent if at - sent[0] < seconds], sum(cpu for _, cpu in found), held_cpu


def waits(per_s: float, seconds: float, way: str) -> list[float]:
    """How long requests wait for leave, in ms, that come at half of the limit."""
    rate = Limits(requests=per_s * MINUTE_S)
    spec = ChatSpec.model_validate({"endpoint": "http://none", "model": "m", "rate": rate})
    clients, (holder, _) = askers(NUM_CLIENTS), holder_of(way, rate)
    each = per_s / 2 / NUM_CLIENTS
    found = ray.get([client.trickle.remote(spec, holder, each, seconds) for client in clients])
    _end([*clients, holder])
    return [wait * 1e3 for client in found for wait in client]


def _end(actors: list[Any]) -> None:
    for actor in actors:
        if actor is not None:
            ray.kill(actor.actor if isinstance(actor, GovernorHandle) else actor)


def in_windows(came: list[float], seconds: float, window_s: float) -> tuple[int, int, float]:
    """The most and the fewest requests in any window, wherever it begins, and the mean for its length."""
    counts = [bisect_left(came, at + window_s) - place for place, at in enumerate(came) if at + window_s <= seconds]
    return max(counts), min(counts), len(came) * window_s / seconds


def compare_with_parts(per_minute: float, seconds: float, window_s: float) -> None:
    """Print what two clients use of the limit, of which one stops halfway."""
    limit = per_minute * window_s / MINUTE_S
    rows = []
    for way in ("the governor", "a part each"):
        came, _, _ = arrivals(per_minute, seconds, way, (1.0, 0.5), IN_FLIGHT)
        most, fewest, mean = in_windows(came, seconds, window_s)
        rows.append([way, int(limit), most, fewest, mean, most / limit, mean / limit])
    header = ["limit held by", f"limit in {window_s:g} s", "most", "fewest", "mean", "most/limit", "mean/limit"]
    print_table("requests per minute from two actors, one of which stops halfway", header, rows)
    print(f"used of the limit, against a part each: {rows[0][4] / rows[1][4]:.2f} x")


def compare_with_calls(loads: Sequence[tuple[str, float]]) -> None:
    """Print what the governor and an actor call a request cost, and how they hold the limit."""
    seconds, window_s, rows = CALLS_S, CALLS_WINDOW_S, []
    for kind, per_s in loads:
        for way in ("the governor", "a call a request"):
            if kind == "http":
                came, cpu, held_cpu = arrivals(per_s * MINUTE_S, seconds, way, (1.0,) * NUM_CLIENTS, round(per_s / 4))
            else:
                came, cpu, held_cpu = pretended(per_s, seconds, way)
            most, _, mean = in_windows(came, seconds, window_s)
            limit, waited = per_s * window_s, waits(per_s, WAITS_S, way)
            spent = [seconds_used / len(came) * 1e3 for seconds_used in (cpu, held_cpu)]
            delay = [float(np.percentile(waited, share)) for share in (50, 99)]
            rows.append([kind, int(per_s), way, mean / window_s, mean / limit, most / limit, *spent, *delay])
            print(*rows[-1], flush=True)
    header = ["what", "limit/s", "held by", "sent/s", "sent/limit", f"most in {window_s:g} s/limit"]
    header += ["clients' CPU ms", "holder's CPU ms", "wait ms, 50%", "wait ms, 99%"]
    print_table(f"{NUM_CLIENTS} actors that ask as much as they may", header, rows)


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--per-minute", type=float, default=1200)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--window-s", type=float, default=MINUTE_S)
    parser.add_argument("--loads", nargs="*", default=["http:500", "bare:500", "bare:4000"], help="KIND:REQUESTS_PER_S")
    parser.add_argument("--only", choices=("parts", "calls"))
    given = parser.parse_args()
    os.environ |= RAY_ENVIRONMENT
    loads = [(kind, float(rate)) for kind, _, rate in (load.partition(":") for load in given.loads)]
    with attached(num_cpus=2):
        if given.only != "calls":
            compare_with_parts(given.per_minute, given.seconds, given.window_s)
        if given.only != "parts":
            compare_with_calls(loads)


if __name__ == "__main__":
    main()
