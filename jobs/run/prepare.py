"""A job fitted to its input: its stages, the columns that are read and those that are written.

Everything here is decided before any work, from the job and a schema alone; a mistake is a UserError.

    prepared = prepare(job, fits, dataset.schema)
    prepared.stages, prepared.output_schema, prepared.read_columns
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.formats.base import load_format
from connectors.schema import HIDDEN, twins_of, with_twins
from connectors.writer import OutputSpec
from jobs.config.sections import RewardJob
from jobs.run.output import output_folder
from rmbatch.rows.roles import Roles, guess_roles
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Fit, Needs, Stage, all_needs, all_tallies
from rmbatch.stages.tally import count_odd_values


@dataclass(frozen=True)
class Prepared:
    """A job that fits its input."""

    roles: Roles
    """Of the input."""
    stages: Sequence[Stage]
    read_columns: list[str]
    """Input columns that have to be read."""
    output_schema: pa.Schema
    group: str | None
    """Key column of flat rows; None for nested ones, and where nothing compares rows."""

    @property
    def needs(self) -> Needs:
        """The models and judges that have to run."""
        return all_needs(self.stages)


def prepare(job: RewardJob, fits: Sequence[Fit], schema: pa.Schema) -> Prepared:
    """Fit the job to the input's schema; raises UserError that says what to write instead."""
    roles = guess_roles(schema, job.input.columns)
    _check_group(job, schema, roles)
    kept = _kept_columns(job, schema)
    group = group_key(job, roles)
    stages: list[Stage] = []
    read, output = {*kept, *([group] if group else [])}, schema
    for fit in fits:
        stages.append(fit(output))
        read |= stages[-1].columns(output)
        output = stages[-1].output_schema(output)
    added = [field for field in output if field.name not in schema.names]
    needed = set(with_twins([name for name in schema.names if name in read], schema))
    return Prepared(
        roles,
        stages,
        [name for name in schema.names if name in needed],
        pa.schema([*(schema.field(name) for name in kept), *added]),
        group,
    )


def group_key(job: RewardJob, roles: Roles) -> str | None:
    """The key column of flat rows that the job names. None for nested rows, which need none."""
    return job.input.group.by if job.input.group and roles.responses is None else None


def _kept_columns(job: RewardJob, schema: pa.Schema) -> list[str]:
    if job.output.columns is None:
        return list(schema.names)
    for name in job.output.columns:
        if name not in schema.names:
            raise UserError(
                f"output.columns names {name!r}, which the input does not have; {nearest(name, schema.names)}"
            )
    return with_twins(job.output.columns, schema)


def _check_group(job: RewardJob, schema: pa.Schema, roles: Roles) -> None:
    """Raises UserError for a key that is not there, or that nested rows do not need."""
    key = job.input.group.by if job.input.group else None
    if key is not None and key not in schema.names:
        raise UserError(f"input.group.by names {key!r}, which the input does not have; {nearest(key, schema.names)}")
    if key is not None and roles.responses is not None:
        raise UserError(
            f"input.group.by is for rows of one response each, and these hold lists in {roles.responses!r}; "
            "leave it out, or set input.columns.responses: null"
        )


def output_spec(job: RewardJob, prepared: Prepared) -> OutputSpec:
    """How the job writes."""
    output = job.output
    chosen = output.compression or load_format(output.format).compressions[0]
    return OutputSpec(
        output_folder(job),
        prepared.output_schema,
        output.format,
        None if chosen == "none" else chosen,
        output.file_mb << 20,
        output.row_group_rows,
        output.rejected == "keep",
        RowCounter(prepared.stages),
    )


@dataclass(frozen=True)
class RowCounter:
    """Counts written rows by all stages."""

    stages: Sequence[Stage]

    def __call__(self, table: pa.Table) -> Counter[str]:
        counts = all_tallies(self.stages, table)
        for name, twin in twins_of(table.schema).items():
            counts.update(count_odd_values(name, table.num_rows - table[twin].null_count))
        return counts


def project(dataset: InputDataset, prepared: Prepared) -> InputDataset:
    """The dataset with only the columns that the job needs, and the hidden ones that a shuffle wrote."""
    hidden = [name for name in dataset.schema.names if name.startswith(HIDDEN)]
    return dataset.project([*prepared.read_columns, *hidden])
