"""Lists of numbers of different lengths, as one flat array and where each list begins; sums and extremes of each list.

lists = Ragged.from_arrow(table["score.rm"])          # list<double>; null becomes NaN
lists.counts, lists.maximum(), lists.sum(lists.values > 0)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[Any]
"""float64, NaN for no number."""
Bools = NDArray[Any]


@dataclass(frozen=True)
class Ragged:
    """List i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Floats
    """NaN: there is no number."""
    offsets: NDArray[np.int64]

    @classmethod
    def from_arrow(cls, column: pa.Array | pa.ChunkedArray) -> "Ragged":
        """The lists of a column of lists of numbers or truth values. A null list is an empty one."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)])
        flat = pc.list_flatten(array)
        if pa.types.is_boolean(flat.type):
            flat = pc.cast(flat, pa.int8())
        values = pc.cast(flat, pa.float64()).to_numpy(zero_copy_only=False)
        return cls(np.asarray(values, dtype=np.float64), offsets)

    @classmethod
    def from_rows(cls, rows: NDArray[Any]) -> "Ragged":
        """The rows of a matrix, as lists of one length."""
        num_rows, width = rows.shape
        return cls(
            np.ascontiguousarray(rows, dtype=np.float64).ravel(), np.arange(num_rows + 1, dtype=np.int64) * width
        )

    @property
    def num_lists(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """The length of each list."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """For each value, the number of its list."""
        return np.repeat(np.arange(self.num_lists), self.counts)

    def with_values(self, values: NDArray[Any]) -> "Ragged":
        """Lists of the same lengths with other values."""
        return Ragged(np.asarray(values, dtype=np.float64), self.offsets)

    def sum(self, values: NDArray[Any] | None = None) -> Floats:
        """The sum of each list, 0 for an empty one. ``values``: other values in the same lists."""
        found = self.values if values is None else np.asarray(values, dtype=np.float64)
        return self._reduce(np.add, found, 0.0)

    def maximum(self, values: NDArray[Any] | None = None) -> Floats:
        """The greatest number of each list; -inf where there is none."""
        found = self.values if values is None else np.asarray(values, dtype=np.float64)
        return self._reduce(np.fmax, np.where(np.isnan(found), -np.inf, found), -np.inf)

    def minimum(self, values: NDArray[Any] | None = None) -> Floats:
        """The least number of each list; inf where there is none."""
        found = self.values if values is None else np.asarray(values, dtype=np.float64)
        return self._reduce(np.fmin, np.where(np.isnan(found), np.inf, found), np.inf)

    def is_complete(self) -> Bools:
        """For each list, whether it has values and each of them is a number."""
        found: Bools = (self.sum(np.isnan(self.values)) == 0) & (self.counts > 0)
        return found

    def take(self, rows: NDArray[np.int64]) -> "Ragged":
        """The lists with these numbers, in this order."""
        counts = self.counts[rows]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        places = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], counts) + np.repeat(self.offsets[rows], counts)
        return Ragged(self.values[places], offsets)

    def column(self, place: int) -> Floats:
        """The value at one place of each list; NaN where a list is shorter."""
        found = np.full(self.num_lists, np.nan)
        has = self.counts > place
        found[has] = self.values[self.offsets[:-1][has] + place]
        return found

    def _reduce(self, function: Any, values: Floats, empty: float) -> Floats:
        if not self.num_lists:
            return np.zeros(0)
        found: Floats = function.reduceat(np.append(values, empty), self.offsets[:-1])
        return np.where(self.counts == 0, empty, found)
