"""What principles are worth: to select by, on rows that were learnt from; to report, on rows held out.

useful = measure_usefulness(trial, sample_rows(train, 60, seed=0), pool)
worth = measure_worth(trial, held_out, chosen)
worth.gain                                           # over the same judge without principles
worth.each[0].alone.precision, worth.each[0].contribution
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmbatch.discovery.measures import Difference, ResultCounts, as_plain, compare_results, count_results
from rmbatch.discovery.preferences import Preference
from rmbatch.discovery.select import Vectors
from rmbatch.discovery.trial import Case, CaseResult, Trial
from rmbatch.judges.principles import Principle

Advance = Callable[[int], object]
_VALUES = {"right": 1.0, "tie": 0.5, "wrong": 0.0}


@dataclass(frozen=True)
class PrincipleWorth:
    """What one principle of a set does."""

    principle: Principle
    alone: ResultCounts
    """A judge that goes by it alone."""
    contribution: Difference | None
    """How much more often the judge is right with all than with all but this one. None: no row has both verdicts."""

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        said = {"name": self.principle.name, "text": self.principle.text, "source": self.principle.source}
        return said | {"alone": self.alone.plain(), "contribution": as_plain(self.contribution)}


@dataclass(frozen=True)
class Worth:
    """What a set of principles does for a judge."""

    without: ResultCounts
    """The same judge, who only knows what is judged."""
    with_all: ResultCounts
    gain: Difference | None
    """How much more often the judge is right with them. None: no row has both verdicts."""
    each: tuple[PrincipleWorth, ...]

    @property
    def found(self) -> str:
        """better or worse where the whole interval says so; undecided; unknown where no row has both verdicts."""
        if self.gain is None:
            return "unknown"
        return "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "undecided"

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "found": self.found,
            "without": self.without.plain(),
            "with": self.with_all.plain(),
            "gain": as_plain(self.gain),
            "principles": [each.plain() for each in self.each],
        }


def measure_worth(
    trial: Trial, rows: Sequence[Preference], principles: Sequence[Principle], advance_to: Advance = lambda done: None
) -> Worth:
    """What the principles do on these rows: together, each alone, and all but each. Raises JobError.

    It takes ``count_cases(rows, principles)`` judgements.
    """
    places = range(len(principles))
    arms: list[list[Principle]] = [[], list(principles), *([each] for each in principles)]
    arms += [[principles[other] for other in places if other != place] for place in places]
    cases = [Case(row, arm) for arm in arms for row in rows]
    results = iter(trial.run(cases, advance_to))
    without, with_all, *rest = [list(itertools.islice(results, len(rows))) for _ in arms]
    alone, all_but = rest[: len(principles)], rest[len(principles) :]
    each = tuple(
        PrincipleWorth(principle, count_results(alone[place]), compare_results(with_all, all_but[place]))
        for place, principle in enumerate(principles)
    )
    return Worth(count_results(without), count_results(with_all), compare_results(with_all, without), each)


def count_cases(rows: Sequence[Preference], principles: Sequence[Principle]) -> int:
    """The judgements that ``measure_worth`` takes."""
    return len(rows) * (2 + 2 * len(principles))


def measure_usefulness(
    trial: Trial, rows: Sequence[Preference], pool: Sequence[Principle], advance_to: Advance = lambda done: None
) -> Vectors:
    """Of each principle alone by how much the rows that it mends outnumber those that it spoils, in (-1, 1).

    Compared with no principles: (mended - spoilt) / (mended + spoilt + 2), so that few rows say little; from or to a
    tie is half a row. Rows without a verdict do not count. It takes ``count_trials`` judgements. Raises JobError.
    """
    arms: list[list[Principle]] = [[], *([each] for each in pool)]
    results = iter(trial.run([Case(row, arm) for arm in arms for row in rows], advance_to))
    without, *alone = [list(itertools.islice(results, len(rows))) for _ in arms]
    return np.array([_balance_changes(each, without) for each in alone], dtype=np.float64)


def count_trials(rows: Sequence[Preference], pool: Sequence[Principle]) -> int:
    """The judgements that ``measure_usefulness`` takes."""
    return len(rows) * (1 + len(pool))


def sample_rows(rows: Sequence[Preference], num_rows: int, seed: int) -> list[Preference]:
    """So many of the rows, drawn by a hash of each, in their order."""

    def draw(row: Preference) -> bytes:
        said = "\0".join((str(seed), row.row, row.prompt, row.chosen))
        return hashlib.blake2b(said.encode(errors="replace"), digest_size=16, person=b"trial-rows").digest()

    drawn = {id(each) for each in sorted(rows, key=draw)[:num_rows]}
    return [each for each in rows if id(each) in drawn]


def _balance_changes(first: Sequence[CaseResult], second: Sequence[CaseResult]) -> float:
    changes = [
        _VALUES[one.outcome] - _VALUES[other.outcome]
        for one, other in zip(first, second, strict=True)
        if one.outcome is not None and other.outcome is not None
    ]
    return sum(changes) / (sum(map(abs, changes)) + 2)
