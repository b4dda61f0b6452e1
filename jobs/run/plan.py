"""Plans a job over rows without running it: plans its input, estimates its models' work, scores its first rows here.

plan = plan_job(job, fits)             # rmbatch plan job.yaml, rmbatch run job.yaml --dry-run
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.schema import visible_columns
from jobs.config.identity import job_identity
from jobs.config.sections import RowJobConfig
from jobs.run.chat_estimate import ChatEstimate, estimate_chat, sum_by_model
from jobs.run.exports import check_exports, describe_exports
from jobs.run.input import list_job_input, plan_job_input, plan_sample, view_input
from jobs.run.prepare import Prepared, prepare, project
from jobs.run.sampling import Sample, drop_unreadable, gather_groups, read_first_blocks, sample_rows
from jobs.run.services import dtype_of, stub_connections
from jobs.show.plan import JobPlan
from rmbatch.adapters.view import keep_part
from rmbatch.costs.estimate import MFU, Interval, estimate, gpu_hours
from rmbatch.costs.gpus import PEAKS, flops_per_token, peak_flops
from rmbatch.endpoints.connections import use_connections
from rmbatch.reward_models.reward import ModelReward
from rmbatch.rows.roles import Roles, flatten
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Fit, all_needs

PREVIEW_ROWS = 5
ESTIMATED_ROWS = 256
"""Rows in the sample that estimates the work of a reward model or a judge."""


def plan_job(job: RowJobConfig, fits: Sequence[Fit], gpu: str = "H100") -> JobPlan:
    """Find out what the job would do; writes nothing. Raises UserError for a mistake that would stop the job.

    ``gpu``: the device whose hours are estimated for reward models.
    """
    listing = list_job_input(job)
    sampled = listing.is_scanned
    unit_bytes = job.run.unit_mb << 20
    if sampled:
        dataset = plan_sample(job, listing, unit_bytes)
    else:
        dataset = plan_job_input(job, listing, job.input.limit, unit_bytes=unit_bytes)
    dataset = view_input(job.input, dataset)
    prepared = prepare(job, fits, dataset.schema)
    check_exports(job, job_identity(job), prepared.output_schema)
    total = sum(file.size for file in listing.files)
    num_rows, num_units = dataset.num_rows, len(dataset.units)
    if sampled:
        seen = sum(unit.num_bytes for unit in dataset.units.values())
        num_rows = int(total * sum(file.num_rows for file in dataset.files.values()) / max(seen, 1))
        num_rows = max(min(num_rows, job.input.limit or num_rows), 1)
        num_units = -(-total // (job.run.unit_mb << 20))
    needs = prepared.needs
    sample = None
    if needs.models or needs.askers:
        sample = sample_rows(project(dataset, prepared), ESTIMATED_ROWS, num_rows, prepared.part)
    models: dict[str, dict[str, str]] = {}
    estimates: dict[str, ChatEstimate] = {}
    if sample is not None:
        models, estimates = _estimate_services(prepared, sample, gpu)
    with use_connections(stub_connections(needs)):
        rows = preview(dataset, prepared)
    return JobPlan(
        job=job.job,
        format=listing.format,
        num_files=len(listing.files),
        num_bytes=total,
        num_rows=num_rows,
        num_units=num_units,
        estimated=sampled,
        num_seen=dataset.num_rows,
        skipped=listing.skipped,
        adapter=job.input.adapter,
        split=job.input.split.describe() if job.input.split else None,
        roles=dict(_list_roles(prepared)),
        reads={name: columns for stage in prepared.stages for name, columns in stage.reads().items()},
        writes=prepared.output_schema.names,
        output=job.output.path,
        exports=describe_exports(job),
        mixed=dataset.mixed,
        models=models,
        asked={name: dict(each.lines()) for name, each in estimates.items()},
        shared=sum_by_model(needs.askers, estimates),
        first_rows=rows.select(_choose_columns(rows, prepared)).to_pylist(),
    )


def preview(dataset: InputDataset, prepared: Prepared, num_rows: int = PREVIEW_ROWS) -> pa.Table:
    """Process the first rows in this process, and return them with the columns that the job adds."""
    wanted = project(dataset, prepared)
    block = next(read_first_blocks(wanted, num_rows), wanted.schema.empty_table())
    block = keep_part(drop_unreadable(block), prepared.part)
    if prepared.group is None:
        block = block.slice(0, num_rows)
    else:
        block = gather_groups(block, prepared.group)
    for stage in prepared.stages:
        block = stage(block)
    return visible_columns(block).slice(0, num_rows)


def _estimate_services(
    prepared: Prepared, sample: Sample, gpu: str
) -> tuple[dict[str, dict[str, str]], dict[str, ChatEstimate]]:
    """Estimate the work of all models and askers, each from the rows as they come to its stage."""
    models: dict[str, dict[str, str]] = {}
    estimates: dict[str, ChatEstimate] = {}
    for place, stage in enumerate(prepared.stages):
        needs, later = stage.needs(), all_needs(prepared.stages[place + 1 :])
        roles = getattr(stage, "roles", prepared.roles)
        own_models = {name: each for name, each in needs.models.items() if name not in later.models}
        own_askers = {name: each for name, each in needs.askers.items() if name not in later.askers}
        for name, reward in own_models.items():
            reward.leave_store()
            models[name] = dict(_estimate_model(name, reward, sample, roles, gpu))
        for name, asker in own_askers.items():
            estimates[name] = estimate_chat(name, asker, sample, roles, prepared.group)
        if own_askers and (later.models or later.askers):  # they see what these have written
            with use_connections(stub_connections(needs, pretend=True)):
                sample = replace(sample, rows=stage(sample.rows))
    return models, estimates


def _list_roles(prepared: Prepared) -> Iterator[tuple[str, str]]:
    for role in ("id", "prompt", "response", "responses", "reference"):
        column = getattr(prepared.roles, role)
        if column is not None:
            yield role, column if isinstance(column, str) else ", ".join(column)
    if prepared.group is not None:
        yield "group", prepared.group
    yield from prepared.roles.extra.items()


def _choose_columns(rows: pa.Table, prepared: Prepared) -> list[str]:
    """Choose the columns to show: those that play a role, and those that the job adds."""
    several = prepared.roles.responses
    named = [prepared.roles.prompt, prepared.roles.response, prepared.roles.reference, prepared.group]
    named += several if isinstance(several, tuple) else [several]
    shown = [name for name in rows.column_names if name in named]
    asked = {column for name, asker in prepared.needs.askers.items() for column in asker.column_types(name)}
    unknown = {*prepared.read_columns, *shown, *asked}  # no judge was asked, so its columns are empty
    return shown + [name for name in rows.column_names if name not in unknown]


def _estimate_model(name: str, reward: ModelReward, sample: Sample, roles: Roles, gpu: str) -> list[tuple[str, str]]:
    """Estimate a model's work from a sample, as names and values to show. Raises UserError for an unknown GPU."""
    view = flatten(sample.rows, roles)
    encoded = reward.encoder.encode(view.column("prompt"), view.column("response"))
    offsets = np.arange(sample.rows.num_rows + 1) if view.offsets is None else view.offsets
    place = np.repeat(sample.place, np.diff(offsets))
    found = estimate(encoded.ids, encoded.prompt, place, num_sampled=sample.num_places, num_all=sample.all_places)
    spec = reward.spec
    computed = found.computed if spec.shares_prefixes else found.tokens
    most = "at most " if "." in name else ""  # behind a gate or on a route it gets only some of the rows
    how = ", each prompt once" if spec.shares_prefixes else ""
    lines = [
        ("tokens", f"{most}{_format_interval(found.tokens)}; {_format_interval(computed)} to compute{how}"),
        ("sample", f"{sample.rows.num_rows:,} rows from {sample.num_places:,} places"),
    ]
    failed = encoded.error.drop_null()
    if len(failed):
        lines.append(("no score", f"{len(failed) / len(encoded.error):.1%} of the sample, e.g. {failed[0]}"))
    flops = flops_per_token(reward.encoder.config.to_dict(), found.length)
    peak = peak_flops(gpu, dtype_of(reward))
    if peak_flops(gpu, "float16") is None:
        raise UserError(f"--gpu: nothing is known of {gpu!r}; {nearest(gpu.lower(), PEAKS)}")
    if not spec.is_remote and spec.num_gpus and flops is not None and peak is not None:
        hours = gpu_hours(computed, flops, peak)
        devices = spec.replica_range[1] * spec.num_gpus
        lines.append(
            ("GPU hours", f"{most}{_format_interval(hours)} of one {gpu}, at {MFU[0]:.0%} to {MFU[1]:.0%} of its peak")
        )
        lines.append(("time", f"{most}{_format_interval(hours.scale(1 / devices))} h with {devices:g} of them"))
    return lines


def _format_interval(interval: Interval) -> str:
    digits = ".3g" if interval.high < 1000 else ".0f"
    return f"{interval.low:,{digits}} to {interval.high:,{digits}}"
