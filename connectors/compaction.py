"""Gathers commit records into segments while a job runs, so that reading the ledger takes few requests.

Only the driver that holds the lease does so. It writes a segment, asks whether the lease is still its own, and only
then deletes the records that the segment holds. connectors/ledger.py says what a crash at each step leaves.

    with compacting(ledger, lease, display.say):
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
"""Records that make a segment; a smaller job keeps each record in a file of its own."""
EVERY_S = 20.0
"""Seconds between two looks at the records. A look takes two listings."""


class Compactor:
    """What one driver gathers, in one round of work. ``finish`` removes records, so another round takes a new one."""

    def __init__(self, ledger: Ledger, epoch: int, check: Callable[[], None]) -> None:
        """``check`` raises JobError where another run has taken over."""
        self._ledger, self._epoch, self._check = ledger, epoch, check
        self._number = 0
        self._seen: set[str] = set()
        """Segments that have been read."""
        self._held: set[str] = set()
        """Records that these hold."""

    def compact(self) -> int:
        """Write a segment of each SEGMENT_RECORDS records; how many records no longer have a file of their own.

        A record that a segment holds already stays as it is there. Its file is what a crash has left, or what a retry
        has written after the first record was gathered: it is deleted.
        """
        listed = self._ledger.loose_names()  # before the segments, or a record gathered in between is seen in neither
        if not listed:
            return 0
        for segment, records in self._ledger.segments.read(self._seen):
            self._seen.add(segment)
            self._held.update(record.name for record in self._ledger.decode_segment(segment, records))
        deleted = self._delete([name for name in listed if name in self._held])
        fresh = [name for name in listed if name not in self._held]
        whole = len(fresh) - len(fresh) % SEGMENT_RECORDS
        for start in range(0, whole, SEGMENT_RECORDS):
            deleted += self._delete(self._gather(fresh[start : start + SEGMENT_RECORDS]))
        return deleted

    def _delete(self, names: list[str]) -> int:
        """Delete the files of records that a segment holds; how many."""
        if names:
            self._check()
            self._ledger.delete_loose(names)
        return len(names)

    def _gather(self, names: list[str]) -> list[str]:
        """Write a segment of these records; which of them it holds."""
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
        self._held.update(gathered)
        return gathered


@contextmanager
def compacting(ledger: Ledger, lease: Lease, say: Callable[[str], None]) -> Iterator[None]:
    """Gathers records from time to time until the block ends; what fails is said once and tried again."""
    ended = threading.Event()

    def check() -> None:
        if ended.is_set():
            raise JobError("the work has ended")
        lease.check()

    def gather() -> None:
        compactor = Compactor(ledger, lease.epoch, check)
        told = False
        while True:
            try:
                compactor.compact()
            except (JobError, OSError) as error:  # the job goes on without; what is wrong with the store, tasks find
                if not told and not ended.is_set():
                    say(f"warning: commit records could not be gathered: {error}")
                told = True
            if ended.wait(EVERY_S):
                return

    thread = threading.Thread(target=gather, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
