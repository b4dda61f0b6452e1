"""Samples of an input: all of a small one, and of a sorted one places that show how much it varies."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.dataset import InputDataset
from connectors.listing import list_input
from connectors.planning import plan_dataset
from connectors.storage import StorageOptions
from jobs.run.sampling import read_first_rows, sample_rows
from rmbatch.costs.estimate import estimate
from rmbatch.stores.scores import IDS


def dataset_of(path: Path, lengths: np.ndarray) -> InputDataset:
    pq.write_table(pa.table({"length": lengths}), path, row_group_size=1000)
    return plan_dataset(list_input([str(path)], StorageOptions(), "auto"), StorageOptions(), unit_bytes=64 << 20)


def test_small_input_is_its_own_sample(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "small.parquet", np.arange(100))
    sample = sample_rows(dataset, 256, 100)
    assert sample.rows["length"].to_pylist() == list(range(100))
    assert (sample.num_places, sample.all_places) == (100, 100)
    assert read_first_rows(dataset, 7)["length"].to_pylist() == list(range(7))


def test_interval_holds_truth_of_sorted_input(tmp_path: Path) -> None:
    lengths = np.sort(np.random.default_rng(3).lognormal(5, 0.7, 50_000)).astype(np.int64) + 1
    sample = sample_rows(dataset_of(tmp_path / "sorted.parquet", lengths), 256, len(lengths))
    taken = sample.rows["length"].to_numpy()
    ids = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(taken)]), np.zeros(taken.sum(), np.int32))
    numbers = np.arange(len(taken))
    found = estimate(ids.cast(IDS), numbers, sample.place, num_sampled=sample.num_places, num_all=sample.all_places)
    assert found.tokens.low <= lengths.sum() <= found.tokens.high
    assert found.tokens.high < 3 * found.tokens.low
