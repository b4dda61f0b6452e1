"""The share of nulls that stops a job."""

from jobs.run.watch import find_null_excess
from rmbatch.stages.tally import Tally


def test_part_that_was_not_reached_counts_as_no_null() -> None:
    tally = {"scored.x": 10, "scored.x.then": 0, "null.x.then.not_reached": 10, "null.x.then.timeout": 1}
    assert Tally(tally).nulls("x") == {}
    assert Tally(tally).nulls("x.then") == {"not_reached": 10, "timeout": 1}
    assert find_null_excess(tally, 0.5, at_least=5) == ""
    assert "score.x.then is null for 100% of 1 responses, mostly timeout" in find_null_excess(tally, 0.5, at_least=1)
