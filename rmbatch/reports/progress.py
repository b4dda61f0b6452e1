"""How an output grew: rows and tokens over time, by its commit records.

describe_progress([(at, num_rows, tally), …])      # at: seconds since 1970; tally: what the rows were counted as
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rmbatch.stages.tally import Tally

MOST_POINTS = 60
"""Points of the curves."""
_CORRECTION = ("correct.round.", "control.round.")


def describe_progress(commits: Iterable[tuple[float, int, Mapping[str, int]]]) -> dict[str, Any] | None:
    """Rows and tokens by the time at which they were finished, as plain values. None: there are no records.

    ``points``: seconds since the first record, rows so far, tokens so far. Tokens are those of generated answers, of
    critiques and of edits; judges' are not counted by row.
    """
    found = sorted(((at, rows, _count_tokens(tally)) for at, rows, tally in commits), key=lambda each: each[0])
    if not found:
        return None
    at, rows, tokens = (np.array(column) for column in zip(*found))
    seconds, rows, tokens = at - at[0], np.cumsum(rows), np.cumsum(tokens)
    last = np.unique(np.linspace(0, len(at) - 1, min(len(at), MOST_POINTS)).round().astype(int))
    span = float(seconds[-1])
    return {
        "records": len(at),
        "begun": float(at[0]),
        "ended": float(at[-1]),
        "rows": int(rows[-1]),
        "tokens": int(tokens[-1]),
        "rows_per_s": float((rows[-1] - rows[0]) / span) if span > 0 else None,
        "points": [[float(seconds[place]), int(rows[place]), int(tokens[place])] for place in last],
    }


def _count_tokens(tally: Mapping[str, int]) -> int:
    rounds = sum(n for key, n in tally.items() if key.startswith(_CORRECTION) and key.endswith(".tokens"))
    return Tally(tally).generated[1] + rounds
