"""How text rewards go over their columns: nulls stay null, and equal inputs are computed once.

The functions passed in get the text of one row as a Python string. This module knows no formula of a reward.

    map_pairs(response, reference, lambda text, gold: float(gold in text))    # list of float or None
    tokens = Memo(tokenize)                                                   # tokens[gold] tokenises gold once
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from rmbatch.rewards.contract import Scores
from rmbatch.rows.messages import TEXT

RowScore = tuple[float | None, str | None, str | None]
"""Score, error and reason of one row."""
NO_SCORE: RowScore = (None, None, None)
"""The score of a null; the contract names the column that is null."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class Memo(dict[_K, _V], Generic[_K, _V]):
    """A dict that computes a missing value from its key, so that each reference of a batch is prepared once."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _K) -> _V:
        value = self[key] = self._make(key)
        return value


def map_texts(response: pa.Array, score: Callable[[str], _V]) -> list[_V | None]:
    """``score`` of each text, None for null."""
    return [None if text is None else score(text) for text in response.to_pylist()]


def map_pairs(response: pa.Array, reference: pa.Array, score: Callable[[str, str], _V]) -> list[_V | None]:
    """``score`` of each pair of texts, None where either is null."""
    return [
        None if text is None or gold is None else score(text, gold)
        for text, gold in zip(response.to_pylist(), reference.to_pylist())
    ]


def map_different_pairs(response: pa.Array, reference: pa.Array, score: Callable[[str, str], _V]) -> list[_V | None]:
    """As ``map_pairs``, but equal pairs are scored once: for scores that cost more than a look-up."""
    pairs = list(zip(response.to_pylist(), reference.to_pylist()))
    scored: dict[Any, _V | None] = {pair: score(*pair) for pair in dict.fromkeys(pairs) if None not in pair}
    return [scored.get(pair) for pair in pairs]


def to_scores(scores: Iterable[RowScore | None], *, reasons: bool = True) -> Scores:
    """The scores of rows as the arrays of a batch; None is no score, and the contract writes its error."""
    rows = [NO_SCORE if score is None else score for score in scores]
    return Scores(
        pa.array([row[0] for row in rows], pa.float64()),
        pa.array([row[1] for row in rows], TEXT),
        pa.array([row[2] for row in rows], TEXT) if reasons else None,
    )


def to_floats(scores: Iterable[float | None]) -> pa.Array:
    """Scores as float64, None as null."""
    return pa.array(list(scores), pa.float64())


def both_valid(response: pa.Array, reference: pa.Array) -> pa.Array:
    """[n] bool: where neither is null."""
    return pc.and_(response.is_valid(), reference.is_valid())


def series(column: pa.Array) -> pl.Series:
    """A column of text as polars sees it, whose regular expressions (Rust's) take linear time on any text."""
    return pl.Series(pl.from_arrow(column.cast(TEXT)))


def check_pattern(name: str, pattern: str) -> str:
    """The pattern, if Rust's regex takes it. Raises UserError naming the knob ``name`` and the fault."""
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as fault:
        said = str(fault).split("\n\n")[0].splitlines()[-1].strip()
        raise UserError(
            f"{name}={pattern!r} is no regular expression ({said}); look-around and back-references are not taken, "
            "because they cannot be matched in linear time"
        ) from None
    return pattern


def score_too_long(what: str, size: int, limit: int) -> RowScore:
    """The score of a text that takes too long to score: null, with the code ``too_long``."""
    return None, f"too_long: {size:,} {what}, over the limit of {limit:,}", None
