"""What stages count over rows, written and read by meaning.

The counts stand in commit records, so their keys are text; only this module knows how they are spelled. Counts of
different rows add up.

    counts = count_scores("math", scored=12, nulls={"timeout": 1})      # Counter, as a stage's ``tally`` gives
    tally = Tally(counts)
    tally.scored, tally.nulls("math")                                   # {"math": 12}, {"timeout": 1}
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SCORED, NULL, CHOSEN, DEAD, ODD = "scored.", "null.", "select.", "dead.", "odd."


def count_scores(name: str, scored: int, nulls: Mapping[str, int]) -> Counter[str]:
    """Responses with a score of this name, and those without by the code of their error."""
    counts = Counter({f"{SCORED}{name}": scored})
    for code, number in nulls.items():
        counts[f"{NULL}{name}.{code.replace('.', '_')}"] += number
    return counts


def count_choices(kept: int, others: Mapping[str, int]) -> Counter[str]:
    """Candidates that were kept, and the others by the reason."""
    return Counter({**{f"{CHOSEN}{reason}": number for reason, number in others.items()}, f"{CHOSEN}kept": kept})


def count_odd_values(column: str, number: int) -> Counter[str]:
    """Rows whose value in a column is of another kind than its type."""
    return Counter({f"{ODD}{column}": number})


@dataclass(frozen=True)
class Tally:
    """The counts of some rows."""

    counts: Mapping[str, int]

    @property
    def scored(self) -> dict[str, int]:
        """Responses with a score, by the score's name, in the order in which they were counted."""
        return dict(self._below(SCORED))

    def nulls(self, name: str) -> dict[str, int]:
        """Responses without this score by the code of their error, the most first."""
        found = ((key.rpartition("."), count) for key, count in self._below(NULL))
        return _most_first({code: count for (start, _, code), count in found if start == name})

    @property
    def choices(self) -> dict[str, int]:
        """Candidates by what became of them (``kept`` or a reason), the most first."""
        return _most_first(dict(self._below(CHOSEN)))

    @property
    def dead(self) -> dict[str, int]:
        """Dead letters by their code, the most first."""
        return _most_first(dict(self._below(DEAD)))

    def _below(self, start: str) -> Iterator[tuple[str, int]]:
        return ((key.removeprefix(start), count) for key, count in self.counts.items() if key.startswith(start))


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
