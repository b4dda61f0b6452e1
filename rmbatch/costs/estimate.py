"""Estimates a served model's work from a sample of rows, with a tokenizer alone.

found = estimate(encoded.ids, encoded.prompt, place, num_sampled=32, num_all=1_500_000)
found.tokens, found.computed          # Interval(low, mean, high), at 95%
gpu_hours(found.computed, flops_per_token, peak_flops("H100", "bfloat16"))
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MFU = (0.25, 0.5)
"""The usual range of a reward model's FLOPs as a share of the device's peak; a short-context model gets less."""
T95 = 2.04
"""Student's t for 32 places; for more places it is a little less."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its bounds."""

    low: float
    mean: float
    high: float

    def scale(self, factor: float) -> "Interval":
        return Interval(self.low * factor, self.mean * factor, self.high * factor)


@dataclass(frozen=True)
class Estimate:
    """The work of a whole input, from a sample of its rows; the intervals (95%) cover the sampling error only."""

    tokens: Interval
    """Tokens of all conversations."""
    computed: Interval
    """The tokens that are computed if each prompt is computed once for all its responses."""
    length: float
    """Tokens in a conversation, on average."""


def estimate(ids: pa.Array, prompt: np.ndarray, place: np.ndarray, *, num_sampled: int, num_all: float) -> Estimate:
    """The work of ``num_all`` places (a row or a few neighbouring rows each), from the conversations of a sample.

    For each conversation: its ids (IDS [n]; null: it is not sent), its prompt (``Encoded.prompt``), and the index of
    its sampled place (0 to num_sampled - 1).
    """
    lengths = np.asarray(pc.fill_null(pc.list_value_length(ids), 0), np.float64)
    anew = lengths - shared_tokens(ids, prompt)
    return Estimate(
        _total(np.bincount(place, lengths, num_sampled), num_all),
        _total(np.bincount(place, anew, num_sampled), num_all),
        float(lengths[lengths > 0].mean()) if (lengths > 0).any() else 0.0,
    )


def shared_tokens(ids: pa.Array, prompt: np.ndarray) -> np.ndarray:
    """How many leading tokens each conversation shares with the first one of its prompt; 0 for the first one itself."""
    firsts: dict[int, np.ndarray] = {}
    shared = np.zeros(len(ids), np.int64)
    for place, (group, one) in enumerate(zip(prompt.tolist(), ids)):
        if not one.is_valid:
            continue
        tokens = np.asarray(one.values)
        if group not in firsts:
            firsts[group] = tokens
            continue
        length = min(len(tokens), len(firsts[group]))
        differ = tokens[:length] != firsts[group][:length]
        shared[place] = int(differ.argmax()) if differ.any() else length
    return shared


def _total(per_place: np.ndarray, num_all: float) -> Interval:
    """The sum over all places, estimated from a sample."""
    if len(per_place) == 0:
        return Interval(0.0, 0.0, 0.0)
    mean = float(per_place.mean())
    deviation = float(per_place.std(ddof=1)) if len(per_place) > 1 else mean
    is_all = len(per_place) >= num_all  # then it is no guess
    error = 0.0 if is_all else T95 * deviation / len(per_place) ** 0.5
    return Interval(max(mean - error, 0.0), mean, mean + error).scale(num_all)


def gpu_hours(computed: Interval, flops_per_token: float, peak: float) -> Interval:
    """Hours of one device: the fewest tokens at the best of ``MFU``, the most at the worst."""
    needed = computed.scale(flops_per_token / peak / 3600)
    return Interval(needed.low / MFU[1], needed.mean / (sum(MFU) / 2), needed.high / MFU[0])
