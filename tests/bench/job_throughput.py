"""Throughput of the score job against what one would write in its place: the same rows and rules on the same cores.

``tests/bench/alternatives.py`` has them: a hand-written pyarrow loop (a process per core, each taking whole files), a
bare Ray Data pipeline, and datatrove where it is installed. The rows that all write are the same, which is checked.

*command* is everything from ``python -m ...`` to its end: imports, the start of a local Ray or of processes. *steady*
is the same in a process whose Ray and workers, or whose pool, are up; datatrove starts its processes each time, so it
has no such number. *few rows* is the steady job over 2,000 rows: what a job costs however small it is; *per row* is
steady less that. Runs alternate. CPU seconds are those of the whole process tree; on a machine that others use too they
vary less than the clock. Ray starts its workers with a niceness of 15, which would let other users of the machine slow
what runs on Ray and not the rest, so it is set to 0 here.

    python -m tests.bench.job_throughput --rows 1000000 --repeats 5
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from tests.bench import alternatives
from tests.bench.inputs import write_flat
from tests.bench.measuring import RAY_ENVIRONMENT, median, print_table, python, timed, write_job

COLUMNS = {"id": "uid", "prompt": "messages", "response": "completion", "reference": "answer"}
Taken = dict[str, list[tuple[float, float]]]
"""Seconds and CPU seconds (0: not measured), run by run, of each way to run."""


def job(source: Path, output: Path, cpus: int, on: str = "ray") -> dict[str, Any]:
    """The job whose speed is measured."""
    return {
        "job": "score",
        "input": {"path": str(source), "columns": COLUMNS},
        "rewards": alternatives.RULES,
        "output": {"path": str(output)},
        "run": {"on": on, "cpus": cpus},
    }


def check_equal(ours: Path, theirs: Path) -> int:
    """The rows, after making sure that both outputs hold the same ones."""
    left, right = (_rows(folder) for folder in (ours / "data", theirs))
    for name in right.column_names:
        if not left[name].cast(right[name].type).equals(right[name]):
            raise SystemExit(f"the job and {theirs.name} differ in column {name!r}")
    if set(left.column_names) != set(right.column_names):
        raise SystemExit(f"the columns differ: {left.column_names} and {theirs.name}'s {right.column_names}")
    return int(left.num_rows)


def _rows(folder: Path) -> pa.Table:
    table = pa.dataset.dataset(folder, format="parquet").to_table().sort_by("uid")
    return table.replace_schema_metadata(None).combine_chunks()


def fresh(folder: Path) -> Path:
    """The folder's path, with nothing there."""
    for each in (folder, folder.with_suffix(".logs")):
        shutil.rmtree(each, ignore_errors=True)
    return folder


def measure_commands(folder: Path, source: Path, cpus: int, repeats: int) -> Taken:
    """Whole commands, in turns."""
    taken: Taken = {}
    others = ["loop", "ray_data", *(["datatrove"] if alternatives.has_datatrove() else [])]
    for _ in range(repeats):
        for name in others:
            command = ["-m", "tests.bench.alternatives", name, str(source), str(fresh(folder / name)), str(cpus)]
            taken.setdefault(f"{name}, command", []).append((python(*command, env=RAY_ENVIRONMENT), 0.0))
        for on in ("ray", "here"):
            described = job(source, fresh(folder / f"job_{on}"), cpus, on)
            command = ["-m", "jobs", "run", write_job(folder / "job.yaml", described)]
            taken.setdefault(f"job on {on}, command", []).append((python(*command, env=RAY_ENVIRONMENT), 0.0))
    return taken


def measure_steady(folder: Path, source: Path, cpus: int, repeats: int) -> Taken:
    """In a process whose Ray and whose pool are up, in turns."""
    from cluster.local import attached
    from tests.jobs.running import run

    ours, few, rays, theirs = folder / "job_ray", folder / "few", folder / "ray_data", folder / "loop"
    write_flat(few, 2000, cpus * 2)
    os.environ.update(RAY_ENVIRONMENT)
    taken: Taken = {}
    with alternatives.loop_pool(cpus) as pool, attached(num_cpus=cpus):
        list(pool.map(time.sleep, [0.5] * cpus))
        run(job(few, fresh(ours), cpus))
        for _ in range(repeats):
            fresh(ours)
            taken.setdefault("job, few rows", []).append(timed(lambda: run(job(few, ours, cpus))))
            fresh(theirs)
            taken.setdefault("loop, steady", []).append(timed(lambda: alternatives.loop(source, theirs, pool)))
            fresh(rays)
            taken.setdefault("ray_data, steady", []).append(timed(lambda: alternatives.ray_data(source, rays)))
            fresh(ours)
            taken.setdefault("job on ray, steady", []).append(timed(lambda: run(job(source, ours, cpus))))
    return taken


def compare(taken: Taken, num_rows: int) -> list[list[Any]]:
    """The lines of the table, from the medians."""
    wall = {name: median([seconds for seconds, _ in runs]) for name, runs in taken.items()}
    cpu = {name: median([spent for _, spent in runs]) for name, runs in taken.items()}
    if "job, few rows" in taken:
        wall["job, per row"] = wall["job on ray, steady"] - wall["job, few rows"]
        cpu["job, per row"] = cpu["job on ray, steady"] - cpu["job, few rows"]
    lines: list[list[Any]] = []
    for name in sorted(wall, key=lambda name: "command" not in name):
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
    """Make the input, run all ways in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("command", "steady"), help="one half of the table")
    parser.add_argument("--quick", action="store_true", help="50,000 rows, one run")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.repeats = 50_000, 1
    if not alternatives.has_datatrove():
        print("datatrove is not installed, so it is left out; pip install 'rmbatch[bench]' brings it")
    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as name:
        folder = Path(name)
        source = folder / "input"
        size = write_flat(source, given.rows, given.files)
        taken: Taken = {}
        if given.only != "steady":
            taken |= measure_commands(folder, source, given.cpus, given.repeats)
        if given.only != "command":
            taken |= measure_steady(folder, source, given.cpus, given.repeats)
        others = [folder / each for each in ("loop", "ray_data", "datatrove") if (folder / each).exists()]
        num_rows = {check_equal(folder / "job_ray", other) for other in others}.pop()
    title = f"score: {num_rows:,} rows, {size / 1e6:,.0f} MB of Parquet, {given.cpus} CPUs, {given.repeats} runs each"
    header = ["who, what counts", "s (median)", "s (range)", "CPU s", "rows/s", "throughput / loop's", "by CPU s"]
    print_table(title, header, compare(taken, num_rows))


if __name__ == "__main__":
    main()
