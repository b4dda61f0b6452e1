"""A small set out of many principles: each as useful, and as unlike the others, as can be found. No model is asked.

A set is worth its coding rate, the number of nats that its vectors take at a given precision,

    R(Z) = 1/2 log det(I + d / (n epsilon^2) Z^T Z)

of n vectors in d dimensions: a copy of a vector adds nothing, a new direction adds the most, and a short vector adds
little. So a principle's vector has the length sqrt(weight), where the weight, in [0, 1], says how useful it is. The set
grows by the principle that adds the most, until ``keep`` are chosen or the next one would add too little. Nothing is
random; of equals the first in order is taken.
Source: Yu et al., "Learning Diverse and Discriminative Representations via the Principle of Maximal Coding Rate
Reduction", arXiv 2006.08558; for principles: "Auto-Rubric", arXiv 2510.17314.

    pool = list_candidates(proposals)                         # equal ones are one
    vectors = reduce_dimensions(vectorise_texts([each.principle.text for each in pool]))
    select_diverse(vectors, measure_support(vectors, pool), keep=8)    # [17, 4, 41, …], places in the pool
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmbatch.discovery.propose import Proposal
from rmbatch.judges.principles import Principle

Vectors = npt.NDArray[np.float64]

DIMENSIONS = 64
"""d, whatever an embedding's own: so many main directions are kept, and fewer are filled up with zeros."""
_HASHED = 4096
"""Columns into which parts of words are hashed."""
_PARTS = range(3, 6)
"""Characters in a part of a word."""
_DIGITS = 9
"""Gains that differ only after so many decimals are equal, for the order of additions may differ between machines."""


@dataclass(frozen=True)
class Candidate:
    """A principle that has converged somewhere."""

    principle: Principle
    rows: tuple[str, ...]
    """The rows that it comes from."""


def list_candidates(proposals: Sequence[Proposal]) -> list[Candidate]:
    """The principles of rows that converged, equal ones once, as first written, in order of their rows."""
    found: dict[str, tuple[Principle, dict[str, None]]] = {}
    for proposal in proposals:
        if proposal.converged:
            for principle in proposal.principles:
                _, rows = found.setdefault(normalise(principle.text), (principle, {}))
                rows[proposal.row] = None
    return [Candidate(principle, tuple(rows)) for principle, rows in found.values()]


def normalise(text: str) -> str:
    """The words of a text, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def vectorise_texts(texts: Sequence[str]) -> Vectors:
    """A vector for each text by the parts of its words, weighted by how few texts have them (TF-IDF).

    Texts that share words are alike, texts that only mean the same are not. texts[n] -> [n, 4096].
    """
    counts = np.zeros((len(texts), _HASHED))
    for row, text in enumerate(texts):
        for word in normalise(text).split():
            padded = f" {word} "
            for size in _PARTS:
                for start in range(max(len(padded) - size + 1, 1)):
                    counts[row, zlib.crc32(padded[start : start + size].encode(errors="replace")) % _HASHED] += 1
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    weighted: Vectors = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * rarity
    return weighted


def reduce_dimensions(vectors: Vectors) -> Vectors:
    """The vectors along their main directions, each of length 1 (a zero one stays zero). [n, any] -> [n, 64]."""
    if len(vectors) == 0:
        return np.zeros((0, DIMENSIONS))
    unit = _unit_lengths(np.asarray(vectors, dtype=np.float64))
    values, along = np.linalg.eigh(unit @ unit.T)
    main = np.argsort(values)[::-1][:DIMENSIONS]
    found = np.zeros((len(unit), DIMENSIONS))
    found[:, : len(main)] = along[:, main] * np.sqrt(np.maximum(values[main], 0))
    return _unit_lengths(found)


def measure_support(vectors: Vectors, pool: Sequence[Candidate]) -> Vectors:
    """How much of the pool says the like of each, counted by rows and relative to the most: weights in (0, 1]."""
    num_rows = np.array([len(each.rows) for each in pool], dtype=np.float64)
    likeness = np.maximum(vectors @ vectors.T, 0) ** 2
    np.fill_diagonal(likeness, 1)
    total = likeness @ num_rows
    relative: Vectors = total / total.max(initial=1)
    return relative


def coding_rate(vectors: Vectors, epsilon: float) -> float:
    """R(Z) in nats; 0 for no vectors."""
    num = len(vectors)
    if num == 0:
        return 0.0
    scale = DIMENSIONS / (num * epsilon**2)
    return float(np.linalg.slogdet(np.eye(num) + scale * vectors @ vectors.T)[1] / 2)


def select_diverse(
    vectors: Vectors, weights: Vectors | Sequence[float], keep: int, epsilon: float = 0.7, min_gain: float | None = 0.3
) -> list[int]:
    """The places of the chosen vectors, in the order in which they were chosen; none whose weight is 0.

    ``epsilon``: the error at which vectors are coded, their own length being 1; the smaller, the less alike must two
    be to count as two. ``min_gain``: as a share of what a vector of length 1 in a
    new direction would add; below, it ends (a copy adds nothing, or less). None: it goes on to ``keep``.
    """
    scaled = np.asarray(vectors) * np.sqrt(np.clip(weights, 0, 1))[:, None]
    useful = np.flatnonzero(np.asarray(weights) > 0).tolist()
    chosen: list[int] = []
    while len(chosen) < min(keep, len(useful)):
        rate = coding_rate(scaled[chosen], epsilon)
        left = [place for place in useful if place not in chosen]
        gains = [round(coding_rate(scaled[[*chosen, place]], epsilon) - rate, _DIGITS) for place in left]
        best = int(np.argmax(gains))
        enough = None if min_gain is None else min_gain * _largest_gain(scaled[chosen], epsilon, rate)
        if enough is not None and (gains[best] <= 0 or gains[best] < enough):
            break
        chosen.append(left[best])
    return chosen


def _largest_gain(chosen: Vectors, epsilon: float, rate: float) -> float:
    """What a vector of length 1 would add that stands at right angles to all others."""
    num = len(chosen) + 1
    scale = DIMENSIONS / (num * epsilon**2)
    with_it = np.linalg.slogdet(np.eye(num - 1) + scale * chosen @ chosen.T)[1] + np.log1p(scale)
    return float(with_it / 2) - rate


def _unit_lengths(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-12)
    return unit
