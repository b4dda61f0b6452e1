"""The lengths of preference pairs: how often the better response of a prompt is also the longer one.

table = PairLengths()
table.add(candidates, value, characters)       # value: the score that makes the pairs
table.plain()
"""

from typing import Any

import numpy as np

from rmbatch.evaluation.ragged import Floats
from rmbatch.reports.candidates import Candidates

BANDS = (
    ("less than half as long", 0.0, 0.5),
    ("0.5 to 0.8 times as long", 0.5, 0.8),
    ("0.8 to 1.25 times as long", 0.8, 1.25),
    ("1.25 to 2 times as long", 1.25, 2.0),
    ("more than twice as long", 2.0, np.inf),
)
"""How long the chosen response is beside the rejected one; the upper end belongs to the next band."""


class PairLengths:
    """Counts over pairs: the best and the worst candidate of each prompt, as ``--pairs best_worst`` exports them.

    So of prompts of which something was kept, and both with a finite score.
    """

    def __init__(self) -> None:
        self._bands = np.zeros(len(BANDS), np.int64)
        self._longer = self._shorter = self._equal = 0
        self._chosen = self._rejected = 0.0

    def add(self, found: Candidates, value: Floats, characters: Floats) -> None:
        """Add prompts. value and characters: one number a candidate, NaN for no score or no text."""
        usable = ~np.isnan(value) & ~np.isnan(characters)
        lists = found.ragged(np.where(usable, value, np.nan))
        top = lists.maximum()
        bottom = lists.minimum(np.where(np.isfinite(lists.values), lists.values, np.nan))
        is_pair = (top > bottom) & np.isfinite(top)
        if found.rank is not None:
            is_pair &= found.ragged(found.rank > 0).sum() > 0
        rows = np.flatnonzero(is_pair)
        chosen, rejected = (_first(found, lists.values, ends, rows) for ends in (top, bottom))
        long, short = characters[chosen], characters[rejected]
        self._longer += int(np.count_nonzero(long > short))
        self._shorter += int(np.count_nonzero(long < short))
        self._equal += int(np.count_nonzero(long == short))
        self._chosen += float(long.sum())
        self._rejected += float(short.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(long == short, 1.0, long / short)
        edges = [low for _, low, _ in BANDS]
        self._bands += np.bincount(np.searchsorted(edges, ratio, side="right") - 1, minlength=len(BANDS))

    def plain(self) -> dict[str, Any] | None:
        """As plain values; None where there are no pairs."""
        pairs = self._longer + self._shorter + self._equal
        if not pairs:
            return None
        return {
            "pairs": pairs,
            "chosen_longer": self._longer,
            "chosen_shorter": self._shorter,
            "equal": self._equal,
            "chosen_characters": self._chosen / pairs,
            "rejected_characters": self._rejected / pairs,
            "bands": [{"chosen": name, "pairs": int(count)} for (name, _, _), count in zip(BANDS, self._bands)],
        }


def _first(found: Candidates, values: Floats, wanted: Floats, rows: Any) -> Any:
    """The first candidate of each of these prompts that has its wanted value."""
    owner = np.repeat(np.arange(found.num_prompts), np.diff(found.offsets))
    hits = np.flatnonzero(values == wanted[owner])
    first = np.full(found.num_prompts, -1)
    first[owner[hits][::-1]] = hits[::-1]
    return first[rows]
