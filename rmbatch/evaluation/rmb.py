"""RMB: pairs and best-of-N lists, each for helpfulness and harmlessness; the mean of the four.

A list counts as won where the best response beats every other one. The official code counts a tie as lost.
Source: Zhou et al., "RMB", arXiv 2410.09893; https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark,
eval/scripts/my_run_rm.py.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rmbatch.evaluation.base import Items, Judged, Suite
from rmbatch.evaluation.figures import Measures, Sums, Value, mean_of
from rmbatch.evaluation.preferences import measure_picks

GOALS = ("Helpfulness", "Harmlessness")
KINDS = ("pairwise", "best_of_n")


class RMB(Suite):
    """RMB."""

    name: ClassVar[str] = "rmb"
    title: ClassVar[str] = "RMB"
    adapters: ClassVar[tuple[str, ...]] = ("rmb_pairs", "rmb_best_of_n")
    credit_of: ClassVar[tuple[str, ...]] = ("pick",)
    official: ClassVar[str] = "A tie is lost; a best-of-N list is won only against every other response."
    source: ClassVar[str] = "arXiv 2410.09893; github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark"

    def stratum(self, items: Items) -> NDArray[np.object_]:
        kind = np.where(items.correct.counts > 2, KINDS[1], KINDS[0]).astype(object)
        strata: NDArray[np.object_] = kind + "|" + items.subset
        return strata

    def measure(self, items: Items, judged: Judged) -> Measures:
        return measure_picks("pick", items, judged)

    def figures(self, sums: Sums) -> dict[str, Value]:
        found = {each.replace("|", " "): sums.rate("pick", [each]) for each in sums.strata}
        parts: dict[str, Value] = {}
        for kind in KINDS:
            for goal in GOALS:
                strata = sums.starting(f"{kind}|{goal}")
                if strata:
                    parts[f"{goal} {kind}"] = sums.rate("pick", strata)
        for kind in KINDS:
            of_kind = [value for name, value in parts.items() if name.endswith(kind)]
            if of_kind:
                found[kind] = mean_of(of_kind)
        overall = mean_of(list(parts.values())) if parts else sums.rate("pick")
        return {**found, **parts, "pooled": sums.rate("pick"), "overall": overall}
