"""Rows a second of ``rmbatch export`` beside a plain pyarrow rewrite of the same columns with the same compression.

The export is ``export_output`` in this process: plan, candidates, pairs, lineage, compressed output, fsync. The rewrite
reads the columns that the export reads, row group by row group, and writes them again, with page checksums and fsync as
the export has them. Both use one thread for the rows. Runs alternate.

    python -m tests.bench.exports --prompts 100000 --repeats 5
"""

import argparse
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.run.export import export_output
from rmbatch.exports.base import ExportRule
from tests.bench.measuring import median, print_table, timed

FILE_PROMPTS, CANDIDATES = 25_000, 8
EXPORTS = {
    "sft": ExportRule(),
    "dpo": ExportRule(),
    "dpo, below_mean_2sd in a band": ExportRule(pairs="below_mean_2sd", same_length_band=0.3),
    "kto": ExportRule(above=0.7, below=0.3),
    "listwise": ExportRule(),
}
WORDS = np.array(
    [
        "the",
        "a",
        "of",
        "to",
        "and",
        "in",
        "is",
        "it",
        "that",
        "for",
        "on",
        "with",
        "as",
        "are",
        "be",
        "this",
        "from",
        "by",
        "or",
        "at",
    ]
)
COLUMNS = ("id", "prompt", "responses", "reference", "score.total", "select.rank")


def main() -> None:
    """Make an output, export and rewrite it in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=80, help="of a response, on average")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="one export")
    parser.add_argument("--quick", action="store_true", help="5,000 prompts, one run")
    given = parser.parse_args()
    if given.quick:
        given.prompts, given.repeats = 5_000, 1
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="rmbatch-bench-") as name:
        place = Path(name)
        size = write_output(place / "out", given.prompts, given.words)
        taken: dict[str, list[tuple[float, float]]] = {}
        for _ in range(given.repeats):
            taken.setdefault("rewrite", []).append(timed(lambda: rewrite(place / "out/data", place / "rewritten")))
            shutil.rmtree(place / "rewritten")
            for export, rule in EXPORTS.items():
                if given.only in (None, export):
                    one_run = partial(run, place, export.split(",")[0], rule)
                    taken.setdefault(export, []).append(timed(one_run))
                    shutil.rmtree(place / "made")
    title = f"{given.prompts:,} prompts x {CANDIDATES} candidates, {size / 1e6:,.0f} MB, {given.repeats} runs in turns"
    print_table(title, ("", "s (median)", "s (range)", "CPU s (least)", "of the rewrite", "by CPU s"), lines(taken))


def lines(taken: dict[str, list[tuple[float, float]]]) -> list[tuple[object, ...]]:
    """The rows of the table: throughput by the median of the ratios of neighbouring runs, and by the least CPU time."""
    plain = [seconds for seconds, _ in taken["rewrite"]]
    least = min(cpu for _, cpu in taken["rewrite"])
    found: list[tuple[object, ...]] = []
    for name, runs in taken.items():
        seconds = [each for each, _ in runs]
        ratio = median([before / now for before, now in zip(plain, seconds)])
        cpu = min(each for _, each in runs)
        span = f"{min(seconds):.2f} to {max(seconds):.2f}"
        found.append((name, median(seconds), span, cpu, f"{ratio:.2f}", f"{least / cpu:.2f}"))
    return found


def run(place: Path, to: str, rule: ExportRule) -> None:
    export_output(str(place / "out"), to, rule, out=str(place / "made"))


def rewrite(source: Path, target: Path) -> None:
    """The columns that an export reads, read and written again."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        with pq.ParquetFile(path, pre_buffer=True, page_checksum_verification=True) as file:
            schema = pa.schema([file.schema_arrow.field(name) for name in COLUMNS])
            with (
                open(target / path.name, "wb") as sink,
                pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
            ):
                for index in range(file.metadata.num_row_groups):
                    writer.write_table(file.read_row_group(index, columns=list(COLUMNS), use_threads=False))
                writer.close()
                sink.flush()
                os.fsync(sink.fileno())


def write_output(folder: Path, prompts: int, words: int) -> int:
    """A finished output of best_of_n over made-up text; returns its bytes."""
    (folder / "data").mkdir(parents=True)
    (folder / "_rmbatch").mkdir()
    rng, names = np.random.default_rng(0), []
    for first in range(0, prompts, FILE_PROMPTS):
        rows = min(FILE_PROMPTS, prompts - first)
        names.append(f"data/u{first:06}-0.parquet")
        pq.write_table(
            make_rows(rng, first, rows, words), folder / names[-1], compression="zstd", row_group_size=rows // 3 + 1
        )
    job = {"job": "best_of_n", "input": {"path": "in/"}, "rewards": {"math": {"reward": "math_verify"}}}
    manifest = {"job": job, "files": [{"path": name, "part": "data"} for name in names]}
    (folder / "_rmbatch/manifest.json").write_bytes(orjson.dumps(manifest))
    return sum((folder / name).stat().st_size for name in names)


def make_rows(rng: np.random.Generator, first: int, rows: int, words: int) -> pa.Table:
    """Prompts with their candidates, scores and the best one's rank."""
    num = rows * CANDIDATES
    offsets = pa.array(np.arange(0, num + 1, CANDIDATES), pa.int32())
    scores = rng.random(num).round(3)
    best = scores.reshape(rows, CANDIDATES).argmax(axis=1) + np.arange(rows) * CANDIDATES
    is_best = np.zeros(num, bool)
    is_best[best] = True
    ranks = pa.array(np.ones(num, np.int32), mask=~is_best)
    return pa.table(
        {
            "id": [f"p{first + row}" for row in range(rows)],
            "prompt": make_texts(rng, rows, words // 2),
            "responses": pa.ListArray.from_arrays(offsets, make_texts(rng, num, words)),
            "reference": [str(number) for number in rng.integers(0, 10**6, rows)],
            "score.total": pa.ListArray.from_arrays(offsets, pa.array(scores)),
            "select.rank": pa.ListArray.from_arrays(offsets, ranks),
        }
    )


def make_texts(rng: np.random.Generator, count: int, words: int) -> pa.Array:
    """Texts of random words and numbers, half to one and a half times as long as ``words``."""
    lengths = rng.integers(words // 2, words + words // 2, count)
    pool = np.concatenate([WORDS, rng.integers(0, 10**5, 400).astype(str)])
    drawn = pa.array(pool).take(pa.array(rng.integers(0, len(pool), int(lengths.sum()))))
    lists = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), drawn)
    return pc.binary_join(lists, " ")


if __name__ == "__main__":
    main()
