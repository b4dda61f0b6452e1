"""A job fitted to its input: its stages, the columns it reads and the columns it writes.

Everything here depends only on the job and a schema, and happens before any work. A mistake is a UserError.

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
from connectors.schema import HIDDEN, add_twins, find_twins
from connectors.writer import OutputSpec
from jobs.config.sections import RowJobConfig
from jobs.run.output import output_folder
from rmbatch.adapters.view import PART, keep_part
from rmbatch.rows.roles import Roles, refuse_misspelt
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Fit, Needs, Stage, all_needs, all_tallies
from rmbatch.stages.tally import count_odd_values, count_parts


@dataclass(frozen=True)
class Prepared:
    """A job that fits its input."""

    roles: Roles
    """The roles of the input's columns."""
    stages: Sequence[Stage]
    read_columns: list[str]
    """The input columns that the job needs."""
    output_schema: pa.Schema
    group: str | None
    """The key column of flat rows. None for nested rows, and where nothing compares rows."""
    part: str | None = None
    """The part of a split input that the job works on. None: all of it."""

    @property
    def needs(self) -> Needs:
        """The models and judges that must run."""
        return all_needs(self.stages)


def prepare(job: RowJobConfig, fits: Sequence[Fit], schema: pa.Schema) -> Prepared:
    """Fit the job to the input's schema. Raises UserError where it does not fit."""
    roles = job.guess_roles(schema)
    _check_group(job, schema, roles)
    kept = _kept_columns(job, schema)
    group = group_key(job, roles)
    stages: list[Stage] = []
    part = job.input.split.part if job.input.split else None
    read, output = {*kept, *([group] if group else []), *([PART] if part else [])}, schema
    for fit in fits:
        stages.append(fit(output))
        read |= stages[-1].columns(output)
        output = stages[-1].output_schema(output)
    refuse_misspelt(roles, {name for stage in stages for names in stage.reads().values() for name in names})
    added = [field for field in output if field.name not in schema.names]
    needed = set(add_twins([name for name in schema.names if name in read], schema))
    return Prepared(
        roles,
        stages,
        [name for name in schema.names if name in needed],
        pa.schema([*(output.field(name) for name in kept), *added]),  # a stage may replace columns
        group,
        part,
    )


def group_key(job: RowJobConfig, roles: Roles) -> str | None:
    """The key column that the job names for flat rows. None for nested rows, which need none."""
    return job.input.group.by if job.input.group and roles.responses is None else None


def _kept_columns(job: RowJobConfig, schema: pa.Schema) -> list[str]:
    if job.output.columns is None:
        return list(schema.names)
    for name in job.output.columns:
        if name not in schema.names:
            raise UserError(
                f"output.columns names {name!r}, which the input does not have; {nearest(name, schema.names)}"
            )
    split = [PART] if job.input.split and PART not in job.output.columns else []  # counts need it
    return add_twins([*job.output.columns, *split], schema)


def _check_group(job: RowJobConfig, schema: pa.Schema, roles: Roles) -> None:
    """Raises UserError for a missing key column, and for a key of nested rows, which need none."""
    key = job.input.group.by if job.input.group else None
    if key is not None and key not in schema.names:
        raise UserError(f"input.group.by names {key!r}, which the input does not have; {nearest(key, schema.names)}")
    if key is not None and pa.types.is_nested(schema.field(key).type):
        plain = nearest(key, [each.name for each in schema if not pa.types.is_nested(each.type)])
        raise UserError(f"input.group.by: {key!r} holds {schema.field(key).type}, and a key is a plain value; {plain}")
    if key is not None and roles.responses is not None:
        raise UserError(
            f"input.group.by is for rows of one response each, and these hold lists in {roles.responses!r}; "
            "leave it out, or set input.columns.responses: null"
        )


def output_spec(job: RowJobConfig, prepared: Prepared) -> OutputSpec:
    """Translate the job's output settings into the writer's."""
    output = job.output
    compression = output.compression or load_format(output.format).compressions[0]
    return OutputSpec(
        output_folder(job),
        prepared.output_schema,
        output.format,
        None if compression == "none" else compression,
        output.file_mb << 20,
        output.row_group_rows,
        output.rejected == "keep",
        RowCounter(prepared.stages, prepared.part),
    )


@dataclass(frozen=True)
class RowCounter:
    """Counts written rows, as each stage wants them counted."""

    stages: Sequence[Stage]
    part: str | None = None
    """Rows of the other part of a split input went through no stage."""

    def __call__(self, table: pa.Table) -> Counter[str]:
        counts = all_tallies(self.stages, keep_part(table, self.part))
        if PART in table.column_names:
            counts.update(count_parts(table[PART].to_pylist()))
        for name, twin in find_twins(table.schema).items():
            counts.update(count_odd_values(name, table.num_rows - table[twin].null_count))
        return counts


def project(dataset: InputDataset, prepared: Prepared) -> InputDataset:
    """Leave only the columns that the job needs, and the hidden columns that a shuffle wrote."""
    hidden = [name for name in dataset.schema.names if name.startswith(HIDDEN)]
    return dataset.project([*prepared.read_columns, *hidden])
