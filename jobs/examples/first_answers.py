"""Writes the first answer to each prompt of an output that generated several, as rows to be corrected.

python -m jobs.examples.first_answers out/demo-llm/best out/demo-llm/first.jsonl
"""

import sys
from pathlib import Path

import orjson

from jobs.examples.solve_rate import read


def main(output: str, path: str) -> None:
    """Write id, prompt, answer and response of each row."""
    rows = [
        {**{name: row[name] for name in ("id", "prompt", "answer")}, "response": row["responses"][0]}
        for row in sorted(read(output), key=lambda row: str(row["id"]))
    ]
    Path(path).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
