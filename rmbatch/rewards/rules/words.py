"""Splits texts into words and numbers the words, so that Arrow and numpy count them instead of Python.

Numbers are unique within one ``Words``: two of its texts share a word where they share a number. This module knows no
formula of a reward.

    ours, theirs = pair_words(response, reference, white_space_words)
    ours.num_words               # words of each response
    count_shared(ours, theirs)   # different words of each response, of its reference, and of both
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rmbatch.rewards.rules.texts import series
from rmbatch.rows.messages import TEXT

Numbers = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Measure = Literal["f1", "precision", "recall"]
Splitter = Callable[[pa.Array], "Words"]
"""From texts without nulls to their words."""

CHUNK_BYTES = 1 << 20
"""Bytes of text that are split at a time, so that the results stay in the processor's cache."""
_ROW = 32
"""Bytes that are added to the size of each text."""
_MOST_KINDS = 1 << 40
"""Different n-grams up to which a row's number, twice that and a bit for the side fit 63 bits."""
_CHARACTERS = 0x110000 - 0x800
"""Code points that a str may hold in UTF-32: all but the surrogates."""
_WIDE_SPACE = "[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""White space beyond ASCII that ``str.split`` knows."""


@dataclass(frozen=True)
class Words:
    """The words (or n-grams) of n texts as numbers."""

    ids: Numbers
    """[words of all texts] int, from 0 to ``num_kinds`` - 1."""
    ends: Numbers
    """[n + 1] int64, from 0: the words of text i are ``ends[i]:ends[i + 1]``."""
    num_kinds: int

    @property
    def num_words(self) -> Numbers:
        return np.diff(self.ends)

    def take(self, rows: Numbers) -> "Words":
        """The words of these texts, in this order."""
        num_words = self.num_words[rows]
        ends = _ends(num_words)
        places = np.repeat(self.ends[:-1][rows] - ends[:-1], num_words) + np.arange(ends[-1])
        return Words(self.ids[places], ends, self.num_kinds)

    def ngrams(self, n: int) -> "Words":
        """All runs of n words, as numbers; a text of fewer words has none."""
        if n == 1:
            return self
        num_starts = max(len(self.ids) - n + 1, 0)
        ids, num_kinds = self.ids[:num_starts].astype(np.int64), self.num_kinds
        for step in range(1, n):
            if num_kinds * self.num_kinds >= _MOST_KINDS:
                ids, num_kinds = _assign_ids(pa.array(ids))
            ids = ids.astype(np.int64) * self.num_kinds + self.ids[step : step + num_starts]
            num_kinds *= self.num_kinds
        if num_kinds >= _MOST_KINDS:
            ids, num_kinds = _assign_ids(pa.array(ids))
        left = np.repeat(self.ends[1:], self.num_words)[:num_starts] - np.arange(num_starts)
        return Words(ids[left >= n], _ends(np.maximum(self.num_words - n + 1, 0)), num_kinds)

    def count_different(self) -> Numbers:
        """[n] int64: how many different words each text has."""
        keys = _sorted_keys(self)
        return _count(_is_new(keys), self.ends)

    def as_strings(self) -> Sequence[Sequence[Any]]:
        """Each text as a sequence with one item a word: a str of made-up characters, which RapidFuzz compares fast."""
        line: Sequence[Any]
        if self.num_kinds < _CHARACTERS:
            codes = self.ids + np.where(self.ids >= 0xD800, 0x800, 0)  # no surrogates
            line = codes.astype("<u4").tobytes().decode("utf-32-le")
        else:
            line = self.ids.tolist()
        return [line[begin:end] for begin, end in pairwise(self.ends.tolist())]


def white_space_words(texts: pa.Array) -> Words:
    """The lower-cased words between white space, as in ``text.lower().split()``."""
    lowered = series(texts).str.to_lowercase()
    if lowered.str.len_bytes().sum() > lowered.str.len_chars().sum():
        lowered = lowered.str.replace_all(_WIDE_SPACE, " ")
    return _split_bytes(lowered.to_arrow(), lambda data: (data - np.uint8(9) < 5) | (data - np.uint8(28) < 5))


def letter_words(texts: pa.Array) -> Words:
    """The runs of the letters a to z and digits in the lower-cased text."""
    lowered = series(texts).str.to_lowercase().to_arrow()
    return _split_bytes(lowered, lambda data: (data - np.uint8(ord("a")) > 25) & (data - np.uint8(ord("0")) > 9))


def number_words(lists: Sequence[Sequence[str]]) -> Words:
    """Words of texts that are already split."""
    ids, num_kinds = _assign_ids(pa.array(chain.from_iterable(lists), TEXT))
    return Words(ids, _ends(np.fromiter(map(len, lists), np.int64)), num_kinds)


def pair_words(response: pa.Array, reference: pa.Array, split: Splitter, n: int = 1) -> tuple[Words, Words]:
    """The n-grams of each response and of its reference, numbered together; equal ones are split once. No nulls."""
    golds = reference.dictionary_encode()
    words = split(pa.concat_arrays([response, golds.dictionary])).ngrams(n)
    ends = words.ends[: len(response) + 1]
    ours = Words(words.ids[: ends[-1]], ends, words.num_kinds)
    return ours, words.take(golds.indices.to_numpy() + len(response))


