"""Suites whose items are reasonings in steps, with the first wrong step: ProcessBench, and data of the same form.

A verdict is the number of the first wrong step, or that none is wrong. Of step scores it is the first below a half. The
figure is the harmonic mean of two accuracies: on reasonings with a wrong step and on those without. So whoever always
says that nothing is wrong gets 0.
Source: Zheng et al., "ProcessBench", arXiv 2412.06559, https://github.com/QwenLM/ProcessBench (code/run_eval.py); Tyen
et al., "LLMs cannot find reasoning errors", arXiv 2311.08516, for the data of BIG-Bench Mistake.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.base import Items, Judged, Suite
from rmbatch.evaluation.figures import Measures, Sums, Value, harmonic_mean, mean_of, measure_rate
from rmbatch.evaluation.ragged import Floats, Ragged

THRESHOLD = 0.5
"""A step whose score is lower is said to be wrong."""
_ERROR, _CORRECT = "error", "correct"


class FirstWrongStep(Suite):
    """Reasonings with the first wrong step, from anywhere."""

    name: ClassVar[str] = "first_error"
    title: ClassVar[str] = "First wrong step"
    adapters: ClassVar[tuple[str, ...]] = ("bigbench_mistake",)
    needs: ClassVar[str] = "steps"
    credit_of: ClassVar[tuple[str, ...]] = ("match",)
    official: ClassVar[str] = "It favours nothing; no verdict counts as wrong."
    source: ClassVar[str] = "arXiv 2412.06559; arXiv 2311.08516"

    def stratum(self, items: Items) -> NDArray[np.object_]:
        kind = np.where(items.error_steps.counts > 0, _ERROR, _CORRECT).astype(object)
        strata: NDArray[np.object_] = items.subset + "|" + kind
        return strata

    def measure(self, items: Items, judged: Judged) -> Measures:
        truth = np.where(items.error_steps.counts > 0, items.error_steps.minimum(), -1.0)
        said = find_first_error(judged, items)
        match = (said == truth) * 1.0
        return measure_rate("match", scored=~np.isnan(said), official=match, fair=match)

    def figures(self, sums: Sums) -> dict[str, Value]:
        found: dict[str, Value] = {}
        subsets: dict[str, Value] = {}
        for subset in dict.fromkeys(each.rpartition("|")[0] for each in sums.strata):
            kinds = {
                kind: sums.rate("match", [f"{subset}|{kind}"])
                for kind in (_ERROR, _CORRECT)
                if f"{subset}|{kind}" in sums.strata
            }
            name = f"{subset} " if subset else ""
            found |= {f"{name}{kind} accuracy": value for kind, value in kinds.items()}
            if len(kinds) == 2:
                subsets[f"{name}F1"] = harmonic_mean(kinds[_ERROR], kinds[_CORRECT])
        found |= subsets
        found["accuracy"] = sums.rate("match")
        return {**found, "overall": mean_of(list(subsets.values())) if subsets else found["accuracy"]}

    def controls(self, items: Items) -> dict[str, Judged]:
        return {"says_nothing_is_wrong": Judged(items.lengths, first_error=np.full(items.num_items, -1.0))}


class ProcessBench(FirstWrongStep):
    """ProcessBench."""

    name: ClassVar[str] = "processbench"
    title: ClassVar[str] = "ProcessBench"
    adapters: ClassVar[tuple[str, ...]] = ("processbench",)


def find_first_error(judged: Judged, items: Items) -> Floats:
    """The first step that is said to be wrong, -1 for none, NaN for no verdict; shape [items]."""
    if judged.first_error is not None:
        return judged.first_error
    if judged.steps is None:
        return np.full(items.num_items, np.nan)
    steps = fit_steps(judged.steps, items.num_steps)
    places = np.arange(len(steps.values)) - np.repeat(steps.offsets[:-1], steps.counts)
    first = steps.minimum(np.where(steps.values < THRESHOLD, places, np.nan))
    found = np.where(np.isinf(first), -1.0, first)
    return np.where(steps.is_complete(), found, np.nan)


def fit_steps(steps: Ragged, num_steps: NDArray[np.int64]) -> Ragged:
    """The step scores, with NaN for all steps of a reasoning for which there are more or fewer scores than steps."""
    wrong = np.repeat(steps.counts != num_steps, steps.counts)
    return steps.with_values(np.where(wrong, np.nan, steps.values))
