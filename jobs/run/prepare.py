"""What a job file and an input's schema come to: roles, stages, the columns that are read and those that are written.

Everything here is decided before any work, from the job and a schema alone; a mistake is a UserError.

    prepared = prepare(job, dataset.schema)
    prepared.roles, prepared.stages, prepared.output_schema, prepared.read_columns
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from connectors.commit import FOLDERS
from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.listing import takes_in
from connectors.planning import JsonlOptions
from connectors.schema import HIDDEN, twins_of, with_twins
from connectors.storage import Folder, StorageOptions
from connectors.writer import OutputSpec
from jobs import best_of_n, score
from jobs.config.sections import BestOfNJob, InputConfig, ScoreJob, StorageConfig
from rmbatch.rows.roles import EVERYTHING, Roles, flatten, guess_roles
from rmbatch.settings.names import nearest
from rmbatch.stages.score import ScoreStage
from rmbatch.stages.select import SelectStage

if TYPE_CHECKING:  # only its command needs the module
    from jobs.principles_config import PrinciplesJob

Job = ScoreJob | BestOfNJob
Stages = Sequence[ScoreStage | SelectStage]


_STAGES: dict[type[Job], Callable[..., Stages]] = {ScoreJob: score.stages, BestOfNJob: best_of_n.stages}


@dataclass(frozen=True)
class Prepared:
    """A job that fits its input."""

    roles: Roles
    stages: Stages
    read_columns: list[str]
    """Input columns that have to be read."""
    output_schema: pa.Schema
    group: str | None
    """Key column of flat rows; None for nested ones, and where nothing compares rows."""

    @property
    def score_stage(self) -> ScoreStage:
        return next(stage for stage in self.stages if isinstance(stage, ScoreStage))


def prepare(job: Job, schema: pa.Schema) -> Prepared:
    """Fit the job to the input's schema; raises UserError that says what to write instead."""
    roles = guess_roles(schema, job.input.columns)
    stages = _STAGES[type(job)](job, roles)
    group = job.input.group.by if job.input.group and roles.responses is None else None
    _check_columns(job, schema, roles, stages)
    kept = _kept_columns(job, schema)
    output = schema
    for stage in stages:
        output = stage.output_schema(output)
    added = [field for field in output if field.name not in schema.names]
    needed = set(with_twins([*kept, *_columns_of(roles, stages, schema), *([group] if group else [])], schema))
    return Prepared(
        roles,
        stages,
        [name for name in schema.names if name in needed],
        pa.schema([*(schema.field(name) for name in kept), *added]),
        group,
    )


def _kept_columns(job: Job, schema: pa.Schema) -> list[str]:
    if job.output.columns is None:
        return list(schema.names)
    for name in job.output.columns:
        if name not in schema.names:
            raise UserError(
                f"output.columns names {name!r}, which the input does not have; {nearest(name, schema.names)}"
            )
    return with_twins(job.output.columns, schema)


def _check_columns(job: Job, schema: pa.Schema, roles: Roles, stages: Stages) -> None:
    """Raises UserError for a column that is not there, or of a type that cannot play its role."""
    view = flatten(schema.empty_table(), roles)
    if view.has("response"):
        view.column("response")
    for stage in stages:
        if not isinstance(stage, ScoreStage):
            continue
        for name, columns in stage.reads().items():
            for column in columns:
                if not view.has(column):
                    if column in stage.rewards[name].optional:
                        continue
                    raise UserError(
                        f"reward {name!r} reads {column!r}, and no column plays that role; set "
                        f"input.columns.{column} to one of: {', '.join(schema.names)}"
                    )
                view.column(column)
    key = job.input.group.by if job.input.group else None
    if key is not None and key not in schema.names:
        raise UserError(f"input.group.by names {key!r}, which the input does not have; {nearest(key, schema.names)}")
    if key is not None and roles.responses is not None:
        raise UserError(
            f"input.group.by is for rows of one response each, and these hold lists in {roles.responses!r}; "
            "leave it out, or set input.columns.responses: null"
        )


def _columns_of(roles: Roles, stages: Stages, schema: pa.Schema) -> set[str]:
    """The input columns behind the candidates and behind what the rewards read."""
    several = roles.responses if isinstance(roles.responses, tuple) else (roles.responses,)
    needed = {roles.response, *several}
    for stage in stages:
        if isinstance(stage, ScoreStage):
            for columns in stage.reads().values():
                for name in columns:
                    if name == EVERYTHING:
                        needed |= {*schema.names}
                    played = getattr(roles, name) if name in ("prompt", "reference", "id", "group") else None
                    needed.add(roles.extra.get(name) or played or name)
    return {name for name in needed if name in schema.names}


def storage_options(config: StorageConfig) -> StorageOptions:
    """The connectors' form of a job's storage settings."""
    return StorageOptions(**config.model_dump())


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


def check_places(job: "Job | PrinciplesJob", parts: Iterable[str] = tuple(FOLDERS.values())) -> None:
    """Raises UserError for an output inside the input, where the next job would read results as rows.

    Also for an input inside one of the ``parts`` of the output.
    """
    output = Folder.open(job.output.path, storage_options(job.output.storage or job.input.storage))
    try:
        output.url.encode()
    except UnicodeEncodeError:
        raise UserError(f"output.path: the name {output.url!a} is not UTF-8; write to a folder whose name is") from None
    if job.output.storage is not None and job.output.storage != job.input.storage:
        return  # the same name in another store is another place
    paths = [job.input.path] if isinstance(job.input.path, str) else job.input.path
    for path in paths:
        if takes_in(path, output.url, storage_options(job.input.storage)):
            raise UserError(
                f"output.path: {job.output.path} lies inside the input {path}, which would then hold results; "
                "choose a folder outside of it"
            )
        if any(takes_in(f"{output.url}/{part}", path, storage_options(job.input.storage)) for part in parts):
            raise UserError(
                f"output.path: {job.output.path} would hold the input {path} among its results; choose another"
            )


def output_folder(job: Job) -> Folder:
    """Where the job writes."""
    return Folder.open(job.output.path, storage_options(job.output.storage or job.input.storage))


def output_spec(job: Job, prepared: Prepared) -> OutputSpec:
    """How the job writes."""
    output = job.output
    default = "zstd" if output.format == "parquet" else None
    chosen = default if output.compression is None else output.compression
    return OutputSpec(
        output_folder(job),
        prepared.output_schema,
        output.format,
        None if chosen == "none" else chosen,
        output.file_mb << 20,
        output.row_group_rows,
        output.rejected == "keep",
        Tally(prepared.stages),
    )


@dataclass(frozen=True)
class Tally:
    """The counts of all stages over written rows."""

    stages: Stages

    def __call__(self, table: pa.Table) -> Counter[str]:
        counts: Counter[str] = Counter()
        for stage in self.stages:
            counts.update(stage.tally(table))
        for name, twin in twins_of(table.schema).items():
            counts[f"odd.{name}"] = table.num_rows - table[twin].null_count
        return counts


def project(dataset: InputDataset, prepared: Prepared) -> InputDataset:
    """The dataset with only the columns that the job needs, and the hidden ones that a shuffle wrote."""
    hidden = [name for name in dataset.schema.names if name.startswith(HIDDEN)]
    return dataset.project([*prepared.read_columns, *hidden])
