"""The story of one row of an output: its candidates with scores and reasons, why it was kept, every critique and edit.

A row is told from its columns alone, whichever kind of job wrote them, nested or flat. Plain values come out, so a
program, a test and a terminal read the same.

    story = tell_row(table, roles, job=manifest["job"], part="data")      # a table of one row
    story.outcome, story.why, story.candidates[0].scores["math"].error
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from connectors.schema import visible_columns
from rmbatch.adapters.view import PART
from rmbatch.correction import columns as corrected
from rmbatch.generation.candidates import GENERATION
from rmbatch.rows.roles import Roles, flatten
from rmbatch.stages import select as chosen

REASONS = {
    "cut_off": ("it ended at max_tokens", "cut_off"),
    "no_score": ("it has no score", ""),
    "veto": ("another score is under its limit, or missing", "veto"),
    "too_hard": ("too few candidates of the prompt are solved", "solve_rate"),
    "too_easy": ("too many candidates of the prompt are solved", "solve_rate"),
    "below_min_score": ("its score is under the limit", "min_score"),
    "below_min_percentile": ("its percentile within the prompt is under the limit", "min_percentile"),
    "below_min_z": ("its z-score within the prompt is under the limit", "min_z"),
    "outside_length_band": ("its length is too far from the prompt's median", "length_band"),
    "outvoted": ("other answers of the prompt weigh more, or it gives none", "vote"),
    "duplicate": ("a better candidate has the same text", "duplicates"),
    "source_cap": ("better candidates of its source fill the cap", "cap"),
    "outranked": ("enough candidates of the prompt came before it", "keep"),
    "tie": ("a tie would have decided", "ties"),
    "margin_too_small": ("the runner-up is too close", "min_margin"),
}
"""What each reason of a selection means, and the key of ``select:`` that decides it."""
_PREFIXES = ("score.", "error.", "reason.", "steps.")
_OF_ROW = {chosen.RESPONSE, chosen.SCORE, chosen.CONTROL, PART}


@dataclass(frozen=True)
class ScoreStory:
    """What one reward says of a response."""

    score: float | None
    """None: no score; ``error`` says why."""
    error: str | None = None
    """``stable_code: message``."""
    reason: str | None = None
    steps: Any = None
    """Scores of steps, where the reward gives them."""


@dataclass(frozen=True)
class CandidateStory:
    """One response of the row."""

    number: int
    """From 0, as the row lists them."""
    text: str | None
    scores: Mapping[str, ScoreStory]
    rank: int | None = None
    """1 for the best kept one. None: not kept, or nothing was selected."""
    reason: str | None = None
    """The code of why it is not kept."""
    meaning: str | None = None
    """The reason in words, with the setting that decides."""
    value: float | None = None
    """What it was ranked by, where that is none of the scores."""
    generation: Mapping[str, Any] | None = None
    """How it was generated: model, error, finish_reason, tokens, seed, …"""


@dataclass(frozen=True)
class Story:
    """All that the output says of a row."""

    id: Any
    prompt: Sequence[Mapping[str, Any]] | None
    """Messages, each with role and content."""
    reference: str | None
    outcome: str
    """kept, rejected or dead_letter."""
    why: str
    """In a sentence."""
    candidates: Sequence[CandidateStory] = ()
    correction: Mapping[str, Any] | None = None
    """The columns ``correct.…`` without the prefix. None: the job corrects nothing."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """The columns that play no part above."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def tell_row(table: pa.Table, roles: Roles, job: Mapping[str, Any], part: str) -> Story:
    """Tell the story of a table's one row. ``part``: data or rejected."""
    table = visible_columns(table)
    view = flatten(table, roles)
    alone = flatten(table, Roles(id=roles.id, prompt=roles.prompt, reference=roles.reference))
    row: dict[str, Any] = {name: table[name][0].as_py() for name in table.column_names}
    texts = view.column("response").to_pylist() if view.has("response") else []
    per_response = _PerResponse(row, len(texts), nested=view.offsets is not None)
    candidates = [_tell_candidate(number, text, per_response, job) for number, text in enumerate(texts)]
    candidates = _tell_ties(candidates, job)
    correction = {name.removeprefix("correct."): row[name] for name in row if name.startswith("correct.")}
    told = {*roles.columns(), *per_response.names, *_OF_ROW, *(f"correct.{name}" for name in correction)}
    return Story(
        None if roles.id is None else row[roles.id],
        alone.column("prompt").to_pylist()[0] if roles.prompt else None,
        alone.column("reference").to_pylist()[0] if roles.reference else None,
        "kept" if part == "data" else "rejected",
        _why(row, candidates, correction, job, part),
        candidates,
        correction or None,
        {name: value for name, value in row.items() if name not in told},
    )


def tell_dead_letter(row: Mapping[str, Any]) -> Story:
    """Tell the story of a row that could not be processed. ``row``: as the file of dead letters has it."""
    why = f"{row['code']}: {row['message']}"
    return Story(None, None, None, "dead_letter", why, others={**row, "raw": _decode(row["raw"])})


