"""Calls a reward function: converts columns to its arguments, and its result to one Arrow array of numbers.

``forms.py`` says how a function is called; ``contract.py`` then checks all scores. A result that is no number, or of
the wrong length, is a RewardError that names the row.
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

from rmbatch.rewards.forms import TRAINER_ARGUMENTS, Argument, Form, class_of
from rmbatch.rewards.scores import RewardError, Scores
from rmbatch.rows.messages import MESSAGES, TEXT
from rmbatch.rows.roles import ALL_COLUMNS

IN_FLIGHT = 64
"""Coroutines that run at a time, for a reward that is called once a row."""
SHOWN = 60
"""Characters of a wrong result in an error message."""

Given = dict[str, pa.Array]
"""The columns that exist, by name."""


class _UnreadableError(Exception):
    """A value that does not fit the reward's annotation."""


def call_reward(name: str, form: Form, function: Callable[..., Any], columns: Given, num_rows: int) -> Any:
    """Call the function for these columns; it gives an array of numbers, or a ``Scores``."""
    if form.kind in ("row", "verl"):
        return _call_by_row(name, form, function, columns, num_rows)
    if form.kind == "trl":
        given = function(**_trl_arguments(form, columns))
        return run_coroutine(given) if form.is_async else given
    return _call_on_columns(name, form, function, columns)


def _call_on_columns(name: str, form: Form, function: Callable[..., Any], columns: Given) -> Any:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in form.arguments:
        if argument.column not in columns:  # it has a default
            continue
        value = _convert_column(name, form, argument, columns[argument.column])
        if len(positional) == form.arguments.index(argument):
            positional.append(value)
        else:
            named[argument.name] = value
    try:
        given = function(*positional, **named)
        given = run_coroutine(given) if form.is_async else given
    except (AttributeError, TypeError) as fault:
        if form.is_annotated:
            raise
        raise RewardError(
            f"reward {name!r} raised {type(fault).__name__}: {fault}; nothing is annotated, so it was given whole "
            f"Arrow columns; for a row at a time write `def {name}(response: str) -> float`"
        ) from fault
    if isinstance(given, list) and not form.is_annotated:
        raise RewardError(
            f"reward {name!r} gave a list and nothing is annotated, so it was given Arrow columns, whose items never "
            f"equal a str; write `def {name}(response: list[str]) -> list[float]`"
        )
    return given


def _convert_column(name: str, form: Form, argument: Argument, column: pa.Array) -> Any:
    if form.kind == "numpy":
        return column.to_numpy(zero_copy_only=False)
    if form.kind == "pandas":
        return column.to_pandas()
    if form.kind == "polars":
        import polars as pl

        return pl.Series(argument.name, pl.from_arrow(column))
    return _convert_to_list(name, argument, column) if form.kind == "list" else column


def _convert_to_list(name: str, argument: Argument, column: pa.Array) -> list[Any]:
    """The column as a list; a prompt as text where the annotation says list[str]."""
    items = get_args(argument.annotation)
    values: list[Any] = column.to_pylist()
    if column.type != MESSAGES or not items or class_of(items[0]) != "value" or not _is_text(items[0]):
        return values
    read = []
    for row, value in enumerate(values):
        try:
            read.append(_read_single_message(value))
        except _UnreadableError as fault:
            raise RewardError(f"reward {name!r} cannot read {argument.name}: {fault}", row) from None
    return read


def _trl_arguments(form: Form, columns: Given) -> dict[str, Any]:
    """The arguments that TRL would pass: lists, conversations as messages, all other columns by their names."""
    rest = columns[ALL_COLUMNS]
    values: dict[str, Any] = {field.name: rest.field(field.name).to_pylist() for field in rest.type}
    completions, prompts = values.pop("completion"), values.pop("prompt", None)
    values |= {name: None if name == "trainer_state" else _log_nothing for name in TRAINER_ARGUMENTS}
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
    """TRL's functions may log; outside of its trainer their logs go nowhere."""


