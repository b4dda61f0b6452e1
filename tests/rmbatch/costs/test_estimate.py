"""What a sample says of the whole, and what counts come to."""

import numpy as np
import pyarrow as pa
import pytest

from rmbatch.costs.engines import engine_cost
from rmbatch.costs.estimate import Interval, estimate, gpu_hours, shared_tokens
from rmbatch.stores.scores import IDS


def test_shared_tokens_are_counted_once() -> None:
    ids = pa.array([[1, 2, 3, 9], [1, 2, 3, 8, 8], [1, 2, 3], None, [5, 5]], IDS)
    prompt = np.array([7, 7, 7, 7, 4])
    assert shared_tokens(ids, prompt).tolist() == [0, 3, 3, 0, 0]
    found = estimate(ids, prompt, np.array([0, 0, 0, 0, 1]), num_sampled=2, num_all=2)
    assert (found.tokens.mean, found.computed.mean) == (14.0, 8.0)
    assert found.tokens.low == found.tokens.high == 14.0  # the sample is the whole input
    assert found.length == 3.5


def test_interval_covers_the_truth_at_its_level() -> None:
    draw = np.random.default_rng(5)
    lengths = draw.lognormal(5, 0.7, 20_000).astype(int) + 1
    held = 0
    for _ in range(200):
        taken = lengths[draw.integers(0, len(lengths), 256)]
        ids = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(taken)]), np.zeros(taken.sum(), np.int32))
        rows = np.arange(256)
        found = estimate(ids, rows, rows, num_sampled=256, num_all=len(lengths))
        held += found.tokens.low <= lengths.sum() <= found.tokens.high
    assert 175 <= held <= 200


def test_no_rows() -> None:
    found = estimate(pa.array([], IDS), np.zeros(0, np.int64), np.zeros(0, np.int64), num_sampled=0, num_all=10)
    assert found.tokens == Interval(0.0, 0.0, 0.0)


def test_gpu_hours() -> None:
    found = estimate(pa.array([[1] * 1000], IDS), np.array([1]), np.array([0]), num_sampled=1, num_all=1)
    hours = gpu_hours(found.computed, flops_per_token=3.6e9, peak=1e12)
    assert (hours.low, hours.high) == pytest.approx((0.002, 0.004))


def test_economics() -> None:
    counts = {"requests": 10, "tokens": 1000, "cached_tokens": 400, "padded_tokens": 200, "repeated": 3, "stored": 2}
    meter = {"busy_s": 6.0, "idle_s": 2.0, "replicas": 2.0}
    found = engine_cost(counts, meter, flops_per_token=1e9, peak=1e12)
    assert found.tokens_per_s == pytest.approx(1000 / 3.0)  # two engines, three seconds of work each
    assert (found.cached_share, found.padding_share, found.busy_share) == (0.4, 0.25, 0.75)
    assert found.mfu == pytest.approx(600e9 / 6e12)
    assert found.line() == (
        "1,000 tokens, 333 tokens/s, 40% from the prefix cache, 25% padding, 3 conversations asked once with an equal "
        "one, 2 scores from the store, computing 75% of the time, MFU 10%"
    )


def test_economics_of_nothing() -> None:
    found = engine_cost({}, {})
    assert (found.tokens, found.tokens_per_s, found.busy_share, found.mfu) == (0, None, None, None)
    assert found.line() == "0 tokens"
