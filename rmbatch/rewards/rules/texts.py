"""How text rewards walk their columns: nulls stay null, equal inputs are computed once, long ones cost what they may.

The functions that are handed in see one row's text as Python strings. Nothing here knows a formula.

    per_pair(response, reference, lambda text, gold: float(gold in text))     # list of float or None
    prepared = Once(tokenize)                                                 # prepared[gold] tokenises gold once
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from rmbatch.rewards.contract import Scores
from rmbatch.rows.messages import TEXT

Verdict = tuple[float | None, str | None, str | None]
"""Score, error, reason."""
NOTHING: Verdict = (None, None, None)
"""The verdict on a null; the contract names the column that is null."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class Once(dict[_K, _V], Generic[_K, _V]):
    """A dict that makes a missing value of its key: what belongs to a reference is computed once per batch."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _K) -> _V:
        value = self[key] = self._make(key)
        return value


def per_text(response: pa.Array, score: Callable[[str], _V]) -> list[_V | None]:
    """``score`` of each text, None for null."""
    return [None if text is None else score(text) for text in response.to_pylist()]


def per_pair(response: pa.Array, reference: pa.Array, score: Callable[[str, str], _V]) -> list[_V | None]:
    """``score`` of each pair of texts, None where either is null."""
    return [
        None if text is None or gold is None else score(text, gold)
        for text, gold in zip(response.to_pylist(), reference.to_pylist())
    ]


def per_different_pair(response: pa.Array, reference: pa.Array, score: Callable[[str, str], _V]) -> list[_V | None]:
    """As ``per_pair``, for what costs more than a look-up: equal pairs of the batch are scored once, in order."""
    pairs = list(zip(response.to_pylist(), reference.to_pylist()))
    scored: dict[Any, _V | None] = {
        (text, gold): score(text, gold) for text, gold in dict.fromkeys(pairs) if _both(text, gold)
    }
    return [scored.get(pair) for pair in pairs]


def as_scores(verdicts: Iterable[Verdict | None], *, reasons: bool = True) -> Scores:
    """Verdicts as the arrays of a batch; None is no score, which the contract explains."""
    rows = [NOTHING if verdict is None else verdict for verdict in verdicts]
    return Scores(
        pa.array([row[0] for row in rows], pa.float64()),
        pa.array([row[1] for row in rows], TEXT),
        pa.array([row[2] for row in rows], TEXT) if reasons else None,
    )


def floats(scores: Iterable[float | None]) -> pa.Array:
    """Scores as float64, None as null."""
    return pa.array(list(scores), pa.float64())


def both_valid(response: pa.Array, reference: pa.Array) -> pa.Array:
    """[n] bool: where neither is null."""
    return pc.and_(response.is_valid(), reference.is_valid())


def series(column: pa.Array) -> pl.Series:
    """A column of text as polars sees it, whose regular expressions (Rust's) take linear time on any text."""
    return pl.Series(pl.from_arrow(column.cast(TEXT)))


def checked_pattern(name: str, pattern: str) -> str:
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


def too_long(what: str, size: int, limit: int) -> Verdict:
    """The verdict on a text that would cost more than a response may."""
    return None, f"too_long: {size:,} {what}, over the limit of {limit:,}", None


def _both(text: str | None, gold: str | None) -> bool:
    return text is not None and gold is not None
