"""Small jobs for tests of the command line, and what a command came to."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NESTED = [
    {"uid": "a", "question": "2+2", "candidates": ["4", "5"], "answer": "4"},
    {"uid": "b", "question": "1+2", "candidates": ["1", None, "3"], "answer": "3"},
    {"uid": "c", "question": "1+1", "candidates": [], "answer": "2"},
    {"uid": "d", "question": "0+0", "candidates": ["0"], "answer": None},
]


FLAT = [
    {"uid": "a", "question": "2+2", "response": "4", "answer": "4"},
    {"uid": "a", "question": "2+2", "response": "boom", "answer": "4"},
    {"uid": "b", "question": "1+2", "response": "3", "answer": "3"},
]


BEST = """
job: best_of_n
input: {path: in/}
rewards: {exact: {reward: accuracy}}
output: {path: out/}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_parquet(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)


def mistake_of(outcome: Outcome) -> str:
    """The one line of a user's mistake: exit code 2, no traceback, nothing on stdout."""
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    return line.removeprefix("error: ")
