"""From preferences to a small set of principles and what they are worth: propose, select, measure.

It reads and writes no files; what is asked follows from its arguments alone.

    found = find_principles(writer, trial, train, held_out, Selection(keep=8))
    found.principles, found.worth
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from rmbatch.discovery.preferences import Preference
from rmbatch.discovery.propose import Proposal, Writer, drop_repeated_names, propose_principles
from rmbatch.discovery.select import (
    Candidate,
    Vectors,
    list_candidates,
    measure_support,
    reduce_dimensions,
    select_diverse,
    vectorise_texts,
)
from rmbatch.discovery.trial import Trial
from rmbatch.discovery.worth import Worth, count_cases, count_trials, measure_usefulness, measure_worth, sample_rows
from rmbatch.judges.principles import Principle

POOL = 4
"""So many times the principles that are kept are tried on rows."""
_MAX_ROWS_TOLD = 5

Stage = Callable[[str, int, str], AbstractContextManager[Callable[[int], object]]]
"""Name, total and unit of a piece of work; what is entered is told how far it is."""


@dataclass(frozen=True)
class Selection:
    """How many principles are kept, and by what; see ``select.py``."""

    keep: int
    epsilon: float = 0.7
    min_gain: float = 0.3
    trial_rows: int = 60
    """Rows to learn from on which each of a pool is tried alone. 0: none; how many rows say the like then counts."""
    vectors: Callable[[Sequence[str]], Vectors] = vectorise_texts
    """Of texts."""


@dataclass(frozen=True)
class Findings:
    """What was found."""

    proposals: list[Proposal]
    num_candidates: int
    """Different principles of rows that converged."""
    num_tried: int
    """Of these, how many were tried on rows."""
    by_support: bool = True
    """Whether those were preferred of which many rows say the like: where none was tried, or none was of use alone."""
    principles: tuple[Principle, ...] = ()
    """In the order in which they were chosen; none where nothing was good enough."""
    worth: Worth | None = None
    """None where there are no principles."""


def _no_progress(name: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], object]]:
    return nullcontext(lambda done: None)


def find_principles(
    writer: Writer,
    trial: Trial,
    train: Sequence[Preference],
    held_out: Sequence[Preference],
    selection: Selection,
    *,
    rounds: int = 3,
    seed: int = 0,
    stage: Stage = _no_progress,
) -> Findings:
    """The principles behind ``train``, and what they are worth on ``held_out``. Raises JobError where all must stop.

    ``rounds``: the most revisions of a row's principles; ``seed``: of which rows principles are tried on.
    """
    with stage("propose", len(train), "rows") as advance_to:
        proposals = propose_principles(writer, trial, train, rounds, advance_to)
    pool = list_candidates(proposals)
    vectors = reduce_dimensions(selection.vectors([each.principle.text for each in pool]))
    weights = measure_support(vectors, pool)
    num_candidates, num_tried, by_support = len(pool), 0, True
    if selection.trial_rows and pool:
        tried = select_diverse(vectors, weights, POOL * selection.keep, selection.epsilon, min_gain=None)
        pool, rows = [pool[place] for place in tried], sample_rows(train, selection.trial_rows, seed)
        vectors, num_tried = vectors[tried], len(tried)
        texts = [each.principle for each in pool]
        with stage("try", count_trials(rows, texts), "judgements") as advance_to:
            useful = measure_usefulness(trial, rows, texts, advance_to)
        by_support = bool(useful.max() <= 0)
        weights = measure_support(vectors, pool) * (useful == 0) if by_support else np.maximum(useful, 0)
    chosen = select_diverse(vectors, weights, selection.keep, selection.epsilon, selection.min_gain)
    principles = drop_repeated_names([_add_source(pool[place]) for place in chosen])
    if not principles:
        return Findings(proposals, num_candidates, num_tried, by_support)
    with stage("measure", count_cases(held_out, principles), "judgements") as advance_to:
        worth = measure_worth(trial, held_out, principles, advance_to)
    return Findings(proposals, num_candidates, num_tried, by_support, principles, worth)


def _add_source(candidate: Candidate) -> Principle:
    rows = candidate.rows
    more = f" and {len(rows) - _MAX_ROWS_TOLD:,} more" if len(rows) > _MAX_ROWS_TOLD else ""
    told = f"row{'s' if len(rows) > 1 else ''} {', '.join(rows[:_MAX_ROWS_TOLD])}{more}"
    return candidate.principle.model_copy(update={"source": told})
