"""What a job would do, shown before it does anything: files, rows, units, roles, and its first rows scored in-process.

show_plan(job, Display())           # rmbatch plan job.yaml, rmbatch run job.yaml --dry-run
"""

from collections.abc import Iterator

import pyarrow as pa
from rich.table import Table
from rich.text import Text

from connectors.dataset import InputDataset
from connectors.schema import visible_columns
from jobs import judged
from jobs.display import Display, mixed_lines, table
from jobs.judged import job_judges
from jobs.preparation import Job, Prepared, check_places, prepare, project
from jobs.running import SAMPLE_ROWS, list_job_input, plan_job_input
from jobs.sampling import by_first_place, first_blocks, readable, spread_rows
from jobs.served import estimated, served_models, unasked
from rmbatch.connections import connected

PREVIEW_ROWS = 5
ESTIMATED_ROWS = 256
"""Rows by which the work of a served model or a judge is estimated."""
CELL = 100
"""Characters of a value that are shown."""


def show_plan(job: Job, display: Display, gpu: str = "H100") -> None:
    """Print the plan; raises UserError for what would stop the job before its work. ``gpu``: to estimate hours of."""
    check_places(job)
    listing = list_job_input(job)
    sampled = listing.format == "jsonl"
    limit = min(SAMPLE_ROWS, job.input.limit or SAMPLE_ROWS) if sampled else job.input.limit
    dataset = plan_job_input(job, listing, limit=limit)
    prepared = prepare(job, dataset.schema)
    total = sum(file.size for file in listing.files)
    num_rows = dataset.num_rows
    rows, units = f"{num_rows:,}", f"{len(dataset.units):,}"
    if sampled:
        seen = sum(unit.num_bytes for unit in dataset.units.values())
        num_rows = int(total * sum(file.num_rows for file in dataset.files.values()) / max(seen, 1))
        num_rows = max(min(num_rows, job.input.limit or num_rows), 1)
        rows, units = (
            f"about {num_rows:,} (counted when the job runs)",
            f"about {-(-total // (job.run.unit_mb << 20)):,}",
        )
    lines = [
        ("input", f"{len(listing.files):,} {listing.format} files, {total / 1e6:,.1f} MB"),
        ("rows", rows),
        ("units", units),
        *_roles(prepared),
        *((f"reward {name}", "reads " + ", ".join(columns)) for name, columns in prepared.score_stage.reads().items()),
        ("writes", ", ".join(prepared.output_schema.names)),
        ("output", job.output.path),
    ]
    for name, told in mixed_lines(dataset.mixed):
        lines.append((name, f"by the first {dataset.num_rows:,} rows: {told}"))
    if listing.skipped:
        lines.append(("skipped", f"{len(listing.skipped)} files of another kind, such as {listing.skipped[0]}"))
    display.console.print(table(job.job, lines))
    models, judges = served_models(prepared), job_judges(prepared)
    sample = spread_rows(project(dataset, prepared), ESTIMATED_ROWS, num_rows) if models or judges else None
    for name, reward in models.items():
        assert sample is not None
        reward.leave_store()
        display.console.print(table(f"model {name}", estimated(name, reward, sample, prepared.roles, gpu)))
    for name, judge in judges.items():
        assert sample is not None
        display.console.print(table(f"judge {name}", judged.estimated(name, judge, sample, prepared)))
    with connected({**unasked(models), **judged.unasked_judges(judges)}):
        display.console.print(_drawn(preview(dataset, prepared), prepared))


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


def _drawn(rows: pa.Table, prepared: Prepared) -> Table:
    """Each row downwards: what the roles name, and what the job adds."""
    several = prepared.roles.responses
    named = [prepared.roles.prompt, prepared.roles.response, prepared.roles.reference, prepared.group]
    named += several if isinstance(several, tuple) else [several]
    shown = [name for name in rows.column_names if name in named]
    asked = {column for name, judge in job_judges(prepared).items() for column in judge.column_types(name)}
    unknown = {*prepared.read_columns, *shown, *asked}  # judges have not been asked, so there is nothing to see
    shown += [name for name in rows.column_names if name not in unknown]
    drawn = Table(title="first rows", title_justify="left", show_header=False, box=None, pad_edge=False)
    drawn.add_column(style="dim")
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for number, row in enumerate(rows.select(shown).to_pylist()):
        for name in shown:
            drawn.add_row(str(number) if name == shown[0] else "", Text(name), Text(_cell(row[name])))
    return drawn


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text.replace("\n", "\u23ce") if len(text) <= CELL else text[: CELL - 1].replace("\n", "\u23ce") + "\u2026"
