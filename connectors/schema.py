"""One schema for all files of an input: columns united, types widened only where no value can change, else refused.

A column that only some files have is null in the others. Integers widen to wider integers, float32 to float64, a column
without any value takes the other files' type. Whatever would change a value (text and number, int64 and double) is a
UserError that names the column and two files.

JSONL has no schema, so its own lattice is wider: values of different kinds in one column are kept as JSON text, and
the column says so in its field metadata (``is_json``), which Parquet carries and the JSONL writer reads to write plain
JSON.

    schema = unite([("a.parquet", schema_a), ("b.parquet", schema_b)])
    table = conform(table, schema)          # missing columns null, types cast, order as planned
    schema_from_text(schema_to_text(schema))
"""

import base64
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from connectors.errors import UserError

HIDDEN = "_rmbatch."
"""Prefix of the columns that travel with a row from reader to writer and are never written."""
UNIT = HIDDEN + "unit"
"""int32: the index of the row's unit in the plan."""
ROW = HIDDEN + "row"
"""int64: the row's ordinal inside its unit, from 0."""
DEAD = HIDDEN + "dead"
"""struct or null: why this row cannot be processed, see DEAD_TYPE."""
OUTCOME = HIDDEN + "outcome"
"""int8: KEPT or REJECTED, set by the last stage; rows with DEAD need none."""

KEPT, REJECTED, DEAD_LETTER = 0, 1, 2

ORIGIN_URI = HIDDEN + "origin_uri"
ORIGIN_ROW = HIDDEN + "origin_row"
"""Where a row came from: its input file, and its ordinal in it; a shuffle moves a row and keeps these."""

DEAD_TYPE = pa.struct(
    [
        ("code", pa.string()),
        ("message", pa.string()),
        ("line", pa.int64()),
        ("offset", pa.int64()),
        ("raw", pa.binary()),
    ]
)

JSON_METADATA = {b"rmbatch.type": b"json"}
JSON_TYPE = pa.string()


def json_field(name: str) -> pa.Field:
    """A text column whose values are JSON documents."""
    return pa.field(name, JSON_TYPE, metadata=JSON_METADATA)


def is_json(field: pa.Field) -> bool:
    """Whether the column holds JSON text in place of values of different kinds."""
    return bool(field.metadata) and field.metadata.get(b"rmbatch.type") == b"json"


TWIN_OF = b"rmbatch.odd_values_of"
"""Field metadata of a column that holds another column's odd values as JSON text: the other's name."""
TWIN = "odd."
"""Prefix of such a column's name."""
STRICT_METADATA = {b"rmbatch.odd_values": b"dead_letter"}


def twin_field(name: str) -> pa.Field:
    """The column beside ``name`` for the values of its odd rows, as JSON text."""
    return pa.field(TWIN + name, JSON_TYPE, metadata={**JSON_METADATA, TWIN_OF: name.encode()})


def twins_of(schema: pa.Schema) -> dict[str, str]:
    """By column: the one that holds the values of its odd rows."""
    marked = ((item.name, (item.metadata or {}).get(TWIN_OF)) for item in schema)
    found = {of.decode(): name for name, of in marked if of is not None}
    return {name: twin for name, twin in found.items() if name in schema.names}


def with_twins(names: Iterable[str], schema: pa.Schema) -> list[str]:
    """The columns, and with each the one that it shares its values with."""
    found = dict.fromkeys(names)
    for name, twin in twins_of(schema).items():
        if name in found or twin in found:
            found |= {name: None, twin: None}
    return list(found)


def is_strict(field: pa.Field) -> bool:
    """Whether a row becomes a dead letter where the column's type does not hold its value."""
    return bool(field.metadata) and STRICT_METADATA.items() <= field.metadata.items()


