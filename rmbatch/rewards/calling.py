"""Calls a reward function in its form: columns to what it takes, what it gives back to one Arrow array of numbers.

Which form a function has, ``forms.py``; the one form that all scores are brought to afterwards, ``contract.py``.
A result that is no number, or of the wrong length, is a RewardError that names the row.
"""

import asyncio
import json
import math
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
import numpy as np
import pyarrow as pa

from rmbatch.rewards.forms import OF_THE_TRAINER, Argument, Form, class_of
from rmbatch.rewards.scores import RewardError, Scores
from rmbatch.rows.messages import MESSAGES, TEXT
from rmbatch.rows.roles import EVERYTHING

IN_FLIGHT = 64
"""Coroutines of a reward that is called once a row, at a time."""
SHOWN = 60
"""Characters of a wrong result that are shown."""

Given = dict[str, pa.Array]
"""Columns by name; one that is not there is missing."""


class _UnreadableError(Exception):
    """A value is not what the reward's annotation says."""


def call_reward(name: str, form: Form, function: Callable[..., Any], columns: Given, num_rows: int) -> Any:
    """What the function gives for these columns: an array of numbers, or a ``Scores``."""
    if form.kind in ("row", "verl"):
        return _by_row(name, form, function, columns, num_rows)
    if form.kind == "trl":
        values = _trl_arguments(form, columns)
        given = finished(function(**values)) if form.is_async else function(**values)
    else:
        given = _of_columns(name, form, function, columns)
    return given


def _of_columns(name: str, form: Form, function: Callable[..., Any], columns: Given) -> Any:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in form.arguments:
        if argument.column not in columns:  # it has a default
            continue
        value = _whole(name, form, argument, columns[argument.column])
        if len(positional) == form.arguments.index(argument):
            positional.append(value)
        else:
            named[argument.name] = value
    try:
        given = function(*positional, **named)
        given = finished(given) if form.is_async else given
    except (AttributeError, TypeError) as fault:
        if form.is_said:
            raise
        raise RewardError(
            f"reward {name!r} raised {type(fault).__name__}: {fault}; nothing is annotated, so it was given whole "
            f"Arrow columns; for a row at a time write `def {name}(response: str) -> float`"
        ) from fault
    if isinstance(given, list) and not form.is_said:
        raise RewardError(
            f"reward {name!r} gave a list and nothing is annotated, so it was given Arrow columns, whose items never "
            f"equal a str; write `def {name}(response: list[str]) -> list[float]`"
        )
    return given


def _whole(name: str, form: Form, argument: Argument, column: pa.Array) -> Any:
    if form.kind == "numpy":
        return column.to_numpy(zero_copy_only=False)
    if form.kind == "pandas":
        return column.to_pandas()
    if form.kind == "polars":
        import polars as pl

        return pl.Series(argument.name, pl.from_arrow(column))
    return _listed(name, argument, column) if form.kind == "list" else column


def _listed(name: str, argument: Argument, column: pa.Array) -> list[Any]:
    """The column as a list; a prompt as text where the annotation says list[str]."""
    items = get_args(argument.annotation)
    values: list[Any] = column.to_pylist()
    if column.type != MESSAGES or not items or class_of(items[0]) != "value" or not _is_text(items[0]):
        return values
    read = []
    for row, value in enumerate(values):
        try:
            read.append(_one_text(value))
        except _UnreadableError as fault:
            raise RewardError(f"reward {name!r} cannot read {argument.name}: {fault}", row) from None
    return read


def _trl_arguments(form: Form, columns: Given) -> dict[str, Any]:
    """What TRL would pass: lists, conversations as messages, all other columns by their names."""
    rest = columns[EVERYTHING]
    values: dict[str, Any] = {field.name: rest.field(field.name).to_pylist() for field in rest.type}
    completions, prompts = values.pop("completion"), values.pop("prompt", None)
    values |= {name: None if name == "trainer_state" else _log_nothing for name in OF_THE_TRAINER}
    for argument in form.arguments:
        if argument.name == "completions":
            values["completions"] = completions
        elif argument.name == "prompts":
            values["prompts"] = prompts
        elif argument.column in columns:
            values[argument.name] = columns[argument.column].to_pylist()
        else:
            values.pop(argument.name, None)  # its default
    named = {argument.name for argument in form.arguments}
    return {
        key: value
        for key, value in values.items()
        if key in named or (form.takes_rest and key not in form.keyword_only)
    }


def _log_nothing(*_: Any, **__: Any) -> None:
    """TRL's functions may log; outside its trainer there is nothing to log to."""


def _by_row(name: str, form: Form, function: Callable[..., Any], columns: Given, num_rows: int) -> Scores:
    """Called once a row; a null that the function does not take, and a value it cannot read, is no score."""
    calls: list[dict[str, Any] | None] = []
    errors: list[str | None] = [None] * num_rows
    listed = {column: array.to_pylist() for column, array in columns.items()}
    for row in range(num_rows):
        try:
            calls.append(_row_arguments(form, {column: values[row] for column, values in listed.items()}))
        except _UnreadableError as fault:
            errors[row] = f"unreadable_value: {fault}"
            calls.append(None)
    if form.is_async:
        given = finished(_all(function, form, calls))
    else:
        given = [None if call is None else _called(function, form, call) for call in calls]
    scores, reasons = [], []
    for row, result in enumerate(given):
        more = None
        if form.kind == "verl" and isinstance(result, Mapping):
            if "score" not in result:
                raise RewardError(f"reward {name!r} gave a dict without 'score'", row)
            more = {key: value for key, value in result.items() if key != "score"}
            result = result["score"]
        scores.append(number(name, result, row))
        reasons.append(json.dumps(more, default=str, ensure_ascii=False) if more and form.returns_dict else None)
    reason = pa.array(reasons, TEXT) if form.returns_dict else None
    return Scores(pa.array(scores, pa.float64()), pa.array(errors, TEXT), reason)


