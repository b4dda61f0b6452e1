"""Adds up what a suite measures, block by block, for several rewards and the bootstrap at once; then makes the result.

Memory grows with rewards, strata and replicates; of an item only its key stays, 8 bytes. The same weights serve all
rewards, so differences between two have intervals of their own.

    tally = SuiteTally(load_suite("rewardbench"), ["ours", "judge"], compare=[("ours", "judge")])
    for items, judged in blocks: credits = tally.add(items, judged)
    result = tally.result()
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.base import Items, Judged, Suite
from rmbatch.evaluation.figures import Measures, Sums, Value, divide
from rmbatch.evaluation.ragged import Bools, Floats
from rmbatch.evaluation.statistics import bootstrap_weights

CONTROL = "control."
"""Prefix of the names of what needs no skill, so that a reward may have any name."""
CHUNK_ROWS = 2048
"""Items whose weights are in memory at once."""


@dataclass
class Discordance:
    """How two scorers differ on the items that both have scored."""

    only_first: int = 0
    only_second: int = 0
    items: int = 0
    binary: bool = True
    """Whether each item is plainly right or wrong for both."""

    def add(self, first: Floats, second: Floats) -> None:
        """Count more items, by their credits; NaN: not scored."""
        both = ~np.isnan(first) & ~np.isnan(second)
        a, b = first[both], second[both]
        self.items += int(both.sum())
        self.only_first += int(((a == 1) & (b < 1)).sum())
        self.only_second += int(((b == 1) & (a < 1)).sum())
        self.binary &= bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())


@dataclass(frozen=True)
class Comparison:
    """Two scorers on the items that both have scored."""

    first: Value
    """The suite's main figure of the first one."""
    second: Value
    discordance: Discordance
    counts_items: bool = True
    """Whether the main figure is the share of right items, each of another prompt: what McNemar's test is about."""


@dataclass(frozen=True)
class SuiteResult:
    """The figures of a suite; each array holds the data's figure first, then the replicates'."""

    num_items: int
    sums: Mapping[str, Sums]
    """By reward, and by control."""
    figures: Mapping[str, Mapping[str, Value]]
    comparisons: Mapping[tuple[str, str], Comparison]
    """By pair of rewards, and of a reward and a control."""
    agreement: Mapping[tuple[str, str], float]
    """By reward and control: how often both pick the same candidate; ties share the pick."""
    num_ties: Mapping[str, int]
    """By reward: items whose highest score belongs to several candidates."""


