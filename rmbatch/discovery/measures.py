"""What verdicts say of principles: accuracy, coverage, precision and differences, each with its 95 % interval.

Rows without a verdict are in no share but coverage, and are counted by their reason. Nothing is judged here.

    count_results([CaseResult("right"), CaseResult("tie")]).accuracy.value      # 0.5
    compare_results(with_them, without)                       # of the rows that the judge decided in both
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rmbatch.discovery.trial import CaseResult

Z = 1.959963984540054
"""Of the normal distribution, for 95 %."""


@dataclass(frozen=True)
class Share:
    """A share of some rows, in [0, 1]."""

    value: float
    low: float
    high: float
    """Between these in 95 of 100 such samples."""
    num_rows: int
    """Of how many."""


@dataclass(frozen=True)
class Difference:
    """Of two accuracies on the same rows, in [-1, 1]."""

    value: float
    low: float
    high: float
    num_rows: int
    """With a verdict in both."""
    num_gained: int
    """Right only with the first."""
    num_lost: int
    """Right only with the second."""


@dataclass(frozen=True)
class ResultCounts:
    """How a judge did on some rows."""

    num_rows: int
    right: int
    wrong: int
    ties: int
    nulls: Mapping[str, int]
    """Rows without a verdict, by code."""

    @property
    def accuracy(self) -> Share | None:
        """Right among all that have a verdict; a tie is not right. None: there is none."""
        return estimate_share(self.right, self.right + self.wrong + self.ties)

    @property
    def coverage(self) -> Share | None:
        """Decided, right or wrong, among all rows. None: there are no rows."""
        return estimate_share(self.right + self.wrong, self.num_rows)

    @property
    def precision(self) -> Share | None:
        """Right among the decided. None: there is none."""
        return estimate_share(self.right, self.right + self.wrong)

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        shares = {"accuracy": self.accuracy, "coverage": self.coverage, "precision": self.precision}
        return asdict(self) | {name: as_plain(each) for name, each in shares.items()}


def count_results(results: Sequence[CaseResult]) -> ResultCounts:
    """The counts of these verdicts."""
    counts = Counter(each.outcome for each in results)
    nulls = Counter(each.code for each in results if each.outcome is None)
    return ResultCounts(len(results), counts["right"], counts["wrong"], counts["tie"], dict(sorted(nulls.items())))


def estimate_share(hits: int, num_rows: int) -> Share | None:
    """The share with its Wilson score interval; None of no rows. Source: Wilson 1927, JASA 22."""
    if num_rows == 0:
        return None
    value, squared = hits / num_rows, Z * Z / num_rows
    middle = (value + squared / 2) / (1 + squared)
    half = Z * math.sqrt(value * (1 - value) / num_rows + squared / (4 * num_rows)) / (1 + squared)
    return Share(value, max(middle - half, 0.0), min(middle + half, 1.0), num_rows)


def compare_results(first: Sequence[CaseResult], second: Sequence[CaseResult]) -> Difference | None:
    """How much more often the first is right, of the same rows; None where no row has a verdict in both.

    The interval knows that rows are the same, and does not shrink to nothing where all agree.
    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17, method 10.
    """
    pairs = Counter(
        (one.outcome == "right", other.outcome == "right")
        for one, other in zip(first, second, strict=True)
        if one.outcome is not None and other.outcome is not None
    )
    both, gained, lost, none = pairs[True, True], pairs[True, False], pairs[False, True], pairs[False, False]
    num_rows = both + gained + lost + none
    one, other = estimate_share(both + gained, num_rows), estimate_share(both + lost, num_rows)
    if one is None or other is None:
        return None
    value = one.value - other.value
    phi = _correlation(both, gained, lost, none)
    below = _length(one.value - one.low, other.high - other.value, phi)
    above = _length(one.high - one.value, other.value - other.low, phi)
    return Difference(value, max(value - below, -1.0), min(value + above, 1.0), num_rows, gained, lost)


def as_plain(each: Share | Difference | None) -> dict[str, float] | None:
    """As plain values, rounded to four digits."""
    return None if each is None else {name: round(value, 4) for name, value in asdict(each).items()}


def _length(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))


def _correlation(both: int, gained: int, lost: int, none: int) -> float:
    """Of being right twice, with Newcombe's correction for continuity."""
    margins = (both + gained) * (lost + none) * (both + lost) * (gained + none)
    if margins == 0:
        return 0.0
    product = both * none - gained * lost
    if product > 0:
        product = max(product - (both + gained + lost + none) / 2, 0)  # type: ignore[assignment]
    return product / math.sqrt(margins)
