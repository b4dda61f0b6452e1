"""Deletes what an earlier run left in an output, so that a job begins anew: ``rmbatch run JOB --overwrite``.

Only an output of rmbatch is deleted, and only when somebody has said yes. Answers of judges stay: they were paid for,
and the new run finds them.

    discard_output(job, display, confirm=lambda question: True)
"""

from collections.abc import Callable

from connectors.errors import JobError, UserError
from connectors.lease import Lease
from connectors.ledger import Ledger
from jobs.run.prepare import Job, check_places, output_folder
from jobs.run.rows import check_sample, list_job_input
from jobs.show.display import Display
from rmbatch.chat.limits.accounts import ANSWERS


def discard_output(job: Job, display: Display, confirm: Callable[[str], bool]) -> None:
    """Delete the job's output if it has one; JobError while a run works on it.

    Raises UserError where the answer is no, and before the question for a job that would not begin.
    """
    check_places(job)
    folder = output_folder(job)
    ledger = Ledger(folder)
    if not ledger.has_begun():
        return
    check_sample(job, list_job_input(job), display)
    rows = _told_rows(ledger)
    if not confirm(f"{folder.url} holds {rows}. Delete them and begin anew?"):
        raise UserError(f"{folder.url} was left as it is; without --overwrite the job goes on from there")
    with Lease.take(ledger.private.folder("lease"), waiting=display.say):
        ledger.discard(keep=[ANSWERS])
    display.say(f"deleted {rows} in {folder.url}")


def _told_rows(ledger: Ledger) -> str:
    try:
        progress = ledger.progress()
    except (UserError, JobError):  # damaged, or of another version: all the more reason to begin anew
        return "an unknown number of rows"
    return f"{progress.finished_rows if progress else 0:,} finished rows"
