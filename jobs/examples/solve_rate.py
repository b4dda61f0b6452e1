"""Prints how many prompts are solved when the best of N answers is kept, and what a random one of them would give.

    python -m jobs.examples.solve_rate out/demo-llm/best --score math

It reads a finished output of a job that has generated candidates and scored them. An answer is right if its score is
at least 1; one that was cut off is not. The share at N is the mean over the prompts of the chance that N of the stored
candidates, drawn without replacement, hold a right one (Chen et al., "Evaluating Large Language Models Trained on
Code", arXiv 2107.03374), so that all candidates count and not only the first N.
"""

import argparse
from collections.abc import Iterator, Sequence
from math import comb
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rmbatch.generation.candidates import GENERATION

SIZES = (1, 2, 4, 8)


def chance_of_a_right_one(num_candidates: int, num_right: int, size: int) -> float:
    """The chance that ``size`` of the candidates, drawn without replacement, hold a right one."""
    return 1.0 - comb(num_candidates - num_right, size) / comb(num_candidates, size)


def count_right(rows: Sequence[dict[str, Any]], score: str) -> list[tuple[int, int]]:
    """Of each row, how many candidates it has and how many of them are right."""
    counts = []
    for row in rows:
        scores, details = row[f"score.{score}"], row[GENERATION]
        right = [each is not None and each >= 1.0 and told["error"] is None for each, told in zip(scores, details)]
        counts.append((len(right), sum(right)))
    return counts


def solve_rates(counts: Sequence[tuple[int, int]], sizes: Sequence[int] = SIZES) -> Iterator[tuple[int, float, float]]:
    """N, the share that the best of N solves and the share that a random one of N does."""
    at_random = sum(right / number for number, right in counts) / len(counts)
    for size in sizes:
        if size <= min(number for number, _ in counts):
            yield size, sum(chance_of_a_right_one(*each, size) for each in counts) / len(counts), at_random


def read(output: str) -> list[dict[str, Any]]:
    """The rows of an output, those that were rejected too. Raises SystemExit where there are none."""
    files = [file for part in ("data/*.parquet", "_rejected/*.pq") for file in sorted(Path(output).glob(part))]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    if not rows:
        raise SystemExit(f"{output}: no rows are there; run the job first")
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--score", default="math", help="the reward that tells right answers")
    given = parser.parse_args()
    counts = count_right(read(given.output), given.score)
    print(f"{len(counts)} prompts, {sum(number for number, _ in counts)} answers; solved by")
    print(f"{'answers':>7}  {'the best of them':>16}  {'a random one':>12}")
    for size, best, at_random in solve_rates(counts):
        print(f"{size:>7}  {best:>16.1%}  {at_random:>12.1%}")


if __name__ == "__main__":
    main()
