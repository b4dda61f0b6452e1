"""Ranks the candidates of each prompt by their scores, and gives a reason for each candidate that is not kept.

It does not filter: each candidate gets a rank or a reason, and the writer routes the rows. Nothing is random, and a
prompt's result depends on that prompt alone. So the same texts are kept however the prompts are cut into blocks, and
with ``ties: hash`` also in whatever order the candidates come.

    rule = SelectionRule(keep=1, min_score=0.5)
    score = pa.array([0.2, 0.9, 0.7, None])
    offsets = np.array([0, 3, 4])  # prompt 0 has candidates 0 to 2, prompt 1 has candidate 3
    chosen = select(score, offsets, rule, response=pa.array(["a", "b", "c", "d"]))
    chosen.rank    # [null, 1, null, null]
    chosen.reason  # ["below_min_score", null, "outranked", "no_score"]
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rmbatch.selection.order import sort_within
from rmbatch.settings.base import Settings

OUTRANKED = "outranked"
REASONS = (OUTRANKED, "below_min_score", "margin_too_small", "tie", "no_score")
"""Why a candidate was not kept; the codes are part of the output and stay as they are.

outranked: enough candidates of the prompt came before it, by score or by the rule's tie-break.
below_min_score: its score is under ``min_score``.
margin_too_small: it would have been kept, but the runner-up is closer than ``min_margin``.
tie: with ``ties: abstain``, it stands at or above a border that cuts through equal scores.
no_score: its score is null or NaN.
"""
_OUTRANKED, _BELOW_MIN_SCORE, _MARGIN_TOO_SMALL, _TIE, _NO_SCORE = range(len(REASONS))


class SelectionRule(Settings):
    """``select:`` in a job file."""

    keep: Annotated[int, Field(ge=1)] | None = 1
    """How many candidates of each prompt are kept at most, best first. None: no limit; min_score is then required."""

    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The lowest score that is kept, itself included, in the score's own unit. None: any score will do."""

    min_margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """By how much the lowest kept score must exceed the highest score not kept, in the score's own unit, or nothing of
    the prompt is kept. That runner-up counts even when it is under min_score; a prompt without one passes. None: any
    margin will do. Needs keep."""

    ties: Literal["hash", "first", "shortest", "all", "abstain"] = "hash"
    """Which of equal scores comes first, and what happens where the border of keep cuts through them.

    hash: the lowest seeded hash (XXH3, 64 bits) of the response's text, whatever the candidate's index. Of identical
    texts the first comes first, which is harmless: the text kept is the same.
    first: the first candidate. This favours whatever ordered the candidates.
    shortest: the response with the fewest code points, then hash.
    all: every candidate equal to the last one kept is kept too, even beyond keep; equal scores keep their order.
    abstain: if the border cuts through a tie, nothing of the prompt is kept; equal scores keep their order.
    """

    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of the hash that breaks ties: another seed gives another draw, the same seed always the same one."""

    @model_validator(mode="after")
    def _check_rule(self) -> Self:
        if self.keep is None and self.min_margin is not None:
            raise ValueError(
                "min_margin compares the lowest kept score with the best one not kept, so it needs keep: "
                f"write keep: 1, or drop min_margin: {self.min_margin}"
            )
        if self.keep is None and not self.limits():
            raise ValueError("keep: null without min_score would keep everything: write keep: 1, or give min_score")
        return self

    def limits(self) -> bool:
        """Whether something but ``keep`` leaves candidates out."""
        return self.min_score is not None


@dataclass(frozen=True)
class Selection:
    """The outcome for every candidate, aligned with the scores: either a rank or a reason."""

    rank: pa.Array
    """int32, 1 for the best kept of its prompt, then 2, ...; null where the candidate is not kept."""
    reason: pa.Array
    """string, one of REASONS; null where the candidate is kept."""


def select(
    score: pa.Array,
    offsets: NDArray[np.int64],
    rule: SelectionRule,
    response: pa.Array | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> Selection:
    """The rank of each kept candidate among those of its prompt, and the reason why each other one is not kept.

    score[n] float64, response[n] string, offsets[prompts + 1] int64: prompt i has the candidates offsets[i] up to, not
    including, offsets[i + 1] -> rank[n] int32, reason[n] string.
    A null or NaN score is never kept; -inf and inf are scores. A null response loses each tie.
    allowed[n]: false where a candidate may not be kept though it has a score; like one under ``min_score`` it has the
    reason below_min_score and counts as runner-up. None: all may be kept.
    Raises ValueError where lengths and offsets disagree, and where a tie has to be broken by texts that were not given.
    """
    _check_lengths(score, offsets, response)
    value: NDArray[np.float64] = score.cast(pa.float64()).to_numpy(zero_copy_only=False)  # null becomes NaN
    num_prompts = len(offsets) - 1
    prompt = np.repeat(np.arange(num_prompts), np.diff(offsets))
    scored = ~np.isnan(value)
    eligible = scored if rule.min_score is None else scored & (value >= rule.min_score)
    eligible = eligible if allowed is None else eligible & allowed

    ranked = sort_within(np.flatnonzero(eligible), -value, prompt)
    ranked_prompt = prompt[ranked]
    new_prompt = _starts(ranked_prompt)
    new_tie = new_prompt | _starts(value[ranked])
    first_of_prompt = _first_of_run(new_prompt)
    place = np.arange(len(ranked)) - first_of_prompt  # from 0 within the prompt
    keep = len(ranked) if rule.keep is None else rule.keep

    _break_ties(ranked, new_tie, first_of_prompt, keep, rule, response)
    reaches_border = _first_of_run(new_tie) - first_of_prompt < keep  # also the equals of the last one kept
    winners = ranked[reaches_border if rule.ties == "all" else place < keep]

    reason = np.full(len(value), _OUTRANKED, dtype=np.int8)
    reason[~eligible] = _BELOW_MIN_SCORE
    reason[~scored] = _NO_SCORE
    kept = np.zeros(len(value), dtype=np.bool_)
    kept[winners] = True

    if rule.ties == "abstain":
        cut = np.zeros(num_prompts, dtype=np.bool_)
        cut[ranked_prompt[(place == keep) & ~new_tie]] = True  # the first one left out equals the last one kept
        undecided = ranked[reaches_border & cut[ranked_prompt]]
        kept[undecided] = False
        reason[undecided] = _TIE
    if rule.min_margin is not None:
        too_close = kept & (_margin(value, prompt, kept, scored, num_prompts) < rule.min_margin)[prompt]
        kept[too_close] = False
        reason[too_close] = _MARGIN_TOO_SMALL

    rank = np.zeros(len(value), dtype=np.int32)
    rank[ranked] = place + 1
    return Selection(
        rank=pa.array(rank, mask=~kept),
        reason=pa.array(REASONS, pa.string()).take(pa.array(reason, mask=kept)),
    )


def _check_lengths(score: pa.Array, offsets: NDArray[np.int64], response: pa.Array | None) -> None:
    if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(score):
        ends = f"{offsets[0]} to {offsets[-1]}" if offsets.ndim == 1 and len(offsets) else f"shape {offsets.shape}"
        raise ValueError(f"offsets must run from 0 to the number of scores, {len(score)}; got {ends}")
    if (np.diff(offsets) < 0).any():
        raise ValueError("offsets must not decrease: each prompt's candidates end where the next prompt's begin")
    if response is not None and len(response) != len(score):
        raise ValueError(f"each score needs its response: got {len(score)} scores and {len(response)} responses")


def _break_ties(
    ranked: NDArray[np.intp],
    new_tie: NDArray[np.bool_],
    first_of_prompt: NDArray[np.intp],
    keep: int,
    rule: SelectionRule,
    response: pa.Array | None,
) -> None:
    """Reorder ``ranked`` in place inside the ties that matter: those whose best place is within ``keep``.

    It reads the texts of such ties only. Each key breaks the ties that the key before it left.
    """
    undecided = new_tie.copy()
    for key in _TIE_KEYS.get(rule.ties, ()):
        tied = ~(undecided & np.append(undecided[1:], True)) & (_first_of_run(undecided) - first_of_prompt < keep)
        if not tied.any():
            return
        if response is None:
            raise ValueError(
                f"ties: {rule.ties} needs the responses, and {tied.sum()} candidates have equal scores: "
                "pass response, or use ties: first, all or abstain"
            )
        members = ranked[tied]
        keys = key(response.cast(pa.large_string()), members, rule.seed)
        order = sort_within(np.arange(len(members)), keys, np.cumsum(undecided)[tied])
        ranked[tied] = members[order]
        undecided[tied] |= _starts(keys[order])


def _lengths(response: pa.Array, rows: NDArray[np.intp], seed: int) -> NDArray[np.int64]:
    """Code points of each text; a null counts as longer than any."""
    lengths: NDArray[np.int64] = pc.utf8_length(response.take(pa.array(rows))).fill_null(2**62).to_numpy()
    return lengths


def _hashes(response: pa.Array, rows: NDArray[np.intp], seed: int) -> NDArray[np.uint64]:
    """Seeded XXH3 of each text's UTF-8 bytes, read without a copy; a null gets the highest value, so it comes last."""
    _, ends, data = response.buffers()
    begin = np.frombuffer(ends, dtype=np.int64)[response.offset :]
    text = memoryview(data or b"")
    spans = zip(begin[rows].tolist(), begin[rows + 1].tolist())
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(text[i:j], seed) for i, j in spans), np.uint64, count=len(rows))
    hashes[response.is_null().to_numpy(zero_copy_only=False)[rows]] = np.iinfo(np.uint64).max
    return hashes


