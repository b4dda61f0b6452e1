"""A best-of-N job through vLLM against a bare loop over ``LLM.classify`` on the same conversations in the same order.

Real vLLM on the CPU, a 4-layer model with random weights, 8 candidates a prompt, prompts of about 900 tokens and
candidates of about 150. Told are the tokens that were computed against the least that is possible (each prompt once and
each response once), and wall times: of the work alone, with Ray and engines there, and of everything. Each run is a
process of its own, in turns.

    python -m tests.bench.served_model --prompts 64 --rounds 3
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CANDIDATES = 8
PROMPT_WORDS, RESPONSE_WORDS = 165, 28


def make_input(folder: Path, num_prompts: int) -> None:
    """The model and the rows."""
    import random

    from tests.tiny_models import make_model

    make_model(folder / "model", "scalar", layers=4, hidden=256)
    draw = random.Random(7)
    words = Path(__file__).read_text(encoding="utf-8").split()

    def text(mean: int) -> str:
        return " ".join(draw.choices(words, k=round(mean * draw.uniform(0.7, 1.3))))

    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(num_prompts):
            row = {"id": number, "prompt": text(PROMPT_WORDS)}
            row["responses"] = [text(RESPONSE_WORDS) for _ in range(CANDIDATES)]
            file.write(json.dumps(row) + "\n")


def settings(folder: Path) -> dict[str, Any]:
    """The same engine for both."""
    return {
        "model": str(folder / "model"),
        "dtype": "float32",
        "max_length": 2048,
        "engine_args": {"enforce_eager": True},
        "gpus": 0,
    }


def run_job(folder: Path) -> dict[str, Any]:
    """The job, timed in a process of its own."""
    import os

    from jobs.config.job_types import parse_job
    from jobs.run.job import run_job as run
    from jobs.show.display import Display

    marks: dict[str, float] = {}

    class Clock(Display):
        def say(self, message: str) -> None:
            if "ready after" in message:
                marks["ready"] = time.monotonic()

    job = {
        "job": "best_of_n",
        "input": {"path": str(folder / "rows.jsonl")},
        "rewards": {"rm": settings(folder)},
        "output": {"path": str(folder / f"out-{os.getpid()}")},
    }
    began = time.monotonic()
    summary = run(parse_job(job, "bench"), Clock())
    ended = time.monotonic()
    return {"work_s": ended - marks["ready"], "whole_s": ended - began, **summary.served["rm"]}


def run_loop(folder: Path) -> dict[str, Any]:
    """``LLM.classify`` over the same ids, each prompt's candidates next to each other, longest first."""
    import pyarrow as pa
    import pyarrow.json
    from vllm import LLM, PoolingParams

    from rmbatch.reward_models.conversation import Encoder
    from rmbatch.reward_models.engines.order import engine_order
    from rmbatch.reward_models.spec import ServedModel
    from rmbatch.rows.roles import flatten, guess_roles

    began = time.monotonic()
    model = str(folder / "model")
    llm = LLM(
        model=model,
        runner="pooling",
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        kv_cache_memory_bytes=2 << 30,
    )
    ready = time.monotonic()
    table = pyarrow.json.read_json(folder / "rows.jsonl")
    view = flatten(table, guess_roles(table.schema))
    encoded = Encoder(ServedModel(**settings(folder))).encode(view.column("prompt"), view.column("response"))
    ids = encoded.ids.take(pa.array(engine_order(encoded.ids, encoded.prompt))).to_pylist()
    prompts = [{"prompt_token_ids": each} for each in ids]
    llm.classify(prompts, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
    ended = time.monotonic()
    least = sum(len(each) for each in ids) - _shared_tokens(encoded)
    return {"work_s": ended - ready, "whole_s": ended - began, "tokens": sum(map(len, ids)), "least": least}


def _shared_tokens(encoded: Any) -> int:
    """Tokens that the conversations of one prompt have in common, counted for all but one of them."""
    groups: dict[int, list[list[int]]] = {}
    for prompt, ids in zip(encoded.prompt.tolist(), encoded.ids.to_pylist(), strict=True):
        groups.setdefault(prompt, []).append(ids)
    return sum((len(group) - 1) * _common(group) for group in groups.values())


def _common(group: list[list[int]]) -> int:
    """How many first tokens all have."""
    return sum(1 for _ in itertools.takewhile(lambda at: len(set(at)) == 1, zip(*group, strict=False)))


def main() -> None:
    """Print both, and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=["job", "loop"])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.one:
        found = {"job": run_job, "loop": run_loop}[given.one](given.folder)
        print("RESULT " + json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_input(Path(folder), given.prompts)
        runs: dict[str, list[dict[str, Any]]] = {"job": [], "loop": []}
        for number in range(given.rounds):
            for one in ("job", "loop") if number % 2 else ("loop", "job"):
                runs[one].append(_in_process(one, folder))
    _report(runs, given.prompts)


def _in_process(one: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.served_model", "--one", one, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        raise SystemExit(f"{one} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(told[-1].removeprefix("RESULT "))
    print(f"{one:<5} work {found['work_s']:6.1f} s   whole {found['whole_s']:6.1f} s", flush=True)
    return found


def _report(runs: dict[str, list[dict[str, Any]]], num_prompts: int) -> None:
    job, loop = runs["job"][0], runs["loop"][0]
    tokens, least = loop["tokens"], loop["least"]
    computed = tokens * (1 - job["cached_share"])
    print(f"{num_prompts} prompts x {CANDIDATES}: {tokens:,} tokens, at least {least:,} to compute (P + N R)")
    print(f"computed {computed:,.0f}; saved {(tokens - computed) / (tokens - least):.3f} of the ideal saving")
    for key in ("work_s", "whole_s"):
        ours = statistics.median(run[key] for run in runs["job"])
        theirs = statistics.median(run[key] for run in runs["loop"])
        print(f"{key:<8} job {ours:6.1f} s, loop {theirs:6.1f} s: {ours / theirs:.2f} x")
    print(f"engine had work {statistics.median(run['busy_share'] for run in runs['job']):.0%} of the time")


if __name__ == "__main__":
    main()
