"""Makes candidates for the demo: sums with a reference, and four answers each, some wrong, some rambling, one missing.

python -m jobs.examples.arithmetic out/demo/candidates.jsonl
"""

import random
import sys
from pathlib import Path
from typing import Any

import orjson

NUM_PROMPTS = 2000


def prompt(number: int, random: random.Random) -> dict[str, Any]:
    """One row: a conversation, four candidates, the answer."""
    a, b = random.randint(10, 999), random.randint(10, 999)
    right, wrong = a + b, a + b + random.choice([-10, -1, 1, 10, 100])
    candidates: list[str | None] = [
        rf"{a} plus {b}: I add the units, then the tens. The answer is \boxed{{{right}}}.",
        rf"The answer is \boxed{{{wrong}}}.",
        rf"Let me think again and again. {'Hmm, wait. ' * 120}So it is \boxed{{{right}}}.",
        None if number % 10 == 0 else f"I am not sure, maybe {wrong}?",
    ]
    random.shuffle(candidates)
    messages = [{"role": "user", "content": f"What is {a} + {b}?"}]
    return {"uid": f"sum-{number:05}", "messages": messages, "candidates": candidates, "answer": str(right)}


def main(path: str) -> None:
    """Write the rows, and two lines that are none."""
    chance = random.Random(7)
    lines = [orjson.dumps(prompt(number, chance)) for number in range(NUM_PROMPTS)]
    lines[100:100] = [b'{"uid": "cut off", "messages": [{"role"', b"not JSON at all"]
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\n".join(lines) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
