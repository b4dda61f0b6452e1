"""One ``ChatClient`` with many requests in flight, against a plain loop: ``AsyncOpenAI``, a semaphore, ``gather``.

And against the same loop with bare aiohttp, which is the least that any of them can cost.

The server is a process of its own on loopback that answers each request after a fixed time, as a judge takes seconds
to; in flight divided by that time is the most that any client can reach. Each client is a process too. After warming up
(every connection used) the requests of a few latencies are counted, and the CPU time of the client's process meanwhile.
Ours keeps every answer in its cache, as jobs do; the loop has openai's defaults.

    python -m tests.bench.chat_client --rounds 3
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from tests.bench.measuring import median, print_table
from tests.servers.s3 import free_port

LOADS = ((64, 0.25, 32), (512, 1.0, 8), (4096, 8.0, 3))
"""Requests in flight, the latency in seconds, and for how many latencies it is measured."""
QUICK = ((64, 0.25, 8), (512, 1.0, 2))
PROMPT, ANSWER = "y" * 2000, "x" * 800


def serve(port: int, write_answer: Callable[[bytes], str] = lambda body: ANSWER) -> None:
    """Answer below ``/SECONDS/v1`` after so long. ``write_answer``: the text for a request's body."""
    from aiohttp import web

    usage = {"prompt_tokens": 500, "completion_tokens": 200, "total_tokens": 700}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "usage": usage}

    async def answer(request: web.Request) -> web.Response:
        message = {"role": "assistant", "content": write_answer(await request.read())}
        body = json.dumps({**head, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        await asyncio.sleep(float(request.match_info["seconds"]))
        return web.Response(body=body, content_type="application/json")

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_post("/{seconds}/v1/chat/completions", answer)
    app.router.add_get("/{seconds}/v1/models", models)
    web.run_app(app, host="127.0.0.1", port=port, print=None, backlog=8192, access_log=None)


class Meter:
    """Counts requests as they are begun: once all are in flight, one begins where another has ended."""

    def __init__(self, in_flight: int, latency_s: float, num_latencies: int) -> None:
        self._in_flight, self._warm_s, self._for_s = in_flight, 2 * latency_s, num_latencies * latency_s
        self._begun_at = time.monotonic()
        self._num = 0
        self._opened: tuple[float, float, int] | None = None
        self.result: dict[str, float] | None = None
        """Requests a second, and milliseconds of CPU for each; None until it is measured."""

    def take(self) -> bool:
        """Count one request; False when enough were."""
        now = time.monotonic()
        self._num += 1
        if self._opened is None:
            if self._num > 2 * self._in_flight or (self._num > self._in_flight and now - self._begun_at > self._warm_s):
                self._opened = now, time.process_time(), self._num
        elif self.result is None and now - self._opened[0] >= self._for_s:
            since, cpu, num = self._opened
            num = self._num - num
            self.result = {"rate": num / (now - since), "cpu_ms": (time.process_time() - cpu) / num * 1e3}
        return self.result is None


async def ours(url: str, in_flight: int, meter: Meter) -> None:
    """One ``ChatClient.complete``."""
    from rmbatch.chat.client import ChatClient, ChatRequest, ChatSpec

    def requests() -> Iterator[ChatRequest]:
        for number in itertools.count():
            if not meter.take():
                return
            yield ChatRequest([{"role": "user", "content": f"{number} {PROMPT}"}])

    with tempfile.TemporaryDirectory() as cache:
        spec = ChatSpec(endpoints=[url], model="judge", in_flight=in_flight, cache=cache)
        async with ChatClient(spec) as client:
            completions = await client.complete(requests())
    assert all(completion.texts == (ANSWER,) for completion in completions)


async def loop(url: str, in_flight: int, meter: Meter) -> None:
    """What one writes without ``ChatClient``."""
    from openai import AsyncOpenAI

    client, slots = AsyncOpenAI(base_url=url, api_key="none"), asyncio.Semaphore(in_flight)

    async def one(number: int) -> None:
        async with slots:
            if meter.result is None and meter.take():
                messages: Any = [{"role": "user", "content": f"{number} {PROMPT}"}]
                said = await client.chat.completions.create(model="judge", messages=messages, temperature=0.0, n=1)
                assert said.choices[0].message.content == ANSWER

    await asyncio.gather(*(one(number) for number in range(40 * in_flight)))
    await client.close()


async def bare(url: str, in_flight: int, meter: Meter) -> None:
    """The same with aiohttp alone."""
    import aiohttp

    slots = asyncio.Semaphore(in_flight)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> None:
            async with slots:
                if meter.result is None and meter.take():
                    messages = [{"role": "user", "content": f"{number} {PROMPT}"}]
                    body = {"model": "judge", "messages": messages, "temperature": 0.0, "n": 1}
                    async with session.post(f"{url}/chat/completions", json=body) as response:
                        assert (await response.json())["choices"][0]["message"]["content"] == ANSWER

        await asyncio.gather(*(one(number) for number in range(40 * in_flight)))


CLIENTS = {"ours": ours, "loop": loop, "aiohttp": bare}


def main() -> None:
    """Print requests a second, their share of what is possible, and CPU per request, of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--in-flight", type=int, help="only this load")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    if given.one:
        name, url, *numbers = given.one
        meter = Meter(int(numbers[0]), float(numbers[1]), int(numbers[2]))
        asyncio.run(CLIENTS[name](url, int(numbers[0]), meter))
        print("RESULT " + json.dumps(meter.result))
        return
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", __spec__.name, "--serve", str(port)])
    try:
        loads = [load for load in (QUICK if given.quick else LOADS) if given.in_flight in (None, load[0])]
        rows = [_row(port, load, given.rounds) for load in loads]
    finally:
        server.kill()
        server.wait()
    columns = [column for name in CLIENTS for column in (f"{name}/s", "of limit", "CPU ms")]
    print_table("chat client", ["in flight", "latency s", "limit/s", *columns, "ours / loop"], rows)
    print(f"openai {version('openai')}, aiohttp {version('aiohttp')}")


def _row(port: int, load: tuple[int, float, int], rounds: int) -> list[Any]:
    in_flight, latency_s, _ = load
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
    for number in range(rounds):
        for name in CLIENTS if number % 2 else reversed(CLIENTS):
            runs[name].append(_in_process(name, port, load))
    limit, row = in_flight / latency_s, list[Any]()
    for found in runs.values():
        rate = median([run["rate"] for run in found])
        row += [round(rate), round(rate / limit, 3), median([run["cpu_ms"] for run in found])]
    return [in_flight, latency_s, round(limit), *row, round(row[0] / row[3], 2)]


def _in_process(name: str, port: int, load: tuple[int, float, int]) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/{load[1]}/v1"
    command = [sys.executable, "-m", __spec__.name, "--one", name, url, *map(str, load)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        raise SystemExit(f"{name} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(told[-1].removeprefix("RESULT "))
    print(f"{name} {load[0]:>5} in flight: {found['rate']:6.1f}/s, {found['cpu_ms']:.2f} ms of CPU", flush=True)
    return found


if __name__ == "__main__":
    main()
