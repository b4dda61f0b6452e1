"""What one can ask for: the jobs and the command line. ``run("job.yaml")`` is ``rmbatch run job.yaml`` from Python."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.run.rows import Summary


def run(job_file: str, *overrides: str, limit: int | None = None) -> "Summary":
    """Run a job to its end, from wherever its output stands; what it came to.

    ``job_file``: a path or a URL. ``overrides``: ``"key.sub=value"``, as on the command line. ``limit``: only the
    first rows. Raises UserError for a mistake in the job, before any work, and JobError where it stopped on its way:
    the same call goes on.
    """
    import os

    from jobs.config.file import read_job_file
    from jobs.config.job_types import parse_job
    from jobs.run.job import run_job
    from jobs.show.display import Display

    given = [*overrides, *([] if limit is None else [f"input.limit={limit}"])]
    job = parse_job(read_job_file(job_file, given, os.environ), job_file)
    with Display() as display:
        result: Summary = run_job(job, display)
        return result
