"""How much work a served model will have, from a sample of rows that only a tokenizer has read.

found = estimate(encoded.ids, encoded.prompt, place, num_sampled=32, num_all=1_500_000)
found.tokens, found.computed          # Interval(low, mean, high), at 95%
gpu_hours(found.computed, flops_per_token, peak_flops("H100", "bfloat16"))
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MFU = (0.25, 0.5)
"""Between what parts of a device's peak reward models are usually served; a short-context model gets less."""
T95 = 2.04
"""Student's t for 32 places; for more it is a little less."""


@dataclass(frozen=True)
class Interval:
    """A number that is known to lie about here."""

    low: float
    mean: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        return Interval(self.low * factor, self.mean * factor, self.high * factor)


@dataclass(frozen=True)
class Estimate:
    """Of a whole input, by a sample of its rows; intervals at 95%, and only of the sampling."""

    tokens: Interval
    """Tokens of all conversations."""
    computed: Interval
    """Of these, what is computed where each prompt is computed once for all its responses."""
    length: float
    """Tokens in a conversation, on average."""


def estimate(ids: pa.Array, prompt: np.ndarray, place: np.ndarray, *, num_sampled: int, num_all: float) -> Estimate:
    """The work of ``num_all`` places (rows, or a few neighbours each), by the conversations of ``num_sampled`` of them.

    For each conversation: its ids (IDS [n]; null: it will not be asked), its prompt (``Encoded.prompt``), and which of
    the sampled places it is of (0 to num_sampled - 1).
    """
    lengths = np.asarray(pc.fill_null(pc.list_value_length(ids), 0), np.float64)
    anew = lengths - shared_tokens(ids, prompt)
    return Estimate(
        _total(np.bincount(place, lengths, num_sampled), num_all),
        _total(np.bincount(place, anew, num_sampled), num_all),
        float(lengths[lengths > 0].mean()) if (lengths > 0).any() else 0.0,
    )


def shared_tokens(ids: pa.Array, prompt: np.ndarray) -> np.ndarray:
    """How many first tokens each conversation has in common with the first one of its prompt; 0 for that one itself."""
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
    """The sum over all places, by that of a sample of them."""
    if len(per_place) == 0:
        return Interval(0.0, 0.0, 0.0)
    mean = float(per_place.mean())
    deviation = float(per_place.std(ddof=1)) if len(per_place) > 1 else mean
    is_all = len(per_place) >= num_all  # then it is no guess
    error = 0.0 if is_all else T95 * deviation / len(per_place) ** 0.5
    return Interval(max(mean - error, 0.0), mean, mean + error).scaled(num_all)


def gpu_hours(computed: Interval, flops_per_token: float, peak: float) -> Interval:
    """Hours of one device: the fewest tokens at the best of ``MFU``, the most at the worst."""
    needed = computed.scaled(flops_per_token / peak / 3600)
    return Interval(needed.low / MFU[1], needed.mean / (sum(MFU) / 2), needed.high / MFU[0])
