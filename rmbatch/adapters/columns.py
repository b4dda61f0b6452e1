"""Reads columns of a dataset as an adapter needs them, whatever form the files gave them.

A column may be absent, may be JSON text because its values had no common type, and may have odd values in a twin
(``connectors/schema.py``). Each function here gives one value a row; a value of another kind is null.

    read_text(table, "response")                  # large_string; a conversation: what the assistant says
    read_conversations(table, "context")          # large_list<struct<role, content>>
    read_numbers(table, "helpfulness")            # double
    read_values(table, "completions")             # a list of Python values, for columns of a deep shape
"""

from math import isfinite
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from connectors.schema import find_twins, is_json
from rmbatch.rows.messages import MESSAGES, TEXT, combine_chunks, is_list, is_text, value_text
from rmbatch.rows.roles import Roles, flatten

TEXTS = pa.large_list(TEXT)
NUMBERS = pa.large_list(pa.float64())
TRUTHS = pa.large_list(pa.bool_())


def read_text(table: pa.Table, name: str) -> pa.Array:
    """The text of each row, large_string; of steps and of conversations as ``response_text`` reads them."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, TEXT)
    return flatten(table, Roles(response=name)).column("response")


def read_plain(table: pa.Table, name: str) -> pa.Array:
    """A name or another short value as text, large_string: numbers and truth values as JSON writes them."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, TEXT)
    kind = table.schema.field(name).type
    if is_text(kind) and not is_json(table.schema.field(name)) and name not in find_twins(table.schema):
        return combine_chunks(table[name])
    return pa.array([value_text(value) for value in read_values(table, name)], TEXT)


def read_conversations(table: pa.Table, name: str) -> pa.Array:
    """The conversation of each row, large_list<struct<role, content>>; plain text is one message of the user."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, MESSAGES)
    return flatten(table, Roles(prompt=name)).column("prompt")


def read_numbers(table: pa.Table, name: str) -> pa.Array:
    """The number of each row, double. Text that writes a number is one; what is not finite is null."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.float64())
    kind = table.schema.field(name).type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        numbers = pc.cast(combine_chunks(table[name]), pa.float64(), safe=False)
        twin = find_twins(table.schema).get(name)
        if twin is None or table[twin].null_count == table.num_rows:
            return pc.if_else(pc.is_finite(numbers), numbers, None)
    return pa.array([number_of(value) for value in read_values(table, name)], pa.float64())


def read_values(table: pa.Table, name: str) -> list[Any]:
    """The value of each row as a Python value: JSON text decoded, odd values in their places. Null where absent."""
    if name not in table.column_names:
        return [None] * table.num_rows
    field = table.schema.field(name)
    values: list[Any] = table[name].to_pylist()
    if is_json(field):
        values = [decode(value) for value in values]
    twin = find_twins(table.schema).get(name)
    if twin is not None and table[twin].null_count < table.num_rows:
        odd = table[twin].to_pylist()
        values = [value if other is None else decode(other) for value, other in zip(values, odd)]
    return values


def decode(text: Any) -> Any:
    """What JSON text stands for; null where it is none."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None


def number_of(value: Any) -> float | None:
    """A number, or text that writes one (``"4.0"``); None for all else, also ``"N/A"`` and what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def require_list(table: pa.Table, name: str, what: str) -> None:
    """Raises UserError where a column can hold no lists."""
    field = table.schema.field(name)
    if not (is_list(field.type) or pa.types.is_null(field.type) or is_json(field)):
        raise UserError(f"column {name!r} is {field.type}; {what} is a list")
