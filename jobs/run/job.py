"""What a kind of job promises, and the one way in which every job runs.

class Translate(JobType[TranslateJob]):                     # jobs/translate.py
    config = TranslateJob
    ...
JOB_TYPES["translate"] = "jobs.translate:Translate"        # jobs/config/job_types.py

result = run_job(job, Display())
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.console import Console

from connectors.errors import JobError, UserError
from connectors.faults import explained
from connectors.lease import Lease
from connectors.storage import Folder, StorageOptions
from jobs.config.file import read_job_file
from jobs.config.job_types import JOB_TYPES, job_type, parse_job
from jobs.config.sections import JobConfig
from jobs.run.output import check_places, check_same_job, output_folder
from jobs.show.display import Display
from rmbatch.rewards.evaluation import Reward

J = TypeVar("J", bound=JobConfig)


class Shown(Protocol):
    """What a command shows: a result, a plan, a status."""

    def plain(self) -> dict[str, Any]:
        """As plain values, for ``--json``."""

    def show(self, console: Console) -> None:
        """Print it for a person."""


class JobType(ABC, Generic[J]):
    """A kind of job, on the output of one job file. ``run_job`` calls it; after a crash the same calls are right."""

    config: ClassVar[type[JobConfig]]
    """The model of its job files."""
    parts: ClassVar[Sequence[str]] = ()
    """The folders of its output that hold rows."""

    def __init__(self, job: J, display: Display) -> None:
        """Raises UserError for an output in a place where it cannot be."""
        check_places(job, self.parts)
        self.job, self.display = job, display
        self.output = output_folder(job)
        self.private = self.output.folder("_rmbatch")

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the result, as plain values: a job with another identity may not go on with this output."""

    @classmethod
    @abstractmethod
    def recorded_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        """The identity that an output was begun with. None: it was not begun by a job of this kind."""

    @abstractmethod
    def result(self) -> Shown | None:
        """The result, where the output is finished."""

    @abstractmethod
    def check(self) -> None:
        """Check the job against its input, as if the output were empty. Raises UserError."""

    def prepare(self) -> None:
        """Check all that can be known before the output is taken. Raises UserError, JobError for a changed input."""
        self.check()

    @abstractmethod
    def work(self, lease: Lease) -> Shown:
        """Do what is left to do, and finish the output. Raises UserError for a mistake, JobError where it stopped."""

    @abstractmethod
    def plan(self, gpu: str) -> Shown:
        """What the job would do; writes nothing. ``gpu``: the device whose hours are estimated."""

    @classmethod
    @abstractmethod
    def status(cls, output: Folder) -> Shown:
        """How far an output is."""

    @abstractmethod
    def describe_output(self) -> str:
        """What the output holds, as a part of a sentence: ``12 finished rows``."""

    @abstractmethod
    def discard(self) -> None:
        """Delete what the output holds, but for answers that were paid for."""

    def rewards(self) -> dict[str, Reward]:
        """The rewards whose models and judges ``rmbatch doctor`` looks over."""
        return {}


def run_job(job: JobConfig, display: Display) -> Any:
    """Run the job to its end, from wherever its output stands; its result.

    On an empty output it begins, after a crash it goes on, on a finished output it only returns the result. Raises
    UserError before any work, JobError where it stopped on its way.
    """
    run = job_type(job.job)(job, display)
    with explained(run.output.url):
        _refuse_other_kind(run)
        result = _result_of_same_job(run)
        if result is not None:
            return result
        run.prepare()
        with Lease.take(run.private.folder("lease"), waiting=display.say) as lease:
            try:
                return _result_of_same_job(run) or run.work(lease)  # of a run that this one has waited for
            except (UserError, JobError):
                if run.recorded_identity(run.output) is None:
                    lease.forget()  # nothing has begun, so no task that may still be alive has this epoch
                raise


def run_job_file(path: str, *overrides: str, limit: int | None = None) -> Any:
    """Run the job of a file to its end, from wherever its output stands; its result.

    ``path``: a path or a URL. ``overrides``: ``"key.sub=value"``, as on the command line. ``limit``: only the first
    rows. Raises UserError for a mistake in the job, before any work, and JobError where it stopped on its way: the same
    call goes on.
    """
    given = [*overrides, *([] if limit is None else [f"input.limit={limit}"])]
    job = parse_job(read_job_file(path, given, os.environ), path)
    with Display() as display:
        return run_job(job, display)


def _result_of_same_job(run: JobType[Any]) -> Shown | None:
    """The result of a finished output. Raises UserError where the output belongs to another job."""
    before = run.recorded_identity(run.output)
    if before is not None:
        check_same_job(before, run.identity(), run.output.url, run.display)
    result = run.result()
    if result is not None:
        run.display.say(f"{run.output.url} is finished; nothing to do")
    return result


def _refuse_other_kind(run: JobType[Any]) -> None:
    """Raises UserError where another kind of job, which records its identity elsewhere, has begun this output."""
    if run.recorded_identity(run.output) is not None or not run.private.entries():  # a new output costs one listing
        return
    for kind in map(job_type, JOB_TYPES):
        identity = None if isinstance(run, kind) else kind.recorded_identity(run.output)
        if identity is not None:
            raise UserError(
                f"{run.output.url} is the output of another kind of job ({identity.get('job')}); "
                "write to another output.path"
            )


def output_status(url: str, options: StorageOptions) -> Shown:
    """How far an output of any kind of job is. Raises UserError for no output of ours."""
    output = Folder.open(url, options)
    try:
        for kind in JOB_TYPES:
            if job_type(kind).recorded_identity(output) is not None:
                status: Shown = job_type(kind).status(output)
                return status
    except NotADirectoryError:
        raise UserError(f"{url} is a file; write the folder that the job writes to (output.path)") from None
    raise UserError(f"{url} is no output of rmbatch: it has no _rmbatch/plan.json")


def discard_output(job: JobConfig, display: Display, confirm: Callable[[str], bool]) -> None:
    """Delete the job's output if it has one, so that it begins anew; JobError while a run works on it.

    Raises UserError where the answer is no, and before the question for a job that would not begin.
    """
    run = job_type(job.job)(job, display)
    try:
        if run.recorded_identity(run.output) is None:
            return
    except (UserError, JobError):
        pass  # damaged, or of another version: all the more reason to begin anew
    run.check()
    held = run.describe_output()
    if not confirm(f"{run.output.url} holds {held}. Delete them and begin anew?"):
        raise UserError(f"{run.output.url} was left as it is; without --overwrite the job goes on from there")
    with Lease.take(run.private.folder("lease"), waiting=display.say):
        run.discard()
    display.say(f"deleted {held} in {run.output.url}")
