"""What stages count over rows, written and read by meaning.

The counts stand in commit records, so their keys are text; only this module knows how they are spelled. Counts of
different rows add up.

    counts = count_scores("math", scored=12, nulls={"timeout": 1})      # Counter, as a stage's ``tally`` gives
    tally = Tally(counts)
    tally.scored, tally.nulls("math")                                   # {"math": 12}, {"timeout": 1}
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

SCORED, NULL, CHOSEN, DEAD, ODD = "scored.", "null.", "select.", "dead.", "odd."
GENERATED = "generated."
_TEXT, _TOKENS = "text", "tokens"
PART = "part."
CORRECTED, CONTROL = "correct.", "control."
COMPARED = "compared."
MICRO = 1_000_000
"""Gains and measures are counted as whole millionths, so that their sum does not depend on the order of the rows."""


def count_scores(name: str, scored: int, nulls: Mapping[str, int]) -> Counter[str]:
    """Responses with a score of this name, and those without by the code of their error."""
    counts = Counter({f"{SCORED}{name}": scored})
    for code, number in nulls.items():
        counts[f"{NULL}{name}.{code.replace('.', '_')}"] += number
    return counts


def count_choices(kept: int, others: Mapping[str, int]) -> Counter[str]:
    """Candidates that were kept, and the others by the reason."""
    return Counter({**{f"{CHOSEN}{reason}": number for reason, number in others.items()}, f"{CHOSEN}kept": kept})


def count_candidates(with_text: int, errors: Mapping[str, int], tokens: int) -> Counter[str]:
    """Candidates that were generated: those with a text, errors by their code, and the tokens of all answers."""
    counts = Counter({f"{GENERATED}{_TEXT}": with_text, f"{GENERATED}{_TOKENS}": tokens})
    for code, number in errors.items():
        counts[f"{GENERATED}error.{code.replace('.', '_')}"] += number
    return counts


@dataclass(frozen=True)
class Comparison:
    """What a selection kept, beside a random pick of the same size and the oracle."""

    kept: int = 0
    """Candidates."""
    measured: int = 0
    """Those of them with a measure; as many are in the random pick, and in the oracle's."""
    tied: int = 0
    """Those that a tie-break preferred to an equal one."""
    selected: float = 0.0
    """The measure, summed over what was kept."""
    random: float = 0.0
    oracle: float = 0.0


def count_comparison(found: Comparison) -> Counter[str]:
    """Candidates that were kept, and the sums of their measure and of what they are compared with."""
    counts = {name: value if isinstance(value, int) else round(value * MICRO) for name, value in vars(found).items()}
    return Counter({f"{COMPARED}{name}": count for name, count in counts.items()})


def count_odd_values(column: str, number: int) -> Counter[str]:
    """Rows whose value in a column is of another kind than its type."""
    return Counter({f"{ODD}{column}": number})


def count_parts(parts: Iterable[str]) -> Counter[str]:
    """Rows of a split input by their part."""
    return Counter(f"{PART}{part}" for part in parts)


@dataclass(frozen=True)
class RoundCount:
    """What one round of one row is counted as."""

    gain: float
    """By how much its score has risen."""
    tokens: int | None
    """None: a server did not say."""
    decisions: Mapping[str, int]
    """Edits by the code of what was decided about them."""
    held_out: str | None = None
    """What the held-out judge says of an accepted edit."""


def count_correction(outcome: str, rounds: Sequence[RoundCount], *, is_control: bool = False) -> Counter[str]:
    """A row that has gone through correction, by what became of it, and its rounds. Those of the control apart."""
    start = CONTROL if is_control else CORRECTED
    counts = Counter({f"{start}outcome.{outcome}": 1})
    for number, each in enumerate(rounds, 1):
        counts[f"{start}round.{number}.rows"] += 1
        counts[f"{start}round.{number}.gain"] += round(each.gain * MICRO)
        counts[f"{start}round.{number}.tokens"] += each.tokens or 0
        counts[f"{start}round.{number}.untold"] += each.tokens is None
        for code, count in each.decisions.items():
            counts[f"{start}round.{number}.edits"] += count
            counts[f"{start}round.{number}.accepted"] += count * (code == "accepted")
            counts[f"{start}decision.{code}"] += count
        if each.held_out is not None:
            counts[f"{start}round.{number}.held_out.{each.held_out}"] += 1
    return Counter({key: count for key, count in counts.items() if count})


@dataclass(frozen=True)
class CorrectionCount:
    """The sums of some rounds of corrected rows."""

    rows: int = 0
    """Rows that were open."""
    edits: int = 0
    accepted: int = 0
    gain: float = 0.0
    """The sum of the gains of the score."""
    tokens: int = 0
    """Of critiques and edits, as far as servers have said."""
    untold: int = 0
    """Rows whose tokens a server did not say."""
    held_out: Mapping[str, int] = field(default_factory=dict)
    """Accepted edits by what the held-out judge says of them: better, worse, tie, unclear."""


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
    def comparison(self) -> Comparison | None:
        """The selection beside its control. None: nothing was compared."""
        found = dict(self._below(COMPARED))
        if not found:
            return None
        selected, random, oracle = (found.get(name, 0) / MICRO for name in ("selected", "random", "oracle"))
        kept, measured, tied = (found.get(name, 0) for name in ("kept", "measured", "tied"))
        return Comparison(kept, measured, tied, selected, random, oracle)

    @property
    def generated(self) -> tuple[int, int]:
        """Candidates that have a text, and the tokens of all answers; 0 where nothing was generated."""
        return self.counts.get(f"{GENERATED}{_TEXT}", 0), self.counts.get(f"{GENERATED}{_TOKENS}", 0)

    @property
    def generation_errors(self) -> dict[str, int]:
        """Errors of generated candidates by their code, the most first."""
        return _most_first(dict(self._below(f"{GENERATED}error.")))

    @property
    def dead(self) -> dict[str, int]:
        """Dead letters by their code, the most first."""
        return _most_first(dict(self._below(DEAD)))

    @property
    def parts(self) -> dict[str, int]:
        """Rows of a split input by their part."""
        return dict(sorted(self._below(PART)))

    def outcomes(self, *, is_control: bool = False) -> dict[str, int]:
        """Rows that went through correction by what became of them; of the control, only those that entered."""
        return dict(self._below(f"{CONTROL if is_control else CORRECTED}outcome."))

    def decisions(self, *, is_control: bool = False) -> dict[str, int]:
        """Edits by the code of what was decided about them, the most first."""
        return _most_first(dict(self._below(f"{CONTROL if is_control else CORRECTED}decision.")))

    def rounds(self, *, is_control: bool = False) -> list[CorrectionCount]:
        """The rounds of correction, in order."""
        start = f"{CONTROL if is_control else CORRECTED}round."
        numbers = {int(key.partition(".")[0]) for key, _ in self._below(start)}
        return [self._round(f"{start}{number}.") for number in sorted(numbers)]

    def _round(self, start: str) -> CorrectionCount:
        found = dict(self._below(start))
        held_out = {key.removeprefix("held_out."): n for key, n in found.items() if key.startswith("held_out.")}
        plain = {name: found.get(name, 0) for name in ("rows", "edits", "accepted", "tokens", "untold")}
        return CorrectionCount(gain=found.get("gain", 0) / MICRO, held_out=held_out, **plain)

    def _below(self, start: str) -> Iterator[tuple[str, int]]:
        return ((key.removeprefix(start), count) for key, count in self.counts.items() if key.startswith(start))


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
