"""Rounds of correction against a server of fixed latency: how much of what the server could answer is used.

The server is a process of its own that answers each request after a fixed time, so requests in flight divided by that
time is the most that anybody can reach. No answer is right, so every row takes all its rounds. A block waits for its
last answer before it scores; other blocks, in other tasks of Ray, use the server meanwhile. In processes of this
machine there is one worker, so there nothing does.

    python -m tests.bench.correction --rows 4000
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from tests.bench.chat_client import serve
from tests.bench.measuring import RAY_ENVIRONMENT, median, print_table, python, write_job
from tests.servers.s3 import free_port

ROUNDS = 3
LOADS = ((64, 0.25), (256, 1.0))
"""Requests in flight, and the latency in seconds."""


def make_job(folder: Path, url: str, on: str, in_flight: int, num_rows: int, run: int) -> dict[str, Any]:
    """The job, over rows that no other run has seen, so that nothing is kept."""
    source = folder / f"rows-{run}.jsonl"
    rows = [
        {"id": n, "prompt": f"{run}: what is {n} + 1?", "response": "0", "reference": str(n + 1)}
        for n in range(num_rows)
    ]
    source.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return {
        "job": "correct",
        "input": {"path": str(source)},
        "rewards": {"right": {"reward": "accuracy"}},
        "models": {"editor": {"endpoint": url, "model": "judge", "in_flight": in_flight}},
        "correct": {
            "gate": {"below": 1.0},
            "editor": {"by": "editor"},
            "rounds": ROUNDS,
            "stop": {"patience": ROUNDS},
            "guards": {"language": None, "length": None},
        },
        "output": {"path": str(folder / f"out-{run}")},
        "run": {"on": on},
    }


def measure(port: int, on: str, in_flight: int, latency_s: float, num_rows: int, rounds: int) -> list[Any]:
    """A line of the table."""
    shares, seconds, asked = list[float](), list[float](), 0
    for run in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            job = make_job(Path(name), f"http://127.0.0.1:{port}/{latency_s}/v1", on, in_flight, num_rows, run)
            python("-m", "jobs", "run", write_job(Path(name, "job.json"), job), env=RAY_ENVIRONMENT)
            summary = json.loads(Path(job["output"]["path"], "_rmbatch/summary.json").read_bytes())
        (cost,) = summary["judged"].values()
        asked = cost["answers"]
        seconds.append(summary["work_seconds"])
        shares.append(asked * latency_s / in_flight / summary["work_seconds"])
    return [on, in_flight, latency_s, asked, median(seconds), median(shares)]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each line")
    parser.add_argument("--on", nargs="*", default=["here", "ray"])
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, lambda body: f"It is -{json.loads(body)['seed']}.")  # no two edits are the same
        return
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", __spec__.name, "--serve", str(port)])
    try:
        lines = [
            measure(port, on, in_flight, latency_s, given.rows, given.rounds)
            for in_flight, latency_s in LOADS
            for on in given.on
        ]
    finally:
        server.kill()
        server.wait()
    header = ["on", "in flight", "latency s", "requests", "s on rows", "of the most"]
    print_table("correction on a server of fixed latency", header, lines)


if __name__ == "__main__":
    main()