def _called(function: Callable[..., Any], form: Form, arguments: dict[str, Any]) -> Any:
    by_position = [argument.name for argument in form.arguments if argument.by_position]
    positional = [arguments.pop(name) for name in by_position if name in arguments]
    return function(*positional, **arguments)


async def _all(function: Callable[..., Any], form: Form, calls: Sequence[dict[str, Any] | None]) -> list[Any]:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(arguments: dict[str, Any]) -> Any:
        async with slots:
            return await _called(function, form, arguments)

    async def nothing() -> None:
        return None

    return await asyncio.gather(*(nothing() if call is None else one(call) for call in calls))


def _row_arguments(form: Form, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of one row; None where a value is null that has to be there."""
    arguments: dict[str, Any] = {}
    for argument in form.arguments:
        value = values.get(argument.column)
        if value is not None:
            arguments[argument.name] = _read(argument, value)
        elif argument.required and not argument.takes_null:
            return None
        elif argument.required:
            arguments[argument.name] = None
    if form.takes_rest:
        rest = values[EVERYTHING]
        known = {"completion", *form.keyword_only, *(argument.name for argument in form.arguments)}
        arguments |= {key: value for key, value in rest.items() if key not in known}
    return arguments


def _read(argument: Argument, value: Any) -> Any:
    """A row's value as the annotation wants it: a prompt as text, a reference as a number, JSON as what it holds."""
    annotation = argument.annotation
    if argument.column == "prompt" and _is_text(annotation):
        return _one_text(value)
    if not isinstance(value, str):
        return value
    wanted = next((kind for kind in _members(annotation) if kind in _READ or _is_nested(kind)), None)
    if wanted is None:
        return value
    with suppress(ValueError, KeyError, RecursionError):
        read = _READ.get(wanted, msgspec.json.decode)(value)
        if wanted in _READ or isinstance(read, tuple(filter(_is_nested, _members(annotation)))):
            return read
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
    raise _UnreadableError(f"{argument.name} is {shown!r}, and the reward's annotation says otherwise")


_READ: dict[Any, Callable[[str], Any]] = {
    str: str,
    bool: lambda text: {"true": True, "false": False}[text.strip().lower()],
    int: int,
    float: float,
}
"""Text as a value of another type: the role `reference` is text, and so is JSON."""


def _members(annotation: Any) -> list[Any]:
    """The types of an annotation, those of its union, without what they hold."""
    several = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return sorted((get_origin(each) or each for each in several), key=lambda kind: kind is not str)


def _is_nested(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, (Mapping, Sequence)) and not issubclass(kind, str)


def _is_text(annotation: Any) -> bool:
    return str in _members(annotation) or annotation == "str"


def _one_text(messages: Any) -> Any:
    """The text of a prompt that is one message."""
    if messages is None or isinstance(messages, str):
        return messages
    if len(messages) != 1:
        raise _UnreadableError(f"a conversation of {len(messages)} messages is no str; annotate it list[dict]")
    return messages[0]["content"]


def as_array(name: str, given: Any, num_rows: int) -> Any:
    """What a reward gave for a batch, as an Arrow array."""
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return given
    root = type(given).__module__.partition(".")[0]
    if root == "polars" and hasattr(given, "to_arrow"):
        return given.to_arrow()
    if isinstance(given, np.generic) or not isinstance(given, list | tuple):
        if not hasattr(given, "__array__") or np.ndim(given) != 1:
            raise RewardError(
                f"reward {name!r} gave a {type(given).__name__} as score; one number for each of the {num_rows} "
                f"responses is needed, as a list or an array; for a row at a time write "
                f"`def {name}(response: str) -> float`"
            )
        given = np.asarray(given)
        if given.dtype != object:
            return pa.array(given)
        given = given.tolist()
    if len(given) != num_rows:
        raise RewardError(f"reward {name!r} gave {len(given)} scores for {num_rows} responses")
    return pa.array([number(name, value, row) for row, value in enumerate(given)], pa.float64())


def number(name: str, value: Any, row: int) -> float | None:
    """The number that a reward gave for a row; raises RewardError for what is none."""
    if value is None or type(value).__name__ == "NAType":  # pandas' own null
        return None
    if isinstance(value, pa.Scalar):
        return number(name, value.as_py(), row)
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", None) == 0):
        value = value.item()
    if isinstance(value, bool | int | float | Decimal | Fraction):
        try:
            return float(value)
        except (OverflowError, ValueError):  # beyond any float; a signalling NaN
            return math.inf
    shown = repr(value) if len(repr(value)) <= SHOWN else f"{repr(value)[:SHOWN]}…"
    message = f"reward {name!r} gave {shown} (a {type(value).__name__}); a number is needed, or None for no score"
    raise RewardError(message, row)


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine comes to: one event loop for all of them, so that what they opened stays usable."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid())).result()


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of this process: a thread does not survive a fork."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"rmbatch-rewards-{process}", daemon=True).start()
    return loop
