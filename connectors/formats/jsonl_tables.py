"""Parses runs of JSONL lines to Arrow tables, many lines at once.

A table equals the one that ``Block`` (jsonl_read.py) makes of the same lines one by one. Where this is not certain,
there is no table.

    for run, table in RunTables(schema, keys).split(run):
        table                   # None: parse run.lines() one by one
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.formats.jsonl_runs import RawParser, RunParser, extract_raw_values, split_run
from connectors.formats.lines import Run
from connectors.formats.shapes import find_odd_places
from connectors.schema import find_twins, is_json, is_strict

DOES_NOT_FIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)
"""The errors that Arrow raises where a value does not fit a type."""


class RunTables:
    """Makes tables with the columns of ``schema`` from lines whose objects have no other keys than ``keys``."""

    def __init__(self, schema: pa.Schema, keys: Sequence[str]) -> None:
        self.schema = schema
        self._twins = find_twins(schema)
        self._strict = [item.name for item in schema if is_strict(item)]
        self._parser = RunParser(keys)
        twins, known = set(self._twins.values()), set(keys)
        self._raw = RawParser([item.name for item in schema if is_json(item) and item.name in known - twins])

    def split(self, run: Run) -> Iterator[tuple[Run, pa.Table | None]]:
        """Split a run into parts, each with its table. None: parse the lines of this part one by one."""
        return split_run(run, self._parser, self._table if self._raw.can_parse else lambda _: None)

    def _table(self, run: Run) -> pa.Table | None:
        parsed = self._parser.parse(run)
        if parsed is None:
            return None
        columns = dict(parsed)
        columns.update(self._raw.parse(run))
        for name in (*self._twins, *self._strict):
            odd = find_odd_places(columns.get(name, ()), self.schema.field(name).type)
            if name in self._twins:
                twin: list[str | None] = [None] * run.num_lines
                columns[self._twins[name]] = twin
                for place in odd:
                    twin[place] = extract_raw_values(run.line(place), {})[name]
                    columns[name][place] = None
            elif odd:
                return None
        try:
            arrays = [
                build_array(columns[item.name], item.type)
                if item.name in columns
                else pa.nulls(run.num_lines, item.type)
                for item in self.schema
            ]
        except DOES_NOT_FIT:
            return None
        return pa.Table.from_arrays(arrays, schema=self.schema)


def build_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Build ``pa.array(values, kind)``, three times as fast for lists and objects."""
    kinds = set(map(type, values)) if pa.types.is_nested(kind) else set()
    mask = pa.array([value is None for value in values]) if NoneType in kinds else None
    if pa.types.is_list(kind) and kinds <= {list, NoneType}:
        lists = values if mask is None else [value or () for value in values]
        offsets = np.concatenate(([0], np.cumsum(list(map(len, lists))))).astype(np.int32)
        items = list(chain.from_iterable(lists))
        return pa.ListArray.from_arrays(pa.array(offsets), build_array(items, kind.value_type), type=kind, mask=mask)
    if pa.types.is_struct(kind) and kinds <= {dict, NoneType} and kind.num_fields:
        objects = values if mask is None else [value or {} for value in values]
        fields = [build_array(_get_values(item.name, objects), item.type) for item in kind]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=mask)
    return pa.array(values, kind)


def _get_values(name: str, objects: Sequence[Mapping[str, Any]]) -> list[Any]:
    try:
        return list(map(itemgetter(name), objects))
    except KeyError:
        return [each.get(name) for each in objects]
