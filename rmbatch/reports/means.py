"""Means over prompts with their bootstrap, summed block by block.

means = PromptMeans(columns=3, replicates=1000, seed=0)
means.add(keys, values)              # values[prompts, 3], NaN: the prompt does not count in that column
means.replicates()                   # [1001, 3]; the first row is the data
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.ragged import Floats
from rmbatch.evaluation.statistics import bootstrap_weights, interval

FEWEST_PROMPTS = 10
"""With fewer prompts there are no intervals: they would say nothing of other prompts."""
AT_ONCE = 4096
"""Prompts whose weights are in memory at a time."""


@dataclass
class PromptMeans:
    """Weighted sums of some columns over prompts, for the data and each replicate."""

    columns: int
    num_replicates: int = 1000
    seed: int = 0
    sums: Floats = field(init=False)
    weights: Floats = field(init=False)
    counts: NDArray[np.int64] = field(init=False)
    """Prompts that count in each column."""

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.num_replicates + 1, self.columns))
        self.weights = np.zeros((self.num_replicates + 1, self.columns))
        self.counts = np.zeros(self.columns, np.int64)

    def add(self, keys: NDArray[Any], values: Floats) -> None:
        """Add prompts. keys[n] uint64, values[n, columns]; NaN counts nowhere."""
        for start in range(0, len(keys), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            drawn = bootstrap_weights(keys[part], self.num_replicates, self.seed)
            has = ~np.isnan(values[part])
            self.sums += drawn @ np.where(has, values[part], 0.0)
            self.weights += drawn.sum(axis=1)[:, None] if has.all() else drawn @ has.astype(np.float64)
            self.counts += np.count_nonzero(has, axis=0)

    def replicates(self) -> Floats:
        """The means, shape [replicates + 1, columns]; NaN where no prompt counts, and in replicates of few prompts."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Floats = self.sums / self.weights
        means[1:, self.counts < FEWEST_PROMPTS] = np.nan
        return means


def describe_mean(column: Floats) -> dict[str, float | None]:
    """The mean and its 95 % interval over prompts. column: replicates + 1 values, the first of them the data's."""
    low, high = interval(column[1:])
    return {"mean": plain(column[0]), "low": plain(low), "high": plain(high)}


def plain(value: Any) -> float | None:
    """A number as JSON holds it: None for NaN and infinities."""
    number = float(value)
    return number if np.isfinite(number) else None
