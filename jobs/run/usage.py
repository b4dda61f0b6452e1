"""What the models of each run have used by time, in ``_rmbatch/usage/``: one file a run, for the report.

    log = UsageLog(ledger.private, services, display.say)
    log.save(board.counts())          # now and then: writes the file anew, at most every SAVE_EVERY_S
    log.close(board.counts())         # at the end of the run
    read_usage(output)                # the runs of an output, the first one first

A run counts what it pays for itself; answers that were kept from an earlier run are counted as kept. So the runs add
up. A killed run lacks only what came after its file was last written. Nothing here decides what a job does.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping

from connectors.faults import is_storage_error
from connectors.storage import Folder
from jobs.run.services import Services
from rmbatch.costs.series import UsageSeries

FOLDER = "usage"
SAVE_EVERY_S = 10.0
"""The least time between two writes."""


class UsageLog:
    """Writes the file of one run."""

    def __init__(self, private: Folder, services: Services, say: Callable[[str], None]) -> None:
        began = time.time()
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began))
        self._folder, self._name = private.folder(FOLDER), f"{when}-{secrets.token_hex(4)}.json"
        self._services, self._say = services, say
        self._series = UsageSeries(began)
        self._began = self._saved_at = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        """Counts of boards that were lost."""
        self._written: Mapping[str, int] = {}
        self._has_failed = False

    def save(self, counts: Mapping[str, int]) -> None:
        """Note what has been used by now, by the board's counts, if the last note is old enough."""
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._save(counts)

    def close(self, counts: Mapping[str, int]) -> None:
        """Note what the whole run has used."""
        self._save(counts)

    def _save(self, counts: Mapping[str, int]) -> None:
        """Note the counts; none at all say nothing, for a board that cannot be asked just now has none either."""
        self._saved_at = time.monotonic()
        if not counts:
            return
        if any(counts.get(what, 0) < count for what, count in self._counts.items()):
            self._before += self._counts  # the board's process was lost; the new one counts from zero
        self._counts = Counter(counts)
        total = self._before + self._counts
        self._series.add(self._saved_at - self._began, self._services.usage(total))
        if not any(each.counts for each in self._series.last.values()) or total == self._written:
            return
        try:
            self._folder.write(self._name, self._series.to_json(), durable=False)
            self._written, self._has_failed = total, False
        except Exception as error:
            if not is_storage_error(error):
                raise
            if not self._has_failed:
                self._say(f"warning: {self._folder.url}/{self._name} could not be written; the job goes on: {error}")
            self._has_failed = True


def read_usage(output: Folder) -> tuple[list[UsageSeries], int]:
    """What each run of an output has used, the first one first; and the number of files that could not be read."""
    folder = output.folder(f"_rmbatch/{FOLDER}")
    runs, damaged = [], 0
    for content in folder.read_many([entry.name for entry in folder.entries()]):
        try:
            runs.append(UsageSeries.from_json(content or b""))
        except ValueError:
            damaged += 1
    return sorted(runs, key=lambda run: run.began), damaged
