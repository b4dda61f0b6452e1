"""Small inputs for tests: write files, plan them, read every row back."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.listing import list_input
from connectors.planning import plan_dataset
from connectors.schema import visible_columns
from connectors.storage import StorageOptions
from connectors.units import Range


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files below the folder; names may hold slashes."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def plan(path: str | Path, unit_bytes: int = 1 << 20, **options: object) -> InputDataset:
    """The planned dataset behind a path."""
    return plan_dataset(list_input([str(path)], StorageOptions()), StorageOptions(), unit_bytes=unit_bytes, **options)


def read_all(dataset: InputDataset, block_rows: int = 7) -> pa.Table:
    """Every row of the dataset with its hidden columns, unit after unit."""
    tables = [
        table
        for unit in dataset.units.values()
        for table in dataset.read(Range(unit.index, 0, unit.num_rows), block_rows)
    ]
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries()


def read_rows(dataset: InputDataset) -> pa.Table:
    """Every row of the dataset as the user knows it."""
    return visible_columns(read_all(dataset))
