"""Schemas unite only where no value changes; whatever would change one is refused by name."""

import pyarrow as pa
import pytest

from connectors.errors import UserError
from connectors.schema import (
    DEAD,
    HIDDEN,
    ORIGIN_ROW,
    ORIGIN_URI,
    ROW,
    UNIT,
    add_address,
    conform,
    is_json,
    json_field,
    schema_from_text,
    schema_to_text,
    unite,
    visible_columns,
    widen,
)

PAIR = pa.struct([("x", pa.int32()), ("y", pa.string())])


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.uint32(), pa.uint32()),
        (pa.uint32(), pa.int32(), pa.int64()),
        (pa.uint8(), pa.int64(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int32(), pa.float64(), pa.float64()),  # float64 holds every int32
        (pa.null(), PAIR, PAIR),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string_view(), pa.string(), pa.large_string()),
        (pa.binary(), pa.large_binary(), pa.large_binary()),
        (pa.list_(pa.int8()), pa.list_(pa.int32()), pa.list_(pa.int32())),
        (pa.list_(pa.null()), pa.large_list(pa.int8()), pa.large_list(pa.int8())),
        (PAIR, pa.struct([("y", pa.null()), ("z", pa.bool_())]), pa.struct([*PAIR, ("z", pa.bool_())])),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
    ],
)
def test_types_widen_to_one_that_holds_every_value(left, right, expected):
    assert widen(left, right) == widen(right, left) == expected or (
        {field.name: field.type for field in widen(right, left)} == {field.name: field.type for field in expected}
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.int64(), pa.float64()),  # beyond 2**53 they part
        (pa.int32(), pa.float32()),
        (pa.uint64(), pa.int64()),
        (pa.string(), pa.int64()),
        (pa.string(), pa.binary()),
        (pa.bool_(), pa.int8()),
        (pa.timestamp("us"), pa.timestamp("ns")),  # a wider unit has a narrower range
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.decimal128(10, 2), pa.float64()),
        (pa.list_(pa.int64()), pa.int64()),
        (pa.list_(pa.int64()), pa.list_(pa.string())),
        (PAIR, pa.struct([("x", pa.string())])),
    ],
)
def test_types_that_would_change_a_value_are_refused_by_name(left, right):
    files = [("1.parquet", pa.schema([("a", pa.int8()), ("b", left)])), ("2.parquet", pa.schema([("b", right)]))]
    for first, second in (files, files[::-1]):
        with pytest.raises(UserError, match=rf"column 'b' is .* in {first[0]} and .* in {second[0]}"):
            unite([first, second])


def test_a_column_of_any_file_is_a_nullable_column_of_all():
    files = [("1", pa.schema([pa.field("a", pa.int8(), nullable=False)])), ("2", pa.schema([("late", pa.string())]))]
    assert unite(files) == pa.schema([("a", pa.int8()), ("late", pa.string())])


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "b", "a"], "two columns named 'a'"), ([HIDDEN + "x"], "reserved")],
)
def test_names_that_could_not_be_told_apart_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        unite([("1.parquet", pa.schema([(name, pa.int8()) for name in names]))])


def test_conform_keeps_values_and_adds_what_is_absent():
    table = pa.table({"big": pa.array([2**53 + 1, None]), "extra": [1, 2], "n": pa.array([1, 2], pa.int8())})
    schema = pa.schema([("n", pa.int64()), ("absent", PAIR), ("big", pa.int64())])
    found = conform(table, schema)
    assert found.schema == schema
    assert found.to_pylist() == [
        {"n": 1, "absent": None, "big": 2**53 + 1},
        {"n": 2, "absent": None, "big": None},
    ]
    with pytest.raises(pa.ArrowInvalid):
        conform(table, pa.schema([("big", pa.int8())]))


def test_conform_fills_the_fields_that_a_struct_lacks():
    """Two files whose structs have different fields, as they are planned together."""
    other = pa.struct([("y", pa.large_string()), ("z", pa.list_(pa.int8()))])
    kind = widen(PAIR, other)
    for struct, value in ((PAIR, {"x": 1, "y": "t"}), (other, {"y": "u", "z": [1, None]})):
        table = pa.table({"s": pa.array([value, None], struct)})
        expected = [{field.name: value.get(field.name) for field in kind}, None]
        assert conform(table, pa.schema([("s", kind)]))["s"].to_pylist() == expected


def test_address_is_hidden_and_survives_a_shuffle():
    table = add_address(pa.table({"a": [1, 2]}), 3, 10, uri="x.jsonl", first_origin_row=110)
    assert table[UNIT].to_pylist() == [3, 3]
    assert table[ROW].to_pylist() == [10, 11]
    assert (table[ORIGIN_URI].to_pylist(), table[ORIGIN_ROW].to_pylist()) == (["x.jsonl"] * 2, [110, 111])
    assert table[DEAD].null_count == 2
    moved = add_address(table.drop_columns([UNIT, ROW]), 0, 0, uri="shuffled.parquet", first_origin_row=0)
    assert (moved[UNIT].to_pylist(), moved[ORIGIN_ROW].to_pylist()) == ([0, 0], [110, 111])
    assert visible_columns(moved).column_names == ["a"]


def test_a_schema_comes_back_from_text_with_its_metadata():
    schema = pa.schema([json_field("j"), ("t", pa.timestamp("ns", "UTC")), ("s", PAIR)])
    found = schema_from_text(schema_to_text(schema))
    assert found.equals(schema, check_metadata=True)
    assert [is_json(field) for field in found] == [True, False, False]


@pytest.mark.parametrize("marked_first", [True, False])
def test_json_text_and_plain_text_of_one_column_do_not_mix(marked_first: bool):
    files = [("marked", pa.schema([json_field("a")])), ("plain", pa.schema([("a", pa.string())]))]
    with pytest.raises(UserError, match="column 'a' holds JSON text in one of"):
        unite(files if marked_first else files[::-1])
    empty = [("marked", pa.schema([json_field("a")])), ("empty", pa.schema([("a", pa.null())]))]
    assert is_json(unite(empty if marked_first else empty[::-1]).field("a"))