def unite(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """The schema that holds every file's rows unchanged; raises UserError where no such schema exists."""
    fields: dict[str, pa.Field] = {}
    origin: dict[str, str] = {}
    for file, schema in schemas:
        _check_names(file, schema)
        for new in schema:
            old = fields.get(new.name)
            if old is None:
                fields[new.name], origin[new.name] = new.with_nullable(True), file
                continue
            if is_json(old) != is_json(new) and not pa.types.is_null(old.type) and not pa.types.is_null(new.type):
                raise UserError(
                    f"column {new.name!r} holds JSON text in one of {origin[new.name]} and {file}, and plain values in "
                    "the other; run the files as two jobs"
                )
            if old.type.equals(new.type):
                continue
            try:
                kind = widen(old.type, new.type)
            except TypeError:
                raise UserError(
                    f"column {new.name!r} is {old.type} in {origin[new.name]} and {new.type} in {file}: "
                    "no type holds both unchanged; convert one of them, or run the files as two jobs"
                ) from None
            if not kind.equals(old.type):
                origin[new.name] = file
            known = new if pa.types.is_null(old.type) else old  # a column without values says nothing of its kind
            fields[new.name] = known.with_type(kind).with_nullable(True)
    return pa.schema(list(fields.values()))


def widen(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """The narrowest type that holds every value of both; raises TypeError when there is none."""
    if left.equals(right) or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    if pa.types.is_integer(left) and pa.types.is_integer(right):
        return _wider_integer(left, right)
    if pa.types.is_floating(left) and pa.types.is_floating(right):
        return left if left.bit_width >= right.bit_width else right
    for integer, other in ((left, right), (right, left)):
        if pa.types.is_integer(integer) and pa.types.is_float64(other) and integer.bit_width <= 32:
            return other
    for is_kind, large in (
        (_is_text, pa.large_string()),
        (_is_bytes, pa.large_binary()),
    ):
        if is_kind(left) and is_kind(right):
            return large
    if _is_list(left) and _is_list(right):
        item = left.value_field.with_type(widen(left.value_type, right.value_type)).with_nullable(True)
        large = pa.types.is_large_list(left) or pa.types.is_large_list(right)
        return pa.large_list(item) if large else pa.list_(item)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return _wider_struct(left, right)
    raise TypeError(f"{left} and {right}")


def _wider_integer(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    signed = [pa.types.is_signed_integer(kind) for kind in (left, right)]
    if signed[0] == signed[1]:
        return left if left.bit_width >= right.bit_width else right
    unsigned, other = (right, left) if signed[0] else (left, right)
    bits = max(other.bit_width, 2 * unsigned.bit_width)
    if bits > 64:
        raise TypeError(f"{left} and {right}")
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _wider_struct(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    fields = {field.name: field.with_nullable(True) for field in left}
    for field in right:
        known = fields.get(field.name)
        kind = field.type if known is None else widen(known.type, field.type)
        fields[field.name] = field.with_type(kind).with_nullable(True)
    return pa.struct(list(fields.values()))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _check_names(file: str, schema: pa.Schema) -> None:
    seen = set()
    for name in schema.names:
        if name in seen:
            raise UserError(f"{file} has two columns named {name!r}; rename one of them")
        if name.startswith(HIDDEN):
            raise UserError(f"{file} has a column {name!r}; names that start with {HIDDEN!r} are reserved, rename it")
        seen.add(name)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns of ``schema``: absent ones null, types cast without loss or ArrowInvalid."""
    if table.schema.equals(schema, check_metadata=True):
        return table
    columns = []
    for field in schema:
        index = table.schema.get_field_index(field.name)
        if index < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            column = table.column(index)
            columns.append(column if column.type.equals(field.type) else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def add_address(
    table: pa.Table, unit: int, first_row: int, *, uri: str, first_origin_row: int, dead: pa.Array | None = None
) -> pa.Table:
    """The table with its hidden columns: each row's address, where it came from, and why it is dead if it is."""
    num_rows = table.num_rows
    table = table.append_column(pa.field(UNIT, pa.int32()), pa.repeat(pa.scalar(unit, pa.int32()), num_rows))
    table = table.append_column(ROW, pa.array(np.arange(first_row, first_row + num_rows)))
    if DEAD in table.column_names:  # a shuffle has written the others
        return table
    uris = pa.DictionaryArray.from_arrays(np.zeros(num_rows, np.int32), pa.array([uri]))
    table = table.append_column(ORIGIN_URI, uris)
    table = table.append_column(ORIGIN_ROW, pa.array(np.arange(first_origin_row, first_origin_row + num_rows)))
    return table.append_column(pa.field(DEAD, DEAD_TYPE), pa.nulls(num_rows, DEAD_TYPE) if dead is None else dead)


def visible_columns(table: pa.Table) -> pa.Table:
    """Only the columns that a user knows of."""
    return table.select([name for name in table.column_names if not name.startswith(HIDDEN)])


def schema_to_text(schema: pa.Schema) -> str:
    """The schema as base64 of its Arrow IPC form, for a JSON file."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """The schema that ``schema_to_text`` wrote."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))
