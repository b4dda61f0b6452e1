"""The usage of a run by time: few points, the last one exact, and the same after it was written and read."""

import itertools

import orjson
import pytest

from rmbatch.costs.series import MOST_POINTS, ModelUsage, UsageSeries


def chat(answers: int, usd: float | None = None) -> ModelUsage:
    return ModelUsage("chat", "model", {"answers": answers}, usd)


def test_long_run_has_few_points_spread_evenly() -> None:
    series = UsageSeries(began=1000.0)
    for second in range(1, 100_000):
        series.add(float(second), {"judge": chat(second)})
        assert len(series.points) <= MOST_POINTS
    times = [at for at, _ in series.points]
    assert len(times) > MOST_POINTS / 3
    assert (times[0], times[-1]) == (0.0, 99_999.0)
    assert series.last["judge"].counts["answers"] == 99_999
    apart = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(apart) < 3 * 100_000 / len(times)
    assert all(used["judge"].counts["answers"] == at for at, used in series.points[1:])


def test_written_and_read_is_the_same() -> None:
    series = UsageSeries(began=1000.5)
    series.add(1.0, {"judge": chat(1, 0.25)})
    series.add(2.0, {"judge": chat(3, 0.75), "rm": ModelUsage("reward_model", "rm", {"requests": 2}, None)})
    read = UsageSeries.from_json(series.to_json())
    assert (read.began, read.last) == (series.began, series.last)
    assert [at for at, _ in read.points] == [0.0, 1.0, 2.0]
    assert [used["judge"].usd for _, used in read.points] == [0.0, 0.25, 0.75]
    assert read.points[1][1]["rm"].counts == {"requests": 0}  # it had used nothing yet
    assert read.to_json() == series.to_json()


GOOD = orjson.loads(UsageSeries(1.0).to_json())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"version": 1, "began"',
        b"[]",
        b"null",
        orjson.dumps({**GOOD, "version": 2}),
        orjson.dumps({**GOOD, "seconds": []}),
        orjson.dumps({**GOOD, "users": {"a": {}}}),
        orjson.dumps({**GOOD, "users": {"a": {"kind": "chat", "model": "m", "usd": [], "counts": {}}}}),
        orjson.dumps(
            {**GOOD, "users": {"a": {"kind": "chat", "model": "m", "usd": None, "counts": {"answers": [None]}}}}
        ),
    ],
)
def test_damaged_file_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"of version 2|does not hold what|no point of time"):
        UsageSeries.from_json(content)
