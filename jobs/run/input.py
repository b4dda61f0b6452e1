"""The input of a job: its files, and the rows that are planned out of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from connectors.dataset import InputDataset, changed_files
from connectors.errors import JobError, UserError
from connectors.formats.base import JsonlOptions, MapInOrder
from connectors.ledger import Plan
from connectors.listing import Listing, list_input
from connectors.planning import plan_dataset
from jobs.config.sections import InputConfig, JobConfig
from jobs.run.output import input_paths, storage_options
from jobs.show.display import Display

SAMPLE_ROWS = 1000
"""A job is fitted to so many rows of JSONL before the whole input is scanned."""
UNIT_BYTES = 64 << 20


class _Mapper(Protocol):
    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]: ...


def list_job_input(job: JobConfig) -> Listing:
    """The files of the job's input."""
    return list_input(input_paths(job), storage_options(job.input.storage), job.input.format)


def jsonl_options(config: InputConfig, *, without_twins: bool = False) -> JsonlOptions:
    """The connectors' form of how a job reads JSONL."""
    odd_values = config.odd_values
    return JsonlOptions(
        as_json=tuple(config.types),
        odd_values="json_column" if without_twins and odd_values == "json_twin" else odd_values,
        join_keys=(config.group.by,) if config.group else (),
        max_line_bytes=config.max_line_mb << 20,
        max_columns=config.max_columns,
    )


def plan_job_input(
    job: JobConfig,
    listing: Listing,
    limit: int | None,
    *,
    unit_bytes: int = UNIT_BYTES,
    without_twins: bool = False,
    run: MapInOrder[Any, Any] = map,
) -> InputDataset:
    """The planned input; for JSONL that reads every row up to the limit."""
    group = job.input.group
    return plan_dataset(
        listing,
        storage_options(job.input.storage),
        unit_bytes=unit_bytes,
        limit=limit,
        group_key=group.by if group and group.rows == "adjacent" else None,
        jsonl=jsonl_options(job.input, without_twins=without_twins),
        run=run,
    )


def plan_sample(job: JobConfig, listing: Listing, unit_bytes: int = UNIT_BYTES) -> InputDataset:
    """The first rows of the input."""
    limit = min(SAMPLE_ROWS, job.input.limit or SAMPLE_ROWS)
    return plan_job_input(job, listing, limit, unit_bytes=unit_bytes)


def scan(job: JobConfig, listing: Listing, executor: _Mapper, display: Display, unit_bytes: int) -> InputDataset:
    """Plan JSONL by reading all of it."""
    total = sum(file.size for file in listing.files)
    with display.stage("scan", total, "bytes") as advance_to:

        def run(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterable[Any]:
            position = 0
            for part, profile in zip(parts, executor.map(function, parts), strict=True):
                position += part.stop - part.start
                advance_to(position)
                yield profile

        return plan_job_input(job, listing, job.input.limit, unit_bytes=unit_bytes, run=run)


def check_unchanged(plan: Plan, listing: Listing, display: Display) -> None:
    """A changed or vanished file stops the job; a new one is named and left alone."""
    lines = changed_files(plan.dataset, listing.files)
    changed = [line for line in lines if not line.endswith("is new")]
    if changed:
        raise JobError(
            f"the input is not what was planned: {'; '.join(changed[:5])}; restore it, or start a new output"
        )
    for line in lines[:5]:
        display.say(f"warning: {line}, and not part of this job's plan")


def say_changes(plan: Plan, job: JobConfig, display: Display) -> None:
    """Name what has changed of the input since the job was planned."""
    try:
        found = list_job_input(job).files
    except UserError as error:
        display.say(f"warning: {error}")
        return
    for line in changed_files(plan.dataset, found)[:5]:
        display.say(f"warning: {line} since this job was planned")
