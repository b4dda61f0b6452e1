"""Which candidates of a prompt pass a filter: pure functions of flat columns and the offsets of the prompts.

Each gives one boolean or number per candidate and looks at one prompt at a time, so blocks do not matter. They decide
nothing more: ``choose.py`` applies them in order and gives the reasons.

    value = np.array([0.2, 0.9, np.nan])  # NaN: no score
    offsets = np.array([0, 3])            # one prompt with three candidates
    percentiles(value, offsets)           # [50, 100, nan]
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rmbatch.selection.order import sort_within
from rmbatch.selection.rank import SelectionRule, select

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Offsets = NDArray[np.int64]
DIGITS = 9
"""Residuals, and weights of answers, that are equal to this many digits of the prompt's largest one are equal."""


def prompt_of(offsets: Offsets) -> NDArray[np.int64]:
    """The index of each candidate's prompt."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def percentiles(value: Floats, offsets: Offsets) -> Floats:
    """The percentage of the prompt's scored candidates that score no higher, itself included: in (0, 100].

    value[n], NaN for no score -> percentile[n], NaN for no score. The best one always has 100, and so have its equals.
    It is ``scipy.stats.percentileofscore`` with ``kind="weak"``.
    """
    prompt = prompt_of(offsets)
    scored = np.flatnonzero(~np.isnan(value))
    order = sort_within(scored, value, prompt)
    result = np.full(len(value), np.nan)
    if len(order) == 0:
        return result
    ends_prompt = np.append(prompt[order][1:] != prompt[order][:-1], True)
    ends_tie = ends_prompt | np.append(value[order][1:] != value[order][:-1], True)
    num_scored = np.bincount(prompt[order], minlength=len(offsets) - 1)
    first = (np.cumsum(num_scored) - num_scored)[prompt[order]]
    last_equal = np.flatnonzero(ends_tie)[np.cumsum(ends_tie) - ends_tie]
    result[order] = 100.0 * (last_equal + 1 - first) / num_scored[prompt[order]]
    return result


def z_scores(value: Floats, offsets: Offsets) -> Floats:
    """By how many standard deviations (of the population) each score exceeds the mean of its prompt's scores.

    value[n], NaN for no score -> z[n], NaN for no score, and for every finite or infinite score beside an infinite one
    that differs from it. 0 where all scores of the prompt are equal.
    """
    prompt, num_prompts = prompt_of(offsets), len(offsets) - 1
    scored = ~np.isnan(value)
    num = np.maximum(np.bincount(prompt[scored], minlength=num_prompts), 1)

    def mean(of: Floats) -> Floats:  # of one prompt after the other, so that blocks do not matter
        means: Floats = np.bincount(prompt[scored], of[scored], num_prompts) / num
        return means

    with np.errstate(invalid="ignore", divide="ignore"):
        away = value - mean(value)[prompt]
        deviation = np.sqrt(mean(away * away))
        z: Floats = away / deviation[prompt]
    lowest, highest = np.full(num_prompts, np.inf), np.full(num_prompts, -np.inf)
    np.minimum.at(lowest, prompt[scored], value[scored])
    np.maximum.at(highest, prompt[scored], value[scored])
    z[scored & (lowest == highest)[prompt]] = 0.0
    return z


def solve_rates(value: Floats, offsets: Offsets, at: float) -> Floats:
    """The share of each prompt's scored candidates that score at least ``at``, in [0, 1]: rate[prompts].

    NaN where no candidate has a score.
    """
    prompt, num_prompts = prompt_of(offsets), len(offsets) - 1
    scored = ~np.isnan(value)
    num = np.bincount(prompt[scored], minlength=num_prompts)
    with np.errstate(invalid="ignore"):
        rates: Floats = np.bincount(prompt[scored & (value >= at)], minlength=num_prompts) / num
    return rates


def in_length_band(length: Floats, scored: Bools, offsets: Offsets, width: float) -> Bools:
    """Whether each length is within ``width`` times the median length of the prompt's scored candidates around it.

    length[n] in any unit, NaN for no text -> bool[n]. width 0.3: from 0.7 to 1.3 times the median, both included.
    A candidate without a text is outside, and does not count for the median.
    """
    prompt, num_prompts = prompt_of(offsets), len(offsets) - 1
    counted = np.flatnonzero(scored & ~np.isnan(length))
    ordered = sort_within(counted, length, prompt)
    num = np.bincount(prompt[ordered], minlength=num_prompts)
    first = np.cumsum(num) - num
    median = np.full(num_prompts, np.nan)
    there = num > 0
    low, high = (ordered[(first + (num - odd) // 2)[there]] for odd in (1, 0))
    median[there] = (length[low] + length[high]) / 2
    with np.errstate(invalid="ignore"):
        inside: Bools = np.abs(length - median[prompt]) <= width * median[prompt]
    return inside


def length_residuals(value: Floats, length: Floats, offsets: Offsets) -> Floats:
    """Each score minus what the length explains within its prompt: the residual of a least-squares line.

    value[n], NaN for no score; length[n] in any unit, NaN for no text -> residual[n] in the score's unit, around 0.
    A prompt with fewer than three finite scores, or with equal lengths, has no line: there only the mean is taken
    away, which changes no order. Infinite scores stay as they are. Residuals that differ only by rounding are equal.
    """
    prompt, num_prompts = prompt_of(offsets), len(offsets) - 1
    finite = np.isfinite(value)
    told = finite & ~np.isnan(length)

    def mean(of: Floats, where: Bools) -> Floats:
        num = np.bincount(prompt[where], minlength=num_prompts)
        means: Floats = np.bincount(prompt[where], of[where], num_prompts) / np.maximum(num, 1)
        return means

    y = value - mean(value, finite)[prompt]
    x = np.where(told, length - mean(length, told)[prompt], 0.0)
    spread = mean(x * x, told)
    has_line = (np.bincount(prompt[told], minlength=num_prompts) >= 3) & (spread > 0)
    with np.errstate(invalid="ignore"):  # infinite scores are left out of the mean
        shared = mean(x * (value - mean(value, told)[prompt]), told)
    slope = np.where(has_line, shared, 0.0) / np.where(spread > 0, spread, 1.0)
    residual = y - slope[prompt] * x
    largest = np.zeros(num_prompts)
    np.maximum.at(largest, prompt[finite], np.abs(y[finite]))
    scale = np.where(largest > 0, largest, 1.0)[prompt]
    return np.where(finite, np.round(residual / scale, DIGITS) * scale, value)


def wins_vote(
    value: Floats, votes: Bools, offsets: Offsets, answer: pa.Array, weight: Literal["score", "count", "softmax"]
) -> Bools:
    """Whether each candidate gives the answer of its prompt that weighs most; equal weights all win.

    value[n]: weights, or their logarithms for softmax; votes[n]: who takes part; answer[n] int64, equal where the
    answers are, null for none -> bool[n]. An answer weighs the sum over its voters, equal to ``DIGITS`` digits.
    Source: weighted voting, Li et al., "DiVeRSe", arXiv 2206.02336.
    """
    prompt = prompt_of(offsets)
    codes = pc.fill_null(answer, -1).to_numpy().astype(np.int64)
    member = sort_within(np.flatnonzero(votes & (codes >= 0)), codes, prompt)
    wins = np.zeros(len(value), np.bool_)
    if len(member) == 0:
        return wins
    owner, given = prompt[member], value[member]
    highest = np.full(len(offsets) - 1, -np.inf)
    np.maximum.at(highest, owner, given)
    with np.errstate(invalid="ignore"):  # inf - inf
        above = np.where(given == highest[owner], 0.0, given - highest[owner])
    weights = {"score": given, "count": np.ones(len(member)), "softmax": np.exp(above)}[weight]
    starts = np.append(True, (owner[1:] != owner[:-1]) | (codes[member][1:] != codes[member][:-1]))
    group = np.cumsum(starts) - 1
    total = np.bincount(group, weights)
    most = np.full(len(offsets) - 1, -np.inf)
    np.fmax.at(most, owner[starts], total)  # a sum of inf and -inf wins nothing
    heaviest = most[owner[starts]]
    with np.errstate(invalid="ignore"):  # inf - inf
        wins[member] = ((total == heaviest) | (total >= heaviest - np.abs(heaviest) * 10.0**-DIGITS))[group]
    return wins


def text_keys(response: pa.Array, how: Literal["exact", "normalised"]) -> pa.Array:
    """What two responses share if they are the same: their text, or their text in NFC, lower case and single spaces.

    response[n] string -> key[n] string; null stays null. Signs stay, because ``x+1`` is not ``x-1``.
    """
    text = response.cast(pa.large_string())
    if how == "exact":
        return text
    if _is_plain_ascii(text):  # as below, in half the time
        trimmed = pc.ascii_trim_whitespace(text)  # first, for ascii_lower of pyarrow 26 gives wrong texts for a slice
        words = pc.ascii_split_whitespace(pc.ascii_lower(trimmed))
    else:
        plain = pc.utf8_lower(pc.utf8_normalize(text, "NFC"))
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(plain))
    return pc.binary_join(words, pa.scalar(" ", pa.large_string()))


def _is_plain_ascii(text: pa.Array) -> bool:
    """Whether all texts are ASCII without the separators that are white space to Unicode alone, 0x1C to 0x1F."""
    if len(text) == 0:
        return True
    _, ends, data = text.buffers()
    begin = np.frombuffer(ends, np.int64)[text.offset : text.offset + len(text) + 1]
    written = data.slice(begin[0], begin[-1] - begin[0]).to_pybytes() if data else b""
    return written.isascii() and not any(separator in written for separator in range(0x1C, 0x20))


def best_of_each(
    score: pa.Array, offsets: Offsets, key: pa.Array, keep: int, rule: SelectionRule, response: pa.Array | None
) -> Bools:
    """Whether each candidate is among the ``keep`` best of those of its prompt that share its key.

    score[n], null for what does not take part; key[n] of any plain type -> bool[n]. A null key is shared with nobody,
    and what does not take part passes. Equal scores by the rule's ties; all and abstain as hash, so it never depends on
    the order of different texts.
    """
    prompt = prompt_of(offsets)
    codes = pc.fill_null(pc.dictionary_encode(key).indices, -1).to_numpy().astype(np.int64)
    member = np.flatnonzero(score.is_valid().to_numpy(zero_copy_only=False) & (codes >= 0))
    member = sort_within(member, codes, prompt)
    passes = np.ones(len(score), np.bool_)
    if len(member) == 0:
        return passes
    starts = np.append(True, (prompt[member][1:] != prompt[member][:-1]) | (codes[member][1:] != codes[member][:-1]))
    crowded = (np.bincount(np.cumsum(starts) - 1) > keep)[np.cumsum(starts) - 1]  # the others pass in any case
    member, starts = member[crowded], starts[crowded]
    begin = np.append(np.flatnonzero(starts), len(member)).astype(np.int64)
    ties = "hash" if rule.ties in ("all", "abstain") else rule.ties
    inner = SelectionRule.model_validate({"keep": keep, "ties": ties, "seed": rule.seed})
    rows = pa.array(member)
    chosen = select(score.take(rows), begin, inner, None if response is None else response.take(rows))
    passes[member] = chosen.rank.is_valid().to_numpy(zero_copy_only=False)
    return passes
