"""Counts keep their meaning through the text that commit records hold, and add up."""

from collections import Counter

from rmbatch.costs.usage import record, take, usage_of
from rmbatch.stages.tally import Tally, count_choices, count_odd_values, count_scores


def test_counts_of_several_blocks_are_read_by_meaning() -> None:
    counts = Counter({"dead.bad_json": 1, "dead.killed_worker": 4})
    for _ in range(2):
        counts.update(count_scores("math", 5, {"timeout": 1, "no.such.code": 2}))
        counts.update(count_scores("math.part", 0, {}))
        counts.update(count_choices(3, {"outranked": 7}))
        counts.update(count_odd_values("x", 1))
    tally = Tally(counts)
    assert tally.scored == {"math": 10, "math.part": 0}
    assert list(tally.nulls("math").items()) == [("no_such_code", 4), ("timeout", 2)]
    assert tally.nulls("math.part") == {}
    assert list(tally.choices.items()) == [("outranked", 14), ("kept", 6)]
    assert list(tally.dead.items()) == [("killed_worker", 4), ("bad_json", 1)]


def test_usage_is_kept_apart_by_user() -> None:
    take()
    record("judge.a", {"answers": 2})
    record("judge.ab", {"answers": 5})
    record("judge.a", {"answers": 1, "tries": 4})
    taken = take()
    assert usage_of("judge.a", taken) == {"answers": 3, "tries": 4}
    assert usage_of("judge.ab", taken) == {"answers": 5}
    assert take() == {}
