"""What an evaluation costs beside the scoring of its rows: time and memory of the metric pass, by the number of pairs.

Each size is a real job in processes of its own: two rules and 1,000 draws of the bootstrap on pairs of about 1,200
characters. *scoring* is the job until its rows are scored; *metric pass* is the same command again on the scored rows,
of which the start of Python and the reading of the job (measured on a finished output) are subtracted. *control* is the
bootstrap that one would write first, in the same run: it draws rows with numpy for one figure of one reward. Memory is
the peak of the process that measures (USS, read every 50 ms).

    python -m tests.bench.evaluation --pairs 25000 100000 400000
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.measuring import ROOT, print_table, write_job

REPLICATES = 1000
SUBSETS = ("alpacaeval-easy", "mt-bench-hard", "donotanswer", "math-prm", "hep-python")
RULES = {"words": {"reward": "word_count.py:words"}, "commas": {"reward": "word_count.py:commas"}}
CODE = """
import pyarrow as pa
import pyarrow.compute as pc


def words(response: pa.Array) -> pa.Array:
    return pc.cast(pc.count_substring(response, " "), pa.float64())


def commas(response: pa.Array) -> pa.Array:
    return pc.cast(pc.count_substring(response, ","), pa.float64())
"""


def write_pairs(path: Path, number: int) -> None:
    """Pairs in RewardBench's columns; the chosen text is a little longer on average."""
    draw = random.Random(0)
    filler = ["lorem ipsum dolor, " * size for size in range(20, 45)]
    rows = 10_000
    with pq.ParquetWriter(path, pa.schema([("id", pa.int64()), *((name, pa.string()) for name in COLUMNS)])) as writer:
        for start in range(0, number, rows):
            size = min(rows, number - start)
            writer.write_table(
                pa.table(
                    {
                        "id": pa.array(range(start, start + size), pa.int64()),
                        "prompt": [f"Question {start + place}?" for place in range(size)],
                        "chosen": [f"{draw.choice(filler)} a{draw.random()}" for _ in range(size)],
                        "rejected": [f"{draw.choice(filler[:-2])} b{draw.random()}" for _ in range(size)],
                        "subset": [draw.choice(SUBSETS) for _ in range(size)],
                    }
                )
            )


COLUMNS = ("prompt", "chosen", "rejected", "subset")


class Run(NamedTuple):
    """What one command took."""

    seconds: float
    cpu_s: float
    """Of all its processes."""
    peak_mb: float
    """Of its first process."""


def run(job_file: str) -> Run:
    """Run the command, and watch it; raises SystemExit if it fails."""
    command = [sys.executable, "-m", "jobs", "run", job_file]
    began, before, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN), 0.0
    with tempfile.TemporaryFile() as said:
        with psutil.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                with suppress(psutil.Error):
                    peak = max(peak, process.memory_full_info().uss / 1e6)
                time.sleep(0.05)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(time.monotonic() - began, cpu, peak)


def measure(number: int) -> list[Any]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pairs(folder / "pairs.parquet", number)
        (folder / "word_count.py").write_text(CODE)
        job = {
            "job": "evaluate",
            "suites": {"rewardbench": {"path": str(folder / "pairs.parquet")}},
            "rewards": {name: {"reward": f"{folder}/{rule['reward']}"} for name, rule in RULES.items()},
            "compare": list(RULES),
            "replicates": REPLICATES,
            "output": {"path": str(folder / "out")},
            "run": {"on": "here"},
        }
        job_file = write_job(folder / "job.json", job)
        whole = run(job_file)
        nothing = run(job_file)  # a finished output: only read
        (folder / "out/evaluation.json").unlink()
        again = run(job_file)
        metrics_cpu, scoring_cpu = again.cpu_s - nothing.cpu_s, whole.cpu_s - again.cpu_s
        return [
            number,
            whole.seconds - again.seconds,
            again.seconds - nothing.seconds,
            scoring_cpu,
            metrics_cpu,
            metrics_cpu / scoring_cpu,
            control(number),
            again.peak_mb,
            again.peak_mb - nothing.peak_mb,
        ]


def control(number: int) -> float:
    """CPU seconds of drawing rows for the interval of one accuracy."""
    generator, credit = np.random.default_rng(0), np.random.default_rng(1).random(number) < 0.7
    began = time.process_time()
    for _ in range(REPLICATES):
        credit[generator.integers(number, size=number)].mean()
    return time.process_time() - began


HEADER = [
    *("pairs", "scoring s", "metric pass s", "scoring CPU s", "metric pass CPU s", "metric pass / scoring, CPU"),
    *("control CPU s", "peak MB", "above start MB"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[25_000, 100_000, 400_000])
    parser.add_argument("--quick", action="store_true", help="a size that shows that it runs")
    parsed = parser.parse_args(arguments)
    sizes = [2000, 4000] if parsed.quick else parsed.pairs
    print_table("evaluation", HEADER, [measure(number) for number in sizes])


if __name__ == "__main__":
    main()
