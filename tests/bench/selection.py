"""Candidates a second of ``job: select`` over stored scores, beside a plain rewrite of the same files by pyarrow.

The job is a whole command in a process of its own: start, plan, filters, ranks, control, compressed output, ledger. The
rewrite reads each file and writes it again with the same compression, on as many processes.

    python -m tests.bench.selection --prompts 1000000 --cpus 2
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.measuring import print_table, python

FILE_PROMPTS, CANDIDATES = 50_000, 8
RULES = {
    "best one": "{by: math}",
    "filters": "{by: {math: 1.0, length: 0.1}, keep: 2, min_z: 0.0, solve_rate: {by: math, low: 0.1, high: 0.9},"
    " duplicates: normalised}",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--characters", type=int, default=100)
    parser.add_argument("--cpus", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_input(place / "in", given.prompts, given.characters)
        files = sorted((place / "in").iterdir())
        size = sum(file.stat().st_size for file in files)
        num = given.prompts * CANDIDATES
        (place / "out").mkdir()
        began = time.perf_counter()
        with ProcessPoolExecutor(given.cpus) as pool:
            list(pool.map(rewrite, files, [place / "out" / file.name for file in files]))
        plain = time.perf_counter() - began
        table = [("plain rewrite", f"{plain:.1f}", f"{num / plain / 1e6:.2f}", "1.00")]
        for number, (name, rule) in enumerate(RULES.items()):
            took = select(place, f"selected{number}", rule, given.cpus)
            table.append((name, f"{took:.1f}", f"{num / took / 1e6:.2f}", f"{plain / took:.2f}"))
    title = f"{given.prompts:,} prompts x {CANDIDATES} candidates, {size / 1e6:,.0f} MB, {given.cpus} CPUs"
    print_table(title, ("", "seconds", "M candidates/s", "of the rewrite"), table)


def write_input(folder: Path, prompts: int, characters: int) -> None:
    """Scored rows: texts of digits, a score of two values and a fine one."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for first in range(0, prompts, FILE_PROMPTS):
        rows = min(FILE_PROMPTS, prompts - first)
        num = rows * CANDIDATES
        offsets = pa.array(np.arange(0, num + 1, CANDIDATES), pa.int32())
        letters = rng.integers(97, 123, num * characters, dtype=np.uint8).tobytes()
        ends = pa.py_buffer(np.arange(0, num * characters + 1, characters, dtype=np.int32))
        texts = pa.Array.from_buffers(pa.string(), num, [None, ends, pa.py_buffer(letters)])
        columns = {
            "prompt": pa.array([f"prompt {first + row}" for row in range(rows)]),
            "responses": pa.ListArray.from_arrays(offsets, texts),
            "score.math": pa.ListArray.from_arrays(offsets, pa.array(rng.integers(0, 2, num).astype(np.float64))),
            "score.length": pa.ListArray.from_arrays(offsets, pa.array(rng.random(num))),
        }
        pq.write_table(pa.table(columns), folder / f"{first:09}.parquet", compression="zstd")


def rewrite(source: Path, target: Path) -> None:
    pa.set_cpu_count(1)
    pq.write_table(pq.read_table(source, use_threads=False), target, compression="zstd")


def select(place: Path, name: str, rule: str, cpus: int) -> float:
    """Seconds of the command."""
    file = place / f"{name}.yaml"
    file.write_text(
        f"job: select\ninput: {{path: {place}/in}}\nselect: {rule}\noutput: {{path: {place}/{name}}}\n"
        f"run: {{on: here, cpus: {cpus}}}\n"
    )
    return python("-m", "jobs", "run", str(file))


if __name__ == "__main__":
    main()