class _PerResponse:
    """The columns that hold a value for each response."""

    def __init__(self, row: Mapping[str, Any], num_responses: int, *, nested: bool) -> None:
        self._row, self._nested = row, nested
        known = (chosen.RANK, chosen.REASON, chosen.VALUE, chosen.RANDOM, GENERATION)
        named = [name for name in row if name in known or name.startswith(_PREFIXES)]
        self.names = [name for name in named if not nested or self._fits(row[name], num_responses)]
        self.scores = [name.removeprefix("score.") for name in self.names if name.startswith("score.")]

    @staticmethod
    def _fits(value: Any, num_responses: int) -> bool:
        return value is None or (isinstance(value, list) and len(value) == num_responses)

    def get(self, name: str, number: int) -> Any:
        """The value of a response; None where the row has none."""
        value = self._row[name] if name in self.names else None
        return value[number] if self._nested and value is not None else value


def _tell_candidate(number: int, text: str | None, values: _PerResponse, job: Mapping[str, Any]) -> CandidateStory:
    scores = {
        name: ScoreStory(*(values.get(f"{prefix}{name}", number) for prefix in _PREFIXES)) for name in values.scores
    }
    reason, details = values.get(chosen.REASON, number), values.get(GENERATION, number)
    return CandidateStory(
        number,
        text,
        scores,
        values.get(chosen.RANK, number),
        reason,
        None if reason is None else explain_reason(reason, job),
        values.get(chosen.VALUE, number),
        details if isinstance(details, Mapping) else None,
    )


def _tell_ties(candidates: Sequence[CandidateStory], job: Mapping[str, Any]) -> list[CandidateStory]:
    """The candidates; of one that was outranked by an equal one the meaning says so."""
    last = max((each for each in candidates if each.rank is not None), key=lambda each: each.rank or 0, default=None)
    ties = (job.get("select") or {}).get("ties", "hash")
    tied = f"an equal candidate was preferred (select.ties: {ties})"
    return [
        replace(each, meaning=tied)
        if last is not None and each.reason == "outranked" and _value_of(each, job) == _value_of(last, job) is not None
        else each
        for each in candidates
    ]


def _value_of(candidate: CandidateStory, job: Mapping[str, Any]) -> float | None:
    """What a candidate was ranked by. None: nothing tells."""
    by = (job.get("select") or {}).get("by")
    if candidate.value is not None or (by is not None and not isinstance(by, str)):
        return candidate.value
    name = by or (next(iter(candidate.scores)) if len(candidate.scores) == 1 else "total")
    return candidate.scores[name].score if name in candidate.scores else None


def explain_reason(reason: str, job: Mapping[str, Any]) -> str:
    """What a reason of a selection means, with the setting that decided: ``… (select.min_score: 0.5)``."""
    meaning, key = REASONS.get(reason, (reason, ""))
    setting = (job.get("select") or {}).get(key)
    return meaning if setting is None else f"{meaning} (select.{key}: {_short(setting)})"


def _short(setting: Any) -> str:
    if not isinstance(setting, Mapping):
        return str(setting)
    return "{" + ", ".join(f"{key}: {value}" for key, value in setting.items() if value is not None) + "}"


def _why(
    row: Mapping[str, Any],
    candidates: Sequence[CandidateStory],
    correction: Mapping[str, Any],
    job: Mapping[str, Any],
    part: str,
) -> str:
    """Why the row is in its part of the output."""
    wanted = ((job.get("input") or {}).get("split") or {}).get("part")
    if part == "rejected" and wanted and row.get(PART) != wanted:
        return f"it is in the part {row.get(PART)!r} of the split, and the job works on {wanted!r}"
    if correction:
        return _why_corrected(correction)
    if chosen.RANK not in row:
        return f"a job of the kind {job.get('job')} keeps each row"
    if part == "data":
        kept = sorted((each.rank, each.number) for each in candidates if each.rank is not None)
        num = len(candidates)
        return ", ".join(f"{'it' if num == 1 else f'response {n} of {num}'} has rank {rank}" for rank, n in kept)
    reasons = dict.fromkeys(f"{each.reason}: {each.meaning}" for each in candidates if each.reason)
    return "; ".join(reasons) or "it has no response"


_OUTCOMES = {
    "untouched": "it was good enough, so it was not edited",
    "no_score": "its response has no score, so nothing could show that an edit is better",
    "target": "an edit was found that is good enough",
    "improved": "a better edit was found",
    "unchanged": "no better edit was found",
    "failed": "nothing could be written",
}


def _why_corrected(correction: Mapping[str, Any]) -> str:
    outcome = correction[corrected.OUTCOME.removeprefix("correct.")]
    stopped, error = correction.get("stopped"), correction.get("error")
    said = f"{outcome}: {_OUTCOMES.get(outcome, outcome)}"
    return said + (f"; stopped by {stopped}" if stopped else "") + (f"; {error}" if error else "")


def _decode(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "replace")