def count_shared(ours: Words, theirs: Words, *, repeats: bool = False) -> tuple[Numbers, Numbers, Numbers]:
    """How many different words each text of ``ours`` has, its partner of ``theirs``, and both: three times [n] int64.

    ``repeats``: the last of the three counts a word as often as both have it.
    """
    keys = _sorted_keys(ours, theirs)
    ends = ours.ends + theirs.ends
    is_new, is_theirs = _is_new(keys), (keys & keys.dtype.type(1)).astype(bool)
    in_both = np.zeros(len(keys), bool)  # at the first of a reference's, right after the response's of the same word
    np.equal(keys[1:] ^ keys[:-1], 1, out=in_both[1:])
    if repeats:
        begins, of_theirs = np.append(np.flatnonzero(is_new), len(keys)), np.flatnonzero(in_both)
        place = np.searchsorted(begins, of_theirs)
        often = np.minimum(of_theirs - begins[place - 1], begins[place + 1] - of_theirs)
        both = np.diff(_ends(often)[np.searchsorted(of_theirs, ends)])
    else:
        both = _count(in_both, ends)
    return _count(is_new & ~is_theirs, ends), _count(is_new & is_theirs, ends), both


def f_measure(common: Numbers, num_ours: Numbers, num_theirs: Numbers, measure: Measure = "f1") -> Numbers:
    """Precision, recall or the harmonic mean of both; 0.0 where nothing is common."""
    nothing = np.zeros(len(common))
    precision = np.divide(common, num_ours, out=nothing.copy(), where=common > 0)
    recall = np.divide(common, num_theirs, out=nothing.copy(), where=common > 0)
    if measure == "f1":
        np.divide(2 * precision * recall, precision + recall, out=nothing, where=common > 0)
        return nothing
    return precision if measure == "precision" else recall


def score_in_chunks(score: Callable[..., Numbers], *columns: pa.Array) -> Numbers:
    """``score`` of some megabytes of these columns of text at a time, joined along the last axis; null is empty."""
    filled = [pc.fill_null(column.cast(TEXT), "") for column in columns]
    scored: Numbers = np.concatenate([score(*(column[part] for column in filled)) for part in _parts(filled)], axis=-1)
    return scored


def _parts(columns: Sequence[pa.Array]) -> Iterator[slice]:
    sizes = sum(pc.binary_length(column).to_numpy() for column in columns) + _ROW
    part_of = np.cumsum(sizes) // CHUNK_BYTES
    begins = np.flatnonzero(np.diff(part_of, prepend=-1, append=-1))
    yield from (slice(begin, end) for begin, end in pairwise(begins.tolist() or [0, 0]))


def _split_bytes(texts: pa.Array, is_between: Callable[[Bytes], npt.NDArray[np.bool_]]) -> Words:
    """The runs of bytes that are not ``is_between``."""
    # A space before each text, and a zero for each byte between words: then a word is a zero and what follows it, and
    # the places of the zeros are the offsets of an Arrow array of words over the same bytes.
    spaced = pc.binary_join_element_wise(pa.scalar("", TEXT), texts.cast(TEXT), pa.scalar(" ", TEXT))
    _, offsets, content = spaced.buffers()
    bounds = np.frombuffer(offsets, np.int64)[: len(texts) + 1]
    data = np.frombuffer(content, np.uint8)[: bounds[-1]]
    is_space = is_between(data)
    begins = np.flatnonzero(is_space)
    data = data & (is_space.view(np.uint8) - np.uint8(1))
    places = np.append(begins, len(data))
    words = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(begins), [None, pa.py_buffer(places), pa.py_buffer(data)]
    )
    ids, num_kinds = _assign_ids(words)
    ends = np.searchsorted(begins, bounds)
    is_empty = np.diff(places) == 1
    if is_empty.any():
        ids, ends = ids[~is_empty], ends - np.searchsorted(np.flatnonzero(is_empty), ends)
    return Words(ids, ends, num_kinds)


def _assign_ids(values: pa.Array) -> tuple[Numbers, int]:
    encoded = values.dictionary_encode()
    return encoded.indices.to_numpy(), len(encoded.dictionary)


def _ends(sizes: Numbers) -> Numbers:
    """[n] -> [n + 1]: 0, and the sum so far."""
    ends = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    return ends


def _is_new(keys: Numbers) -> npt.NDArray[np.bool_]:
    is_new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    return is_new


def _count(flags: npt.NDArray[np.bool_], ends: Numbers) -> Numbers:
    """How many flags are up between each two ends."""
    num: Numbers = np.diff(np.searchsorted(np.flatnonzero(flags), ends))
    return num


def _sorted_keys(*sides: Words) -> Numbers:
    """One number for each word of each text, sorted: the text, then the word, then the side it is on."""
    num_texts, num_kinds = len(sides[0].ends) - 1, len(sides) * sides[0].num_kinds
    dtype: Any = np.uint32 if num_texts * num_kinds < 1 << 32 else np.uint64
    keys: Numbers = np.concatenate(
        [
            np.repeat(np.arange(num_texts, dtype=dtype) * dtype(num_kinds), words.num_words)
            + (words.ids.astype(dtype) * dtype(len(sides)) + dtype(side))
            for side, words in enumerate(sides)
        ]
    )
    keys.sort()
    return keys
