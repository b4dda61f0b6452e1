"""What it costs to start a job again: one that is finished, and one of which nine tenths are.

*Finished*: a job is run and then started again by the same command, while the kernel (inotify) counts every opening of
an input file by any process; the count of the first run shows that the watch sees Ray's workers and Arrow's C++ too.

*Nine tenths done*: an output of many units is built from the real classes (a plan, and commit records with random
outcomes), then a fresh process reads the plan and the records, subtracts, and cuts the rest into tasks, as
``rmbatch run`` does. Its memory must follow the number of records and never the number of rows.

    python -m tests.bench.restart_cost --units 1000 10000 --unit-rows 1000 100000
"""

import argparse
import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from connectors.commit import Commit, DataFile, pack_outcomes
from connectors.dataset import InputDataset
from connectors.finish import finish
from connectors.ledger import Ledger, Plan
from connectors.storage import Folder
from connectors.units import InputFile, Range, Unit
from connectors.writer import OutputSpec
from tests.bench.inputs import write_flat
from tests.bench.job_throughput import job
from tests.bench.measuring import ROOT, print_table, python, write_job

DONE = 0.9
SCHEMA = pa.schema([("prompt", pa.string()), ("response", pa.string())])
NUM_CPUS = 64
"""Of the cluster that the rest is cut for."""


@contextmanager
def opened_files(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """Names of the files of a folder that any process has opened since the last call (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    in_open, is_folder, nonblocking = 0x20, 0x40000000, os.O_NONBLOCK
    watch = libc.inotify_init1(nonblocking)
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(folder), in_open) < 0:
        raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def names() -> list[str]:
        found = []
        while True:
            try:
                events = os.read(watch, 1 << 16)
            except BlockingIOError:
                return found
            while events:
                _, mask, _, size = struct.unpack_from("iIII", events)
                if not mask & is_folder:
                    found.append(events[16 : 16 + size].rstrip(b"\0").decode())
                events = events[16 + size :]

    try:
        yield names
    finally:
        os.close(watch)


@dataclass(frozen=True)
class Finished:
    """A job, and the same command once more."""

    first_s: float
    first_opens: int
    again_s: float
    again_opens: int


def start_a_finished_job(folder: Path, num_rows: int, run: Callable[[dict[str, Any]], object]) -> Finished:
    """Run a job, then run it again."""
    source = folder / "input"
    write_flat(source, num_rows, num_files=8)
    with opened_files(source) as opened:
        seconds, opens = [], []
        for _ in range(2):
            began = time.monotonic()
            run(job(source, folder / "output", os.cpu_count() or 1))
            seconds.append(time.monotonic() - began)
            opens.append(len(opened()))
    return Finished(seconds[0], opens[0], seconds[1], opens[1])


def build(output: Path, num_units: int, unit_rows: int) -> None:
    """An output whose plan has so many units, nine tenths of them finished, with a data file for each unit."""
    ledger = Ledger(Folder.open(str(output)))
    files = {index: InputFile(f"/nowhere/{index}.parquet", 64 << 20, "0-0", unit_rows) for index in range(num_units)}
    units = {index: Unit(index, index, 0, unit_rows, 64 << 20) for index in range(num_units)}
    ledger.begin(Plan({"job": "score"}, InputDataset("parquet", SCHEMA, files, units)))
    (output / "data").mkdir()
    for index in range(num_units):
        (output / f"data/u{index:06d}.parquet").touch()
    _commit(ledger, range(int(num_units * DONE)), unit_rows)


def _commit(ledger: Ledger, units: Sequence[int], unit_rows: int) -> None:
    outcomes = np.random.default_rng(1).integers(0, 2, unit_rows).astype(np.int8)
    packed, kept = pack_outcomes(outcomes), int((outcomes == 0).sum())
    rows = {"data": kept, "rejected": unit_rows - kept, "dead_letters": 0}
    for index in units:
        file = DataFile(f"data/u{index:06d}.parquet", "data", kept, 0, "0" * 32)
        record = Commit([Range(index, 0, unit_rows)], [file], rows, {"scored.f1": unit_rows}, "run", packed=packed)
        ledger.private.write(f"commits/{record.name}", record.to_json(), durable=False)


def plan_the_rest(output: str) -> dict[str, float]:
    """Seconds and growth of the peak RSS (MB), in this process, of each thing that a restart does."""
    from rmbatch.pipeline.task import cut_tasks

    ledger = Ledger(Folder.open(output))
    before = peak_rss(reset=True)
    began = time.monotonic()
    plan = ledger.plan()
    assert plan is not None
    missing = ledger.missing(plan.dataset, ledger.commits())
    tasks = cut_tasks(plan.dataset, missing, 128 << 20, NUM_CPUS, splittable=True)
    planned_s = time.monotonic() - began
    growth = peak_rss() - before
    assert sum(piece.num_rows for task in tasks for piece in task) == sum(piece.num_rows for piece in missing)
    began = time.monotonic()
    ledger.progress()
    progress_s = time.monotonic() - began

    unit_rows = plan.dataset.units[0].num_rows
    _commit(ledger, [piece.unit for piece in missing], unit_rows)
    began = time.monotonic()
    finish(ledger, plan, OutputSpec(ledger.output, SCHEMA, keep_rejected=False), run="bench")
    finish_s = time.monotonic() - began
    return {
        "tasks": len(tasks),
        "planned_s": planned_s,
        "growth_mb": growth / 1e6,
        "progress_s": progress_s,
        "finish_s": finish_s,
    }


def peak_rss(*, reset: bool = False) -> int:
    """Bytes of this process's peak RSS since the last reset (Linux; getrusage would tell the parent's, if larger)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def restart(num_units: int, unit_rows: int) -> dict[str, float]:
    """``plan_the_rest`` of a fresh output, in a fresh process."""
    folder = Path(tempfile.mkdtemp(prefix="rmbatch-bench-"))
    try:
        build(folder / "output", num_units, unit_rows)
        command = [sys.executable, "-m", "tests.bench.restart_cost", "--plan-the-rest", str(folder / "output")]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        numbers: dict[str, float] = orjson.loads(ended.stdout.splitlines()[-1])
        return numbers
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="of the finished job")
    parser.add_argument("--units", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--unit-rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--plan-the-rest", metavar="OUTPUT", help="only this, for an output that is there")
    given = parser.parse_args()
    if given.plan_the_rest:
        print(orjson.dumps(plan_the_rest(given.plan_the_rest)).decode())
        return
    if given.quick:
        given.rows, given.units = 10_000, [200, 1000]
    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as name:
        path = Path(name) / "job.yaml"

        def command(job: dict[str, Any]) -> None:
            python("-m", "jobs", "run", write_job(path, job), env={"RAY_ADDRESS": ""})

        found = start_a_finished_job(Path(name), given.rows, command)
    rows: list[list[Any]] = [
        ["first", found.first_s, found.first_opens],
        ["again", found.again_s, found.again_opens],
    ]
    print_table(f"a job of {given.rows:,} rows, started twice", ["run", "s", "input files opened"], rows)
    rows = []
    for num_units in given.units:
        for unit_rows in given.unit_rows:
            rest = restart(num_units, unit_rows)
            numbers = [rest[name] for name in ("planned_s", "growth_mb", "progress_s", "finish_s")]
            rows.append([num_units, unit_rows, int(rest["tasks"]), *numbers])
    header = [
        "units",
        "rows per unit",
        "tasks left",
        "plan the rest, s",
        "peak RSS, + MB",
        "status, s",
        "finish, s",
    ]
    print_table(f"{DONE:.0%} of the units finished", header, rows)


if __name__ == "__main__":
    main()
