"""Watches a job's tasks while they run: shows their progress, and stops them when too many scores are null."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from connectors.faults import is_storage_error
from jobs.run.services import Services
from jobs.run.usage import UsageLog
from jobs.show.correction import correction_note
from jobs.show.display import Display
from rmbatch.pipeline.board import Board
from rmbatch.rewards.composition import NOT_REACHED
from rmbatch.stages.tally import Tally

POLL_S = 0.5
MIN_RESPONSES = 1000
"""The share of nulls counts only from this many responses on."""


@contextmanager
def watch(
    name: str,
    board: Board,
    services: Services,
    usage: UsageLog,
    display: Display,
    *,
    total: int,
    done: int,
    before: Mapping[str, int],
    max_null_share: float | None,
    why_stop: Callable[[Mapping[str, int]], str] = lambda counts: "",
) -> Iterator[None]:
    """Show a bar of ``total`` rows, of which ``done`` are finished, and keep the usage, while the tasks run.

    ``before``: the counts of earlier runs. ``max_null_share``: as in the job file. ``why_stop``: why this kind of job
    should stop, by the counts of all runs; empty where it should go on.
    """
    end = threading.Event()
    with display.show_progress(name, total, "rows", done) as advance_to:

        def poll() -> None:
            while not end.wait(POLL_S):
                counts = Counter(board.counts())
                try:
                    services.running.save_usage()
                except Exception as error:  # the next poll tries again; the job itself stops if the store is gone
                    if not is_storage_error(error):
                        raise
                    display.say(f"warning: the usage of budgets could not be kept: {error}")
                usage.save(counts)
                costs, done_now = services.describe_costs(counts), done + counts["rows"]
                counts.update(before)
                advance_to(done_now, "; ".join(filter(None, (correction_note(Tally(counts)), costs))))
                why = find_null_excess(counts, max_null_share, MIN_RESPONSES) or why_stop(counts)
                if why:
                    board.stop(why)

        watcher = threading.Thread(target=poll, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            end.set()
            watcher.join()
            usage.close(board.counts())


def find_null_excess(counts: Mapping[str, int], limit: float | None, at_least: int) -> str:
    """Describe a reward with more nulls than the limit allows; empty if there is none.

    ``at_least``: the responses from which on the share of nulls counts.
    """
    if limit is None:
        return ""
    tally = Tally(counts)
    for name, scored in tally.scored.items():
        nulls = tally.nulls(name)
        nulls.pop(NOT_REACHED, None)  # a part that was not needed has not failed
        missing = sum(nulls.values())
        if scored + missing >= at_least and missing > limit * (scored + missing):
            worst = next(iter(nulls))
            share = missing / (scored + missing)
            return (
                f"score.{name} is null for {share:.0%} of {scored + missing:,} responses, mostly {worst}; "
                f"run.max_null_share allows {limit:.0%}"
            )
    return ""
