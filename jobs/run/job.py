"""The contract of a kind of job, and the one function that runs every job.

class Translate(JobType[TranslateJob]):                     # jobs/translate.py
    config = TranslateJob
    ...
JOB_TYPES["translate"] = "jobs.translate:Translate"        # jobs/config/job_types.py

result = run_job(job, Display())
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.console import Console

from connectors.dataset import InputDataset
from connectors.errors import JobError, UserError
from connectors.faults import explain_errors
from connectors.lease import Lease
from connectors.storage import Folder, StorageOptions
from jobs.config.job_types import JOB_TYPES, job_type, read_job
from jobs.config.sections import JobConfig
from jobs.run.input import list_job_input, plan_sample, view_input
from jobs.run.output import check_places, check_same_job, output_folder
from jobs.show.display import Display
from rmbatch.generation.requests import RequestWriter
from rmbatch.rewards.evaluation import Reward

J = TypeVar("J", bound=JobConfig)


class Showable(Protocol):
    """A result, a plan or a status that a command shows."""

    def plain(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""

    def show(self, console: Console) -> None:
        """Print it for a person."""


class JobType(ABC, Generic[J]):
    """A kind of job, on the output of one job file. ``run_job`` calls its methods, also after a crash."""

    config: ClassVar[type[JobConfig]]
    """The model of its job files."""
    parts: ClassVar[Sequence[str]] = ()
    """The folders of its output that hold rows."""

    def __init__(self, job: J, display: Display) -> None:
        """Raises UserError for an output in a place where no output may be."""
        check_places(job, self.parts)
        self.job, self.display = job, display
        self.output = output_folder(job)
        self.private = self.output.folder("_rmbatch")

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the result, as plain values.

        A job with another identity may not continue this output.
        """

    @classmethod
    @abstractmethod
    def read_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        """Read the identity of the job that began an output. None: no job of this kind began it."""

    @abstractmethod
    def result(self) -> Showable | None:
        """Return the result of a finished output. None: it is not finished."""

    def complete(self, result: Showable) -> Showable:
        """Do what follows a finished output, such as exports, where it is not done yet. Return the result with it."""
        return result

    @abstractmethod
    def check(self) -> None:
        """Check the job against its input, as if the output were empty. Raises UserError."""

    def prepare(self) -> None:
        """Check the job before it takes its output. Raises UserError, and JobError for a changed input."""
        self.check()

    @abstractmethod
    def work(self, lease: Lease) -> Showable:
        """Do the rest of the work, and finish the output. Raises UserError for a mistake, JobError where it stopped."""

    @abstractmethod
    def plan(self, gpu: str) -> Showable:
        """Find out what the job would do; writes nothing. ``gpu``: the device whose hours are estimated."""

    @classmethod
    @abstractmethod
    def status(cls, output: Folder) -> Showable:
        """Read how far an output is."""

    @abstractmethod
    def describe_output(self) -> str:
        """Name the output's content, as a part of a sentence: ``12 finished rows``."""

    @abstractmethod
    def discard(self) -> None:
        """Delete the output, except for answers that were paid for."""

    @contextmanager
    def first_rows(self) -> Iterator[InputDataset]:
        """The beginning of the rows that the job works on; ``rmbatch doctor`` asks about these."""
        yield view_input(self.job.input, plan_sample(self.job, list_job_input(self.job)))

    def rewards(self) -> dict[str, Reward]:
        """Return the rewards whose models and judges ``rmbatch doctor`` examines."""
        return {}

    def generators(self) -> dict[str, RequestWriter]:
        """The sources of candidates that ``rmbatch doctor`` examines."""
        return {}


def run_job(job: JobConfig, display: Display) -> Any:
    """Run the job to its end, and return its result.

    On an empty output it begins. After a crash it continues. On a finished output it only returns the result. Raises
    UserError before any work, and JobError where it stopped on its way.
    """
    run = job_type(job.job)(job, display)
    with explain_errors(run.output.url):
        _refuse_other_kind(run)
        result = _find_result(run)
        if result is not None:
            return run.complete(result)
        run.prepare()
        with Lease.take(run.private.folder("lease"), waiting=display.say) as lease:
            try:
                result = _find_result(run) or run.work(lease)  # another run may have finished it meanwhile
            except (UserError, JobError):
                if run.read_identity(run.output) is None:
                    lease.forget()  # nothing has begun, so no task that is still alive has this epoch
                raise
        return run.complete(result)


def run_job_file(path: str, *overrides: str, limit: int | None = None) -> Any:
    """Run the job of a file to its end, and return its result.

    ``path``: a path or a URL. ``overrides``: ``"key.sub=value"``, as on the command line. ``limit``: only the first
    rows. Raises UserError for a mistake in the job, before any work. Raises JobError where it stopped on its way; the
    same call then continues.
    """
    with Display() as display:
        return run_job(read_job(path, overrides, limit), display)


def _find_result(run: JobType[Any]) -> Showable | None:
    """Return the result of a finished output. Raises UserError where the output belongs to another job."""
    before = run.read_identity(run.output)
    if before is not None:
        check_same_job(before, run.identity(), run.output.url, run.display)
    result = run.result()
    if result is not None:
        run.display.say(f"{run.output.url} is finished; nothing to do")
    return result


def _refuse_other_kind(run: JobType[Any]) -> None:
    """Raises UserError where another kind of job began this output. Each kind records its identity elsewhere."""
    if run.read_identity(run.output) is not None or not run.private.entries():  # a new output costs one listing
        return
    for kind in map(job_type, JOB_TYPES):
        identity = None if isinstance(run, kind) else kind.read_identity(run.output)
        if identity is not None:
            raise UserError(
                f"{run.output.url} is the output of another kind of job ({identity.get('job')}); "
                "write to another output.path"
            )


def read_output_status(url: str, options: StorageOptions) -> Showable:
    """Read how far an output of any kind of job is. Raises UserError for a folder that is no output."""
    output = Folder.open(url, options)
    try:
        for kind in JOB_TYPES:
            identity = job_type(kind).read_identity(output)
            if identity is not None:  # all jobs over rows record theirs in one place
                named = identity.get("job")
                status: Showable = job_type(named if named in JOB_TYPES else kind).status(output)
                return status
    except NotADirectoryError:
        raise UserError(f"{url} is a file; write the folder that the job writes to (output.path)") from None
    raise UserError(f"{url} is no output of rmbatch: it has no _rmbatch/plan.json")


def discard_output(job: JobConfig, display: Display, confirm: Callable[[str], bool]) -> None:
    """Delete the job's output if it has one, so that the job begins anew.

    Raises UserError where the answer is no, and before the question for a job that could not begin. Raises JobError
    while a run works on the output.
    """
    run = job_type(job.job)(job, display)
    try:
        if run.read_identity(run.output) is None:
            return
    except (UserError, JobError):
        pass  # damaged, or of another version
    run.check()
    content = run.describe_output()
    if not confirm(f"{run.output.url} holds {content}. Delete them and begin anew?"):
        raise UserError(f"{run.output.url} was left as it is; without --overwrite the job goes on from there")
    with Lease.take(run.private.folder("lease"), waiting=display.say):
        run.discard()
    display.say(f"deleted {content} in {run.output.url}")
