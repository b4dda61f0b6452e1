"""How far an output is: the rate between commits, and when there is none to tell."""

import pytest

from jobs.show.status import estimate_rate


@pytest.mark.parametrize(
    ("commits", "now", "rate"),
    [
        ({}, 100.0, None),
        ({100.0: 50}, 101.0, None),  # one commit: since when, nobody knows
        ({100.0: 50, 110.0: 200}, 111.0, 20.0),
        ({100.0: 50, 110.0: 200, 120.0: 400}, 121.0, 30.0),
        ({100.0: 50, 400.0: 600}, 650.0, 2.0),  # a file every five minutes
        ({100.0: 50, 400.0: 600}, 1100.0, None),  # the next one is overdue: the job hangs, and has no rate
        ({100.0: 50, 110.0: 200}, 175.0, None),
        ({400.0: 50, 400.5: 600}, 401.0, None),  # two tasks that began together: they took longer than half a second
        ({100.0: 50, 400.0: 300, 401.0: 302}, 401.0, 2.0),
        ({100.0: 50, 90_000.0: 600}, 90_001.0, None),  # yesterday's run, and the first file of today's
    ],
)
def test_rate_is_of_the_last_minute_or_unknown(commits: dict[float, int], now: float, rate: float | None) -> None:
    assert estimate_rate(commits, now) == rate
