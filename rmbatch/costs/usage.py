"""Counts the use of engines and chat servers in this process, by user, since the last ``take``.

record("judge.4f1c…", {"answers": 12})
taken = take()                           # the counts so far; counting begins anew
usage_of("judge.4f1c…", taken)           # {"answers": 12}
with report_to(board.add): ...           # meanwhile, what is recorded is taken and handed on from time to time
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

REPORT_EVERY_S = 2.0
"""The least time between two reports."""
_counts: Counter[str] = Counter()
_lock = threading.Lock()
_reporter: "_Reporter | None" = None


class _Reporter:
    """Hands counts on, one report at a time."""

    def __init__(self, report: Callable[[Mapping[str, int]], object]) -> None:
        self._report = report
        self._reported_at = time.monotonic()
        self._working = threading.Lock()

    def report_if_due(self) -> None:
        """Report what has been counted, if the last report is old enough and none is on its way."""
        if time.monotonic() - self._reported_at < REPORT_EVERY_S or not self._working.acquire(blocking=False):
            return
        try:
            self._report(take())
            self._reported_at = time.monotonic()
        finally:
            self._working.release()

    def close(self) -> None:
        """Wait for a report that is on its way. None is begun after it."""
        self._working.acquire()


@contextmanager
def report_to(report: Callable[[Mapping[str, int]], object]) -> Iterator[None]:
    """Hand on what is recorded while the block runs, at most every REPORT_EVERY_S; what is left stays for ``take``.

    A block of rows that chat models correct in rounds may take an hour, and people want to see it advance.
    """
    global _reporter
    _reporter = reporter = _Reporter(report)
    try:
        yield
    finally:
        _reporter = None
        reporter.close()


def record(user: str, counts: Mapping[str, int]) -> None:
    """Add to the counts of a user: a judge or a reward model."""
    with _lock:
        _counts.update({f"{user}.{what}": count for what, count in counts.items()})
    reporter = _reporter
    if reporter is not None:
        reporter.report_if_due()


def take() -> dict[str, int]:
    """The counts since the last call. Counts of several processes may be added."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken


def usage_of(user: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts of one user, without its name."""
    start = f"{user}."
    return {key.removeprefix(start): count for key, count in counts.items() if key.startswith(start)}
