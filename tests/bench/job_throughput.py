"""Throughput of the score job against a hand-written pyarrow loop over the same kernels, on the same cores.

The loop is what somebody writes who knows pyarrow: a process per core, each taking whole files, reading a row group,
calling the kernels on its columns, appending it to a Parquet file (zstd). It has no plan, no ledger, no checksums, no
fsync, no hidden addresses, no retries; the rows that it writes are the same, which is checked.

*command* is everything from ``python -m jobs run`` to its end (imports and the start of a local Ray) against the loop's
whole process. *steady* is the same job in a process whose Ray and workers are up, against the loop in a process whose
pool is up. *few rows* is that job over 2,000 rows: what a job costs however small it is; *per row* is steady less that.
Runs alternate. CPU seconds are those of the whole process tree; on a machine that others use too they vary less than
the clock. Ray starts its workers with a niceness of 15, which would let other users of the machine slow the job and not
the loop, so it is set to 0 here.

    python -m tests.bench.job_throughput --rows 1000000 --repeats 5
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

import rmbatch
from tests.bench.inputs import write_flat
from tests.bench.measuring import median, print_table, python, timed, write_job

COLUMNS = {"id": "uid", "prompt": "messages", "response": "completion", "reference": "answer"}
RAY_ENVIRONMENT = {"RAY_ADDRESS": "", "RAY_worker_niceness": "0"}
RULES: dict[str, dict[str, Any]] = {
    "length": {"reward": "length_penalty", "max_length": 800},
    "format": {"reward": "reasoning_format"},
    "exact": {"reward": "accuracy"},
}


def job(source: Path, output: Path, cpus: int) -> dict[str, Any]:
    """The job whose speed is measured."""
    return {
        "job": "score",
        "input": {"path": str(source), "columns": COLUMNS},
        "rewards": RULES,
        "output": {"path": str(output)},
        "run": {"on": "ray", "cpus": cpus},
    }


def loop_file(source: str, target: str) -> int:
    """Score one file, row group by row group, into another; returns its rows."""
    pa.set_cpu_count(1)
    rules = {name: rmbatch.reward(**knobs) for name, knobs in _bound().items()}
    writer: Any = None
    with pq.ParquetFile(source) as file:
        for index in range(file.num_row_groups):
            table = file.read_row_group(index, use_threads=False)
            columns = {
                "response": table["completion"].combine_chunks().cast(pa.large_string()),
                "reference": table["answer"].combine_chunks().cast(pa.large_string()),
            }
            for name, rule in rules.items():
                scores = rule.score_columns(columns.__getitem__, table.num_rows)
                table = table.append_column(f"score.{name}", scores.score)
                table = table.append_column(f"error.{name}", scores.error.cast(pa.string()))
                if rule.spec.writes_reason:
                    table = table.append_column(f"reason.{name}", scores.reason.cast(pa.string()))
            writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
            writer.write_table(table)
        writer.close()
        return int(file.metadata.num_rows)


def _bound() -> dict[str, dict[str, Any]]:
    return {name: {"ref": knobs["reward"], **_without_name(knobs)} for name, knobs in RULES.items()}


def _without_name(knobs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in knobs.items() if key != "reward"}


def loop(pool: ProcessPoolExecutor, source: Path, output: Path) -> None:
    """All files, a process per core."""
    output.mkdir(parents=True)
    files = sorted(source.glob("*.parquet"))
    list(pool.map(loop_file, map(str, files), [str(output / file.name) for file in files]))


def warm_pool(cpus: int) -> ProcessPoolExecutor:
    """A pool whose processes are up and have imported what they need."""
    pool = ProcessPoolExecutor(cpus, mp_context=multiprocessing.get_context("spawn"))
    list(pool.map(time.sleep, [0.5] * cpus))
    return pool


def check_equal(ours: Path, theirs: Path) -> int:
    """The rows, after making sure that both outputs hold the same ones."""
    tables = []
    for folder in (ours / "data", theirs):
        table = pa.dataset.dataset(folder, format="parquet").to_table().sort_by("uid")
        tables.append(table.replace_schema_metadata(None).combine_chunks())
    for name in tables[1].column_names:
        if not tables[0][name].cast(tables[1][name].type).equals(tables[1][name]):
            raise SystemExit(f"the job and the loop differ in column {name!r}")
    if set(tables[0].column_names) != set(tables[1].column_names):
        raise SystemExit(f"the columns differ: {tables[0].column_names} and {tables[1].column_names}")
    return int(tables[0].num_rows)


def fresh(folder: Path) -> Path:
    """The folder's path, with nothing there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def measure(folder: Path, source: Path, cpus: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and CPU seconds of each way to run, run by run."""
    from cluster.local import attached
    from tests.jobs.running import run

    ours, theirs, few = folder / "job", folder / "loop", folder / "few"
    write_flat(few, 2000, cpus * 2)
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeats):
        command = ["-m", "tests.bench.job_throughput", "--loop", str(source), str(fresh(theirs)), "--cpus", str(cpus)]
        taken.setdefault("loop, command", []).append((python(*command), 0.0))
        job_file = write_job(folder / "job.yaml", job(source, fresh(ours), cpus))
        taken.setdefault("job, command", []).append((python("-m", "jobs", "run", job_file, env=RAY_ENVIRONMENT), 0.0))
    os.environ.update(RAY_ENVIRONMENT)
    with warm_pool(cpus) as pool, attached(num_cpus=cpus):
        run(job(few, fresh(ours), cpus))
        for _ in range(repeats):
            fresh(ours)
            taken.setdefault("job, few rows", []).append(timed(lambda: run(job(few, ours, cpus))))
            fresh(theirs)
            taken.setdefault("loop, steady", []).append(timed(lambda: loop(pool, source, theirs)))
            fresh(ours)
            taken.setdefault("job, steady", []).append(timed(lambda: run(job(source, ours, cpus))))
    return taken


