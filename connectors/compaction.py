"""Gathers commit records into segments while a job runs. Then few requests read the whole ledger.

Only the driver that holds the lease does this. It writes a segment, checks that it still holds the lease, and only then
deletes the records that the segment holds. connectors/ledger.py lists what a crash at each step leaves.

    with compact_in_background(ledger, lease, display.say):
        ...  # tasks write their records
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from connectors.errors import JobError
from connectors.lease import Lease
from connectors.ledger import Ledger
from connectors.segments import new_name

SEGMENT_RECORDS = 1000
"""The records of a segment. A smaller job keeps each record in its own file."""
EVERY_S = 20.0
"""The time between two checks for new records. A check takes two listings."""


class Compactor:
    """Gathers the records of one round of work. ``finish`` removes records, so another round needs a new compactor."""

    def __init__(self, ledger: Ledger, epoch: int, check: Callable[[], None]) -> None:
        """``check`` raises JobError where another run has taken over."""
        self._ledger, self._epoch, self._check = ledger, epoch, check
        self._number = 0
        self._seen: set[str] = set()
        """The segments that were read."""
        self._gathered: set[str] = set()
        """The records in these segments."""

    def compact(self) -> int:
        """Write a segment for each SEGMENT_RECORDS records. Return the number of records whose files were deleted.

        A record that a segment holds already stays unchanged there, and its file is deleted. Either a
        crash left that file, or a retry wrote it after the record was gathered.
        """
        listed = self._ledger.loose_names()  # list before reading segments; else a record gathered in between is missed
        if not listed:
            return 0
        for segment, records in self._ledger.segments.read(self._seen):
            self._seen.add(segment)
            self._gathered.update(record.name for record in self._ledger.decode_segment(segment, records))
        deleted = self._delete([name for name in listed if name in self._gathered])
        fresh = [name for name in listed if name not in self._gathered]
        whole = len(fresh) - len(fresh) % SEGMENT_RECORDS
        for start in range(0, whole, SEGMENT_RECORDS):
            deleted += self._delete(self._gather(fresh[start : start + SEGMENT_RECORDS]))
        return deleted

    def _delete(self, names: list[str]) -> int:
        """Delete the files of records that a segment holds. Return their number."""
        if names:
            self._check()
            self._ledger.delete_loose(names)
        return len(names)

    def _gather(self, names: list[str]) -> list[str]:
        """Write a segment of these records. Return the names of those that it holds."""
        found = self._ledger.read_loose(names)
        if not found:
            return []
        self._check()
        self._number += 1
        segment = new_name(self._epoch, self._number)
        texts = [replace(record, packed="").to_json() for record in found]
        self._ledger.segments.write(segment, texts, {record.name: record.packed for record in found})
        self._seen.add(segment)
        gathered = [record.name for record in found]
        self._gathered.update(gathered)
        return gathered


@contextmanager
def compact_in_background(ledger: Ledger, lease: Lease, say: Callable[[str], None]) -> Iterator[None]:
    """Gather records from time to time until the block ends. A failure is reported once and tried again."""
    ended = threading.Event()

    def check() -> None:
        if ended.is_set():
            raise JobError("the work has ended")
        lease.check()

    def gather() -> None:
        compactor = Compactor(ledger, lease.epoch, check)
        reported = False
        while True:
            try:
                compactor.compact()
            except (JobError, OSError) as error:  # the job goes on; if the store is broken, its tasks fail
                if not reported and not ended.is_set():
                    say(f"warning: commit records could not be gathered: {error}")
                reported = True
            if ended.wait(EVERY_S):
                return

    thread = threading.Thread(target=gather, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
