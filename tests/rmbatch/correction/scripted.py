"""Rewards whose truth stands in the text, for editors that are scripted: ``quality``, ``polite``, ``longer``."""

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa

from rmbatch.rewards.contract import Scores, reward


@reward("quality")
def quality(response: pa.Array) -> Scores:
    """The number at the end of the text; none where there is no number. The reason says so."""
    found = [re.search(r"(-?\d+(?:\.\d+)?)\s*$", text or "") for text in response.to_pylist()]
    score = pa.array([float(each[1]) if each else None for each in found], pa.float64())
    error = pa.array([None if each else "no_number: it ends on no number" for each in found], pa.string())
    return Scores(score, error, pa.array([each and f"it is worth {each[1]}" for each in found], pa.string()))


@reward("polite")
def polite(response: pa.Array) -> pa.Array:
    """1.0 where the text says please."""
    return pa.array([None if text is None else float("please" in text) for text in response.to_pylist()], pa.float64())


@reward("longer", kind="pairwise")
def longer(response: pa.Array, *, offsets: np.ndarray) -> pa.Array:
    """1.0 for the longest text of a prompt, 0.0 for the others, 0.5 where all are as long."""
    texts = response.to_pylist()
    found: list[float] = []
    for start, stop in pairwise(offsets.tolist()):
        lengths = [len(text or "") for text in texts[start:stop]]
        most = max(lengths, default=0)
        found += [0.5 if len(set(lengths)) == 1 else float(each == most) for each in lengths]
    return pa.array(found, pa.float64())
