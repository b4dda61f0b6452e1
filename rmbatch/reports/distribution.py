"""The distribution of a score in bounded memory: exact while it has few different values, then a histogram.

Bins are as wide as a power of two and begin at multiples of it, so the result does not depend on how the values were
cut into blocks or in which order these came.

    found = Distribution()
    found.add(np.array([0.0, 1.0, 1.0]))
    found.quantile(0.5), found.plain()
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.ragged import Floats
from rmbatch.reports.means import plain

MOST_VALUES = 100
"""Different values that are counted one by one."""
MOST_BINS = 1024
LARGEST, NARROWEST = 1e300, 2.0**-1000
"""Numbers from here on count as infinite; no bin is narrower."""
BARS = 40
"""Bars that a plot of a distribution has at most."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class Distribution:
    """Counts of values."""

    nulls: int = 0
    infinite: int = 0
    count: int = 0
    """Finite values, on which all figures below rest."""
    mean: float = 0.0
    spread: float = 0.0
    """The sum of squared differences from the mean."""
    low: float = math.inf
    high: float = -math.inf
    width: float | None = None
    """Of a bin. None: values are counted one by one."""
    values: Floats = field(default_factory=lambda: np.zeros(0))
    """The different values, in order; or where each bin begins."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, values: Floats) -> None:
        """Add values; NaN is a null."""
        missing = np.isnan(values)
        finite = values[np.abs(values) < LARGEST]
        self.nulls += int(np.count_nonzero(missing))
        self.infinite += len(values) - len(finite) - int(np.count_nonzero(missing))
        if not len(finite):
            return
        self._add_moments(finite)
        self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        if self.width is None:
            different, counts = np.unique(finite, return_counts=True)
            self.values, self.counts = _join(self.values, self.counts, different, counts)
            if len(self.values) > MOST_VALUES:
                self.width = _bin_width(self.low, self.high)
                self.values, self.counts = _cut(self.values, self.counts, self.width)
            return
        width = _bin_width(self.low, self.high)
        if width > self.width:
            self.values, self.counts = _cut(self.values, self.counts, width)
            self.width = width
        first = math.floor(self.low / width)
        counts = np.bincount((np.floor(finite / width) - first).astype(np.int64))
        bins = np.flatnonzero(counts)
        self.values, self.counts = _join(self.values, self.counts, (bins + float(first)) * width, counts[bins])

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share does not exceed; in a histogram, by its place in the bin. NaN of
        nothing."""
        if not self.count:
            return math.nan
        upto = np.cumsum(self.counts)
        wanted = share * self.count
        place = min(int(np.searchsorted(upto, wanted, side="left")), len(upto) - 1)
        if self.width is None:
            return float(self.values[place])
        inside = (wanted - (upto[place] - self.counts[place])) / self.counts[place]
        return float(np.clip(self.values[place] + inside * self.width, self.low, self.high))

    @property
    def deviation(self) -> float:
        """The standard deviation of a sample; NaN for fewer than two values."""
        return math.sqrt(self.spread / (self.count - 1)) if self.count > 1 else math.nan

    def plain(self) -> dict[str, Any]:
        """As plain values; ``bars`` are [from, to, count], or [value, value, count]."""
        return {
            "count": self.count,
            "nulls": self.nulls,
            "infinite": self.infinite,
            "mean": plain(self.mean) if self.count else None,
            "deviation": plain(self.deviation),
            "min": plain(self.low),
            "max": plain(self.high),
            "quantiles": {f"{share:g}": plain(self.quantile(share)) for share in QUANTILES},
            "bin_width": self.width,
            "bars": self._bars(),
        }

    def _bars(self) -> list[list[float]]:
        if self.width is None and len(self.values) <= BARS:
            return [[float(value), float(value), int(count)] for value, count in zip(self.values, self.counts)]
        # Values far out would leave all others in one bar; they go into the outermost bars.
        low, high = self.quantile(0.001), self.quantile(0.999)
        width = self.width or _bin_width(self.low, self.high)
        while math.floor(high / width) - math.floor(low / width) >= BARS:
            width *= 2
        begins = np.clip(np.floor(self.values / width), math.floor(low / width), math.floor(high / width))
        places, where = np.unique(begins, return_inverse=True)
        counts = np.bincount(where, weights=self.counts)
        return [[float(at * width), float((at + 1) * width), int(count)] for at, count in zip(places, counts)]

    def _add_moments(self, values: Floats) -> None:
        """Chan, Golub and LeVeque's update of mean and spread."""
        count, mean = len(values), float(values.mean())
        total = self.count + count
        apart = mean - self.mean
        self.spread += float(((values - mean) ** 2).sum()) + apart * apart * self.count * count / total
        self.mean += apart * count / total
        self.count = total


def _join(
    values: Floats, counts: NDArray[np.int64], more: Floats, of_more: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    different, where = np.unique(np.concatenate([values, more]), return_inverse=True)
    found = np.zeros(len(different), np.int64)
    np.add.at(found, where, np.concatenate([counts, of_more]))
    return different, found


def _cut(values: Floats, counts: NDArray[np.int64], width: float) -> tuple[Floats, NDArray[np.int64]]:
    """Counts by bin."""
    begins = np.floor(values / width) * width
    return _join(begins, counts, np.zeros(0), np.zeros(0, np.int64))


def _bin_width(low: float, high: float) -> float:
    """The smallest power of two that needs no more than MOST_BINS bins."""
    span = high - low
    width = max(2.0 ** math.floor(math.log2(span / MOST_BINS)), NARROWEST) if span > 0 else 1.0
    while math.floor(high / width) - math.floor(low / width) >= MOST_BINS:
        width *= 2
    return width
