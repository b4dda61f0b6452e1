"""A reward function or class with its knobs set; the result of each call is checked against the contract.

``contract.py`` says what a reward is, ``registry.py`` finds one by name, ``evaluation.py`` applies it to samples and
tables.

    rm = bind("f1_score", {"tokenizer": "words"})
    rm.evaluate({"response": "the cat", "reference": "a cat"})
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import isclass
from typing import Any

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.rewards.calling import call_reward
from rmbatch.rewards.contract import RewardSpec, Scores, normalise_scores, null_scores, spec_of
from rmbatch.rewards.evaluation import Columns, Offsets, Reward
from rmbatch.rewards.registry import resolve
from rmbatch.rows.roles import MissingColumnError


def bind(ref: str | Callable[..., Any], knobs: Mapping[str, Any]) -> "BoundReward":
    """The reward that ``ref`` names or is, with its knobs set. Raises UserError for wrong knobs or no reward."""
    return BoundReward(resolve(ref) if isinstance(ref, str) else spec_of(ref), knobs)


class BoundReward(Reward):
    """One function or class and its knobs. It pickles as its name (or the text of its file) and its knobs."""

    def __init__(self, spec: RewardSpec, knobs: Mapping[str, Any]) -> None:
        self.spec = spec
        self.name, self.columns, self.takes_offsets = spec.name, spec.columns, spec.takes_offsets
        self.optional = spec.form.optional
        self.knobs = spec.check_knobs(knobs)
        target: Any = spec.target
        made: Any = target(**self.knobs) if isclass(target) else partial(target, **self.knobs)
        self._call: Callable[..., Any] = made

    @property
    def part_names(self) -> Mapping[str, Sequence[str]]:
        return {"": ("reason",) if self.spec.writes_reason else ()}

    def score_parts(self, column: Columns, num_rows: int, offsets: Offsets | None = None) -> dict[str, Scores]:
        """As in ``Reward``; the function is not called for an empty batch."""
        if self.takes_offsets and offsets is None:
            raise UserError(
                f"reward {self.name!r} is {self.spec.kind}: it compares the responses of one prompt, so it needs rows "
                "with a list of `responses` (in a job also rows brought together by input.group)"
            )
        if num_rows == 0:
            return {"": null_scores(0)}
        columns = dict(self._read(column))
        call = partial(self._call, offsets=offsets) if self.takes_offsets else self._call
        given = call_reward(self.name, self.spec.form, call, columns, num_rows)
        needed = {name: array for name, array in columns.items() if name not in self.optional}
        return {"": normalise_scores(self.spec, given, needed, num_rows)}

    def _read(self, column: Columns) -> Iterator[tuple[str, pa.Array]]:
        """The columns that exist, by name."""
        for name in self.columns:
            try:
                yield name, column(name)
            except MissingColumnError:
                if name not in self.optional:
                    raise

    def __reduce__(self) -> tuple[Any, ...]:
        if self.spec.ref is None:
            return bind, (self.spec.target, self.knobs)
        return _rebuild, (self.spec.ref, self.spec.source, self.knobs)

    def __repr__(self) -> str:
        knobs = "".join(f", {key}={value!r}" for key, value in self.knobs.items())
        return f"reward({self.spec.ref or self.name!r}{knobs})"


def _rebuild(ref: str, source: str | None, knobs: Mapping[str, Any]) -> BoundReward:
    return BoundReward(resolve(ref, source), knobs)
