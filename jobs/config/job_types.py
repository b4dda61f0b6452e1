"""The kinds of jobs, and a job out of the content of a job file.

job = parse_job(read_job_file("jobs/examples/best_of_n.yaml", [], os.environ), "jobs/examples/best_of_n.yaml")
job_type(job.job)(job, display)
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from connectors.errors import UserError
from jobs.config.file import read_job_file
from jobs.config.models import read_models
from rmbatch.settings.mistakes import show, validate
from rmbatch.settings.names import nearest

if TYPE_CHECKING:
    from jobs.config.sections import JobConfig

JOB_TYPES = {
    "score": "jobs.score:Score",
    "best_of_n": "jobs.best_of_n:BestOfN",
    "generate": "jobs.generate:Generate",
    "select": "jobs.select:Select",
    "correct": "jobs.correct:Correct",
    "principles": "jobs.principles:Principles",
    "evaluate": "jobs.evaluate:Evaluate",
    "train_rm": "jobs.train_rm:TrainRm",
}
"""By what stands behind ``job:``, the class that keeps the promises of ``JobType`` (``jobs/run/job.py``)."""


def job_type(name: str) -> Any:
    """The class of a kind of job, a ``JobType``."""
    module, _, attribute = JOB_TYPES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def read_job(path: str, overrides: Sequence[str] = (), limit: int | None = None) -> "JobConfig":
    """Read the job of a file. Raises UserError for a mistake in it.

    ``path``: a path or a URL. ``overrides``: ``"key.sub=value"``. ``limit``: only the first rows of the input.
    """
    limited = [] if limit is None else [f"input.limit={limit}"]
    return parse_job(read_job_file(path, [*overrides, *limited], os.environ), path)


def parse_job(data: Mapping[str, Any], where: str) -> "JobConfig":
    """The job that a job file's content asks for; raises UserError in the file's own words."""
    kind = data.get("job")
    if not isinstance(kind, str) or kind not in JOB_TYPES:
        hint = nearest(str(kind), list(JOB_TYPES)) if kind else f"write one of: {', '.join(JOB_TYPES)}"
        raise UserError(f"{where}: job: {show(kind)} is no job type; {hint}")
    context = {"models": read_models(data, where)}
    job: JobConfig = validate(job_type(kind).config, data, where=where, context=context)
    return job
