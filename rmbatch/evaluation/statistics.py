"""How sure a figure is: bootstrap over prompts, paired tests, correction for many comparisons, what a set can show.

The bootstrap draws prompts, not rows: all rows of a prompt get one weight. Weights are Poisson(1), each a hash of the
prompt's key, the seed and the replicate, so any block of rows can be worked off alone and in any order.

    weights = bootstrap_weights(keys, replicates=1000, seed=0)       # [replicates + 1, rows]; the first row is ones
    interval(values), mcnemar(b, c), adjust_holm(p), detectable_difference(standard_error)

Source: Hanley and MacGibbon, "Creating non-parametric bootstrap samples using Poisson frequencies", 2006; McNemar,
Psychometrika 12, 1947; Holm, Scandinavian Journal of Statistics 6, 1979.
"""

from math import exp, factorial, lgamma, log
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.ragged import Floats

LEVEL = 0.05
"""Two-sided."""
POWER = 0.8
_LANES = 4
"""Draws of 16 bits that one hash gives."""
_POISSON = np.array([exp(-1.0) / factorial(count) for count in range(12)]).cumsum()
_TABLE = np.searchsorted(_POISSON, (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.uint8)
"""By 16 random bits: a Poisson(1) count."""


def bootstrap_weights(keys: NDArray[np.uint64], replicates: int, seed: int) -> Floats:
    """How often each row counts in each replicate; shape [replicates + 1, rows], the first row ones: the data.

    keys: one number a row, equal for rows of one prompt.
    """
    hashes = -(-replicates // _LANES)
    numbers = _mix(np.arange(1, hashes + 1, dtype=np.uint64) + np.uint64(seed % (1 << 32)) * np.uint64(1 << 32))
    drawn = _mix(numbers[:, None] ^ keys[None, :])
    bits = np.ascontiguousarray(drawn.T).view(np.uint16).reshape(len(keys), hashes * _LANES)
    weights = np.ones((replicates + 1, len(keys)))
    weights[1:] = _TABLE[bits[:, :replicates]].T
    return weights


def _mix(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sixty-four bits that look random (splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = number + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def interval(replicates: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The middle 1 - level of the replicates' values. NaN for both where none has a value."""
    found = replicates[~np.isnan(replicates)]
    if not len(found):
        return np.nan, np.nan
    low, high = np.quantile(found, [level / 2, 1 - level / 2])
    return float(low), float(high)


def standard_error(replicates: Floats) -> float:
    """The standard deviation of the replicates' values; NaN for fewer than two."""
    found = replicates[~np.isnan(replicates)]
    return float(found.std(ddof=1)) if len(found) > 1 else np.nan


def bootstrap_p(differences: Floats) -> float:
    """Two-sided p of a difference from its replicates: how rarely they lie on the other side of 0. NaN for none."""
    found = differences[~np.isnan(differences)]
    if not len(found):
        return np.nan
    rarer = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(found) + 1))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p for pairs of right and wrong: ``only_first`` items only the first gets right, and so on.

    1 where the two never differ.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    logs = np.array([lgamma(total + 1) - lgamma(k + 1) - lgamma(total - k + 1) for k in range(fewer + 1)])
    return min(1.0, 2 * float(np.exp(logs - total * log(2)).sum()))


def adjust_holm(p: Floats) -> Floats:
    """The p values as they are after correction for all of them together; NaN stays and counts for nothing."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0) if len(order) else []
    return adjusted


def detectable_difference(error: float, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that is found with this power, by the standard error of a measured difference."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * error
