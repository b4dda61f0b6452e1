"""Pairs and best-of-N lists of any origin: accuracy by subset, the mean of subsets, and all items pooled.

Each item has candidates of which some are right. With two candidates and one right one it is a pair.

    load_suite("preferences")        # for data in standard columns: chosen, rejected; or responses, correct
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from rmbatch.evaluation.base import Items, Judged, Suite, fill_scores, pick_credit
from rmbatch.evaluation.figures import Measures, Sums, Value, mean_of, measure_rate
from rmbatch.evaluation.ragged import Floats


def measure_picks(
    name: str, items: Items, judged: Judged, *, shares_ties: bool = False, unread: Floats | float = 0.0
) -> dict[str, Floats]:
    """The measures of picking the best candidate of each item.

    ``shares_ties``: the official credit shares ties; else a tie is lost. ``unread``: the official credit of an item
    that has no score.
    """
    scored = judged.scores.is_complete()
    fair, strict = pick_credit(judged.scores, items.correct)
    worst, _ = pick_credit(fill_scores(judged.scores, items.correct, right=False), items.correct)
    best, _ = pick_credit(fill_scores(judged.scores, items.correct, right=True), items.correct)
    official = np.where(scored, fair if shares_ties else strict, unread)
    return measure_rate(name, scored=scored, official=official, fair=fair, worst=worst, best=best)


class Preferences(Suite):
    """Pairs and lists in standard columns."""

    name: ClassVar[str] = "preferences"
    title: ClassVar[str] = "Preferences"
    credit_of: ClassVar[tuple[str, ...]] = ("pick",)
    official: ClassVar[str] = "There is no official code; official counts a tie as lost."
    source: ClassVar[str] = "Data of your own."

    def measure(self, items: Items, judged: Judged) -> Measures:
        return measure_picks("pick", items, judged)

    def figures(self, sums: Sums) -> dict[str, Value]:
        each = {name: sums.rate("pick", [name]) for name in sums.strata if name}
        found: dict[str, Value] = dict(each)
        if len(each) > 1:
            found["mean_of_subsets"] = mean_of(list(each.values()))
        return found | {"overall": sums.rate("pick")}


def weighted_sections(
    sums: Sums, rate: str, sections: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, Value], dict[str, Value]]:
    """The figures of subsets, and of sections: means of their subsets, weighted. What the data do not have is left out.

    ``sections``: by section, the weight of each of its subsets.
    """
    subsets: dict[str, Value] = {}
    found: dict[str, Value] = {}
    for section, weights in sections.items():
        present = {name: sums.rate(rate, [name]) for name in weights if name in sums.strata}
        subsets |= present
        if present:
            found[section] = mean_of(list(present.values()), [weights[name] for name in present])
    return subsets, found
