"""Several votes on one thing, as one number.

aggregate_votes([7.0, 8.0, 7.0], "majority")      # 7.0
"""

import statistics
from collections.abc import Callable, Sequence


def aggregate_votes(votes: Sequence[float], how: str) -> float:
    """The mean, median, majority, min or max of at least one vote.

    ``majority`` is the value with the most votes; of values with equally many, their mean.
    """
    return float(_AGGREGATES[how](votes))


def _majority(votes: Sequence[float]) -> float:
    return statistics.fmean(statistics.multimode(votes))


_AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "majority": _majority,
    "min": min,
    "max": max,
}
