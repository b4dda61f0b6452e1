"""Columns of datasets in the forms that files give them."""

from typing import Any

import pyarrow as pa
import pytest

from connectors.schema import json_field, twin_field
from rmbatch.adapters.columns import (
    number_of,
    read_conversations,
    read_numbers,
    read_plain,
    read_text,
    read_values,
)
from tests.rmbatch.adapters.published import said

READERS = (read_text, read_plain, read_conversations, read_numbers)


def json_table(*texts: str | None) -> pa.Table:
    return pa.table([pa.array(texts, pa.string())], schema=pa.schema([json_field("x")]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4, 4.0),
        ("4.5", 4.5),
        (" 3 ", 3.0),
        ("N/A", None),
        ("", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        ("nan", None),
        ([1], None),
        ("1e400", None),
    ],
)
def test_number_is_one_or_the_text_of_one(value: Any, expected: float | None) -> None:
    assert number_of(value) == expected


@pytest.mark.parametrize("read", READERS)
def test_absent_and_empty_columns_are_null(read: Any) -> None:
    assert read(pa.table({"y": [1, 2]}), "x").to_pylist() == [None, None]
    assert len(read(pa.table({"x": pa.array([], pa.string())}), "x")) == 0
    assert read(pa.table({"x": pa.nulls(2)}), "x").to_pylist() == [None, None]


def test_json_text_is_read_as_its_values() -> None:
    table = json_table('"a"', '{"from": "human", "value": "b"}', "3", None)
    assert read_text(table, "x").to_pylist() == ["a", "b", "3", None]
    assert read_conversations(table, "x").to_pylist() == [said("a"), said("b"), said("3"), None]
    assert read_plain(table, "x").to_pylist() == ["a", '{"from":"human","value":"b"}', "3", None]
    assert read_numbers(table, "x").to_pylist() == [None, None, 3.0, None]
    assert read_values(table, "x") == ["a", {"from": "human", "value": "b"}, 3, None]


def test_odd_values_stand_in_their_rows() -> None:
    twin = pa.array([None, "4", None], pa.string())
    table = pa.table({"x": ["a", None, None]}).append_column(twin_field("x"), twin)
    assert read_text(table, "x").to_pylist() == read_plain(table, "x").to_pylist() == ["a", "4", None]
    assert read_values(table, "x") == ["a", 4, None]
    numbers = pa.table({"x": [1, None, 2]}).append_column(twin_field("x"), pa.array([None, '"2.5"', None], pa.string()))
    assert read_numbers(numbers, "x").to_pylist() == [1.0, 2.5, 2.0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.float16()])
def test_numbers_of_every_width_are_double(kind: pa.DataType) -> None:
    assert read_numbers(pa.table({"x": pa.array([1, None], kind)}), "x").to_pylist() == [1.0, None]


def test_what_is_not_finite_is_no_number() -> None:
    table = pa.table({"x": [float("nan"), float("inf"), 1.0]})
    assert read_numbers(table, "x").to_pylist() == [None, None, 1.0]


def test_dictionaries_and_chunks_are_read() -> None:
    table = pa.table({"x": pa.chunked_array([["a"], ["b", None]]).dictionary_encode()})
    assert read_text(table, "x").to_pylist() == read_plain(table, "x").to_pylist() == ["a", "b", None]
