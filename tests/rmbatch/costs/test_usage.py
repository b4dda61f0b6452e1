"""What engines and chat servers are used for is counted once, whoever takes the counts and when."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from rmbatch.costs import usage


@pytest.fixture(autouse=True)
def nothing_is_counted() -> Iterator[None]:
    usage.take()
    yield
    usage.take()


def test_counts_begin_anew_after_each_take() -> None:
    usage.record("judge", {"answers": 2, "tokens": 5})
    usage.record("judge", {"answers": 1})
    taken = usage.take()
    assert usage.usage_of("judge", taken) == {"answers": 3, "tokens": 5}
    assert usage.usage_of("judg", taken) == {}
    assert usage.take() == {}


def test_reports_come_while_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "REPORT_EVERY_S", 0.0)
    reports: list[Mapping[str, int]] = []
    with usage.report_to(reports.append):
        usage.record("judge", {"answers": 1})
        assert reports == [{"judge.answers": 1}]
    usage.record("judge", {"answers": 1})
    assert len(reports) == 1  # nobody listens any more
    assert usage.take() == {"judge.answers": 1}


def test_reports_keep_their_distance() -> None:
    reports: list[Mapping[str, int]] = []
    with usage.report_to(reports.append):
        usage.record("judge", {"answers": 1})
    assert reports == []
    assert usage.take() == {"judge.answers": 1}


def test_many_threads_lose_and_double_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports come one at a time, as a pipe to the driver needs it."""
    monkeypatch.setattr(usage, "REPORT_EVERY_S", 0.0)
    total: Counter[str] = Counter()
    at_once, most = 0, 0

    def report(counts: Mapping[str, int]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        total.update(counts)
        at_once -= 1

    def work() -> None:
        for _ in range(500):
            usage.record("judge", {"answers": 1})

    with usage.report_to(report):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    total.update(usage.take())
    assert (total["judge.answers"], most) == (4000, 1)
