"""Columns whose rows are of several kinds: which type they get, by counts, wherever the input is cut."""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.formats import jsonl, shapes
from connectors.formats.base import JsonlOptions, OddValues
from connectors.formats.jsonl_scan import Profile
from connectors.formats.shapes import can_hold, find_shape, find_type, fits_parquet, join
from connectors.schema import DEAD, find_twins, is_json
from tests.connectors.inputs import plan, read_all, read_rows, write_files

BIG = 2**53 + 1
LEAVES = st.sampled_from([None, True, 0, -1, BIG, 2**63, 2**64, 0.5, "", "x"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


def rows_of(values: list[Any]) -> list[dict[str, Any]]:
    return [{"x": value} for value in values]


def profile_of(rows: list[dict[str, Any]]) -> Profile:
    profile = Profile()
    profile.add(rows)
    return profile


@settings(deadline=None)
@given(st.lists(VALUES, max_size=12), st.data())
def test_any_cut_of_any_rows_gives_the_schema_of_one_block(values, data):
    values = values * data.draw(st.sampled_from([1, 40]))  # with copies some become odd, and others nearly all
    values += data.draw(st.lists(VALUES, max_size=3))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = [rows_of(values[start:stop]) for start, stop in itertools.pairwise([0, *cuts, len(values)])]
    in_blocks, in_parts = Profile(), Profile()
    for part in parts:
        in_blocks.add(part)
        in_parts.merge(profile_of(part))
    for rule in ("json_twin", "dead_letter", "json_column"):
        whole = profile_of(rows_of(values)).schema(odd_values=rule)
        for cut in (in_blocks, in_parts):
            schema, mixed = cut.schema(odd_values=rule)
            assert schema.equals(whole[0], check_metadata=True)
            assert mixed == whole[1]


@settings(deadline=None, max_examples=50)
@given(st.lists(VALUES, min_size=1, max_size=6), VALUES, st.integers(1, 2000), st.integers(1, 40))
def test_any_cut_gives_the_same_values_and_loses_none(tmp_path_factory, values, odd, unit_bytes, block_rows):
    folder = tmp_path_factory.mktemp("shapes")
    rows = [*(values * 100)[:150], odd]
    write_files(folder, {"in.jsonl": b"".join(json.dumps({"x": value}).encode() + b"\n" for value in rows)})
    whole, cut = plan(folder), plan(folder, unit_bytes=unit_bytes)
    assert whole.schema.equals(cut.schema, check_metadata=True)
    table = read_all(whole, block_rows=1000)
    assert repr(read_all(cut, block_rows=block_rows).select(whole.schema.names).to_pylist()) == repr(
        table.select(whole.schema.names).to_pylist()
    )
    assert table[DEAD].null_count == len(rows)
    written = [json.loads(line)["x"] for line in jsonl.write(read_rows(whole)).splitlines()]
    assert all(map(same, written, rows))


def same(written: Any, value: Any) -> bool:
    """As JSON, but that integers may have become floats where all their column fits, and absent keys null."""
    if isinstance(value, dict) and isinstance(written, dict):
        return all(same(written[key], value.get(key)) for key in written) and value.keys() <= written.keys()
    if isinstance(value, list) and isinstance(written, list):
        return len(value) == len(written) and all(map(same, written, value))
    return written == value and (isinstance(written, bool) == isinstance(value, bool))


@given(VALUES, VALUES)
def test_type_holds_what_it_was_made_of_and_nothing_else(a, b):
    kind = find_type(find_shape(a))
    if kind is None:
        return
    assert can_hold(kind, find_shape(a))
    together = find_type(join(find_shape(a), find_shape(b)))
    if can_hold(kind, find_shape(b)):
        assert together is not None
        if fits_parquet(together):
            assert pa.array([a, b], together).to_pylist() is not None


def write(folder: Path, *values: tuple[Any, int]) -> Path:
    rows = [{"id": 1, "x": value} for value, number in values for _ in range(number)]
    return write_files(folder, {"in.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)})


CHAT = [{"role": "user", "content": "hello"}]
PICTURE = [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "url": "a.png"}]}]


@pytest.mark.parametrize(
    ("usual", "odd", "kind"),
    [
        ("text", 42, pa.string()),
        (7, "seven", pa.int64()),
        (BIG, 0.5, pa.int64()),  # float64 does not hold the integers
        (0.5, BIG, pa.float64()),
        ({"b": False}, {"b": 0.5}, pa.struct([("b", pa.bool_())])),
        (CHAT, PICTURE, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ({"b": 1}, [1], pa.struct([("b", pa.int64())])),
    ],
)
def test_column_keeps_most_rows_type_with_odd_values_beside(tmp_path: Path, usual: Any, odd: Any, kind: pa.DataType):
    write(tmp_path, (usual, 60), (odd, 1), (usual, 60), (None, 5))
    dataset = plan(tmp_path, unit_bytes=500)
    table = read_rows(dataset)
    assert dataset.schema.names == ["id", "x", "odd.x"]
    assert table["x"].type == kind
    assert table["x"].to_pylist() == [usual] * 60 + [None] + [usual] * 60 + [None] * 5
    assert table["odd.x"].to_pylist() == [None] * 60 + [json.dumps(odd)] + [None] * 65
    assert (dataset.mixed["x"]["rows"], dataset.mixed["x"]["odd"], dataset.mixed["x"]["kept"]) == (121, 1, "odd.x")
    assert [json.loads(line)["x"] for line in jsonl.write(table).splitlines()][60] == odd  # JSONL takes it back


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ([("a", 99), (1, 1)], 1),  # one of a hundred
        ([("a", 98), (1, 1)], 0),  # more than one of a hundred
        ([("a", 198), (1, 1), (0.5, 1)], 2),  # of different kinds
        ([("a", 50), (1, 50)], 0),
        ([("a", 1), (1, 1)], 0),
        ([(1, 100), (0.5, 1)], 0),  # one number type holds all
        ([({}, 100), ("a", 1)], 0),  # Parquet cannot hold what nearly all rows have
    ],
)
def test_at_most_one_row_of_a_hundred_is_odd(tmp_path: Path, values: list[tuple[Any, int]], odd: int):
    dataset = plan(write(tmp_path, *values))
    assert sum(each["odd"] for each in dataset.mixed.values()) == odd
    assert len(find_twins(dataset.schema)) == bool(odd)


