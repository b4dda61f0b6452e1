"""The command line: run, plan, doctor, principles, status, rewards.

A user's mistake is one line and exit code 2; a job that stopped exits 1 and says how to go on; an interrupt exits 130.

    rmbatch run job.yaml input.path=s3://team/rollouts/
    rmbatch plan job.yaml
    rmbatch doctor job.yaml
    rmbatch principles job.yaml
    rmbatch status s3://team/best/
    rmbatch rewards f1_score
"""

import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from connectors.errors import DeadEndError, JobError, UserError
from connectors.faults import explain, is_storage_error
from connectors.storage import StorageOptions
from jobs.config import parse_job
from jobs.display import Display, result_table, table
from jobs.jobfile import read_job_file
from jobs.preparation import Job

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    help="Score, select and correct prompt/response data on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[str, typer.Argument(help="A job file: a path or a URL.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Values that replace those of the job file: key.sub=value", show_default=False),
]
Limit = Annotated[int | None, typer.Option(help="Only the first rows of the input.", show_default=False)]


@app.command()
def run(
    job_file: JobFile,
    overrides: Overrides = None,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the first rows; write nothing.")
    ] = False,
) -> None:
    """Run a job; after a crash, or when it is finished, the same command is right too."""
    from jobs.preview import show_plan
    from jobs.running import run_job

    job = _read(job_file, overrides, limit)
    with Display() as display:
        if dry_run:
            show_plan(job, display)
            return
        summary = run_job(job, display)
    speed = {name: getattr(summary, name) for name in ("seconds", "rows_per_s", "bytes_per_s", "served", "judged")}
    Console().print(result_table(summary.output, summary.rows, summary.tally, speed))
    dead = summary.rows.get("dead_letters", 0)
    if dead:
        display.say(f"{dead:,} rows could not be processed; they are in {summary.output}/_dead_letters with the reason")


@app.command()
def plan(
    job_file: JobFile,
    overrides: Overrides = None,
    limit: Limit = None,
    gpu: Annotated[str, typer.Option(help="Device whose hours are estimated for served models.")] = "H100",
) -> None:
    """Show what a job would do: files, rows, roles, served models' work, and its first rows scored in-process."""
    from jobs.preview import show_plan

    show_plan(_read(job_file, overrides, limit), Display(Console()), gpu)


@app.command()
def doctor(job_file: JobFile, overrides: Overrides = None, limit: Limit = None) -> None:
    """Look the job's served models and judges over: how they read the rows, and whether their scores can be trusted."""
    from jobs.doctor import show_doctor

    if not show_doctor(_read(job_file, overrides, limit), Display(Console())):
        raise typer.Exit(1)


@app.command()
def principles(job_file: JobFile, overrides: Overrides = None, limit: Limit = None) -> None:
    """Find the principles behind preferences, measure what they are worth, and write them as a file for a judge."""
    from jobs.principles import run_principles, told_lines
    from jobs.principles_config import parse_principles_job

    job = parse_principles_job(read_job_file(job_file, _given(overrides, limit), os.environ), job_file)
    with Display() as display:
        report = run_principles(job, display)
    Console().print(table(f"principles: {job.topic}", told_lines(report, job.output.path)))


@app.command()
def status(
    output: Annotated[str, typer.Argument(help="The output folder of a job.", show_default=False)],
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of the store.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile of the AWS credentials file.")] = None,
) -> None:
    """Show how far an output is, while its job runs and after."""
    from jobs.status import show_status

    show_status(output, StorageOptions(endpoint, region, profile), Display(Console()))


@app.command()
def rewards(
    name: Annotated[
        str | None, typer.Argument(help="A reward's name, or file.py:function.", show_default=False)
    ] = None,
) -> None:
    """List the rewards and judges, or describe one: what it reads, its knobs, its scale, its source."""
    from rmbatch.judges.describe import describe_judge
    from rmbatch.judges.library import LIBRARY, is_judge
    from rmbatch.judges.spec import KINDS
    from rmbatch.rewards.registry import describe, list_rewards, resolve

    if name is not None:
        typer.echo(describe_judge(name) if is_judge(name) else describe(name))
        return
    first_lines = [(known, resolve(known).doc.split("\n", 1)[0]) for known in list_rewards()]
    Console().print(table("rewards", first_lines))
    kinds = [(kind, " ".join(str(model.__doc__).split())) for kind, model in KINDS.items()]
    Console().print(table("judges", [*kinds, *((known, entry.about) for known, entry in LIBRARY.items())]))


def _read(job_file: str, overrides: list[str] | None, limit: int | None) -> Job:
    return parse_job(read_job_file(job_file, _given(overrides, limit), os.environ), job_file)


def _given(overrides: list[str] | None, limit: int | None) -> list[str]:
    return [*(overrides or []), *([] if limit is None else [f"input.limit={limit}"])]


def main(arguments: list[str] | None = None) -> None:
    """The console script ``rmbatch``."""
    try:
        app(arguments)  # tells a wrong command itself, and always ends in SystemExit
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            print("interrupted; what is finished stays, the same command goes on from there", file=sys.stderr)
        raise
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except JobError as error:
        _stopped(str(error), goes_on=not isinstance(error, DeadEndError))
    except Exception as error:
        if not is_storage_error(error):
            raise
        _stopped(explain(error) or f"{type(error).__name__}: {error}")


def _stopped(why: str, *, goes_on: bool = True) -> NoReturn:
    print(f"stopped: {why}", file=sys.stderr)
    if goes_on:
        print("what is finished stays; the same command goes on from there", file=sys.stderr)
    sys.exit(1)
