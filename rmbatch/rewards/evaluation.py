"""A reward that is ready to score samples, lists of samples, tables, and the columns of a job's batch.

``Reward.score_parts`` is the one kernel. The rest turns samples or tables into columns and brings scores back to their
shape, so that ``evaluate``, ``evaluate_batch``, ``score`` and a job give the same numbers. ``function.py`` makes a
reward of a function or class, ``composition.py`` makes one of other rewards.

    rm = rmbatch.reward("accuracy")
    rm.evaluate({"response": "4", "reference": "4"})             # Result(score=1.0, error=None, reason=None)
    rm.evaluate({"responses": ["4", "5"], "reference": "4"})     # one Result per response
    rm.best_of_n({"responses": ["5", "4"], "reference": "4"})    # [Candidate(index=1, response="4", score=1.0)]
    rm.score(pa.table({"response": ["4"], "reference": ["4"]}))  # + score.accuracy, error.accuracy
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from connectors.errors import UserError
from rmbatch.rewards.scores import RewardError, Scores
from rmbatch.rows.messages import MESSAGES, TEXT
from rmbatch.rows.roles import ROLES, FlatView, flatten, guess_roles, refuse_misspelt
from rmbatch.rows.tables import as_table, build_table, with_columns

Sample = Mapping[str, Any]
"""One row as a dict: the columns of a table, e.g. prompt, response or responses, reference."""
Columns = Callable[[str], pa.Array]
"""A batch: gives a column of one value per response, by role or name."""
Offsets = np.ndarray[Any, Any]
"""Where the responses of each prompt begin: int64 [prompts + 1]."""

Table = TypeVar("Table")
"""A table of any library that ``rmbatch.rows.tables`` knows."""
MISSPELT = 0.8
"""Similarity of two names, from 0 to 1, from which one counts as a misspelling of the other."""

_TYPES = {"score": pa.float64(), "error": pa.string(), "reason": pa.string(), "steps": pa.list_(pa.float64())}
"""The types of the columns that a reward may add."""


@dataclass(frozen=True)
class Result:
    """A reward's result for one response; ``score`` None means no score, and ``error`` says why."""

    score: float | None
    error: str | None = None
    reason: str | None = None
    steps: list[float] | None = None
    """The score of each step, from a process reward model."""
    parts: Mapping[str, "Result"] = field(default_factory=dict, hash=False)
    """The results of a composition's parts, by the names that their columns end in."""


@dataclass(frozen=True)
class Candidate:
    """One chosen response of a sample."""

    index: int
    """Its index among the sample's responses, from 0."""
    response: str | None
    score: float


