"""PRMBench: every step of a reasoning is right or wrong, in nine classes of errors; the mean of two F1 scores.

F1 takes right steps as what is looked for, the negative F1 wrong ones; both are pooled over steps. Reasonings without a
wrong step (class ``correct``) stand apart and are not in the total. The official code leaves out reasonings without a
verdict, which favours abstaining; worst and best case count them.
Source: Song et al., "PRMBench", arXiv 2501.03124; https://github.com/ssmisya/PRMBench,
mr_eval/tasks/prmtest_classified/task.py.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from rmbatch.evaluation.base import Items, Judged, Suite
from rmbatch.evaluation.figures import Measures, Sums, Value, divide
from rmbatch.evaluation.first_error import THRESHOLD, fit_steps
from rmbatch.evaluation.ragged import Floats

CORRECT = "correct"
COUNTS = ("tp", "fp", "tn", "fn", "unread_right", "unread_wrong")


class PRMBench(Suite):
    """PRMBench."""

    name: ClassVar[str] = "prmbench"
    title: ClassVar[str] = "PRMBench"
    adapters: ClassVar[tuple[str, ...]] = ("prmbench",)
    needs: ClassVar[str] = "steps"
    credit_of: ClassVar[tuple[str, ...]] = ("step",)
    official: ClassVar[str] = "Reasonings without a verdict are left out."
    source: ClassVar[str] = "arXiv 2501.03124; github.com/ssmisya/PRMBench"

    def measure(self, items: Items, judged: Judged) -> Measures:
        num_wrong = items.error_steps.counts * 1.0
        num_right = items.num_steps - num_wrong
        if judged.steps is None:
            nothing = np.zeros(items.num_items)
            tn, fp, tp, fn, scored = nothing, nothing, nothing, nothing, np.zeros(items.num_items, dtype=bool)
        else:
            steps = fit_steps(judged.steps, items.num_steps)
            scored = steps.is_complete()
            says_right = steps.values >= THRESHOLD
            is_wrong = _mark_wrong(items, len(steps.values), steps.offsets, scored)
            keep = np.repeat(scored, steps.counts)
            tp, fp, tn, fn = (
                steps.sum(cell & keep)
                for cell in (
                    says_right & ~is_wrong,
                    says_right & is_wrong,
                    ~says_right & is_wrong,
                    ~says_right & ~is_wrong,
                )
            )
        counts = (tp, fp, tn, fn, np.where(scored, 0.0, num_right), np.where(scored, 0.0, num_wrong))
        found: dict[str, Floats] = dict(zip(COUNTS, counts))
        return found | {
            "items": np.ones(items.num_items),
            "step.scored": np.where(scored, items.num_steps, 0) * 1.0,
            "step.fair": tp + tn,
        }

    def figures(self, sums: Sums) -> dict[str, Value]:
        classes = [each for each in sums.strata if each != CORRECT]
        found = {name: _score(sums, [name]) for name in classes}
        if CORRECT in sums.strata:
            found["correct, steps accepted"] = _accepted(sums)
        found["F1"] = _f1(sums, classes, negative=False)
        found["negative F1"] = _f1(sums, classes, negative=True)
        return {**found, "overall": _score(sums, classes)}

    def controls(self, items: Items) -> dict[str, Judged]:
        return {}


def _mark_wrong(items: Items, num_values: int, offsets: Floats, scored: Floats) -> Floats:
    """For each step score, whether its step is wrong."""
    errors = items.error_steps
    rows = errors.rows
    inside = scored[rows] & (errors.values >= 0) & (errors.values < items.num_steps[rows])
    wrong = np.zeros(num_values, dtype=bool)
    wrong[(offsets[:-1][rows] + np.nan_to_num(errors.values).astype(np.int64))[inside]] = True
    return wrong


def _counts(sums: Sums, strata: Sequence[str]) -> dict[str, Floats]:
    return {name: sums.total(name, strata) for name in COUNTS}


def _f1(sums: Sums, strata: Sequence[str], *, negative: bool) -> Value:
    counts = _counts(sums, strata)
    right, wrong = counts["unread_right"], counts["unread_wrong"]
    hit, other = ("tn", "tp") if negative else ("tp", "tn")
    misses = counts["fp"] + counts["fn"]
    hits, unread, unread_other = (counts[hit], wrong, right) if negative else (counts[hit], right, wrong)
    known = divide(2 * hits, 2 * hits + misses)
    worst = divide(2 * hits, 2 * hits + misses + unread + unread_other)
    best = divide(2 * (hits + unread), 2 * (hits + unread) + misses)
    official = _official_f1(hits, counts["fp"], counts["fn"], counts[other], negative=negative)
    scored, steps = sums.total("step.scored", strata), sum(counts.values())
    return Value(official, known, worst, best, divide(scored, np.asarray(steps)), float(np.asarray(steps)[0]))


def _official_f1(hits: Floats, fp: Floats, fn: Floats, other: Floats, *, negative: bool) -> Floats:
    """F1 with the official code's -1 wherever it would divide by 0."""
    del other
    first, second = (fn, fp) if negative else (fp, fn)
    precision = np.where(hits + first == 0, -1.0, divide(hits, hits + first))
    recall = np.where(hits + second == 0, -1.0, divide(hits, hits + second))
    return np.where(precision + recall == 0, -1.0, divide(2 * precision * recall, precision + recall))


def _score(sums: Sums, strata: Sequence[str]) -> Value:
    """Half of each F1."""
    one, other = _f1(sums, strata, negative=False), _f1(sums, strata, negative=True)
    halves = {name: (getattr(one, name) + getattr(other, name)) / 2 for name in ("official", "fair", "worst", "best")}
    return Value(**halves, coverage=one.coverage, num_items=float(sums.total("items", strata)[0]))


def _accepted(sums: Sums) -> Value:
    """The share of steps accepted in reasonings without a wrong step."""
    counts = _counts(sums, [CORRECT])
    known, unread = counts["tp"] + counts["fn"], counts["unread_right"]
    fair = divide(counts["tp"], known)
    return Value(
        fair,
        fair,
        divide(counts["tp"], known + unread),
        divide(counts["tp"] + unread, known + unread),
        divide(known, known + unread),
        float(sums.total("items", [CORRECT])[0]),
    )
