"""The input of a job: its files and its planned rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from connectors.dataset import InputDataset, describe_changes
from connectors.errors import JobError, UserError
from connectors.formats.base import JsonlOptions, MapInOrder
from connectors.ledger import Plan
from connectors.listing import Listing, list_input
from connectors.planning import plan_dataset
from jobs.config.sections import InputConfig, JobConfig
from jobs.run.output import input_paths, storage_options
from jobs.show.display import Display
from rmbatch.adapters.base import load_adapter
from rmbatch.adapters.view import InputView, Split
from rmbatch.rows.roles import guess_roles

SAMPLE_ROWS = 1000
"""Rows of JSONL that a job is fitted to before the whole input is scanned."""
UNIT_BYTES = 64 << 20


class _Mapper(Protocol):
    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]: ...


def list_job_input(job: JobConfig) -> Listing:
    """List the files of the job's input."""
    return list_input(input_paths(job), storage_options(job.input.storage), job.input.format)


def jsonl_options(config: InputConfig, *, without_twins: bool = False) -> JsonlOptions:
    """Translate how a job reads JSONL into the connectors' options."""
    odd_values = config.odd_values
    return JsonlOptions(
        as_json=tuple(config.types),
        odd_values="json_column" if without_twins and odd_values == "json_twin" else odd_values,
        join_keys=(config.group.by,) if config.group else (),
        max_line_bytes=config.max_line_mb << 20,
        max_columns=config.max_columns,
    )


def view_input(config: InputConfig, dataset: InputDataset) -> InputDataset:
    """Show the rows of an input as the job sees them: adapted and split. Raises UserError where that cannot be."""
    if config.adapter is None and config.split is None:
        return dataset
    adapter = None if config.adapter is None else load_adapter(config.adapter)
    view = InputView(dataset.schema, adapter)
    group = config.group
    if group is not None and group.rows == "adjacent" and not _has_same(dataset.schema, view.schema, group.by):
        raise UserError(
            f"input.group: rows are adjacent by a column of the files, and {config.adapter} makes {group.by!r}; write "
            "rows: scattered, or name a column that stays as it is"
        )
    if config.split is not None:
        by = config.split.by or guess_roles(view.schema, config.columns).prompt
        if by is None:
            raise UserError("input.split: no column plays the role 'prompt'; name one in input.split.by")
        split = config.split
        view = InputView(dataset.schema, adapter, Split(by, split.validation, split.seed, split.part))
    return dataset.see_through(view)


def check_adapter(config: InputConfig) -> None:
    """Raises UserError where there is no such adapter."""
    if config.adapter is not None:
        load_adapter(config.adapter)


def _has_same(schema: pa.Schema, other: pa.Schema, name: str) -> bool:
    return name in schema.names and name in other.names and bool(schema.field(name).type == other.field(name).type)


def plan_job_input(
    job: JobConfig,
    listing: Listing,
    limit: int | None,
    *,
    unit_bytes: int = UNIT_BYTES,
    without_twins: bool = False,
    run: MapInOrder[Any, Any] = map,
) -> InputDataset:
    """Plan the input's files, in their own columns. For JSONL that reads every row up to the limit."""
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
    """Plan only the first rows of the input."""
    limit = min(SAMPLE_ROWS, job.input.limit or SAMPLE_ROWS)
    return plan_job_input(job, listing, limit, unit_bytes=unit_bytes)


def scan(job: JobConfig, listing: Listing, executor: _Mapper, display: Display, unit_bytes: int) -> InputDataset:
    """Plan JSONL by reading all of it."""
    total = sum(file.size for file in listing.files)
    with display.show_progress("scan", total, "bytes") as advance_to:

        def run(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterable[Any]:
            position = 0
            for part, profile in zip(parts, executor.map(function, parts), strict=True):
                position += part.stop - part.start
                advance_to(position)
                yield profile

        return plan_job_input(job, listing, job.input.limit, unit_bytes=unit_bytes, run=run)


def check_unchanged(plan: Plan, listing: Listing, display: Display) -> None:
    """Raises JobError for a changed or missing file. Warns of a new one, which the job ignores."""
    lines = describe_changes(plan.dataset, listing.files)
    changed = [line for line in lines if not line.endswith("is new")]
    if changed:
        raise JobError(
            f"the input is not what was planned: {'; '.join(changed[:5])}; restore it, or start a new output"
        )
    for line in lines[:5]:
        display.say(f"warning: {line}, and not part of this job's plan")


def warn_of_changes(plan: Plan, job: JobConfig, display: Display) -> None:
    """Warn of input files that have changed since the job was planned."""
    try:
        files = list_job_input(job).files
    except UserError as error:
        display.say(f"warning: {error}")
        return
    for line in describe_changes(plan.dataset, files)[:5]:
        display.say(f"warning: {line} since this job was planned")
