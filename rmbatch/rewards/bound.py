"""A reward with its knobs set, ready to score: samples, lists of samples, tables, and the columns of a job's batch.

``Reward.score_columns`` is the one kernel. The rest brings samples or tables to columns and scores back to their shape,
so that ``evaluate``, ``evaluate_batch``, ``score`` and a job give the same numbers. What a reward is, ``contract.py``.

    rm = rmbatch.reward("accuracy")
    rm.evaluate({"response": "4", "reference": "4"})             # Result(score=1.0, error=None, reason=None)
    rm.evaluate({"responses": ["4", "5"], "reference": "4"})     # one Result per response
    rm.best_of_n({"responses": ["5", "4"], "reference": "4"})    # [Candidate(index=1, response="4", score=1.0)]
    rm.score(pa.table({"response": ["4"], "reference": ["4"]}))  # + score.accuracy, error.accuracy
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from connectors.errors import UserError
from rmbatch.messages import MESSAGES, TEXT
from rmbatch.rewards.contract import RewardSpec, Scores, no_scores, normalised, spec_of
from rmbatch.rewards.registry import resolve
from rmbatch.rows import JSON_MARK, FlatView, flatten, guess_roles

Sample = Mapping[str, Any]
"""One row as a dict: the columns of a table, e.g. prompt, response or responses, reference."""


@dataclass(frozen=True)
class Result:
    """What a reward says of one response; ``score`` None means no score, and ``error`` says why."""

    score: float | None
    error: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One chosen response of a sample."""

    index: int
    """Its place among the sample's responses, from 0."""
    response: str | None
    score: float


def bind(ref: str | Callable[..., Any], knobs: Mapping[str, Any]) -> "Reward":
    """The reward that ``ref`` names or is, with its knobs set. Raises UserError for what does not fit."""
    return Reward(resolve(ref) if isinstance(ref, str) else spec_of(ref), knobs)


