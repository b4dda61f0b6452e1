"""Input files for the measurements: responses of about 1 KB, flat or nested, Parquet or JSONL, the same at every run.

Texts are stretches of one long text of words with natural frequencies, so that they compress about as prose does.

    write_flat(folder, num_rows=1_000_000, num_files=8)
    write_nested(folder, num_rows=100_000, num_files=4, candidates=4, file_format="jsonl")
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.formats import jsonl

Format = Literal["parquet", "jsonl"]

TEXT_BYTES = 32 << 20
VOCABULARY = 40_000
ROW_GROUP_ROWS = 25_000
"""About 25 MB of rows of 1 KB."""


@cache
def _long_text() -> str:
    """Words of 2 to 11 letters, drawn with Zipf's frequencies."""
    random = np.random.default_rng(7)
    letters = random.choice(list("eeeeaaaiiooutttnnsshrrdlcmfpgwybvk"), (VOCABULARY, 11))
    words = np.array(["".join(row[:size]) for row, size in zip(letters, random.integers(2, 12, VOCABULARY))])
    frequency = 1 / np.arange(2, VOCABULARY + 2)
    drawn = random.choice(VOCABULARY, TEXT_BYTES // 5, p=frequency / frequency.sum())
    return " ".join(words[drawn])


def texts(random: np.random.Generator, count: int, mean_chars: int) -> list[str]:
    """So many stretches of the long text, half to one and a half times ``mean_chars`` long."""
    source = _long_text()
    starts = random.integers(0, len(source) - 2 * mean_chars, count).tolist()
    sizes = random.integers(mean_chars // 2, mean_chars * 3 // 2, count).tolist()
    return [source[start : start + size] for start, size in zip(starts, sizes)]


def flat_rows(first: int, count: int) -> pa.Table:
    """Rows of one response each, about 1 KB: every second in the form asked for, a tenth right, a few without text."""
    random = np.random.default_rng(first)
    bodies, answers = texts(random, count, 700), random.integers(0, 1000, count).tolist()
    responses: list[str | None] = []
    for index, (body, answer) in enumerate(zip(bodies, answers)):
        if index % 10 == 3:
            responses.append(str(answer))
        elif index % 1000 == 7:
            responses.append(None)
        else:
            responses.append(f"<think>{body}</think><answer>{answer}</answer>" if index % 2 else body)
    return pa.table(
        {
            "uid": pa.array(range(first, first + count), pa.int64()),
            "messages": _prompts(random, count),
            "completion": pa.array(responses, pa.string()),
            "answer": pa.array([str(answer) for answer in answers], pa.string()),
        }
    )


def nested_rows(first: int, count: int, candidates: int) -> pa.Table:
    """Rows of one prompt and several candidates, about 1 KB each."""
    flat = flat_rows(first * candidates, count * candidates)
    offsets = pa.array(np.arange(0, count * candidates + 1, candidates), pa.int32())
    every = pa.array(np.arange(0, count * candidates, candidates))
    return pa.table(
        {
            "uid": pa.array(range(first, first + count), pa.int64()),
            "messages": flat["messages"].take(every),
            "candidates": pa.ListArray.from_arrays(offsets, flat["completion"].combine_chunks()),
            "answer": flat["answer"].take(every),
        }
    )


def _prompts(random: np.random.Generator, count: int) -> pa.Array:
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.array([[{"role": "user", "content": text}] for text in texts(random, count, 250)], kind)


def write_flat(folder: Path, num_rows: int, num_files: int, file_format: Format = "parquet") -> int:
    """Write ``flat_rows`` as so many files; returns their bytes."""
    return _write(folder, num_rows, num_files, file_format, flat_rows)


def write_nested(folder: Path, num_rows: int, num_files: int, candidates: int, file_format: Format) -> int:
    """Write ``nested_rows`` as so many files; returns their bytes."""

    def rows(first: int, count: int) -> pa.Table:
        return nested_rows(first, count, candidates)

    return _write(folder, num_rows, num_files, file_format, rows, group_rows=ROW_GROUP_ROWS // candidates)


def _write(
    folder: Path,
    num_rows: int,
    num_files: int,
    file_format: Format,
    rows: Callable[[int, int], pa.Table],
    group_rows: int = ROW_GROUP_ROWS,
) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    per_file = -(-num_rows // num_files)
    for index, first in enumerate(range(0, num_rows, per_file)):
        path = folder / f"part-{index:04d}.{file_format}"
        stop = min(first + per_file, num_rows)
        parts = (rows(at, min(group_rows, stop - at)) for at in range(first, stop, group_rows))
        if file_format == "jsonl":
            with path.open("wb") as file:
                file.writelines(jsonl.write(part) for part in parts)
            continue
        writer: Any = None
        for part in parts:
            writer = writer or pq.ParquetWriter(path, part.schema, compression="zstd")
            writer.write_table(part)
        writer.close()
    return sum(path.stat().st_size for path in folder.iterdir())
