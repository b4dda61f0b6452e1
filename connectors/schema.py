"""Unites the schemas of all files of an input. A type is widened only where no value can change.

A column that only some files have is null in the others. Integers become wider integers, float32 becomes float64, and a
column without any value takes the type of the other files. Types that cannot be united without changing a value (text
and number, int64 and double) are a UserError that names the column and two files.

JSONL files have no schema. There, a column with values of different kinds is kept as JSON text. Its field metadata says
so (``is_json``). Parquet files keep this metadata, and the JSONL writer then writes plain JSON.

    schema = unite([("a.parquet", schema_a), ("b.parquet", schema_b)])
    table = conform(table, schema)          # absent columns become null, types are cast, the order is the schema's
    schema_from_text(schema_to_text(schema))
"""

import base64
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from connectors.errors import UserError

HIDDEN = "_rmbatch."
"""Prefix of hidden columns. They go with a row from reader to writer and are never written to the output."""
UNIT = HIDDEN + "unit"
"""int32: the index in the plan of the row's unit."""
ROW = HIDDEN + "row"
"""int64: the row's ordinal inside its unit, from 0."""
DEAD = HIDDEN + "dead"
"""struct or null: why the row cannot be processed, see DEAD_TYPE."""
OUTCOME = HIDDEN + "outcome"
"""int8: KEPT or REJECTED. The last stage sets it. Rows with DEAD need none."""

KEPT, REJECTED, DEAD_LETTER = 0, 1, 2

ORIGIN_URI = HIDDEN + "origin_uri"
ORIGIN_ROW = HIDDEN + "origin_row"
"""The input file of a row, and the row's ordinal in it. A shuffle moves rows but keeps these values."""

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
    """Make the field of a text column whose values are JSON documents."""
    return pa.field(name, JSON_TYPE, metadata=JSON_METADATA)


def is_json(field: pa.Field) -> bool:
    """Whether the column holds JSON text because its values are of different kinds."""
    return bool(field.metadata) and field.metadata.get(b"rmbatch.type") == b"json"


TWIN_OF = b"rmbatch.odd_values_of"
"""Field metadata of a twin, the column with the odd values of another column as JSON text: that column's name."""
TWIN = "odd."
"""Prefix of a twin's name."""
STRICT_METADATA = {b"rmbatch.odd_values": b"dead_letter"}


def twin_field(name: str) -> pa.Field:
    """Make the twin of column ``name``: it holds the values of odd rows as JSON text."""
    return pa.field(TWIN + name, JSON_TYPE, metadata={**JSON_METADATA, TWIN_OF: name.encode()})


def find_twins(schema: pa.Schema) -> dict[str, str]:
    """Find the twin of each column that has one."""
    marked = ((item.name, (item.metadata or {}).get(TWIN_OF)) for item in schema)
    found = {of.decode(): name for name, of in marked if of is not None}
    return {name: twin for name, twin in found.items() if name in schema.names}


def add_twins(names: Iterable[str], schema: pa.Schema) -> list[str]:
    """Add to the columns their twins, and the columns whose twins are among them."""
    found = dict.fromkeys(names)
    for name, twin in find_twins(schema).items():
        if name in found or twin in found:
            found |= {name: None, twin: None}
    return list(found)


def is_strict(field: pa.Field) -> bool:
    """Whether an odd value in this column makes its row a dead letter."""
    return bool(field.metadata) and STRICT_METADATA.items() <= field.metadata.items()


def unite(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """Find the schema that holds the rows of all files unchanged. Raises UserError where there is none."""
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
            known = new if pa.types.is_null(old.type) else old  # a column without values has no kind yet
            fields[new.name] = known.with_type(kind).with_nullable(True)
    return pa.schema(list(fields.values()))


def widen(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """Find the narrowest type that holds every value of both types. Raises TypeError where there is none."""
    if left.equals(right) or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    if pa.types.is_integer(left) and pa.types.is_integer(right):
        return _widen_integers(left, right)
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
        return _widen_structs(left, right)
    raise TypeError(f"{left} and {right}")


def _widen_integers(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    signed = [pa.types.is_signed_integer(kind) for kind in (left, right)]
    if signed[0] == signed[1]:
        return left if left.bit_width >= right.bit_width else right
    unsigned, other = (right, left) if signed[0] else (left, right)
    bits = max(other.bit_width, 2 * unsigned.bit_width)
    if bits > 64:
        raise TypeError(f"{left} and {right}")
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _widen_structs(left: pa.DataType, right: pa.DataType) -> pa.DataType:
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
    """Give the table the columns of ``schema``. Absent ones are null. Raises ArrowInvalid where a cast loses values."""
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
    """Add the hidden columns: each row's address, its origin, and why it is dead, if it is."""
    num_rows = table.num_rows
    table = table.append_column(pa.field(UNIT, pa.int32()), pa.repeat(pa.scalar(unit, pa.int32()), num_rows))
    table = table.append_column(ROW, pa.array(np.arange(first_row, first_row + num_rows)))
    if DEAD in table.column_names:  # rows of a shuffle have the other hidden columns already
        return table
    uris = pa.DictionaryArray.from_arrays(np.zeros(num_rows, np.int32), pa.array([uri]))
    table = table.append_column(ORIGIN_URI, uris)
    table = table.append_column(ORIGIN_ROW, pa.array(np.arange(first_origin_row, first_origin_row + num_rows)))
    return table.append_column(pa.field(DEAD, DEAD_TYPE), pa.nulls(num_rows, DEAD_TYPE) if dead is None else dead)


def visible_columns(table: pa.Table) -> pa.Table:
    """Remove the hidden columns."""
    return table.select([name for name in table.column_names if not name.startswith(HIDDEN)])


def schema_to_text(schema: pa.Schema) -> str:
    """Encode the schema for a JSON file: its Arrow IPC form in base64."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """Decode what ``schema_to_text`` encoded."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))
