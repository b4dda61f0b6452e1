"""The Ray Data source of planned units: each task reads the ranges it was given, in blocks of whole groups.

What a task does with its blocks beyond handing them out (``work``) happens inside the read. Between operators, even
fused ones, Ray Data gathers blocks to 128 MiB and cuts larger ones, through groups too; and it keeps every block that
a Datasink was given until the task ends.

    ray.data.read_datasource(UnitSource(dataset, tasks, group=None, block_rows=None), override_num_blocks=len(tasks))
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from connectors.dataset import InputDataset
from connectors.groups import whole_groups
from connectors.units import Range, total_rows

BLOCK_BYTES = 16 << 20
"""A block holds about this much of the input."""
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 64, 65_536


class UnitSource(Datasource):  # type: ignore[misc]
    """Reads exactly the given ranges; everything else about the input was decided when it was planned."""

    def __init__(
        self,
        dataset: InputDataset,
        tasks: Sequence[Sequence[Range]],
        group: str | None,
        block_rows: int | None,
        work: Callable[[Iterator[pa.Table]], Iterable[pa.Table]] = iter,
    ) -> None:
        super().__init__()
        self._dataset, self._tasks, self._group = dataset, tasks, group
        self._block_rows, self._work = block_rows, work

    def get_name(self) -> str:
        return "Read"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> Any:
        del parallelism, per_task_row_limit, data_context  # the tasks were cut by the ledger
        return [ReadTask(self._reader(pieces), self._metadata(pieces)) for pieces in self._tasks]

    def _reader(self, pieces: Sequence[Range]) -> Callable[[], Iterable[pa.Table]]:
        part, group, block_rows, work = self._dataset.only(pieces), self._group, self._block_rows, self._work

        def read() -> Iterator[pa.Table]:
            for piece in pieces:
                tables = part.read(piece, block_rows or rows_per_block(part, piece))
                yield from tables if group is None else whole_groups(tables, group)

        return lambda: work(read())

    def _metadata(self, pieces: Sequence[Range]) -> BlockMetadata:
        return BlockMetadata(num_rows=total_rows(pieces), size_bytes=None, input_files=None, exec_stats=None)


def rows_per_block(dataset: InputDataset, piece: Range) -> int:
    """As many rows as make about BLOCK_BYTES, by the unit's average row."""
    unit = dataset.units[piece.unit]
    row_bytes = max(unit.num_bytes / max(unit.num_rows, 1), 1.0)
    return int(min(max(BLOCK_BYTES / row_bytes, MIN_BLOCK_ROWS), MAX_BLOCK_ROWS))