def _call_by_row(name: str, form: Form, function: Callable[..., Any], columns: Given, num_rows: int) -> Scores:
    """Call the function once a row. A null that it does not take and a value that it cannot read give no score."""
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
        given = run_coroutine(_call_all(function, form, calls))
    else:
        given = [None if call is None else _call_once(function, form, call) for call in calls]
    scores, reasons = [], []
    for row, result in enumerate(given):
        more = None
        if form.kind == "verl" and isinstance(result, Mapping):
            if "score" not in result:
                raise RewardError(f"reward {name!r} gave a dict without 'score'", row)
            more = {key: value for key, value in result.items() if key != "score"}
            result = result["score"]
        scores.append(to_number(name, result, row))
        reasons.append(json.dumps(more, default=str, ensure_ascii=False) if more and form.returns_dict else None)
    reason = pa.array(reasons, TEXT) if form.returns_dict else None
    return Scores(pa.array(scores, pa.float64()), pa.array(errors, TEXT), reason)


def _call_once(function: Callable[..., Any], form: Form, arguments: dict[str, Any]) -> Any:
    by_position = [argument.name for argument in form.arguments if argument.by_position]
    positional = [arguments.pop(name) for name in by_position if name in arguments]
    return function(*positional, **arguments)


async def _call_all(function: Callable[..., Any], form: Form, calls: Sequence[dict[str, Any] | None]) -> list[Any]:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(arguments: dict[str, Any]) -> Any:
        async with slots:
            return await _call_once(function, form, arguments)

    async def nothing() -> None:
        return None

    return await asyncio.gather(*(nothing() if call is None else one(call) for call in calls))


def _row_arguments(form: Form, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of one row; None where a required value is null."""
    arguments: dict[str, Any] = {}
    for argument in form.arguments:
        value = values.get(argument.column)
        if value is not None:
            arguments[argument.name] = _read_value(argument, value)
        elif argument.required and not argument.takes_null:
            return None
        elif argument.required:
            arguments[argument.name] = None
    if form.takes_rest:
        rest = values[ALL_COLUMNS]
        known = {"completion", *form.keyword_only, *(argument.name for argument in form.arguments)}
        arguments |= {key: value for key, value in rest.items() if key not in known}
    return arguments


def _read_value(argument: Argument, value: Any) -> Any:
    """A row's value as the annotation wants it: a prompt as text, a reference as a number, JSON text as its value."""
    annotation = argument.annotation
    if argument.column == "prompt" and _is_text(annotation):
        return _read_single_message(value)
    if not isinstance(value, str):
        return value
    wanted = next((kind for kind in _union_members(annotation) if kind in _PARSERS or _is_nested(kind)), None)
    if wanted is None:
        return value
    with suppress(ValueError, KeyError, RecursionError):
        read = _PARSERS.get(wanted, msgspec.json.decode)(value)
        if wanted in _PARSERS or isinstance(read, tuple(filter(_is_nested, _union_members(annotation)))):
            return read
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
    raise _UnreadableError(f"{argument.name} is {shown!r}, and the reward's annotation says otherwise")


_PARSERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    bool: lambda text: {"true": True, "false": False}[text.strip().lower()],
    int: int,
    float: float,
}
"""Text as a value of another type: the role `reference` is text, and so is JSON."""


def _union_members(annotation: Any) -> list[Any]:
    """The types of an annotation or of its union, without their parameters."""
    several = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return sorted((get_origin(each) or each for each in several), key=lambda kind: kind is not str)


def _is_nested(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, (Mapping, Sequence)) and not issubclass(kind, str)


def _is_text(annotation: Any) -> bool:
    return str in _union_members(annotation) or annotation == "str"


def _read_single_message(messages: Any) -> Any:
    """The text of a prompt that is one message."""
    if messages is None or isinstance(messages, str):
        return messages
    if len(messages) != 1:
        raise _UnreadableError(f"a conversation of {len(messages)} messages is no str; annotate it list[dict]")
    return messages[0]["content"]


def to_array(name: str, given: Any, num_rows: int) -> Any:
    """A reward's result for a batch, as an Arrow array."""
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
    return pa.array([to_number(name, value, row) for row, value in enumerate(given)], pa.float64())


def to_number(name: str, value: Any, row: int) -> float | None:
    """A reward's result for a row as a float; raises RewardError where it is no number."""
    if value is None or type(value).__name__ == "NAType":  # pandas' own null
        return None
    if isinstance(value, pa.Scalar):
        return to_number(name, value.as_py(), row)
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


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine. All run on one event loop, so that their open connections stay usable."""
    return asyncio.run_coroutine_threadsafe(coroutine, _event_loop(os.getpid())).result()


@cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of this process: a thread does not survive a fork."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"rmbatch-rewards-{process}", daemon=True).start()
    return loop
