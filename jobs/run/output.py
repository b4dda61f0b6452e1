"""The output of a job of any kind: where it is, and which job it belongs to."""

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.working_folder import refuse_lost_output
from connectors.errors import UserError
from connectors.listing import includes
from connectors.storage import Folder, StorageOptions
from jobs.config.identity import differences
from jobs.config.sections import JobConfig, StorageConfig
from jobs.show.display import Display


def storage_options(config: StorageConfig) -> StorageOptions:
    """Translate a job's storage settings into the connectors' options."""
    return StorageOptions(**config.model_dump())


def output_folder(job: JobConfig) -> Folder:
    """Open the folder that the job writes to."""
    return Folder.open(job.output.path, storage_options(job.output.storage or job.input.storage))


def input_paths(job: JobConfig) -> list[str]:
    """List the paths of the job's input."""
    return [job.input.path] if isinstance(job.input.path, str) else list(job.input.path)


def check_places(job: JobConfig, parts: Iterable[str]) -> None:
    """Raises UserError for an output that would be lost, lies inside the input or would hold the input.

    ``parts``: the folders of the output that will hold rows.
    """
    refuse_lost_output("output.path", job.output.path)
    output = output_folder(job)
    try:
        output.url.encode()
    except UnicodeEncodeError:
        raise UserError(f"output.path: the name {output.url!a} is not UTF-8; write to a folder whose name is") from None
    if output.url.startswith("memory://"):
        raise UserError(f"output.path {output.url} is the memory of one process, not of workers; write to a disk")
    if job.output.storage is not None and job.output.storage != job.input.storage:
        return  # the same name in another store is another place
    options = storage_options(job.input.storage)
    for path in input_paths(job):
        if includes(path, output.url, options):
            raise UserError(
                f"output.path: {job.output.path} lies inside the input {path}, which would then hold results; "
                "choose a folder outside of it"
            )
        if any(includes(f"{output.url}/{part}", path, options) for part in parts):
            raise UserError(
                f"output.path: {job.output.path} would hold the input {path} among its results; choose another"
            )


def check_same_job(before: Mapping[str, Any], now: Mapping[str, Any], output: str, display: Display) -> None:
    """Raises UserError, naming the differences, where another job began the output.

    A changed file of rewards gives only a warning: a job that stopped may need the change.
    """
    old, new = dict(before), dict(now)
    digests = old.pop("reward_files", {})
    for file, digest in new.pop("reward_files", {}).items():
        if digests.get(file, digest) != digest:
            display.say(f"warning: {file} has changed; finished rows keep the scores of its former version")
    lines = differences(old, new)
    if lines:
        raise UserError(
            f"{output} belongs to another job: {'; '.join(lines[:5])} (planned -> now); "
            "write to another output.path, or put the job file back"
        )
