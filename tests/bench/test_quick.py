"""The claims about restarts and memory at sizes that fit the ordinary test run; the full ones: docs/benchmarks.md."""

from pathlib import Path

import pytest

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
