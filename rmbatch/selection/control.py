"""What a selection is compared with: a seeded random pick of the same size, and the best pick there could be.

    picked = random_pick(pool, offsets, size, seed=0, address=np.array([0]))   # size[prompts] candidates of each prompt
    best = oracle_pick(measure, pool, offsets, size)

``measure`` is the score by which all are compared. It may be another one than the selection went by: a proxy chooses,
the truth measures.
"""

import numpy as np
from numpy.typing import NDArray

from rmbatch.selection.filters import Bools, Floats, Offsets, prompt_of
from rmbatch.selection.order import sort_within

_STEP = np.uint64(0x9E3779B97F4A7C15)


def random_pick(
    pool: Bools, offsets: Offsets, size: NDArray[np.int64], seed: int, address: NDArray[np.int64] | None = None
) -> Bools:
    """A random choice of ``size[i]`` candidates of each prompt i among those in the pool, without replacement.

    pool[n], size[prompts], address[prompts]: what stands for the prompt in the draw, its place in its file for example;
    None: its index. The same seed, address and place among the candidates always draw the same, whatever the scores.
    """
    prompt = prompt_of(offsets)
    address = np.arange(len(offsets) - 1) if address is None else address
    place = np.arange(len(pool)) - offsets[prompt]
    with np.errstate(over="ignore"):
        key = mix(np.uint64(seed) + _STEP * (address[prompt].astype(np.uint64) + np.uint64(1)))
        key = mix(key + _STEP * (place.astype(np.uint64) + np.uint64(1)))
    return _first(np.flatnonzero(pool), key, prompt, size)


def oracle_pick(measure: Floats, pool: Bools, offsets: Offsets, size: NDArray[np.int64]) -> Bools:
    """The ``size[i]`` candidates of each prompt i in the pool that measure highest; of equal ones the first."""
    return _first(np.flatnonzero(pool), -measure, prompt_of(offsets), size)


def decided_by_tie(value: Floats, kept: Bools, outranked: Bools, offsets: Offsets) -> Bools:
    """Whether each candidate was kept though an equal one of its prompt was not: its place came from a tie-break."""
    prompt = prompt_of(offsets)
    best = np.full(len(offsets) - 1, np.nan)
    np.fmax.at(best, prompt[outranked], value[outranked])
    decided: Bools = kept & (value == best[prompt])
    return decided


def _first(
    member: NDArray[np.intp], key: Floats | NDArray[np.uint64], prompt: NDArray[np.int64], size: NDArray[np.int64]
) -> Bools:
    """The first ``size[i]`` members of each prompt i in the order of the key; equal keys stay as they stand."""
    picked = np.zeros(len(prompt), np.bool_)
    member = sort_within(member, key, prompt)
    num = np.bincount(prompt[member], minlength=len(size))
    place = np.arange(len(member)) - (np.cumsum(num) - num)[prompt[member]]
    picked[member[place < size[prompt[member]]]] = True
    return picked


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the input moves every bit of the output."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
