"""Converts tables (Arrow, pandas, polars, ``datasets``, lists of dicts) to Arrow, and adds columns to the originals.

A library is imported only when somebody passes one of its tables.

    as_table(frame)                              # pa.Table; columns without a common type as JSON text
    with_columns(frame, {"score.math": scores})  # the same kind of table, columns added, nothing else changed
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.rows.messages import TEXT
from rmbatch.rows.roles import JSON_MARK


def as_table(given: Any) -> pa.Table:
    """The table as Arrow. Raises UserError where it is no table."""
    if isinstance(given, pa.Table):
        return given
    if isinstance(given, pa.RecordBatch):
        return pa.Table.from_batches([given])
    kind = _kind(given)
    if kind == "pandas":
        return build_table(
            {str(name): given[name] for name in given.columns}, lambda series: pa.array(series, from_pandas=True)
        )
    if kind == "polars":
        return given.to_arrow()
    if kind == "datasets":
        return given.with_format("arrow")[:]
    if kind == "rows":
        names = dict.fromkeys(name for row in given for name in row)
        return build_table({name: [row.get(name) for row in given] for name in names})
    shown = repr(given) if len(repr(given)) <= 60 else f"{repr(given)[:60]}…"
    cure = "for one sample, a dict, use evaluate" if isinstance(given, Mapping) else "read a file first"
    raise UserError(
        f"a table is needed (Arrow, pandas, polars, datasets.Dataset, or a list of dicts), got {shown}; {cure}"
    )


def with_columns(given: Any, columns: Mapping[str, pa.Array]) -> Any:
    """The same kind of table with these columns added."""
    kind = _kind(given)
    if kind == "pandas":
        added = {name: _as_pandas(array, given.index) for name, array in columns.items()}
        return given.assign(**added)
    if kind == "polars":
        import polars as pl

        return given.with_columns([pl.Series(name, pl.from_arrow(array)) for name, array in columns.items()])
    if kind == "datasets":
        for name, array in columns.items():
            given = given.add_column(name, array)
        return given
    if kind == "rows":
        values = zip(*(array.to_pylist() for array in columns.values()))
        return [{**row, **dict(zip(columns, some))} for row, some in zip(given, values)]
    if isinstance(given, pa.RecordBatch):
        return pa.RecordBatch.from_arrays([*given.columns, *columns.values()], [*given.schema.names, *columns])
    for name, array in columns.items():
        given = given.append_column(name, array)
    return given


def build_table(columns: Mapping[str, Sequence[Any]], convert: Callable[[Any], pa.Array] = pa.array) -> pa.Table:
    """A table of these values; a column whose values have no common type becomes JSON text, and is marked so."""
    fields, arrays = [], []
    for name, values in columns.items():
        array, is_json = _convert_column(values, convert)
        fields.append(pa.field(name, array.type, metadata=dict([JSON_MARK]) if is_json else None))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _kind(given: Any) -> str:
    root, name = type(given).__module__.partition(".")[0], type(given).__name__
    if (root, name) in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("datasets", "Dataset")):
        return root
    if isinstance(given, list | tuple) and all(isinstance(row, Mapping) for row in given):
        return "rows"
    return ""


def _as_pandas(array: pa.Array, index: Any) -> Any:
    series = array.to_pandas()
    series.index = index
    return series


def _convert_column(values: Sequence[Any], convert: Callable[[Any], pa.Array]) -> tuple[pa.Array, bool]:
    """The values as an array, and whether it is JSON text because they have no common type."""
    try:
        return convert(values), False
    except UnicodeEncodeError:  # half a surrogate pair, as json.loads lets through: no UTF-8, so no column, can hold it
        return _convert_column([_replace_surrogates(value) for value in values], pa.array)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        present = [None if _is_missing(value) else value for value in values]
        if any(value is not None and kept is None for value, kept in zip(values, present)):
            return _convert_column(present, convert)
        texts = [None if value is None else json.dumps(value, default=str, ensure_ascii=False) for value in values]
        return pa.array(texts, TEXT), True


def _is_missing(value: Any) -> bool:
    """Whether it is null, or what ``to_dict`` of a pandas frame writes for null, in columns of text too: NaN or NA."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ == "NAType"


def _replace_surrogates(value: Any) -> Any:
    """The value with each half surrogate pair in its texts replaced by U+FFFD, the replacement character."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list | tuple):
        return [_replace_surrogates(item) for item in value]
    if isinstance(value, Mapping):
        return {_replace_surrogates(key): _replace_surrogates(item) for key, item in value.items()}
    return value
