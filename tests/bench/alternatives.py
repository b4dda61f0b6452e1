"""What one would write in place of a score job: a pyarrow loop, a bare Ray Data pipeline, a datatrove pipeline.

All of them call the same rules on the same Parquet files and write the same rows as Parquet (zstd). None has a plan, a
ledger, dead letters or an order of rows to go on from; datatrove skips tasks (files) that an earlier run has finished.

    python -m tests.bench.alternatives ray_data INPUT_FOLDER OUTPUT_FOLDER 2       # the last: CPUs
"""

import importlib.util
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import rmbatch

RULES: dict[str, dict[str, Any]] = {
    "length": {"reward": "length_penalty", "max_length": 800},
    "format": {"reward": "reasoning_format"},
    "exact": {"reward": "accuracy"},
}
"""As a job file names them; ``prompt`` is not read by any."""
DOCUMENTS = 1000
"""datatrove's own batches of rows."""


@cache
def rules() -> dict[str, rmbatch.Reward]:
    """The rules, built once in each process."""
    return {
        name: rmbatch.reward(knobs["reward"], **{key: value for key, value in knobs.items() if key != "reward"})
        for name, knobs in RULES.items()
    }


def score(table: pa.Table) -> pa.Table:
    """The rows with the columns that the job adds."""
    columns = {
        "response": table["completion"].combine_chunks().cast(pa.large_string()),
        "reference": table["answer"].combine_chunks().cast(pa.large_string()),
    }
    for name, added in _scores(columns, table.num_rows).items():
        table = table.append_column(name, added)
    return table


def _scores(columns: dict[str, pa.Array], num_rows: int) -> dict[str, pa.Array]:
    found = {}
    for name, rule in rules().items():
        scores = rule.score_columns(columns.__getitem__, num_rows)
        found[f"score.{name}"] = scores.score
        for kind in rule.column_types(name):
            if not kind.startswith("score."):
                found[kind] = getattr(scores, kind.partition(".")[0]).cast(pa.string())
    return found


def loop_file(source: str, target: str) -> None:
    """Score one file, row group by row group, into another."""
    pa.set_cpu_count(1)
    writer: Any = None
    with pq.ParquetFile(source) as file:
        for index in range(file.num_row_groups):
            table = score(file.read_row_group(index, use_threads=False))
            writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
            writer.write_table(table)
    writer.close()


def loop(source: Path, output: Path, pool: ProcessPoolExecutor) -> None:
    """All files, each by a process of the pool."""
    output.mkdir(parents=True)
    files = sorted(source.glob("*.parquet"))
    list(pool.map(loop_file, map(str, files), [str(output / file.name) for file in files]))


def loop_pool(cpus: int) -> ProcessPoolExecutor:
    """A process per core."""
    return ProcessPoolExecutor(cpus, mp_context=multiprocessing.get_context("spawn"))


def ray_data(source: Path, output: Path) -> None:
    """Whole blocks through the rules, on the Ray that is there."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.read_parquet(str(source))
    scored = rows.map_batches(score, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
    scored.write_parquet(str(output), compression="zstd")


def datatrove(source: Path, output: Path, cpus: int) -> None:
    """As many tasks as cores. The text of a document is the answer, because rows without text are left out."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    first = pq.read_table(next(iter(sorted(source.glob("*.parquet"))))).slice(0, 1)
    writer = ParquetWriter(
        str(output),
        compression="zstd",
        adapter=_row_of,
        schema=score(first).schema,
        use_content_defined_chunking=False,  # which the others do not write either
        write_page_index=False,
    )
    reader = ParquetReader(str(source), text_key="answer", id_key="uid", batch_size=DOCUMENTS)
    LocalPipelineExecutor(
        [reader, score_documents, writer], tasks=cpus, workers=cpus, logging_dir=str(output.with_suffix(".logs"))
    ).run()


def score_documents(data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    """A step of datatrove: the scores go to the documents' metadata."""
    del rank, world_size
    documents = iter(data)
    while batch := list(islice(documents, DOCUMENTS)):
        columns = {
            "response": pa.array([document.metadata["completion"] for document in batch], pa.large_string()),
            "reference": pa.array([document.text for document in batch], pa.large_string()),
        }
        added = {name: array.to_pylist() for name, array in _scores(columns, len(batch)).items()}
        for row, document in enumerate(batch):
            document.metadata |= {name: values[row] for name, values in added.items()}
            yield document


def _row_of(writer: Any, document: Any) -> dict[str, Any]:
    """What datatrove's writer writes of a document."""
    del writer
    return {**document.metadata, "uid": document.id, "answer": document.text}


def has_datatrove() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("datatrove") is not None


def main() -> None:
    """One of them in a process of its own."""
    name, source, output, cpus = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    if name == "ray_data":
        import ray

        ray.init(num_cpus=cpus, log_to_driver=False)
        ray_data(source, output)
        ray.shutdown()
    elif name == "datatrove":
        datatrove(source, output, cpus)
    else:
        with loop_pool(cpus) as pool:
            loop(source, output, pool)


if __name__ == "__main__":
    from tests.bench import alternatives  # whose functions other processes find by that name

    alternatives.main()
