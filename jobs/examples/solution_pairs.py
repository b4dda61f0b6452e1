"""Makes preference pairs of school maths: a right solution against a wrong one of the same problem.

    python -m jobs.examples.solution_pairs out/train-rm/pairs.jsonl           # of problems made on the spot
    python -m jobs.examples.solution_pairs out/train-rm/pairs.jsonl FILE      # GSM8K's example_model_solutions.jsonl

The public file (openai/grade-school-math) has four models' solutions to each of GSM8K's 1,319 test problems, and which
of them are right. Each right one and each wrong one of a problem make a pair.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jobs.examples.problems import problems

NUM_PROBLEMS = 600
SEED = 5
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
"""Whose solutions the public file has."""


def main(path: str, public_file: str | None = None) -> None:
    """Write the pairs, a line each: id, prompt, chosen, rejected."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    pairs = list(made_pairs(NUM_PROBLEMS) if public_file is None else recorded_pairs(Path(public_file)))
    target.write_bytes(b"".join(orjson.dumps(pair) + b"\n" for pair in pairs))
    print(f"{target}: {len(pairs):,} pairs of {len({pair['prompt'] for pair in pairs}):,} problems")


def made_pairs(num_problems: int) -> Iterator[dict[str, Any]]:
    """A pair of each problem whose two solutions are there."""
    for number, row in enumerate(problems(num_problems, random.Random(SEED))):
        answers = [row["solution_a"], row["solution_b"]]
        right = [each for each in answers if each is not None and _says(each, row["answer"])]
        wrong = [each for each in answers if each is not None and each not in right]
        if right and wrong:
            yield {"id": f"made-{number}", "prompt": row["question"], "chosen": right[0], "rejected": wrong[0]}


def recorded_pairs(file: Path) -> Iterator[dict[str, Any]]:
    """Each right solution of a problem against each wrong one."""
    for number, line in enumerate(file.read_bytes().splitlines()):
        row = orjson.loads(line)
        given = [row[model] for model in MODELS]
        right = list(dict.fromkeys(each["solution"] for each in given if each["is_correct"]))
        wrong = list(dict.fromkeys(each["solution"] for each in given if not each["is_correct"]))
        for place, (good, bad) in enumerate((good, bad) for good in right for bad in wrong):
            yield {"id": f"{number}-{place}", "prompt": row["question"], "chosen": good, "rejected": bad}


def _says(solution: str, answer: str) -> bool:
    return f"${answer}$" in solution or f"\\boxed{{{answer}}}" in solution


if __name__ == "__main__":
    main(*sys.argv[1:])