def test_by_the_rule_dead_letter_an_odd_row_is_one(tmp_path: Path):
    dataset = plan(write(tmp_path, ("a", 100), (1, 1)), jsonl=JsonlOptions(odd_values="dead_letter"))
    table = read_all(dataset)
    assert dataset.schema.names == ["id", "x"]
    letters = [letter for letter in table[DEAD].to_pylist() if letter]
    assert [(letter["code"], letter["line"]) for letter in letters] == [("odd_value", 101)]
    assert "column 'x' is string in nearly all rows" in letters[0]["message"]
    assert dataset.mixed["x"]["kept"] == "dead_letters"


@pytest.mark.parametrize(
    "options",
    [
        JsonlOptions(odd_values="json_column"),
        JsonlOptions(join_keys=("x",)),  # its values are compared with each other, so they stay in one column
        JsonlOptions(as_json=("x",)),
    ],
)
def test_a_column_whose_values_must_stay_together_is_json_text(tmp_path: Path, options: JsonlOptions):
    table = read_rows(plan(write(tmp_path, ("a", 100), (1, 1)), jsonl=options))
    assert table.column_names == ["id", "x"]
    assert is_json(table.schema.field("x"))
    assert table["x"].to_pylist() == ['"a"'] * 100 + ["1"]


@pytest.mark.parametrize("rule", ["json_twin", "json_column"])
def test_objects_with_ever_new_keys_are_no_struct_with_odd_rows(tmp_path: Path, rule: OddValues):
    values = [({f"k{number}": 1}, 1) for number in range(shapes.MAX_STRUCT_FIELDS + 3)]
    assert is_json(plan(write(tmp_path, *values), jsonl=JsonlOptions(odd_values=rule)).schema.field("x"))


def test_a_column_of_that_name_in_the_input_is_left_alone(tmp_path: Path):
    rows = [{"x": "a", "odd.x": "mine"}] * 100 + [{"x": 1, "odd.x": "mine"}]
    write_files(tmp_path, {"in.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)})
    table = read_rows(plan(tmp_path))
    assert table["odd.x"].to_pylist() == ["mine"] * 101
    assert is_json(table.schema.field("x"))
