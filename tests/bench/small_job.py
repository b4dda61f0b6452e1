"""Seconds from the command to the table of a small job: in processes of this machine, against a local Ray, in turns.

python -m tests.bench.small_job
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.bench.measuring import print_table, python

EXAMPLE = "jobs/examples/best_of_n.yaml"


def seconds_to_the_table(on: str) -> float:
    """One run of the example on a new output."""
    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as folder:
        output = f"output.path={Path(folder, 'out')}"
        return python("-m", "jobs", "run", EXAMPLE, output, f"run.on={on}", env={"RAY_ADDRESS": ""})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one run each")
    given = parser.parse_args()
    taken: dict[str, list[float]] = {"here": [], "ray": []}
    for _ in range(1 if given.quick else given.repeats):
        for on, seconds in taken.items():
            seconds.append(seconds_to_the_table(on))
    ray = statistics.median(taken["ray"])
    rows = [
        [on, statistics.median(seconds), f"{min(seconds):.1f} to {max(seconds):.1f}", statistics.median(seconds) / ray]
        for on, seconds in taken.items()
    ]
    print_table(f"{EXAMPLE}, from the command to its table", ["run.on", "s (median)", "s (range)", "of ray's"], rows)


if __name__ == "__main__":
    main()
