"""The Ray Data source of a job: each read task gets ranges of rows and a function to call on them.

All work of a job happens inside the read. Between operators, even fused ones, Ray Data gathers blocks to 128 MiB and
cuts larger ones, also inside groups.

    ray.data.read_datasource(RangeSource(tasks, read), override_num_blocks=len(tasks))
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from connectors.units import Range, total_rows

Read = Callable[[Sequence[Range]], Iterable[pa.Table]]


class RangeSource(Datasource):  # type: ignore[misc]
    """Reads exactly the given ranges. The plan has decided everything else about the input."""

    def __init__(self, tasks: Sequence[Sequence[Range]], read: Callable[[Sequence[Range]], Read]) -> None:
        """``read(pieces)``: the function that the task of these pieces calls. It should hold only the data it needs."""
        super().__init__()
        self._tasks, self._read = tasks, read

    def get_name(self) -> str:
        return "Read"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> Any:
        del parallelism, per_task_row_limit, data_context  # the tasks were cut by the ledger
        return [ReadTask(partial(self._read(pieces), pieces), self._metadata(pieces)) for pieces in self._tasks]

    def _metadata(self, pieces: Sequence[Range]) -> BlockMetadata:
        return BlockMetadata(num_rows=total_rows(pieces), size_bytes=None, input_files=None, exec_stats=None)
