"""Best-of-N curves over a whole output: what the pick of a score is worth, beside a random pick and the oracle.

    curves = Curves(["judge", "length"], replicates=1000)
    curves.add(keys, {"judge": judge, "length": length}, gold, offsets)
    curves.plain()            # points with intervals, the N to use, and what the largest N costs

The estimate is that of ``rmbatch/evaluation/best_of_n.py``: over all subsets of N candidates, ties shared. Candidates
whose gold is not known are left out. A pick without a score is worth 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.best_of_n import best_of_each_n
from rmbatch.evaluation.ragged import Floats, Ragged
from rmbatch.evaluation.statistics import interval
from rmbatch.reports.means import FEWEST_PROMPTS, PromptMeans, describe_mean, plain

SIZES = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 100, 112, 128, 160, 192, 200, 256, 320, 384, 500, 512)
"""Numbers of candidates at which a curve has a point. A prompt with more counts as one with the next lower number."""
MOST_PROMPTS_LEFT_OUT = 0.5
"""The curve goes up to the largest N that at least the other share of the prompts has."""
_RANDOM, _ORACLE = "random", "oracle"
_SIZES = np.array(SIZES)


class Curves:
    """Sums over prompts, by how many candidates these have."""

    def __init__(self, choosers: Sequence[str], replicates: int = 1000, seed: int = 0) -> None:
        self.choosers = list(choosers)
        self._replicates, self._seed = replicates, seed
        self._by_size: dict[int, PromptMeans] = {}
        self.without_gold = 0
        """Candidates that are left out because their gold is not known."""
        self.without_score = dict.fromkeys(self.choosers, 0)
        """Candidates in the curve that a chooser has no score for."""

    def add(self, keys: NDArray[Any], scores: Mapping[str, Floats], gold: Floats, offsets: NDArray[np.int64]) -> None:
        """Add prompts. keys[prompts] uint64; scores and gold: one number a candidate, NaN for none."""
        known = np.isfinite(gold)  # a mean over an infinite one would say nothing
        self.without_gold += int(np.count_nonzero(~known))
        counts = Ragged(gold, offsets).sum(known).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        worth = Ragged(gold[known], offsets)
        lists = {name: Ragged(scores[name][known], offsets) for name in self.choosers}
        for name, each in lists.items():
            self.without_score[name] += int(np.count_nonzero(np.isnan(each.values)))
        place = np.searchsorted(_SIZES, counts, side="right") - 1
        for number in np.unique(place[place >= 0]):
            rows = np.flatnonzero(place == number)
            sizes = SIZES[: number + 1]
            golds = worth.take(rows)
            columns = [best_of_each_n(lists[name].take(rows), golds, sizes) for name in self.choosers]
            oracle = best_of_each_n(golds, golds, sizes)
            random = golds.sum() / golds.counts
            means = self._by_size.setdefault(
                int(number),
                PromptMeans((len(columns) + 1) * len(sizes) + 1, self._replicates, self._seed),
            )
            means.add(keys[rows], np.column_stack([*columns, oracle, random]))

    def plain(self) -> dict[str, Any]:
        """As plain values. Raises nothing where there are no prompts: then ``sizes`` is empty."""
        counts = {number: int(each.counts[0]) for number, each in self._by_size.items()}
        total = sum(counts.values())
        top = max((n for n in counts if self._with_at_least(counts, n) >= MOST_PROMPTS_LEFT_OUT * total), default=-1)
        found: dict[str, Any] = {
            "prompts": self._with_at_least(counts, top) if top >= 0 else 0,
            "prompts_with_fewer": total - self._with_at_least(counts, top) if top >= 0 else 0,
            "without_gold": self.without_gold,
            "replicates": self._replicates,
            "sizes": list(SIZES[: top + 1]),
            "choosers": {},
        }
        if top < 0:
            return found
        curves, random = self._sum_curves(top)
        found["random"] = describe_mean(random)
        found["oracle"] = [describe_mean(column) for column in curves[-1].T]
        for name, each in zip(self.choosers, curves):
            found["choosers"][name] = {
                "points": [describe_mean(column) for column in each.T],
                "without_score": self.without_score[name],
                **advise(SIZES[: top + 1], each, random),
            }
        return found

    def _with_at_least(self, counts: Mapping[int, int], number: int) -> int:
        return sum(count for each, count in counts.items() if each >= number)

    def _sum_curves(self, top: int) -> tuple[list[Floats], Floats]:
        """The means over all prompts with enough candidates: for each curve [replicates + 1, sizes], and at random."""
        width, kinds = top + 1, len(self.choosers) + 1
        sums = np.zeros((self._replicates + 1, kinds, width))
        random = np.zeros(self._replicates + 1)
        weights = np.zeros(self._replicates + 1)
        prompts = 0
        for number, means in self._by_size.items():
            if number < top:
                continue
            sums += means.sums[:, :-1].reshape(-1, kinds, number + 1)[:, :, :width]
            random += means.sums[:, -1]
            weights += means.weights[:, -1]
            prompts += int(means.counts[-1])
        if prompts < FEWEST_PROMPTS:
            weights[1:] = np.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            return [sums[:, kind] / weights[:, None] for kind in range(kinds)], random / weights


def advise(sizes: Sequence[int], curve: Floats, random: Floats) -> dict[str, Any]:
    """The N to use by a curve. curve[replicates + 1, sizes], random[replicates + 1]; the first of each is the data.

    ``best``: the N with the highest mean. ``recommended``: the smallest N that is not measurably worse, by the 95 %
    interval over prompts of the difference. ``loss``: what the largest N costs against the best; ``more_is_worse``: its
    interval lies above 0. ``gain``: of the recommended N over a random pick; ``helps``: that interval lies above 0;
    ``best_gain``: of the best N. Without intervals the best N is recommended, and nothing is said to help or to harm.
    """
    best = int(np.argmax(curve[0]))
    behind = curve[:, [best]] - curve
    lows = np.array([interval(behind[1:, place])[0] for place in range(len(sizes))])
    recommended = best if np.isnan(lows[-1]) else next(place for place in range(best + 1) if not lows[place] > 0)
    gain, loss, most_gain = curve[:, recommended] - random, behind[:, -1], curve[:, best] - random
    rise = curve[0, best] - random[0]
    most = next((place for place in range(best + 1) if curve[0, place] - random[0] >= 0.9 * rise), best)
    return {
        "best": sizes[best],
        "recommended": sizes[recommended],
        "most_of_gain": sizes[most] if rise > 0 else None,
        "largest": sizes[-1],
        "gain": describe_mean(gain),
        "best_gain": describe_mean(most_gain),
        "loss": describe_mean(loss),
        "more_is_worse": bool(interval(loss[1:])[0] > 0),
        "helps": bool(interval(gain[1:])[0] > 0),
        "harms": bool(interval((curve[:, -1] - random)[1:])[1] < 0),
        "worth": plain(curve[0, recommended]),
    }
