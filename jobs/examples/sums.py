"""Makes sums of two numbers with their answers: prompts that a small model solves now and then.

    python -m jobs.examples.sums out/demo-llm/sums.jsonl

The same file whenever it is made.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

NUM_SUMS, LARGEST = 48, 60


def sums(number: int = NUM_SUMS, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Rows with a prompt and its answer, no sum twice."""
    draw = random.Random(seed)
    pairs = [(a, b) for a in range(2, LARGEST + 1) for b in range(2, LARGEST + 1)]
    for place, (a, b) in enumerate(draw.sample(pairs, number)):
        prompt = f"What is {a} + {b}? Give only the final number."
        yield {"id": f"sum-{place:03}", "prompt": prompt, "answer": str(a + b)}


def main(path: str) -> None:
    """Write the rows."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in sums()))


if __name__ == "__main__":
    main(sys.argv[1])