def compare(taken: dict[str, list[tuple[float, float]]], num_rows: int) -> list[list[Any]]:
    """The lines of the table, from the medians."""
    wall = {name: median([seconds for seconds, _ in runs]) for name, runs in taken.items()}
    cpu = {name: median([spent for _, spent in runs]) for name, runs in taken.items()}
    wall["job, per row"] = wall["job, steady"] - wall["job, few rows"]
    cpu["job, per row"] = cpu["job, steady"] - cpu["job, few rows"]
    lines: list[list[Any]] = []
    for name in ("loop, command", "job, command", "loop, steady", "job, steady", "job, few rows", "job, per row"):
        against = "loop, command" if "command" in name else "loop, steady"
        runs = [seconds for seconds, _ in taken.get(name, [])]
        span = f"{min(runs):.1f} to {max(runs):.1f}" if runs else ""
        is_few = name == "job, few rows"
        rate = "" if is_few else round(num_rows / wall[name])
        ratio = "" if is_few else f"{wall[against] / wall[name]:.2f}"
        cpu_ratio = "" if is_few or not cpu[name] else f"{cpu[against] / cpu[name]:.2f}"
        lines.append([name, wall[name], span, cpu[name] or "", rate, ratio, cpu_ratio])
    return lines


def main() -> None:
    """Make the input, run both ways in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="50,000 rows, one run")
    parser.add_argument("--loop", nargs=2, metavar=("SOURCE", "TARGET"), help="only the loop, over what is there")
    given = parser.parse_args()
    if given.loop:
        with ProcessPoolExecutor(given.cpus, mp_context=multiprocessing.get_context("spawn")) as pool:
            loop(pool, Path(given.loop[0]), Path(given.loop[1]))
        return
    if given.quick:
        given.rows, given.repeats = 50_000, 1
    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as name:
        folder = Path(name)
        size = write_flat(folder / "input", given.rows, given.files)
        taken = measure(folder, folder / "input", given.cpus, given.repeats)
        num_rows = check_equal(folder / "job", folder / "loop")
    title = f"score: {num_rows:,} rows, {size / 1e6:,.0f} MB of Parquet, {given.cpus} CPUs, {given.repeats} runs each"
    header = ["who, what counts", "s (median)", "s (range)", "CPU s", "rows/s", "throughput / loop's", "by CPU s"]
    print_table(title, header, compare(taken, num_rows))


if __name__ == "__main__":
    main()
