"""Writes the rows of a training as Parquet, split so that no prompt is in both parts.

counts = write_training_rows(job, recipe, listing, Path("/out/_rmbatch/data"), display)
counts.train, counts.held_out, counts.unusable
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.listing import Listing
from connectors.units import Range
from jobs.config.training import TrainJob
from jobs.run.input import plan_job_input, view_input
from jobs.run.sampling import drop_unreadable
from jobs.show.display import Display
from rmbatch.adapters.split import validation_mask
from rmbatch.rows.roles import guess_roles
from rmbatch.training.recipe import Recipe

BLOCK_ROWS = 4096
TRAIN, HELD_OUT, COUNTS = "train.parquet", "held_out.parquet", "counts.json"


@dataclass(frozen=True)
class RowCounts:
    """How many rows there are."""

    read: int
    train: int
    held_out: int
    unusable: Mapping[str, int] = field(default_factory=dict)
    """Rows of the input that are none for the training, by why."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def line(self, noun: str) -> str:
        """In words."""
        why = "".join(f"; {number:,} {name}" for name, number in self.unusable.items())
        return f"{self.train:,} {noun} to train on, {self.held_out:,} held out, of {self.read:,} rows{why}"


def write_training_rows(
    job: TrainJob, recipe: Recipe, listing: Listing, folder: Path | None, display: Display
) -> RowCounts:
    """Write train.parquet and held_out.parquet, and how many rows they have. ``folder`` None: only count.

    Raises UserError where one of them would be empty, or a batch larger than the training.
    """
    dataset = view_input(job.input, plan_job_input(job, listing, job.input.limit, without_twins=True))
    roles = guess_roles(dataset.schema, job.input.columns)
    wanted = {*roles.columns(), *recipe.columns}
    dataset = dataset.project([name for name in dataset.schema.names if name in wanted])
    writers = None if folder is None else _Writers(folder)
    counts = {TRAIN: 0, HELD_OUT: 0}
    unusable: Counter[str] = Counter()
    num_read = 0
    with display.show_progress("rows", dataset.num_rows, "rows") as advance_to:
        for block in _read_blocks(dataset):
            table = drop_unreadable(block)
            unusable["unreadable"] += block.num_rows - table.num_rows
            rows = recipe.read_rows(table, roles, num_read)
            unusable.update(rows.unusable)
            is_held_out = validation_mask(pa.table({"prompt": rows.prompts}), share=job.held_out, seed=job.train.seed)
            for name, mask in ((TRAIN, pc.invert(is_held_out)), (HELD_OUT, is_held_out)):
                part = rows.table.filter(mask)
                counts[name] += part.num_rows
                if writers is not None:
                    writers.write(name, part)
            num_read += block.num_rows
            advance_to(num_read)
    found = RowCounts(num_read, counts[TRAIN], counts[HELD_OUT], dict(sorted((+unusable).items())))
    _check_counts(job, recipe, found)
    if writers is not None:
        writers.close(found)
    return found


def read_counts(folder: Path) -> RowCounts | None:
    """What ``write_training_rows`` has written to a folder. None: it has not ended."""
    try:
        return RowCounts(**orjson.loads((folder / COUNTS).read_bytes()))
    except FileNotFoundError:
        return None


class _Writers:
    """The two files; they are there under their names when both are whole."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._open: dict[str, pq.ParquetWriter] = {}

    def write(self, name: str, part: pa.Table) -> None:
        if name not in self._open:
            self._open[name] = pq.ParquetWriter(self._folder / f"{name}.part", part.schema, compression="zstd")
        self._open[name].write_table(part)

    def close(self, counts: RowCounts) -> None:
        for name, writer in self._open.items():
            writer.close()
            (self._folder / f"{name}.part").replace(self._folder / name)
        part = self._folder / f"{COUNTS}.part"
        part.write_bytes(orjson.dumps(counts.plain(), option=orjson.OPT_INDENT_2))
        part.replace(self._folder / COUNTS)


def _read_blocks(dataset: InputDataset) -> Iterator[pa.Table]:
    for unit in dataset.units.values():
        yield from dataset.read(Range(unit.index, 0, unit.num_rows), BLOCK_ROWS)


def _check_counts(job: TrainJob, recipe: Recipe, counts: RowCounts) -> None:
    noun = recipe.noun
    if not counts.train or not counts.held_out:
        raise UserError(
            f"input: {counts.line(noun)}; both parts are needed, so give more prompts, or another share (held_out, "
            f"now {job.held_out:g}); input.columns names the columns {', '.join(('prompt', *recipe.columns))}"
        )
    if counts.train < recipe.train.batch:
        raise UserError(
            f"train.batch: {recipe.train.batch} {noun} are more than the {counts.train:,} to train on; write fewer"
        )