class Reward:
    """A reward and its knobs. Pickles as its name (or its file's text) and knobs; state is built where it lands."""

    def __init__(self, spec: RewardSpec, knobs: Mapping[str, Any]) -> None:
        self.spec = spec
        self.knobs = spec.check_knobs(knobs)
        target: Any = spec.target
        made: Any = target(**self.knobs) if isclass(target) else partial(target, **self.knobs)
        self._call: Callable[..., Any] = made

    @property
    def name(self) -> str:
        return self.spec.name

    def score_columns(
        self, column: Callable[[str], pa.Array], num_rows: int, offsets: np.ndarray[Any, Any] | None = None
    ) -> Scores:
        """The scores of ``num_rows`` responses, whose columns ``column`` gives by name: the one kernel.

        ``offsets`` as in ``FlatView.offsets``, for rewards that compare the responses of a prompt. What the reward
        raises comes through. A batch of no rows is not handed to the reward.
        """
        if self.spec.takes_offsets and offsets is None:
            raise UserError(
                f"reward {self.name!r} is {self.spec.kind}: it compares the responses of one prompt, so it needs rows "
                "with a list of `responses`, or rows brought together by `group`"
            )
        if num_rows == 0:
            return no_scores()
        columns = [column(name) for name in self.spec.columns]
        grouping = {"offsets": offsets} if self.spec.takes_offsets else {}
        return normalised(self.spec, self._call(*columns, **grouping), columns, num_rows)

    def evaluate(self, sample: Sample, *, columns: Mapping[str, Any] | None = None) -> Result | list[Result]:
        """What the reward says of a sample's response, or of each of its ``responses``.

        ``columns`` maps roles to the sample's keys where their names do not tell. A key that is not there is null.
        """
        return self.evaluate_batch([sample], columns=columns)[0]

    def evaluate_batch(
        self, samples: Sequence[Sample], *, columns: Mapping[str, Any] | None = None
    ) -> list[Result | list[Result]]:
        """``evaluate`` of each sample, in order, in one go. Samples may differ in their keys."""
        results: list[Result | list[Result]] = [[] for _ in samples]
        for places in _alike(samples):
            view = _view([samples[place] for place in places], columns)
            flat = _results(self._scores(view, missing_is_null=True))
            for row, place in enumerate(places):
                if view.offsets is None:
                    results[place] = flat[row]
                else:
                    results[place] = flat[view.offsets[row] : view.offsets[row + 1]]
        return results

    def best_of_n(
        self, sample: Sample, n: int = 1, *, seed: int = 0, columns: Mapping[str, Any] | None = None
    ) -> list[Candidate]:
        """The sample's n best responses, best first; fewer where fewer have a score.

        Of equal scores the lowest seeded hash of the text comes first, wherever it stands.
        """
        from rmbatch.selection import SelectionRule, select

        if n < 1:
            raise UserError(f"best_of_n: n={n}; at least one response has to be kept")
        view = _view([sample], columns)
        score = self._scores(view, missing_is_null=True).score
        response = view.column("response") if view.has("response") else pa.nulls(view.num_candidates, TEXT)
        offsets = np.array([0, view.num_candidates], dtype=np.int64)
        rank = select(score, offsets, SelectionRule(keep=n, seed=seed), response).rank.to_pylist()
        kept = sorted((place, index) for index, place in enumerate(rank) if place is not None)
        return [Candidate(index, response[index].as_py(), score[index].as_py()) for _, index in kept]

    def score(self, table: pa.Table, columns: Mapping[str, Any] | None = None, name: str | None = None) -> pa.Table:
        """The table with ``score.<name>``, ``error.<name>`` and, if the reward gives reasons, ``reason.<name>``.

        ``columns`` maps roles to columns where their names do not tell; ``name`` None: the reward's own. Nested rows
        get lists aligned with their candidates. Raises UserError for a column that is missing, or there already.
        """
        view = flatten(table, guess_roles(table.schema, columns))
        scores = self._scores(view)
        parts = {"score": scores.score, "error": scores.error}
        if self.spec.writes_reason:
            parts["reason"] = scores.reason
        for part, array in parts.items():
            column = f"{part}.{name or self.name}"
            if column in table.schema.names:
                raise UserError(
                    f"the table has a column {column!r} already; give this one another name: score(…, name=…)"
                )
            narrow = array if part == "score" else array.cast(pa.string())
            table = table.append_column(column, view.nest(narrow))
        return table

    def _scores(self, view: FlatView, *, missing_is_null: bool = False) -> Scores:
        def column(name: str) -> pa.Array:
            if missing_is_null and not view.has(name):
                return pa.nulls(view.num_candidates, MESSAGES if name == "prompt" else TEXT)
            return view.column(name)

        return self.score_columns(column, view.num_candidates, view.offsets)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.spec.ref is None:
            return bind, (self.spec.target, self.knobs)
        return _resolved, (self.spec.ref, self.spec.source, self.knobs)

    def __repr__(self) -> str:
        knobs = "".join(f", {key}={value!r}" for key, value in self.knobs.items())
        return f"reward({self.spec.ref or self.name!r}{knobs})"


def _resolved(ref: str, source: str | None, knobs: Mapping[str, Any]) -> Reward:
    return Reward(resolve(ref, source), knobs)


def _results(scores: Scores) -> list[Result]:
    assert scores.error is not None
    assert scores.reason is not None
    return list(map(Result, scores.score.to_pylist(), scores.error.to_pylist(), scores.reason.to_pylist()))


def _alike(samples: Iterable[Sample]) -> list[list[int]]:
    """The places of samples with the same keys and types: what a sample means must not hang on its neighbours."""
    groups: dict[frozenset[tuple[str, type]], list[int]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault(frozenset((key, type(value)) for key, value in sample.items()), []).append(place)
    return list(groups.values())


def _view(samples: Sequence[Sample], columns: Mapping[str, Any] | None) -> FlatView:
    """Samples with the same keys, as flat columns; a key that ``columns`` names and no sample has is null."""
    keys = dict.fromkeys(list(samples[0]) or ["response"])  # a table without columns would have no rows
    for named in (columns or {}).values():
        keys.update(dict.fromkeys(named if isinstance(named, list | tuple) else [named] if named else []))
    fields, arrays = [], []
    for key in keys:
        array, is_json = _array([sample.get(key) for sample in samples])
        fields.append(pa.field(key, array.type, metadata=dict([JSON_MARK]) if is_json else None))
        arrays.append(array)
    schema = pa.schema(fields)
    return flatten(pa.Table.from_arrays(arrays, schema=schema), guess_roles(schema, columns))


def _array(values: list[Any]) -> tuple[pa.Array, bool]:
    """The values as an array, and whether as JSON text because they have no common type."""
    try:
        return pa.array(values), False
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        texts = [None if value is None else orjson.dumps(value, default=str).decode() for value in values]
        return pa.array(texts, TEXT), True