class Reward(ABC):
    """Scores responses. It can be pickled, and builds its state in the process that unpickles it."""

    name: str
    columns: tuple[str, ...]
    """The columns it reads, by role or name."""
    optional: tuple[str, ...] = ()
    """The columns among them that may be missing."""
    takes_offsets: bool
    """Whether it compares the responses of a prompt."""

    @property
    @abstractmethod
    def part_names(self) -> Mapping[str, Sequence[str]]:
        """The scores it gives ("" is its own, other names are parts), and the columns beside each: reason, steps."""

    @abstractmethod
    def score_parts(self, column: Columns, num_rows: int, offsets: Offsets | None = None) -> dict[str, Scores]:
        """The scores of ``num_rows`` responses for each of ``part_names``: the one kernel.

        ``offsets`` as in ``FlatView.offsets``, for rewards that compare the responses of a prompt. Exceptions of a
        reward's own code pass through. Raises UserError where offsets are needed and missing.
        """

    def score_columns(self, column: Columns, num_rows: int, offsets: Offsets | None = None) -> Scores:
        """Its own scores of ``num_rows`` responses."""
        return self.score_parts(column, num_rows, offsets)[""]

    def evaluate(self, sample: Sample, *, columns: Mapping[str, Any] | None = None) -> Result | list[Result]:
        """The result for a sample's response, or for each of its ``responses``.

        ``columns`` maps roles to the sample's keys where their names do not tell. A missing key is null.
        """
        return self.evaluate_batch([sample], columns=columns)[0]

    def evaluate_batch(
        self, samples: Sequence[Sample], *, columns: Mapping[str, Any] | None = None
    ) -> list[Result | list[Result]]:
        """``evaluate`` of each sample, in order, in one go. Samples may differ in their keys."""
        _check_samples(samples)
        results: list[Result | list[Result]] = [[] for _ in samples]
        for indices in _group_by_shape(samples):
            view = _flatten_samples([samples[index] for index in indices], columns)
            self._refuse_misspelt(samples[indices[0]], view)
            flat = _build_results(self._score_view(view, indices, missing_is_null=True))
            for row, index in enumerate(indices):
                if view.offsets is None:
                    results[index] = flat[row]
                else:
                    results[index] = flat[view.offsets[row] : view.offsets[row + 1]]
        return results

    def best_of_n(
        self, sample: Sample, n: int = 1, *, seed: int = 0, columns: Mapping[str, Any] | None = None
    ) -> list[Candidate]:
        """The sample's n best responses, best first; fewer where fewer have a score.

        Of equal scores the lowest seeded hash of the text comes first, whatever its index.
        """
        from rmbatch.selection.rank import SelectionRule, select

        if n < 1:
            raise UserError(f"best_of_n: n={n}; at least one response has to be kept")
        _check_samples([sample])
        view = _flatten_samples([sample], columns)
        self._refuse_misspelt(sample, view)
        score = self._score_view(view, missing_is_null=True)[""].score
        response = view.column("response") if view.has("response") else pa.nulls(view.num_candidates, TEXT)
        offsets = np.array([0, view.num_candidates], dtype=np.int64)
        rank = select(score, offsets, SelectionRule(keep=n, seed=seed), response).rank.to_pylist()
        kept = sorted((place, index) for index, place in enumerate(rank) if place is not None)
        return [Candidate(index, response[index].as_py(), score[index].as_py()) for _, index in kept]

    def score(self, table: Table, columns: Mapping[str, Any] | None = None, name: str | None = None) -> Table:
        """The table with ``score.<name>``, ``error.<name>`` and, if the reward gives reasons, ``reason.<name>``.

        The table is Arrow's, pandas', polars', a ``datasets.Dataset`` or a list of dicts; the result is of the same
        kind. ``columns`` maps roles to columns where their names do not tell; ``name`` None: the reward's own. Nested
        rows get lists aligned with their candidates. A composition's parts get columns ``score.<name>.<part>``.
        Raises UserError for a column that is missing, or that exists already.
        """
        rows = as_table(table)
        view = flatten(rows, guess_roles(rows.schema, columns))
        refuse_misspelt(view.roles, self.columns)
        parts = self._score_view(view)
        added: dict[str, pa.Array] = {}
        for column, kind in self.column_types(name or self.name).items():
            if column in rows.schema.names:
                raise UserError(
                    f"the table has a column {column!r} already; give this one another name: score(…, name=…)"
                )
            added[column] = view.nest(column_of(parts, name or self.name, column).cast(kind))
        scored: Table = with_columns(table, added)
        return scored

    def column_types(self, name: str) -> dict[str, pa.DataType]:
        """The columns that this reward adds under a name, and the type of each per response."""
        found: dict[str, pa.DataType] = {}
        for part, more in self.part_names.items():
            end = f"{name}.{part}" if part else name
            found |= {f"{kind}.{end}": _TYPES[kind] for kind in ("score", "error", *more)}
        return found

    def _refuse_misspelt(self, sample: Sample, view: FlatView) -> None:
        """Raise UserError where a missing column seems to be present under a misspelt name."""
        refuse_misspelt(view.roles, self.columns)
        unread = [key for key in sample if key not in {*self.columns, *ROLES, *view.roles.columns()}]
        for column in self.columns:
            if view.has(column) or column in sample:
                continue
            near = get_close_matches(column, unread, n=1, cutoff=MISSPELT)
            if near:
                raise UserError(
                    f"reward {self.name!r} reads {column!r}, and the sample has {near[0]!r}; write {column!r}, or say "
                    f"that it is meant: columns={{{column!r}: {near[0]!r}}}"
                )

    def _score_view(
        self, view: FlatView, indices: Sequence[int] | None = None, *, missing_is_null: bool = False
    ) -> dict[str, Scores]:
        def column(name: str) -> pa.Array:
            if missing_is_null and not view.has(name):
                return pa.nulls(view.num_candidates, MESSAGES if name == "prompt" else TEXT)
            return view.column(name)

        try:
            return self.score_parts(column, view.num_candidates, view.offsets)
        except RewardError as error:
            if error.response is not None:
                row = view.row_of(error.response)
                error.where = f"row {row}" if indices is None else f"sample {indices[row]}"
            raise


def column_of(parts: Mapping[str, Scores], name: str, column: str) -> pa.Array:
    """The array behind one of ``Reward.column_types``: ``score.<name>``, ``error.<name>.<part>``, ..."""
    kind, _, end = column.partition(".")
    scores = parts[end.removeprefix(name).removeprefix(".")]
    array = getattr(scores, kind)
    return pa.nulls(len(scores.score), _TYPES[kind]) if array is None else array


def _build_results(parts: Mapping[str, Scores]) -> list[Result]:
    by_part = {}
    for name in parts:
        columns = [column_of(parts, "", f"{kind}.{name}").to_pylist() for kind in ("score", "error", "reason", "steps")]
        by_part[name] = list(map(Result, *columns))
    own = by_part.pop("")
    if not by_part:
        return own
    names = list(by_part)
    return [replace(result, parts=dict(zip(names, said))) for result, said in zip(own, zip(*by_part.values()))]


def _check_samples(samples: Any) -> None:
    if isinstance(samples, str | Mapping):
        raise UserError("evaluate_batch takes a list of samples; for one sample use evaluate")
    for sample in samples:
        if not isinstance(sample, Mapping):
            shown = repr(sample) if len(repr(sample)) <= 60 else f"{repr(sample)[:60]}…"
            raise UserError(f"a sample is a dict, such as {{'response': 'text', 'reference': '4'}}; got {shown}")


def _group_by_shape(samples: Iterable[Sample]) -> list[list[int]]:
    """The indices of samples that have the same keys and types at every depth, so that no sample changes another."""
    groups: dict[frozenset[tuple[str, Any]], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(frozenset((key, _shape(value)) for key, value in sample.items()), []).append(index)
    return list(groups.values())


def _shape(value: Any) -> Any:
    """The type of a value and of everything inside it."""
    if isinstance(value, Mapping):
        return dict, frozenset((key, _shape(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return list, frozenset(map(_shape, value))
    return type(value)


def _flatten_samples(samples: Sequence[Sample], columns: Mapping[str, Any] | None) -> FlatView:
    """Samples with the same keys, as flat columns; a key that ``columns`` names and no sample has is null."""
    keys = dict.fromkeys(list(samples[0]) or ["response"])  # a table without columns would have no rows
    for named in (columns or {}).values():
        keys.update(dict.fromkeys(named if isinstance(named, list | tuple) else [named] if named else []))
    table = build_table({key: [sample.get(key) for sample in samples] for key in keys})
    return flatten(table, guess_roles(table.schema, columns))