_TieKey = Callable[[pa.Array, NDArray[np.intp], int], NDArray[np.int64] | NDArray[np.uint64]]
_TIE_KEYS: dict[str, tuple[_TieKey, ...]] = {"hash": (_hashes,), "shortest": (_lengths, _hashes)}
TEXT_TIES = frozenset(_TIE_KEYS)
"""Ways to break ties that read the responses."""


def _margin(
    value: NDArray[np.float64],
    prompt: NDArray[np.intp],
    kept: NDArray[np.bool_],
    scored: NDArray[np.bool_],
    num_prompts: int,
) -> NDArray[np.float64]:
    """Each prompt's lowest kept score minus its highest score not kept; NaN where it lacks one of the two."""
    lowest_kept = np.full(num_prompts, np.nan)
    np.fmin.at(lowest_kept, prompt[kept], value[kept])
    passed_over = scored & ~kept
    runner_up = np.full(num_prompts, np.nan)
    np.fmax.at(runner_up, prompt[passed_over], value[passed_over])
    with np.errstate(invalid="ignore"):  # inf - inf, which counts as 0
        return np.where(lowest_kept == runner_up, 0.0, lowest_kept - runner_up)


def _starts(key: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where an entry differs from the one before it, and at the first."""
    starts = np.ones(len(key), dtype=np.bool_)
    starts[1:] = key[1:] != key[:-1]
    return starts


def _first_of_run(starts: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each entry, the position at which its run began."""
    return np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
