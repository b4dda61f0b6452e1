"""An input as a job sees it: adapted columns, and the part of a split."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.schema import DEAD, ROW
from connectors.units import Range
from rmbatch.adapters.base import load_adapter
from rmbatch.adapters.view import PART, InputView, Split, in_part, keep_part
from tests.connectors.inputs import plan, read_all, write_files
from tests.rmbatch.adapters.published import published


def test_only_needed_columns_are_read(tmp_path: Path) -> None:
    table = published("tulu3_preference").append_column("big", pa.array(["x"] * 3))
    pq.write_table(table, tmp_path / "1.parquet")
    dataset = plan(tmp_path)
    view = InputView(dataset.schema, load_adapter("tulu3_preference"))
    seen = dataset.see_through(view)
    assert seen.schema.names == ["prompt", "prompt_id", "chosen", "rejected", "margin", "id", "subset", "big"]
    narrow: InputDataset = pickle.loads(pickle.dumps(seen.project(["chosen"])))
    assert narrow.keys == tuple(table.column_names)
    assert read_all(narrow).column_names[0] == "chosen"
    assert read_all(narrow)["chosen"].to_pylist() == read_all(seen)["chosen"].to_pylist() == ["d", "b", None]


def test_blocks_keep_their_hidden_columns_and_dead_rows(tmp_path: Path) -> None:
    write_files(tmp_path / "in", {"1.jsonl": b'{"chosen": "ab", "rejected": "ac"}\nbroken\n{"chosen": "x"}\n'})
    dataset = plan(tmp_path / "in")
    seen = dataset.see_through(InputView(dataset.schema, load_adapter("pairs"), Split("prompt", 0.5)))
    found = read_all(seen)
    assert found[ROW].to_pylist() == [0, 1, 2]
    assert found[DEAD].is_valid().to_pylist() == [False, True, False]
    assert found["chosen"].to_pylist() == ["b", None, "x"]
    assert found[PART].to_pylist()[1:] == ["train", "train"]
    assert [each.num_rows for each in seen.read(Range(0, 0, 3), 2)] == [2, 1]


def test_plan_keeps_the_columns_of_the_files(tmp_path: Path) -> None:
    pq.write_table(published("hh"), tmp_path / "1.parquet")
    dataset = plan(tmp_path)
    seen = dataset.see_through(InputView(dataset.schema, load_adapter("hh"), Split("prompt", 0.5)))
    assert seen.to_json() == dataset.to_json()


def test_split_without_adapter_adds_one_column() -> None:
    table = pa.table({"prompt": [f"p{place}" for place in range(40)], "other": range(40)})
    view = InputView(table.schema, split=Split("prompt", 0.3, seed=1, part="validation"))
    assert view.columns(["other"]) == ["prompt", "other"]
    found = view(table)
    assert found.schema == view.schema
    assert set(found[PART].to_pylist()) == {"train", "validation"}
    kept = keep_part(found, "validation")
    assert 0 < kept.num_rows < 40
    assert keep_part(found, None) is found
    assert in_part(table, "train") is None


def test_split_needs_a_free_column_and_a_key() -> None:
    with pytest.raises(UserError, match=r"has a column 'split.part' already"):
        InputView(pa.schema([(PART, pa.string()), ("prompt", pa.string())]), split=Split("prompt", 0.5))
    with pytest.raises(UserError, match="no column 'prompts'; did you mean 'prompt'"):
        InputView(pa.schema([("prompt", pa.string())]), split=Split("prompts", 0.5))
