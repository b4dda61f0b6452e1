"""PPE correctness: 32 responses of one model a prompt, each known to be right or wrong, on five benchmarks.

``overall`` is the accuracy on the pairs of a right and a wrong response that the data sample, the mean over the
benchmarks; of a benchmark whose data have no such pairs, over all pairs. Beside it stand all pairs (ties are half, so a
constant scorer gets a half) and the best of K: what picking by the reward is worth, with ties shared, and what always
picking right would be worth.
Source: Frick et al., "How to Evaluate Reward Models for RLHF", arXiv 2410.14872; https://github.com/lmarena/PPE.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from rmbatch.evaluation.base import Items, Judged, Suite, fill_scores, is_right
from rmbatch.evaluation.best_of_n import best_of_n
from rmbatch.evaluation.figures import RATE, Measures, Sums, Value, mean_of, measure_rate
from rmbatch.evaluation.ragged import Bools, Floats, Ragged

SIZES = (2, 4, 8, 16, 32)


class PPECorrectness(Suite):
    """PPE correctness."""

    name: ClassVar[str] = "ppe_correctness"
    title: ClassVar[str] = "PPE correctness"
    adapters: ClassVar[tuple[str, ...]] = ("ppe_correctness",)
    keeps_hopeless: ClassVar[bool] = True
    credit_of: ClassVar[tuple[str, ...]] = ("all_pairs",)
    official: ClassVar[str] = "A tie is lost; only the pairs that the data sample are counted."
    source: ClassVar[str] = "arXiv 2410.14872; github.com/lmarena/PPE"

    def measure(self, items: Items, judged: Judged) -> Measures:
        found = _measure_all_pairs(items, judged.scores)
        found |= _measure_sampled(items, judged.scores)
        gold = items.correct.with_values(is_right(items.correct))
        scored = judged.scores.is_complete()
        worst, best = (fill_scores(judged.scores, items.correct, right=right) for right in (False, True))
        for size in SIZES:
            enough = items.correct.counts >= size
            fair, low, high = (np.nan_to_num(best_of_n(each, gold, size)) for each in (judged.scores, worst, best))
            rate = measure_rate(
                f"best_of_{size}", scored=scored & enough, official=fair, fair=fair, worst=low, best=high
            )
            found |= rate | {f"best_of_{size}.n": enough * 1.0}
        solvable = (items.correct.sum(is_right(items.correct)) > 0) * 1.0
        right = items.correct.sum(is_right(items.correct)) / np.maximum(items.correct.counts, 1)
        every = np.ones(items.num_items, dtype=bool)
        found |= measure_rate("oracle", scored=every, official=solvable, fair=solvable)
        return found | measure_rate("random_pick", scored=every, official=right, fair=right)

    def figures(self, sums: Sums) -> dict[str, Value]:
        found = {name: _main_rate(sums, [name]) for name in sums.strata if name}
        counted = [each for each in found.values() if each.num_items]
        overall = mean_of(counted) if counted else _main_rate(sums, sums.strata)
        for name in ("all_pairs", *(f"best_of_{size}" for size in SIZES), "random_pick", "oracle"):
            parts = [sums.rate(name, [each]) for each in sums.strata if sums.total(f"{name}.n", [each])[0]]
            if parts:
                found[name] = mean_of(parts)
        return {**found, "overall": overall}


def _main_rate(sums: Sums, strata: Sequence[str]) -> Value:
    """The accuracy on the pairs that the data sample of these benchmarks, or on all pairs where they sample none."""
    sampled = sums.rate("sampled", strata)
    return sampled if sampled.num_items else sums.rate("all_pairs", strata)


def _measure_all_pairs(items: Items, scores: Ragged) -> dict[str, Floats]:
    """Pairs of a right and a wrong response of a prompt: how many, how many of them have scores, and how many are won.

    Counted by ranks, so a prompt of m responses takes m log m steps.
    """
    right, known = is_right(items.correct), ~np.isnan(scores.values)
    num_right, num_wrong = scores.sum(right), scores.sum(~right)
    n = num_right * num_wrong
    scored = scores.sum(right & known) * scores.sum(~right & known)
    won, tied = _count_won(scores, right, known)
    return dict(
        zip(
            [f"all_pairs.{name}" for name in RATE],
            (n, scored, won, won + tied / 2, won + tied / 2, won + tied / 2 + n - scored),
        )
    )


def _count_won(scores: Ragged, right: Bools, known: Bools) -> tuple[Floats, Floats]:
    """By prompt, the pairs where the right response has the higher score, and those where both have the same."""
    rows = scores.rows[known]
    values, is_good = scores.values[known], right[known]
    order = np.lexsort((values, rows))
    rows, values, is_good = rows[order], values[order], is_good[order]
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    run = np.cumsum(starts) - 1
    wrong_in_run = np.bincount(run, weights=~is_good, minlength=run[-1] + 1 if len(run) else 0)
    wrong_before = np.concatenate([[0], np.cumsum(wrong_in_run)[:-1]]) if len(run) else np.zeros(0)
    wrong_by_row = np.bincount(rows, weights=~is_good, minlength=scores.num_lists)
    wrong_above = np.concatenate([[0], np.cumsum(wrong_by_row)[:-1]])
    lower = (wrong_before[run] - wrong_above[rows]) * is_good
    same = wrong_in_run[run] * is_good
    size = scores.num_lists
    return np.bincount(rows, weights=lower, minlength=size), np.bincount(rows, weights=same, minlength=size)


def _measure_sampled(items: Items, scores: Ragged) -> dict[str, Floats]:
    """The pairs that the data sample, a right and a wrong response each."""
    pairs = items.pairs
    rows = pairs.rows[::2]
    begin = scores.offsets[:-1][rows] if len(rows) else np.zeros(0, dtype=np.int64)
    first = begin + pairs.values[::2].astype(np.int64)
    second = begin + pairs.values[1::2].astype(np.int64)
    right = is_right(items.correct)
    differ = right[first] != right[second]
    good, bad = np.where(right[first], first, second), np.where(right[first], second, first)
    a, b = scores.values[good], scores.values[bad]
    known = differ & ~np.isnan(a) & ~np.isnan(b)
    fair = ((a > b) + (a == b) * 0.5) * known
    values = (differ * 1.0, known * 1.0, (a > b) * differ, fair, fair, fair + (differ & ~known))
    return {
        f"sampled.{name}": np.bincount(rows, weights=each, minlength=items.num_items) * 1.0
        for name, each in zip(RATE, values)
    }
