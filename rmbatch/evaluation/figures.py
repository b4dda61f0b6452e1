"""Figures of a suite: sums over items, the rates made of them, and means of rates; each for all replicates at once.

A rate has six sums, by item: ``n`` comparisons; ``scored``: those that can be decided; ``official``: credit as the
official code counts, a missing score as that code does; ``fair``: credit of the decided ones, where ties are shared;
``worst`` and ``best``: credit where every missing score loses, or wins.

    sums.rate("pair", ["alpacaeval-easy"]).fair         # shape [replicates + 1]; first the data, then the bootstrap
    mean_of([chat, hard, safety, reasoning])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from rmbatch.evaluation.ragged import Bools, Floats

RATE = ("n", "scored", "official", "fair", "worst", "best")
"""The sums of a rate, after its name and a dot."""
Measures = Mapping[str, Floats]
"""By measure: one number an item."""


@dataclass(frozen=True)
class Value:
    """One figure; arrays have the shape [replicates + 1]."""

    official: Floats
    """As the official code counts."""
    fair: Floats
    """Over what has a score; ties are shared."""
    worst: Floats
    """Where what has no score is lost."""
    best: Floats
    """Where what has no score is won."""
    coverage: Floats
    """The share that has a score."""
    num_items: float
    """Comparisons or items behind it."""


@dataclass(frozen=True)
class Sums:
    """Sums of measures over the items of each stratum, for the data and for each replicate."""

    strata: tuple[str, ...]
    measures: tuple[str, ...]
    values: Floats
    """[replicates + 1, strata, measures]."""

    def total(self, measure: str, strata: Sequence[str] | None = None) -> Floats:
        """The sum of a measure over some strata (None: all), shape [replicates + 1]."""
        place = self.measures.index(measure)
        chosen = [self.strata.index(each) for each in (self.strata if strata is None else strata)]
        found: Floats = self.values[:, chosen, place].sum(axis=1)
        return found

    def rate(self, name: str, strata: Sequence[str] | None = None) -> Value:
        """The rate of this name over some strata. NaN where nothing is counted."""
        n, scored, official, fair, worst, best = (self.total(f"{name}.{each}", strata) for each in RATE)
        return Value(
            divide(official, n),
            divide(fair, scored),
            divide(worst, n),
            divide(best, n),
            divide(scored, n),
            float(n[0]),
        )

    def starting(self, *prefixes: str) -> list[str]:
        """The strata whose names begin with one of these."""
        return [each for each in self.strata if each.startswith(prefixes)]


def divide(upper: Floats, lower: Floats) -> Floats:
    """The quotient; NaN for a division by zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(lower == 0, np.nan, upper / np.where(lower == 0, 1.0, lower))
    return found


def measure_rate(
    name: str, *, scored: Bools, official: Floats, fair: Floats, worst: Floats | None = None, best: Floats | None = None
) -> dict[str, Floats]:
    """The six measures of a rate that counts each item once.

    ``worst`` and ``best`` None: an item without a score is lost, or won, as a whole.
    """
    known = np.where(scored, fair, 0.0)
    return {
        f"{name}.n": np.ones(len(known)),
        f"{name}.scored": scored.astype(np.float64),
        f"{name}.official": official,
        f"{name}.fair": known,
        f"{name}.worst": known if worst is None else worst,
        f"{name}.best": known + ~scored if best is None else best,
    }


def mean_of(values: Sequence[Value], weights: Sequence[float] | None = None) -> Value:
    """The mean of figures, weighted or not. NaN where there are none, or one of them has no value."""
    if not values:
        nothing = np.full(1, np.nan)
        return Value(nothing, nothing, nothing, nothing, nothing, 0.0)
    shares = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    return combine(values, lambda arrays: np.average(arrays, axis=0, weights=shares))


def harmonic_mean(first: Value, second: Value) -> Value:
    """The harmonic mean of two figures, 0 where both are 0."""

    def of(arrays: Floats) -> Floats:
        a, b = arrays
        return np.where(a + b == 0, 0.0, divide(2 * a * b, a + b))

    return combine([first, second], of)


def combine(values: Sequence[Value], function: Callable[[Floats], Floats]) -> Value:
    """A figure made of others. ``function``: from [figures, replicates + 1] to [replicates + 1], rising in each."""
    names = [field.name for field in fields(Value) if field.name not in ("num_items", "coverage")]
    made = {name: function(np.stack([getattr(each, name) for each in values])) for name in names}
    coverage = np.stack([each.coverage for each in values]).mean(axis=0)
    return Value(**made, coverage=coverage, num_items=sum(each.num_items for each in values))
