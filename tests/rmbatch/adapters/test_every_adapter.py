"""What every adapter promises, on rows of each dataset."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.formats.base import JsonlOptions
from connectors.listing import list_input
from connectors.planning import plan_dataset
from connectors.schema import json_field, visible_columns
from connectors.storage import StorageOptions
from connectors.units import Range
from rmbatch.adapters.base import ADAPTERS, adapt, load_adapter, reads_of
from rmbatch.rows.messages import MESSAGES, TEXT
from tests.rmbatch.adapters.published import PUBLISHED as OF_TRAINING
from tests.rmbatch.adapters.published import published as published_of_training
from tests.rmbatch.adapters.published_benchmarks import BENCHMARKS

STANDARD = {
    "id": TEXT,
    "prompt": MESSAGES,
    "prompt_id": TEXT,
    "response": TEXT,
    "label": pa.float64(),
    "chosen": TEXT,
    "rejected": TEXT,
    "margin": pa.float64(),
    "responses": pa.large_list(TEXT),
    "correct": pa.large_list(pa.bool_()),
    "labels": pa.large_list(pa.float64()),
    "preference": pa.int8(),
    "steps": pa.large_list(TEXT),
    "error_steps": pa.large_list(pa.int32()),
    "subset": TEXT,
    "reference": TEXT,
}
PUBLISHED = {**OF_TRAINING, **BENCHMARKS}
TRAINING = [name for name in ADAPTERS if name in PUBLISHED]


def published(name: str) -> pa.Table:
    """The rows of an adapter, as its dataset publishes them."""
    return pa.Table.from_pylist(BENCHMARKS[name]) if name in BENCHMARKS else published_of_training(name)


def test_every_training_set_has_rows_here() -> None:
    assert set(PUBLISHED) <= set(ADAPTERS)


@pytest.mark.parametrize("name", TRAINING)
def test_standard_columns_have_their_types(name: str) -> None:
    adapted = adapt(published(name), name)
    own = [each for each in adapted.schema if each.name in STANDARD]
    assert {each.name: each.type for each in own} == {each.name: STANDARD[each.name] for each in own}
    assert adapted.schema.field("prompt").type == MESSAGES


@pytest.mark.parametrize("name", TRAINING)
def test_empty_table_and_null_columns_are_adapted(name: str) -> None:
    table = published(name)
    assert adapt(table.slice(0, 0), name).schema == adapt(table, name).schema
    nulls = pa.table({column: pa.nulls(3) for column in table.column_names})
    adapted = adapt(nulls, name)
    assert adapted.num_rows == 3
    assert adapted["prompt"].null_count == 3


@pytest.mark.parametrize("name", TRAINING)
@settings(deadline=None)  # the first call imports
@given(data=st.data())
def test_rows_do_not_depend_on_each_other(name: str, data: st.DataObject) -> None:
    table = published(name)
    places = data.draw(st.lists(st.integers(0, table.num_rows - 1), max_size=8))
    chosen = table.take(pa.array(places, pa.int64()))
    start = data.draw(st.integers(0, len(places)))
    stop = data.draw(st.integers(start, len(places)))
    whole = adapt(table, name)
    assert adapt(chosen, name) == whole.take(pa.array(places, pa.int64())).combine_chunks()
    assert adapt(chosen.slice(start, stop - start), name) == adapt(chosen, name).slice(start, stop - start)


@pytest.mark.parametrize("name", TRAINING)
def test_wide_types_give_the_same(name: str) -> None:
    """As Parquet files of Hugging Face and polars have them."""
    table = published(name)

    def widen(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_string(kind):
            return pa.large_string()
        if pa.types.is_list(kind):
            return pa.large_list(widen(kind.value_type))
        if pa.types.is_struct(kind):
            return pa.struct([each.with_type(widen(each.type)) for each in kind])
        return kind

    wide = table.cast(pa.schema([each.with_type(widen(each.type)) for each in table.schema]))
    assert load_adapter(name).function(wide) == load_adapter(name).function(table)


@pytest.mark.parametrize("name", TRAINING)
def test_json_lines_read_as_jobs_read_them_give_the_same(name: str, tmp_path: Path) -> None:
    """Also where all columns are JSON text, because their values have no common type."""
    path = tmp_path / "rows.jsonl"
    rows = [{key: None if value != value else value for key, value in row.items()} for row in PUBLISHED[name]]
    path.write_text("".join(json.dumps(row).replace("NaN", "null") + "\n" for row in rows))
    listing = list_input([str(path)], StorageOptions(), "jsonl")
    found = []
    for as_json in ((), tuple(rows[0])):
        options = JsonlOptions(as_json=as_json)
        dataset = plan_dataset(listing, StorageOptions(), unit_bytes=1 << 20, jsonl=options)
        blocks = [visible_columns(each) for each in dataset.read(Range(0, 0, len(rows)), 2)]
        found.append(load_adapter(name).function(pa.concat_tables(blocks)).to_pylist())
    assert found[0] == found[1] == load_adapter(name).function(published(name)).to_pylist()


@pytest.mark.parametrize("name", TRAINING)
def test_missing_column_is_named(name: str) -> None:
    declared = reads_of(load_adapter(name).function)
    assert declared is not None
    assert not declared.missing(published(name).column_names)
    assert declared.missing([])


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("chat", {"messages": [{"role": {"a": 1}, "content": "q"}, {"role": 1.5, "content": "a"}]}),
        ("sharegpt", {"conversations": [{"from": ["human"], "value": "q"}]}),
        ("alpaca", {"instruction": "q", "output": "a", "history": [[1, ["b"]]]}),
        ("prm800k", {"question": {}, "label": {"steps": [{"completions": None, "human_completion": 7}]}}),
        (
            "judgebench",
            {"pair_id": 1, "source": "s", "question": "q", "response_A": "a", "response_B": "b", "label": []},
        ),
    ],
)
def test_value_of_another_kind_stops_nothing(name: str, row: dict[str, Any]) -> None:
    """In columns whose values have several kinds, one row of a million is enough."""
    columns = [pa.array([json.dumps(value)]) for value in row.values()]
    table = pa.table(columns, schema=pa.schema([json_field(each) for each in row]))
    assert adapt(table, name).num_rows == 1
