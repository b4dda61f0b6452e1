"""Peak memory of a job, driver and workers, at one and at ten times the rows.

Each job runs by its command in a process of its own with a Ray of its own; every 0.2 s the memory that belongs to each
of its processes alone is read (USS: Ray's object store is shared memory and not counted). ``driver`` is the command's
process; ``worker`` the largest of the processes that score; ``all workers`` the largest sum of them at one moment.

A small job is cut into small tasks so that all CPUs have some, which would make 1x look better than it is. Here files
and units are small instead (``--file-mb``), so that tasks have their full size at 1x already: the input is at least
4 tasks per CPU of that size.

    python -m tests.bench.memory --rows 100000 --factor 10
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from tests.bench.alternatives import RULES
from tests.bench.inputs import Format, write_flat, write_nested
from tests.bench.job_throughput import COLUMNS
from tests.bench.measuring import ROOT, print_table, write_job

EVERY_S = 0.2
CANDIDATES = 4
Kind = Literal["score", "best_of_n"]


@dataclass
class Peak:
    """The largest USS seen, in MB."""

    driver: float = 0.0
    worker: float = 0.0
    all_workers: float = 0.0
    seconds: float = 0.0


def watch(command: Sequence[str]) -> Peak:
    """Run a command and watch it; raises SystemExit if it fails."""
    peak, began = Peak(), time.monotonic()
    environment = {**os.environ, "RAY_ADDRESS": ""}
    with tempfile.TemporaryFile() as said:
        with psutil.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=environment) as process:
            while process.poll() is None:
                _sample(process, peak)
                time.sleep(EVERY_S)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode())
    peak.seconds = time.monotonic() - began
    return peak


def _sample(process: psutil.Popen, peak: Peak) -> None:
    workers = []
    with suppress(psutil.Error):
        peak.driver = max(peak.driver, process.memory_full_info().uss / 1e6)
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                if _scores(child):
                    workers.append(child.memory_full_info().uss / 1e6)
    peak.worker = max([peak.worker, *workers])
    peak.all_workers = max(peak.all_workers, sum(workers))


def _scores(process: psutil.Process) -> bool:
    """Whether it is a worker that runs tasks: Ray names its processes, and its actors after their classes."""
    name = process.cmdline()[:1]
    return bool(name) and name[0].startswith("ray::") and not name[0].startswith(("ray::_", "ray::Dashboard"))


def job(kind: Kind, source: Path, output: Path, file_format: Format, file_mb: int, cpus: int) -> dict[str, Any]:
    """The job that is watched: three rules over flat rows, or the best of four candidates by two of them."""
    common = {
        "job": kind,
        "output": {"path": str(output), "format": file_format, "file_mb": file_mb},
        "run": {"on": "ray", "cpus": cpus, "unit_mb": file_mb},
    }
    if kind == "score":
        return {**common, "input": {"path": str(source), "columns": COLUMNS}, "rewards": RULES}
    columns = {"id": "uid", "prompt": "messages", "responses": "candidates", "reference": "answer"}
    rewards = {name: RULES[name] for name in ("length", "exact")}
    combine = {"length": 0.1, "exact": 1.0}
    return {**common, "input": {"path": str(source), "columns": columns}, "rewards": rewards, "combine": combine}


def peak_of(kind: Kind, file_format: Format, num_rows: int, num_files: int, file_mb: int, cpus: int) -> Peak:
    """Make the input and watch the job on it; ``num_rows`` counts responses."""
    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as name:
        folder = Path(name)
        source = folder / "input"
        if kind == "score":
            write_flat(source, num_rows, num_files, file_format)
        else:
            write_nested(source, num_rows // CANDIDATES, num_files, CANDIDATES, file_format)
        job_file = write_job(folder / "job.yaml", job(kind, source, folder / "output", file_format, file_mb, cpus))
        return watch([sys.executable, "-m", "jobs", "run", job_file])


def main() -> None:
    """Watch each kind of job at both sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="responses at 1x")
    parser.add_argument("--factor", type=int, default=10)
    parser.add_argument("--file-mb", type=int, default=8)
    parser.add_argument("--cpus", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--quick", action="store_true", help="20,000 rows at 1x")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.file_mb = 20_000, 1
    kinds: tuple[Kind, ...] = ("score", "best_of_n")
    formats: tuple[Format, ...] = ("parquet", "jsonl")
    lines = []
    for kind in kinds:
        for file_format in formats:
            peaks = []
            for factor in (1, given.factor):
                num_rows = given.rows * factor
                peak = peak_of(kind, file_format, num_rows, 4 * factor, given.file_mb, given.cpus)
                peaks.append(peak)
                ratios = [
                    f"{getattr(peak, name) / getattr(peaks[0], name):.2f}"
                    for name in ("driver", "worker", "all_workers")
                ]
                memory = [round(value) for value in (peak.driver, peak.worker, peak.all_workers)]
                lines.append([kind, file_format, num_rows, *memory, " / ".join(ratios), round(peak.seconds)])
    header = ["job", "format", "responses", "driver, MB", "worker, MB", "all workers, MB", "ratios to 1x", "s"]
    print_table(f"peak USS, {given.cpus} CPUs, files and units of {given.file_mb} MiB", header, lines)


if __name__ == "__main__":
    main()
