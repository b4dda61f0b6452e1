"""What the measurements share: the versions they name, their tables, medians, a job in a process of its own.

print_table("memory", ["rows", "peak MB"], [[1000, 12.5]])
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import orjson
import psutil

PACKAGES = ("ray", "pyarrow", "polars")
ROOT = Path(__file__).parents[2]
RAY_ENVIRONMENT = {"RAY_ADDRESS": "", "RAY_worker_niceness": "0"}
"""A Ray of our own, whose workers who else uses the machine slows no more than us."""


def versions() -> str:
    """What the numbers were seen on, in one line."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"python {python_version()}, {packages}, {os.cpu_count()} CPUs"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table with the versions under it, as docs/benchmarks.md holds them."""
    print(f"\n**{title}**\n")
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(map(_shown, row)) + " |")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{versions()}; load average at the end {load}", flush=True)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def median(values: Sequence[float]) -> float:
    """The median, to two decimals."""
    return round(statistics.median(values), 2)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call, and CPU seconds of this process and of its descendants that are alive after it."""
    before, began = _cpu_times(), time.monotonic()
    run()
    seconds = time.monotonic() - began
    return seconds, sum(spent - before.get(pid, 0.0) for pid, spent in _cpu_times().items())


def _cpu_times() -> dict[int, float]:
    found: dict[int, float] = {}
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            spent = process.cpu_times()
            found[process.pid] = spent.user + spent.system
    return found


def python(*command: str, env: Mapping[str, str] | None = None) -> float:
    """Seconds of one ``python ...`` in a process of its own; its output is shown only if it fails.

    Compiled modules are kept, as they are unless somebody forbids it: else each process compiles ours anew.
    """
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(env or {})},
    )
    if ended.returncode:
        raise SystemExit(f"python {' '.join(command)} failed:\n{ended.stdout}\n{ended.stderr}")
    return time.monotonic() - began


def write_job(path: Path, job: Mapping[str, Any]) -> str:
    """The job as a job file (JSON is YAML); returns its path."""
    path.write_bytes(orjson.dumps(job))
    return str(path)
