"""Looks at what a job over rows would do: plans its input, estimates its models' work, scores its first rows here.

ahead = look_ahead(job, fits)             # rmbatch plan job.yaml, rmbatch run job.yaml --dry-run
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.groups import group_offsets
from connectors.schema import visible_columns
from jobs.config.sections import RewardJob
from jobs.run.input import list_job_input, plan_job_input, plan_sample
from jobs.run.prepare import Prepared, prepare, project
from jobs.run.sampling import Sample, by_first_place, first_blocks, readable, spread_rows
from jobs.run.services import dtype_of, without_services
from jobs.show.plan import Ahead
from rmbatch.costs.estimate import MFU, Interval, estimate, gpu_hours
from rmbatch.costs.gpus import PEAKS, flops_per_token, peak_flops
from rmbatch.endpoints.connections import use_connections
from rmbatch.reward_models.reward import ModelReward
from rmbatch.rows.roles import Roles, flatten
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Asker, Fit

PREVIEW_ROWS = 5
ESTIMATED_ROWS = 256
"""Rows by which the work of a reward model or a judge is estimated."""
TOKEN_BYTES = 4
"""Of text, for an estimate: English has about so many a token, Chinese fewer."""


def look_ahead(job: RewardJob, fits: Sequence[Fit], gpu: str = "H100") -> Ahead:
    """What the job would do; writes nothing. Raises UserError for what would stop the job before its work.

    ``gpu``: the device whose hours are estimated for served models.
    """
    listing = list_job_input(job)
    sampled = listing.is_scanned
    unit_bytes = job.run.unit_mb << 20
    if sampled:
        dataset = plan_sample(job, listing, unit_bytes)
    else:
        dataset = plan_job_input(job, listing, job.input.limit, unit_bytes=unit_bytes)
    prepared = prepare(job, fits, dataset.schema)
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
        sample = spread_rows(project(dataset, prepared), ESTIMATED_ROWS, num_rows)
    models: dict[str, dict[str, str]] = {}
    askers: dict[str, dict[str, str]] = {}
    for name, reward in needs.models.items():
        assert sample is not None
        reward.leave_store()
        models[name] = dict(_estimate_model(name, reward, sample, prepared.roles, gpu))
    for name, asker in needs.askers.items():
        assert sample is not None
        askers[name] = dict(_estimate_chat(name, asker, sample, prepared))
    with use_connections(without_services(needs)):
        rows = preview(dataset, prepared)
    return Ahead(
        job=job.job,
        format=listing.format,
        num_files=len(listing.files),
        num_bytes=total,
        num_rows=num_rows,
        num_units=num_units,
        estimated=sampled,
        num_seen=dataset.num_rows,
        skipped=listing.skipped,
        roles=dict(_roles(prepared)),
        reads={name: columns for stage in prepared.stages for name, columns in stage.reads().items()},
        writes=prepared.output_schema.names,
        output=job.output.path,
        mixed=dataset.mixed,
        models=models,
        judges=askers,
        first_rows=rows.select(_shown_columns(rows, prepared)).to_pylist(),
    )


def preview(dataset: InputDataset, prepared: Prepared, num_rows: int = PREVIEW_ROWS) -> pa.Table:
    """The first rows with what the job adds to them, worked off in this process."""
    wanted = project(dataset, prepared)
    block = readable(next(first_blocks(wanted, num_rows), wanted.schema.empty_table()))
    if prepared.group is None:
        block = block.slice(0, num_rows)
    else:
        block = by_first_place(block, prepared.group)
    for stage in prepared.stages:
        block = stage(block)
    return visible_columns(block).slice(0, num_rows)


def _roles(prepared: Prepared) -> Iterator[tuple[str, str]]:
    for role in ("id", "prompt", "response", "responses", "reference"):
        column = getattr(prepared.roles, role)
        if column is not None:
            yield role, column if isinstance(column, str) else ", ".join(column)
    if prepared.group is not None:
        yield "group", prepared.group
    yield from prepared.roles.extra.items()


def _shown_columns(rows: pa.Table, prepared: Prepared) -> list[str]:
    """The columns that play a role, and those that the job adds."""
    several = prepared.roles.responses
    named = [prepared.roles.prompt, prepared.roles.response, prepared.roles.reference, prepared.group]
    named += several if isinstance(several, tuple) else [several]
    shown = [name for name in rows.column_names if name in named]
    asked = {column for name, asker in prepared.needs.askers.items() for column in asker.column_types(name)}
    unknown = {*prepared.read_columns, *shown, *asked}  # nobody has been asked, so there is nothing to see
    return shown + [name for name in rows.column_names if name not in unknown]


def _estimate_model(name: str, reward: ModelReward, sample: Sample, roles: Roles, gpu: str) -> list[tuple[str, str]]:
    """What a model will have to do, by a sample, as lines for people. Raises UserError for a GPU that is unknown."""
    view = flatten(sample.rows, roles)
    encoded = reward.encoder.encode(view.column("prompt"), view.column("response"))
    offsets = np.arange(sample.rows.num_rows + 1) if view.offsets is None else view.offsets
    place = np.repeat(sample.place, np.diff(offsets))
    found = estimate(encoded.ids, encoded.prompt, place, num_sampled=sample.num_places, num_all=sample.all_places)
    spec = reward.spec
    computed = found.computed if spec.shares_prefixes else found.tokens
    most = "at most " if "." in name else ""  # behind a gate or on a route, only some of the rows come to it
    how = ", each prompt once" if spec.shares_prefixes else ""
    lines = [
        ("tokens", f"{most}{_between(found.tokens)}; {_between(computed)} to compute{how}"),
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
            ("GPU hours", f"{most}{_between(hours)} of one {gpu}, at {MFU[0]:.0%} to {MFU[1]:.0%} of its peak")
        )
        lines.append(("time", f"{most}{_between(hours.scaled(1 / devices))} h with {devices:g} of them"))
    return lines


def _between(interval: Interval) -> str:
    digits = ".3g" if interval.high < 1000 else ".0f"
    return f"{interval.low:,{digits}} to {interval.high:,{digits}}"


def _estimate_chat(name: str, asker: Asker, sample: Sample, prepared: Prepared) -> list[tuple[str, str]]:
    """What a chat model will have to be asked, by a sample, as lines for people."""
    rows, offsets = sample.rows, None
    if prepared.group is not None:
        rows = by_first_place(rows, prepared.group)
        offsets = group_offsets(rows, prepared.group)
    view = flatten(rows, prepared.roles)
    questions = asker.questions(view.column, offsets if view.offsets is None else view.offsets)
    about = "at most" if "." in name else "about"  # behind a gate or on a route, only some of the rows come to it
    if offsets is not None and asker.takes_offsets:
        about = "at least"  # of a prompt whose rows are scattered, the sample has only some
    share = sample.all_places / max(sample.num_places, 1)
    num_votes = sum(question.num_votes for question in questions)
    tokens = sum(len(question.text.encode()) for question in questions) / TOKEN_BYTES * share
    lines = [
        ("requests", f"{about} {len(questions) * share:,.0f}, {num_votes * share:,.0f} answers"),
        ("prompts", f"{about} {tokens:,.0f} tokens, by {TOKEN_BYTES} bytes each"),
    ]
    price, longest = asker.chat.price, asker.chat.max_tokens
    if price is not None:
        least = tokens * (price.input if price.cached is None else min(price.cached, price.input)) / 1e6
        lines.append(("prompts cost", f"about ${tokens * price.input / 1e6:,.2f}, ${least:,.2f} if all were cached"))
        if longest is not None:
            most = num_votes * share * longest * price.output / 1e6
            lines.append(("answers cost", f"at most ${most:,.2f}, without repairs and repeated tries"))
    if questions:
        lines.append(("first question", questions[0].text))
    return lines
