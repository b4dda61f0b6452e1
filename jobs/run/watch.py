"""Watches a job's tasks while they run: shows their progress, and stops them early when too many scores are null."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jobs.run.services import Services
from jobs.show.display import Display
from rmbatch.pipeline.board import Board
from rmbatch.rewards.composition import NOT_REACHED
from rmbatch.stages.tally import Tally

POLL_S = 0.5
MIN_JUDGED = 1000
"""Responses before a share of nulls is judged."""


@contextmanager
def watch(
    name: str,
    board: Board,
    services: Services,
    display: Display,
    *,
    total: int,
    done: int,
    before: Mapping[str, int],
    max_null_share: float | None,
) -> Iterator[None]:
    """Shows a bar of ``total`` rows, of which ``done`` are finished, while the tasks run.

    ``before``: what earlier runs have counted. ``max_null_share``: as in the job file.
    """
    ended = threading.Event()
    with display.stage(name, total, "rows", done) as advance_to:

        def look() -> None:
            while not ended.wait(POLL_S):
                counts = Counter(board.counts())
                try:
                    services.running.keep_usage()
                except OSError as error:  # another look will keep it; the job itself will hear of a store that is gone
                    display.say(f"warning: what was used of budgets could not be kept: {error}")
                advance_to(done + counts["rows"], services.line(counts))
                counts.update(before)
                why = too_many_nulls(counts, max_null_share, MIN_JUDGED)
                if why:
                    board.stop(why)

        watcher = threading.Thread(target=look, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def too_many_nulls(counts: Mapping[str, int], limit: float | None, at_least: int) -> str:
    """Which reward has more nulls than the limit allows, once so many responses are known; empty if none."""
    if limit is None:
        return ""
    tally = Tally(counts)
    for name, scored in tally.scored.items():
        nulls = tally.nulls(name)
        nulls.pop(NOT_REACHED, None)  # a part that was not asked has not failed
        missing = sum(nulls.values())
        if scored + missing >= at_least and missing > limit * (scored + missing):
            worst = next(iter(nulls))
            share = missing / (scored + missing)
            return (
                f"score.{name} is null for {share:.0%} of {scored + missing:,} responses, mostly {worst}; "
                f"run.max_null_share allows {limit:.0%}"
            )
    return ""
