"""Filters, then ranks: the whole choice among the candidates of each prompt, with one reason for each that is not kept.

The order is fixed, and a candidate gets the first reason that holds: cut_off, no_score, veto, too_hard or too_easy,
below_min_score, below_min_percentile, below_min_z, outside_length_band, outvoted, duplicate, source_cap; then what
``rank.py`` says of those that are left. Filters compare the score itself; ``length_control`` changes only what ranks
them. Percentiles, z-scores, solve rates and lines are over all candidates of the prompt that have a score.

    rule = ChoiceRule(keep=2, min_z=0.5, duplicates="normalised", solve_rate={"at": 1.0, "high": 0.9})
    chosen = choose(score, offsets, rule, response)
    chosen.rank, chosen.reason    # aligned with the scores
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rmbatch.selection import filters
from rmbatch.selection.control import decided_by_tie
from rmbatch.selection.diversity import find_near, pick_diverse
from rmbatch.selection.filters import Bools, Floats, Offsets
from rmbatch.selection.order import sort_within
from rmbatch.selection.rank import OUTRANKED, TEXT_TIES, SelectionRule, select
from rmbatch.settings.base import Finite, Settings

CUT_OFF, VETO, TOO_HARD, TOO_EASY, DUPLICATE, CAP = (
    *("cut_off", "veto", "too_hard", "too_easy", "duplicate", "source_cap"),
)
PERCENTILE, Z, BAND, OUTVOTED = "below_min_percentile", "below_min_z", "outside_length_band", "outvoted"
Share = Annotated[float, Field(ge=0, le=1)]


class SolveRate(Settings):
    """Which prompts are neither too hard nor too easy, by the share of their candidates that are solved."""

    at: Finite = 1.0
    """A candidate is solved from this score on, in the score's own unit."""
    low: Share = 0.0
    """The lowest share of solved candidates, itself included. Below it, nothing of the prompt is kept: too_hard."""
    high: Share = 1.0
    """The highest share, itself included. Above it, nothing of the prompt is kept: too_easy."""
    by: str | None = None
    """The score that tells what is solved. None: the one of select.by. Candidates without it do not count; without any,
    nothing of the prompt is kept: too_hard."""

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high: {self.high}, so no prompt would pass; swap them")
        return self


class SourceCap(Settings):
    """How many candidates of one source are kept of a prompt."""

    by: str = "generation.model"
    """The column that names the source: one value per row, or a list aligned with the candidates; NAME.FIELD is a field
    of structs. A candidate whose source is null is not capped."""
    keep: Annotated[int, Field(ge=1)] = 1
    """At most so many of each source."""


class Vote(Settings):
    """Which answer of a prompt is kept: the one whose candidates weigh most together."""

    answer: Literal["whole", "last_line", "boxed", "answer_tag"] = "boxed"
    """Where a response gives its answer: all of it, its last line, the last ``\\boxed{}``, or the last ``<answer>``."""
    equal: Literal["text", "math"] = "math"
    """When two answers are the same: as text (case and white space aside), or as mathematics too, by math-verify."""
    weight: Literal["score", "count", "softmax"] = "score"
    """What a candidate weighs. score: its score (weighted majority; for scores of 0 or more, because negative
    ones speak against an answer that many give). count: 1 (majority, self-consistency). softmax: e to the power of its
    score, for rewards of any sign."""
    timeout_s: Annotated[int, Field(ge=1)] = 5
    """Seconds of processor time for one comparison as mathematics."""


