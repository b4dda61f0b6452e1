"""How much work a served model will have, from a sample of rows that only a tokenizer has read.

found = estimate(encoded.ids, encoded.prompt, row, num_sampled=256, num_rows=12_000_000)
found.tokens, found.computed          # Interval(low, mean, high), at 95%
gpu_hours(found, flops_per_token, peak_flops("H100", "bfloat16"))
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MFU = (0.25, 0.5)
"""Between what parts of a device's peak reward models are usually served; a short-context model gets less."""
Z95 = 1.96


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

    num_sampled: int
    """Rows that were looked at."""
    tokens: Interval
    """Tokens of all conversations."""
    computed: Interval
    """Of these, what is computed where each prompt is computed once for all its responses."""
    length: float
    """Tokens in a conversation, on average."""


def estimate(ids: pa.Array, prompt: np.ndarray, row: np.ndarray, *, num_sampled: int, num_rows: int) -> Estimate:
    """The work of ``num_rows`` rows, by the conversations of ``num_sampled`` of them.

    For each conversation: its ids (IDS [n]; null: it will not be asked), its prompt (``Encoded.prompt``), and which of
    the sampled rows it is of (0 to num_sampled - 1).
    """
    lengths = np.asarray(pc.fill_null(pc.list_value_length(ids), 0), np.float64)
    anew = lengths - shared_tokens(ids, prompt)
    return Estimate(
        num_sampled,
        _total(np.bincount(row, lengths, num_sampled), num_rows),
        _total(np.bincount(row, anew, num_sampled), num_rows),
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


def _total(per_row: np.ndarray, num_rows: int) -> Interval:
    """The sum over all rows, by that of a sample of them."""
    if len(per_row) == 0:
        return Interval(0.0, 0.0, 0.0)
    mean = float(per_row.mean())
    unseen = max(1 - len(per_row) / max(num_rows, 1), 0.0)  # a sample of everything is no guess
    deviation = float(per_row.std(ddof=1)) if len(per_row) > 1 else mean
    error = Z95 * deviation / len(per_row) ** 0.5 * unseen**0.5
    return Interval(max(mean - error, 0.0), mean, mean + error).scaled(num_rows)


def gpu_hours(found: Estimate, flops_per_token: float, peak: float) -> Interval:
    """Hours of one device: the fewest tokens at the best of ``MFU``, the most at the worst."""
    needed = found.computed.scaled(flops_per_token / peak / 3600)
    return Interval(needed.low / MFU[1], needed.mean / (sum(MFU) / 2), needed.high / MFU[0])
