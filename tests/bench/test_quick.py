"""The claims about restarts and memory at sizes that fit the ordinary test run; the full ones: docs/benchmarks.md."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rmbatch.evaluation.base import Items, Judged, load_suite
from rmbatch.evaluation.ragged import Ragged
from rmbatch.evaluation.tally import SuiteTally
from tests.bench.memory import peak_of
from tests.bench.restart_cost import restart, start_a_finished_job
from tests.jobs.running import run


@pytest.mark.ray
def test_a_finished_job_opens_no_input_file(tmp_path: Path, local_ray: None) -> None:
    found = start_a_finished_job(tmp_path, num_rows=4000, run=run)
    assert found.first_opens >= 8  # the watch sees what workers open
    assert found.again_opens == 0
    assert found.again_s < found.first_s


def test_planning_the_rest_takes_no_memory_for_rows() -> None:
    small, large = restart(500, 1000), restart(500, 100_000)
    assert large["growth_mb"] < small["growth_mb"] + 10  # decoded, 45 million rows took a byte each
    assert large["planned_s"] < 5
    assert large["finish_s"] < 5


def test_planning_the_rest_takes_time_for_units_as_their_number() -> None:
    few, many = restart(200, 1000), restart(2000, 1000)
    assert many["planned_s"] < 40 * few["planned_s"] + 1  # 10 times the units; quadratic would be 100 times
    assert many["finish_s"] < 40 * few["finish_s"] + 1
    assert many["growth_mb"] < 40


@pytest.mark.ray
def test_ten_times_the_rows_take_the_same_memory() -> None:
    small, large = (peak_of("score", "jsonl", rows, 4, file_mb=1, cpus=2) for rows in (8000, 80_000))
    assert large.driver < 1.25 * small.driver
    assert large.worker < 1.25 * small.worker


def test_metrics_of_many_pairs_take_the_same_memory() -> None:
    """100,000 pairs, two rewards, 200 draws: seconds, and no more memory than for a tenth of them."""
    (small, _), (large, seconds) = (measure_pairs(number) for number in (16_384, 98_304))
    assert large < 1.2 * small
    assert seconds < 60


def measure_pairs(number: int, block: int = 8192) -> tuple[float, float]:
    """Peak memory in bytes and seconds of the metrics of so many pairs, a block at a time."""
    draw = np.random.default_rng(0)
    tally = SuiteTally(load_suite("preferences"), ["a", "b"], [("a", "b")], replicates=200)
    empty = Ragged(np.zeros(0), np.zeros(block + 1, dtype=np.int64))
    names = np.array([""] * block, dtype=object)
    tracemalloc.start()
    began = time.monotonic()
    for start in range(0, number, block):
        items = Items(
            id=names,
            subset=names,
            key=np.arange(start, start + block, dtype=np.uint64),
            correct=Ragged.from_rows(np.tile([1.0, 0.0], (block, 1))),
            lengths=Ragged.from_rows(draw.integers(1, 99, (block, 2))),
            num_steps=np.zeros(block, dtype=np.int64),
            error_steps=empty,
            pairs=empty,
        )
        tally.add(items, {name: Judged(Ragged.from_rows(draw.normal(size=(block, 2)))) for name in "ab"})
    assert tally.result().num_items == number
    seconds = time.monotonic() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak), seconds