@dataclass
class SuiteTally:
    """The sums of one suite."""

    suite: Suite
    names: Sequence[str]
    """The rewards."""
    compare: Sequence[tuple[str, str]] = ()
    replicates: int = 1000
    seed: int = 0
    num_items: int = 0
    _sums: dict[str, dict[str, Floats]] = field(default_factory=dict)
    """By scorer and stratum: [replicates + 1, measures]. ``a|b``: of a, on the items that b has scored too."""
    _measures: tuple[str, ...] = ()
    _discordance: dict[tuple[str, str], Discordance] = field(default_factory=dict)
    _agreement: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    _ties: dict[str, int] = field(default_factory=dict)
    _keys: list[NDArray[np.uint64]] = field(default_factory=list)
    """Of all items, 8 bytes each."""

    def add(self, items: Items, judged: Mapping[str, Judged]) -> dict[str, Floats]:
        """Add a block of items. Returns the fair credit of each item, by reward and control; NaN: not scored.

        For a suite that is ``whole`` the block must hold all items.
        """
        controls = {f"{CONTROL}{name}": each for name, each in self.suite.controls(items).items()}
        everyone = {**judged, **controls}
        measured = {name: self.suite.measure(items, each) for name, each in everyone.items()}
        credits = {name: self.suite.credit(each) for name, each in measured.items()}
        self.num_items += items.num_items
        self._keys.append(items.key)
        pairs = [*self.compare, *((name, control) for name in self.names for control in controls)]
        masked: dict[str, Measures] = dict(measured)
        same: dict[str, str] = {}  # what needs no mask here, because both have scored all of the block
        for first, second in pairs:
            self._discordance.setdefault((first, second), Discordance()).add(credits[first], credits[second])
            both = ~np.isnan(credits[first]) & ~np.isnan(credits[second])
            for one, other in ((first, second), (second, first)):
                if both.all():
                    same[f"{one}|{other}"] = one
                else:
                    masked[f"{one}|{other}"] = _mask(measured[one], both)
        if items.correct.counts.min(initial=2) > 1:
            for name in self.names:
                self._count_picks(name, everyone[name], controls)
        self._add_up(items, masked, same)
        return credits

    def result(self) -> SuiteResult:
        """The figures of all that was added."""
        sums = {name: self._make_sums(name) for name in self._sums}
        plain = {name: each for name, each in sums.items() if "|" not in name}
        is_apart = not self._keys or len(np.unique(np.concatenate(self._keys))) == self.num_items
        comparisons = {}
        for (first, second), counts in self._discordance.items():
            both = [sums[name] for name in (f"{first}|{second}", f"{second}|{first}")]
            values = [self.suite.figures(each)[self.suite.main] for each in both]
            is_share = all(_is_share(self.suite, each, value) for each, value in zip(both, values))
            comparisons[first, second] = Comparison(values[0], values[1], counts, is_apart and is_share)
        return SuiteResult(
            self.num_items,
            plain,
            {name: self.suite.figures(each) for name, each in plain.items()},
            comparisons,
            {pair: same / size for pair, (same, size) in self._agreement.items() if size},
            dict(self._ties),
        )

    def _make_sums(self, name: str) -> Sums:
        by_stratum = self._sums[name]
        strata = tuple(sorted(by_stratum))
        return Sums(strata, self._measures, np.stack([by_stratum[each] for each in strata], axis=1))

    def _add_up(self, items: Items, measured: Mapping[str, Measures], same: Mapping[str, str]) -> None:
        """Add measures by scorer and stratum. ``same``: further scorers, each with the one whose measures it shares."""
        if not items.num_items:
            return
        names = list(measured)
        self._measures = tuple(measured[names[0]])
        values = np.stack([measured[name][each] for name in names for each in self._measures], axis=1)
        strata, codes = np.unique(self.suite.stratum(items).astype(str), return_inverse=True)
        order = np.argsort(codes, kind="stable")
        shape = (self.replicates + 1, len(names), len(self._measures))
        for start in range(0, len(order), CHUNK_ROWS):
            rows = order[start : start + CHUNK_ROWS]
            weights = bootstrap_weights(items.key[rows], self.replicates, self.seed)
            for code in np.unique(codes[rows]):
                inside = slice(*np.searchsorted(codes[rows], [code, code + 1]))  # the rows are in order of their codes
                added = (weights[:, inside] @ values[rows[inside]]).reshape(shape)
                for name in (*names, *same):
                    sums = self._sums.setdefault(name, {})
                    stratum, part = str(strata[code]), added[:, names.index(same.get(name, name))]
                    if stratum in sums:
                        sums[stratum] += part
                    else:
                        sums[stratum] = np.ascontiguousarray(part)

    def _count_picks(self, name: str, judged: Judged, controls: Mapping[str, Judged]) -> None:
        """Count ties for the first place, and how often a control picks the same."""
        complete = judged.scores.is_complete()
        mine = _pick_shares(judged)
        tied = judged.scores.sum(mine > 0) > 1
        self._ties[name] = self._ties.get(name, 0) + int((tied & complete).sum())
        for control, each in controls.items():
            if len(each.scores.values) != len(mine):
                continue
            same = float((judged.scores.sum(mine * _pick_shares(each)) * complete).sum())
            before, size = self._agreement.get((name, control), (0.0, 0))
            self._agreement[name, control] = (before + same, size + int(complete.sum()))


def _is_share(suite: Suite, sums: Sums, main: Value) -> bool:
    """Whether the main figure is the mean of the items' credits: no mean of subsets, and no F1."""
    scored, fair = (sum(sums.total(f"{name}.{part}") for name in suite.credit_of) for part in ("scored", "fair"))
    share = divide(np.asarray(fair), np.asarray(scored))
    return main.fair.shape == share.shape and np.allclose(main.fair, share, equal_nan=True)


def _pick_shares(judged: Judged) -> Floats:
    """How likely each candidate is the pick, where ties are broken at random."""
    scores = judged.scores
    top = scores.values == np.repeat(scores.maximum(), scores.counts)
    shares: Floats = top / np.repeat(np.maximum(scores.sum(top), 1), scores.counts)
    return shares


def _mask(measures: Measures, rows: Bools) -> Measures:
    return {name: np.where(rows, each, 0.0) for name, each in measures.items()}
