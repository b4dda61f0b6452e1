"""Seconds and memory of ``rmbatch report`` over many prompts, beside one read of the same files by pyarrow.

The report is a whole command in a process of its own. The read goes over all columns that the report's passes may read,
row group by row group, and computes nothing.

    python -m tests.bench.report --prompts 1000000
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import psutil
import pyarrow.parquet as pq

from tests.bench.measuring import ROOT, print_table
from tests.bench.selection import CANDIDATES, write_input


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--characters", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        output.mkdir()
        write_input(output / "data", given.prompts, given.characters)
        write_manifest(output)
        files = sorted((output / "data").iterdir())
        size = sum(file.stat().st_size for file in files)
        began, cpu_before = time.perf_counter(), time.process_time()
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(8192):
                assert batch.num_rows
        read, read_cpu = time.perf_counter() - began, time.process_time() - cpu_before
        table = [("read by pyarrow", f"{read:.1f}", f"{read_cpu:.1f}", "1.00", "")]
        for name, options in (("report", []), ("report with a gold", ["--gold", "math", "--by", "length"])):
            took, cpu, peak = report(output, options)
            table.append((name, f"{took:.1f}", f"{cpu:.1f}", f"{cpu / read_cpu:.2f}", f"{peak / 1e6:,.0f}"))
    title = f"{given.prompts:,} prompts x {CANDIDATES} candidates, {size / 1e6:,.0f} MB"
    print_table(title, ("", "seconds", "CPU seconds", "of the read's", "peak memory, MB"), table)


def write_manifest(output: Path) -> None:
    """What a finished job leaves beside its rows, as far as a report needs it."""
    files = [{"path": f"data/{file.name}", "part": "data"} for file in sorted((output / "data").iterdir())]
    job = {"job": "score", "rewards": {"math": {}, "length": {}}}
    (output / "_rmbatch").mkdir()
    (output / "_rmbatch/manifest.json").write_bytes(orjson.dumps({"job": job, "files": files, "rows": {}}))


def report(output: Path, options: list[str]) -> tuple[float, float, int]:
    """Seconds, CPU seconds and the peak of resident bytes of one command."""
    command = [sys.executable, "-m", "jobs", "report", str(output), *options]
    began, peak, cpu = time.perf_counter(), 0, 0.0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak, used = max(peak, watched.memory_info().rss), watched.cpu_times()
                cpu = used.user + used.system
            except psutil.Error:
                break
            time.sleep(0.1)
        assert process.stderr is not None
        said = process.stderr.read().decode()
    if process.returncode:
        raise SystemExit(said)
    return time.perf_counter() - began, cpu, peak


if __name__ == "__main__":
    main()
