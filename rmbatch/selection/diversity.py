"""Keeps candidates of a prompt that differ from each other by their word n-grams.

    pick_diverse(value, response, offsets, ranked, keep=2, weight=0.5)    # maximal marginal relevance
    find_near(response, offsets, ranked, at=0.8)                          # near-duplicates of better ones

Source: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking", SIGIR 1998.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rmbatch.selection.control import mix
from rmbatch.selection.filters import Bools, Floats, Offsets, prompt_of, text_keys

WORDS = 3
"""Words in an n-gram. A shorter text is one n-gram."""

_RUNS = np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class DiversePick:
    """What was picked."""

    rank: NDArray[np.int32]
    """1 for the first pick of its prompt, then 2, ...; 0 for what was not picked."""
    tied: Bools
    """Whether it was picked though one that never was had the same relevance and overlap."""


def pick_diverse(
    value: Floats, response: pa.Array, offsets: Offsets, ranked: NDArray[np.intp], keep: int, weight: float
) -> DiversePick:
    """Pick up to ``keep`` candidates of each prompt, one by one: each time the one with the highest
    ``(1 - weight) * relevance - weight * overlap``.

    value[n], response[n] string, offsets[prompts + 1]; ranked: the candidates that may be picked, by prompt, the
    preferred first, which also decides where two are equal. Relevance is the value scaled to [0, 1] between the lowest
    and the highest finite one of the prompt's ranked candidates (infinite ones are 0 or 1, equal ones 1). Overlap is
    the highest Jaccard index of word n-grams with a picked one; 0 for a null text.
    """
    prompt = prompt_of(offsets)[ranked]
    rank, tied = np.zeros(len(value), np.int32), np.zeros(len(value), np.bool_)
    if len(ranked) == 0:
        return DiversePick(rank, tied)
    starts = np.flatnonzero(np.append(True, prompt[1:] != prompt[:-1]))
    run = np.cumsum(np.append(True, prompt[1:] != prompt[:-1])) - 1  # from 0, without prompts that have nothing ranked
    relevance = _scale(value[ranked], starts, run)
    grams = _read_grams(response.take(pa.array(ranked)), run)
    overlap, left = np.zeros(len(ranked)), np.ones(len(ranked), np.bool_)
    equals: list[tuple[NDArray[np.intp], Bools]] = []
    for number in range(1, keep + 1):
        marginal = np.where(left, (1 - weight) * relevance - weight * overlap, -np.inf)
        best = np.maximum.reduceat(marginal, starts)
        equal = left & (marginal == best[run])
        first = np.minimum.reduceat(np.where(equal, np.arange(len(ranked)), len(ranked)), starts)
        first = first[first < len(ranked)]
        if len(first) == 0:
            break
        rank[ranked[first]] = number
        left[first] = False
        equals.append((first, equal))
        overlap = np.maximum(overlap, grams.overlap_with(first, run))
    for first, equal in equals:
        has_equal = np.bincount(run[equal & left], minlength=len(starts)) > 0
        tied[ranked[first]] = has_equal[run[first]]
    return DiversePick(rank, tied)


def find_near(response: pa.Array, offsets: Offsets, ranked: NDArray[np.intp], at: float) -> Bools:
    """Whether each candidate is a near-duplicate of a better one of its prompt that is none itself.

    response[n] string, offsets[prompts + 1]; ranked: the candidates that take part, by prompt, the best first; at in
    (0, 1]: from this Jaccard index of word n-grams on, two texts are near-duplicates -> bool[n]. A null text is none.
    The index is exact: within a prompt there are too few texts for MinHash to be worth its error.
    """
    near = np.zeros(len(response), np.bool_)
    if len(ranked) == 0:
        return near
    prompt = prompt_of(offsets)[ranked]
    starts = np.flatnonzero(np.append(True, prompt[1:] != prompt[:-1]))
    run = np.cumsum(np.append(True, prompt[1:] != prompt[:-1])) - 1
    grams = _read_grams(response.take(pa.array(ranked)), run)
    left = np.ones(len(ranked), np.bool_)
    while left.any():
        first = np.minimum.reduceat(np.where(left, np.arange(len(ranked)), len(ranked)), starts)
        first = first[first < len(ranked)]
        left[first] = False
        found = left & (grams.overlap_with(first, run) >= at)
        near[ranked[found]] = True
        left &= ~found
    return near


def _scale(value: Floats, starts: NDArray[np.intp], run: NDArray[np.intp]) -> Floats:
    """The values of each run between 0 and 1."""
    finite = np.isfinite(value)
    low = np.minimum.reduceat(np.where(finite, value, np.inf), starts)[run]
    high = np.maximum.reduceat(np.where(finite, value, -np.inf), starts)[run]
    with np.errstate(invalid="ignore"):
        spread = np.where(high > low, high - low, 1.0)
        scaled = np.where(high > low, (value - low) / spread, 1.0)
    return np.where(finite, scaled, np.where(value > 0, 1.0, 0.0))


@dataclass(frozen=True)
class _Grams:
    """The different n-grams of each text."""

    text: NDArray[np.intp]
    """The text of each n-gram."""
    code: NDArray[np.intp]
    """Equal for equal n-grams of one prompt, from 0."""
    size: NDArray[np.int64]
    """How many each text has."""

    def overlap_with(self, picked: NDArray[np.intp], run: NDArray[np.intp]) -> Floats:
        """The Jaccard index of each text with the one that was picked of its run; 0 without one, and of two nulls."""
        is_picked = np.zeros(len(self.size), np.bool_)
        is_picked[picked] = True
        known = np.zeros(int(self.code.max(initial=-1)) + 1, np.bool_)
        known[self.code[is_picked[self.text]]] = True
        shared = np.bincount(self.text[known[self.code]], minlength=len(self.size))
        size_of_picked = np.zeros(int(run.max()) + 1, np.int64)
        size_of_picked[run[picked]] = self.size[picked]
        every = self.size + size_of_picked[run] - shared
        index: Floats = shared / np.maximum(every, 1)
        return index


def _read_grams(response: pa.Array, run: NDArray[np.intp]) -> _Grams:
    words = pc.utf8_split_whitespace(text_keys(response, "normalised"))
    count = pc.fill_null(pc.list_value_length(words), 0).to_numpy().astype(np.int64)
    word = pc.dictionary_encode(words.flatten()).indices.to_numpy().astype(np.uint64)
    num_grams = np.where(count > 0, np.maximum(count - WORDS + 1, 1), 0)
    text = np.repeat(np.arange(len(count)), num_grams)
    place = np.arange(len(text)) - np.repeat(np.cumsum(num_grams) - num_grams, num_grams)
    begin = (np.cumsum(count) - count)[text] + place
    length = np.minimum(count[text], WORDS)
    word = mix(word + np.uint64(1))  # far from the numbers of the runs, so that no sum of one is that of another
    key = mix(run[text].astype(np.uint64) + _RUNS)
    for step in range(WORDS):
        here = step < length
        key[here] = mix(key[here] + word[begin[here] + step])
    _, code = np.unique(key, return_inverse=True)
    order = np.lexsort((code, text))
    text, code = text[order], code[order]
    new = np.ones(len(text), np.bool_)
    new[1:] = (text[1:] != text[:-1]) | (code[1:] != code[:-1])
    text, code = text[new], code[new]
    return _Grams(text, code, np.bincount(text, minlength=len(count)))
