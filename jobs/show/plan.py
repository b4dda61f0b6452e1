"""What a job would do, shown before it does anything: files, rows, units, roles, and its first rows scored in-process.

ahead = look_ahead(job)             # rmbatch plan job.yaml, rmbatch run job.yaml --dry-run
show_plan(ahead, Console())
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.dataset import InputDataset
from connectors.schema import visible_columns
from jobs.run import judged
from jobs.run.judged import job_judges
from jobs.run.prepare import Job, Prepared, check_places, prepare, project
from jobs.run.rows import SAMPLE_ROWS, list_job_input, plan_job_input
from jobs.run.sampling import by_first_place, first_blocks, readable, spread_rows
from jobs.run.served import estimated, served_models, unasked
from jobs.show.display import mixed_lines, table
from rmbatch.endpoints.connections import use_connections

PREVIEW_ROWS = 5
ESTIMATED_ROWS = 256
"""Rows by which the work of a served model or a judge is estimated."""
CELL = 100
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Ahead:
    """What a job would do. Numbers that a JSONL input only tells when all of it is read are estimates."""

    job: str
    format: str
    num_files: int
    num_bytes: int
    num_rows: int
    num_units: int
    estimated: bool
    """Whether rows and units are estimated, by the first rows."""
    num_seen: int
    """Rows that were looked at."""
    skipped: Sequence[str]
    """Files of another kind, which are not read."""
    roles: Mapping[str, str]
    """Column by role."""
    reads: Mapping[str, Sequence[str]]
    """Columns by reward."""
    writes: Sequence[str]
    """Columns of the output."""
    output: str
    mixed: Mapping[str, Mapping[str, Any]]
    """By column whose rows are of several kinds: see ``InputDataset.mixed``; of the first rows, where estimated."""
    models: Mapping[str, Mapping[str, str]]
    """By served model: tokens, GPU hours and so on, as text."""
    judges: Mapping[str, Mapping[str, str]]
    """By judge: requests, tokens, cost, the first question, as text."""
    first_rows: Sequence[Mapping[str, Any]]
    """The first rows with what the job adds to them, worked off in this process; judges and models are not asked."""

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def look_ahead(job: Job, gpu: str = "H100") -> Ahead:
    """What the job would do; writes nothing. Raises UserError for what would stop the job before its work.

    ``gpu``: the device whose hours are estimated for served models.
    """
    check_places(job)
    listing = list_job_input(job)
    sampled = listing.format == "jsonl"
    limit = min(SAMPLE_ROWS, job.input.limit or SAMPLE_ROWS) if sampled else job.input.limit
    dataset = plan_job_input(job, listing, limit=limit)
    prepared = prepare(job, dataset.schema)
    total = sum(file.size for file in listing.files)
    num_rows, num_units = dataset.num_rows, len(dataset.units)
    if sampled:
        seen = sum(unit.num_bytes for unit in dataset.units.values())
        num_rows = int(total * sum(file.num_rows for file in dataset.files.values()) / max(seen, 1))
        num_rows = max(min(num_rows, job.input.limit or num_rows), 1)
        num_units = -(-total // (job.run.unit_mb << 20))
    models, judges = served_models(prepared), job_judges(prepared)
    sample = spread_rows(project(dataset, prepared), ESTIMATED_ROWS, num_rows) if models or judges else None
    work: dict[str, dict[str, str]] = {}
    questions: dict[str, dict[str, str]] = {}
    if sample is not None:
        for name, reward in models.items():
            reward.leave_store()
            work[name] = dict(estimated(name, reward, sample, prepared.roles, gpu))
        for name, judge in judges.items():
            questions[name] = dict(judged.estimated(name, judge, sample, prepared))
    with use_connections({**unasked(models), **judged.unasked_judges(judges)}):
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
        reads=dict(prepared.score_stage.reads()),
        writes=prepared.output_schema.names,
        output=job.output.path,
        mixed=dataset.mixed,
        models=work,
        judges=questions,
        first_rows=rows.select(_shown_columns(rows, prepared)).to_pylist(),
    )


def show_plan(ahead: Ahead, console: Console) -> None:
    """Print what a job would do."""
    about, counted = ("about ", " (counted when the job runs)") if ahead.estimated else ("", "")
    lines = [
        ("input", f"{ahead.num_files:,} {ahead.format} files, {ahead.num_bytes / 1e6:,.1f} MB"),
        ("rows", f"{about}{ahead.num_rows:,}{counted}"),
        ("units", f"{about}{ahead.num_units:,}"),
        *ahead.roles.items(),
        *((f"reward {name}", "reads " + ", ".join(columns)) for name, columns in ahead.reads.items()),
        ("writes", ", ".join(ahead.writes)),
        ("output", ahead.output),
    ]
    by = f"by the first {ahead.num_seen:,} rows: " if ahead.estimated else ""
    lines += [(name, by + told) for name, told in mixed_lines(ahead.mixed)]
    if ahead.skipped:
        lines.append(("skipped", f"{len(ahead.skipped)} files of another kind, such as {ahead.skipped[0]}"))
    console.print(table(ahead.job, lines))
    for kind, several in (("model", ahead.models), ("judge", ahead.judges)):
        for name, told in several.items():
            console.print(table(f"{kind} {name}", list(told.items())))
    console.print(_drawn(ahead.first_rows))


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
    asked = {column for name, judge in job_judges(prepared).items() for column in judge.column_types(name)}
    unknown = {*prepared.read_columns, *shown, *asked}  # judges have not been asked, so there is nothing to see
    return shown + [name for name in rows.column_names if name not in unknown]


def _drawn(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Each row downwards."""
    drawn = Table(title="first rows", title_justify="left", show_header=False, box=None, pad_edge=False)
    drawn.add_column(style="dim")
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for number, row in enumerate(rows):
        for place, (name, value) in enumerate(row.items()):
            drawn.add_row("" if place else str(number), Text(name), Text(_cell(value)))
    return drawn


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text.replace("\n", "\u23ce") if len(text) <= CELL else text[: CELL - 1].replace("\n", "\u23ce") + "\u2026"