class ChoiceRule(SelectionRule):
    """``select:`` in a job file: how many are kept, and what is left out before."""

    veto: Mapping[str, Finite] | None = None
    """The lowest value of other scores, by name: {safety: 0.5}. A candidate under one of them, or without it, is not
    kept (veto), and is no runner-up. None: no veto."""
    solve_rate: SolveRate | None = None
    """Leaves out prompts that are too hard or too easy. None: no prompt."""
    min_percentile: Annotated[float, Field(gt=0, le=100)] | None = None
    """The lowest percentile within the prompt: the percentage of its scored candidates that score no higher, itself
    included; the best one has 100. None: any will do."""
    min_z: Finite | None = None
    """The lowest z-score within the prompt: standard deviations above the mean; 0 where all scores are equal. None: any
    will do."""
    length_band: Annotated[float, Field(gt=0)] | None = None
    """How far a response's length may be from the median of its prompt's scored candidates, as a share of it: 0.3 keeps
    0.7 to 1.3 times the median, in code points. None: any length."""
    vote: Vote | None = None
    """Keeps only candidates with the answer that weighs most among those that passed the filters above; of answers that
    weigh the same, all stay. A candidate without an answer has no vote and is not kept (outvoted). None: no vote."""
    duplicates: Literal["keep", "exact", "normalised", "near"] = "keep"
    """exact: of responses of a prompt with the same text only the best is kept. normalised: texts are the same but for
    case, white space and the composition of letters (NFC). near: their word trigrams overlap by ``near_at``. keep:
    duplicates are candidates like any others."""
    near_at: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The Jaccard index of word trigrams (of normalised texts) from which ``duplicates: near`` takes texts as one."""
    cap: SourceCap | None = None
    """At most so many kept candidates of one source for each prompt. None: no cap."""
    length_control: Literal["none", "residual"] = "none"
    """What candidates are ranked by. residual: the score minus what the response's length explains within the prompt (a
    least-squares line over at least three candidates); min_margin is then in this unit. none: the score."""

    diversity: Annotated[float, Field(gt=0, le=1)] | None = None
    """How much it counts that kept candidates differ: each further one has the highest (1 - diversity) * relevance -
    diversity * overlap, where relevance is the score scaled to 0..1 within the prompt, and overlap the highest Jaccard
    index of word trigrams with a kept one (maximal marginal relevance). Needs keep, and ties that put one first. None:
    the best are kept, however alike."""

    @model_validator(mode="after")
    def _check_diversity(self) -> Self:
        if self.diversity is not None and (self.keep is None or self.min_margin is not None):
            raise ValueError("diversity picks keep candidates one by one: give keep, and leave min_margin out")
        if self.diversity is not None and self.ties in ("all", "abstain"):
            raise ValueError(f"diversity needs ties that put one first: hash, first or shortest, not {self.ties}")
        return self

    def limits(self) -> bool:
        filters = (
            self.min_score,
            self.veto,
            self.solve_rate,
            self.min_percentile,
            self.min_z,
            self.length_band,
            self.cap,
            self.vote,
        )
        return any(each is not None for each in filters) or self.duplicates != "keep"

    def reads_texts(self) -> str | None:
        """A setting that reads the responses. None: no setting does."""
        reading = {
            "vote": self.vote is not None,
            "duplicates": self.duplicates != "keep",
            "length_band": self.length_band is not None,
            "length_control: residual": self.length_control == "residual",
            "diversity": self.diversity is not None,
            f"ties: {self.ties}": self.ties in TEXT_TIES,
        }
        return next((name for name, reads in reading.items() if reads), None)

    @property
    def other_scores(self) -> tuple[str, ...]:
        """The scores that it reads beside the one that it goes by."""
        by = self.solve_rate.by if self.solve_rate else None
        return tuple(dict.fromkeys([*(self.veto or {}), *([by] if by else [])]))


@dataclass(frozen=True)
class Choice:
    """The outcome for every candidate, aligned with the scores."""

    rank: pa.Array
    """int32, 1 for the best kept of its prompt, then 2, ...; null where the candidate is not kept."""
    reason: pa.Array
    """string, why it is not kept; null where it is."""
    value: Floats
    """What candidates were ranked by: the score, or its residual. NaN: no score."""
    tied: Bools
    """Whether it was kept because a tie-break preferred it to an equal one that was not."""


def choose(
    score: pa.Array,
    offsets: Offsets,
    rule: ChoiceRule,
    response: pa.Array | None = None,
    *,
    others: Mapping[str, pa.Array] | None = None,
    source: pa.Array | None = None,
    cut_off: pa.Array | None = None,
    answer: pa.Array | None = None,
) -> Choice:
    """Filter and rank the candidates of each prompt.

    score[n] float64, offsets[prompts + 1], response[n] string; others: score[n] by name, as ``rule.other_scores`` says;
    source[n]: of ``rule.cap``; cut_off[n] bool: candidates that may not be kept; answer[n] int64: equal within a prompt
    where the answers are, for ``rule.vote``, null for none -> ``Choice``.
    A null or NaN score is never kept. Raises ValueError where a column is missing that the rule needs.
    """
    raw = to_floats(score)
    found = {name: to_floats(column) for name, column in (others or {}).items()}
    missing = [name for name in rule.other_scores if name not in found]
    if missing:
        raise ValueError(f"the rule reads the score {missing[0]!r}: pass it in others")
    prompt = filters.prompt_of(offsets)
    reasons = _Reasons(len(raw))
    if cut_off is not None:
        reasons.add(CUT_OFF, cut_off.to_numpy(zero_copy_only=False))
    reasons.add("no_score", np.isnan(raw))
    for name, lowest in (rule.veto or {}).items():
        reasons.add(VETO, ~(found[name] >= lowest))
    if rule.solve_rate is not None:
        band = rule.solve_rate
        rate = filters.solve_rates(raw if band.by is None else found[band.by], offsets, band.at)
        reasons.add(TOO_HARD, (~(rate >= band.low))[prompt])
        reasons.add(TOO_EASY, (rate > band.high)[prompt])
    impossible = reasons.given  # these are no runners-up; what follows is

    value, length = raw, None
    if rule.length_band is not None or rule.length_control == "residual":
        length = _lengths(response)
    if rule.length_control == "residual" and length is not None:
        value = filters.length_residuals(raw, length, offsets)
    if rule.min_score is not None:
        reasons.add("below_min_score", raw < rule.min_score)
    if rule.min_percentile is not None:
        reasons.add(PERCENTILE, filters.percentiles(raw, offsets) < rule.min_percentile)
    if rule.min_z is not None:
        reasons.add(Z, ~(filters.z_scores(raw, offsets) >= rule.min_z))
    if rule.length_band is not None and length is not None:
        reasons.add(BAND, ~filters.in_length_band(length, ~np.isnan(raw), offsets, rule.length_band))
    allowed = ~reasons.given

    if rule.vote is not None:
        if answer is None:
            raise ValueError("a vote is about the answers: pass answer")
        reasons.add(OUTVOTED, ~filters.wins_vote(raw, ~reasons.given, offsets, answer, rule.vote.weight))
    if rule.duplicates != "keep":
        if response is None:
            raise ValueError("duplicates are found by the responses: pass response")
        if rule.duplicates == "near":
            ranked = _rank(_masked(value, reasons.given), offsets, rule, response)
            reasons.add(DUPLICATE, find_near(response, offsets, ranked, rule.near_at))
        else:
            in_play = pc.if_else(pa.array(~reasons.given), response, pa.scalar(None, response.type))
            key = filters.text_keys(in_play, rule.duplicates)
            reasons.add(DUPLICATE, ~_best_of_each(value, ~reasons.given, offsets, key, 1, rule, response))
    if rule.cap is not None:
        if source is None:
            raise ValueError(f"cap reads {rule.cap.by!r}: pass source")
        reasons.add(CAP, ~_best_of_each(value, ~reasons.given, offsets, source, rule.cap.keep, rule, response))
    out_of_play = impossible | (allowed & reasons.given)  # nor are outvoted ones, duplicates and the capped
    if rule.diversity is not None:
        return _choose_diverse(_masked(value, reasons.given), value, offsets, rule, response, reasons)
    inner = SelectionRule.model_construct(
        keep=rule.keep, min_score=None, min_margin=rule.min_margin, ties=rule.ties, seed=rule.seed
    )
    chosen = select(_masked(value, out_of_play), offsets, inner, response, allowed)
    reason = reasons.fill(chosen.reason)
    kept = chosen.rank.is_valid().to_numpy(zero_copy_only=False)
    outranked = pc.fill_null(pc.equal(reason, OUTRANKED), False).to_numpy(zero_copy_only=False)
    return Choice(chosen.rank, reason, value, decided_by_tie(value, kept, outranked, offsets))


def to_floats(score: pa.Array) -> Floats:
    """Scores as numbers, NaN where there is none."""
    value: Floats = score.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return value


def _choose_diverse(
    allowed: pa.Array, value: Floats, offsets: Offsets, rule: ChoiceRule, response: pa.Array | None, reasons: "_Reasons"
) -> Choice:
    """Keep candidates that differ; ``allowed`` is null for those that have a reason already."""
    if response is None:
        raise ValueError("diversity is that of the responses: pass response")
    assert rule.keep is not None
    ranked = _rank(allowed, offsets, rule, response)
    picked = pick_diverse(value, response, offsets, ranked, rule.keep, rule.diversity or 0.0)
    kept = picked.rank > 0
    others = pc.if_else(pa.array(kept), pa.scalar(None, pa.string()), OUTRANKED)
    return Choice(pa.array(picked.rank, mask=~kept), reasons.fill(others), value, picked.tied)


def _rank(allowed: pa.Array, offsets: Offsets, rule: ChoiceRule, response: pa.Array) -> NDArray[np.intp]:
    """The candidates that have a value, by prompt, the preferred first; all and abstain rank as hash."""
    ties = "hash" if rule.ties in ("all", "abstain") else rule.ties
    everything = SelectionRule.model_construct(keep=None, min_score=None, min_margin=None, ties=ties, seed=rule.seed)
    place = pc.fill_null(select(allowed, offsets, everything, response).rank, 0).to_numpy().astype(np.int64)
    return sort_within(np.flatnonzero(place), place, filters.prompt_of(offsets))


class _Reasons:
    """The first reason of each candidate."""

    def __init__(self, num: int) -> None:
        self._code = np.full(num, -1, np.int8)
        self._names: list[str] = []

    @property
    def given(self) -> Bools:
        return self._code >= 0

    def add(self, name: str, where: Bools) -> None:
        self._code[where & (self._code < 0)] = len(self._names)
        self._names.append(name)

    def fill(self, other: pa.Array) -> pa.Array:
        """These reasons, and the other ones where there is none."""
        ours = pa.array(self._names, pa.string()).take(pa.array(self._code, mask=self._code < 0))
        return pc.coalesce(ours, other)


def _best_of_each(
    value: Floats,
    takes_part: Bools,
    offsets: Offsets,
    key: pa.Array,
    keep: int,
    rule: ChoiceRule,
    response: pa.Array | None,
) -> Bools:
    return filters.best_of_each(_masked(value, ~takes_part), offsets, key, keep, rule, response)


def _masked(value: Floats, out: Bools) -> pa.Array:
    return pa.array(value, mask=out | np.isnan(value))


def _lengths(response: pa.Array | None) -> Floats:
    """Code points of each response, NaN where there is none."""
    if response is None:
        raise ValueError("length is that of the responses: pass response")
    return to_floats(pc.utf8_length(response.cast(pa.large_string())))
