"""The command line: run, plan, doctor, submit, submitted, status, rewards.

A user's mistake is one line and exit code 2; a job that stopped exits 1 and says how to go on; an interrupt exits 130.
What a program reads (``--json``) goes to stdout, alone; messages and bars go to stderr.

    rmbatch run job.yaml input.path=s3://team/rollouts/
    rmbatch plan job.yaml --json
    rmbatch doctor job.yaml
    rmbatch status s3://team/best/
    rmbatch rewards f1_score
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from connectors.errors import DeadEndError, JobError, UserError

if TYPE_CHECKING:  # what a command needs is imported when it runs: --help and a mistake come at once
    from jobs.config.sections import JobConfig

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    help="Score, select and correct prompt/response data on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[str, typer.Argument(help="A job file: a path or a URL.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Values that replace those of the job file: key.sub=value", show_default=False),
]
Limit = Annotated[int | None, typer.Option(help="Only the first rows of the input.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program, and nothing else, to stdout.")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"rmbatch {version('rmbatch')}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    job_file: JobFile,
    overrides: Overrides = None,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the first rows; write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what the output holds, after a question, and begin anew.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answer the question of --overwrite.")] = False,
    as_json: Json = False,
) -> None:
    """Run a job; after a crash, or when it is finished, the same command is right too."""
    if yes and not overwrite:
        raise UserError("--yes answers the question of --overwrite; write both, or neither")
    if dry_run:
        _show_plan(_read(job_file, overrides, limit), "H100", as_json)
        return
    from rmbatch.pipeline.worker_process import early_worker

    may_be_here = not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules
    with early_worker() if may_be_here else nullcontext():
        job = _read(job_file, overrides, limit)
        from jobs.run.job import discard_output, run_job
        from jobs.show.display import Display

        with Display() as display, redirect_stdout(sys.stderr):  # rewards may print
            if overwrite:
                discard_output(job, display, confirm=lambda question: yes or _confirm(question))
            result = run_job(job, display)
    _show(result, as_json)


@app.command()
def plan(
    job_file: JobFile,
    overrides: Overrides = None,
    limit: Limit = None,
    gpu: Annotated[str, typer.Option(help="Device whose hours are estimated for models.")] = "H100",
    as_json: Json = False,
) -> None:
    """Show what a job would do: files, rows, roles, models' work, and its first rows scored in-process."""
    _show_plan(_read(job_file, overrides, limit), gpu, as_json)


@app.command()
def doctor(job_file: JobFile, overrides: Overrides = None, limit: Limit = None) -> None:
    """Look the job's models and judges over: how they read the rows, and whether their scores can be trusted."""
    job = _read(job_file, overrides, limit)
    from rich.console import Console

    from jobs.run.doctor import show_doctor
    from jobs.show.display import Display

    if not show_doctor(job, Display(Console())):
        raise typer.Exit(1)


@app.command()
def submit(
    job_file: JobFile,
    overrides: Overrides = None,
    to: Annotated[str, typer.Option(help="local: the background of this machine. ray: a Ray cluster.")] = "ray",
    address: Annotated[str | None, typer.Option(help="Of the target, such as http://head:8265.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, or NAME: as it is here.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show what would be submitted; submit nothing.")] = False,
) -> None:
    """Run a job elsewhere, without this process; prints its name there. The job file is checked first."""
    from cluster.target import Submission, open_target

    _read(job_file, overrides, None)
    submission = Submission(job_file, overrides or [], environment=dict(map(_variable, env or [])))
    target = open_target(to, address)
    typer.echo(target.render(submission) if show else target.submit(submission))


@app.command()
def submitted(
    name: Annotated[str, typer.Argument(help="The name that `rmbatch submit` printed.", show_default=False)],
    to: Annotated[str, typer.Option(help="Where it was submitted to: local, ray.")] = "ray",
    address: Annotated[str | None, typer.Option(help="Of the target, such as http://head:8265.")] = None,
    logs: Annotated[bool, typer.Option("--logs", help="What the job has said so far.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the job; the same submission goes on.")] = False,
) -> None:
    """Show whether a submitted job runs, what it has said, or stop it."""
    from cluster.target import open_target

    target = open_target(to, address)
    if cancel:
        target.cancel(name)
    typer.echo(target.logs(name) if logs else target.status(name))


@app.command()
def status(
    output: Annotated[str, typer.Argument(help="The output folder of a job.", show_default=False)],
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of the store.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile of the AWS credentials file.")] = None,
    as_json: Json = False,
) -> None:
    """Show how far an output is, while its job runs and after."""
    from connectors.storage import StorageOptions
    from jobs.run.job import output_status
    from jobs.show.display import Display

    with Display() as display, display.doing("reading the ledger"):
        found = output_status(output, StorageOptions(endpoint, region, profile))
    _show(found, as_json)


@app.command()
def rewards(
    name: Annotated[
        str | None, typer.Argument(help="A reward's name, or file.py:function.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the rewards and judges by topic, or describe one: what it reads, its knobs, its scale, its source."""
    from rich.console import Console

    from jobs.show.catalogue import catalogue, show_rewards

    if as_json:
        _print_json(catalogue(name))
    else:
        show_rewards(name, Console())


def _read(job_file: str, overrides: list[str] | None, limit: int | None) -> JobConfig:
    from jobs.config.file import read_job_file
    from jobs.config.job_types import parse_job

    return parse_job(read_job_file(job_file, _given(overrides, limit), os.environ), job_file)


def _given(overrides: list[str] | None, limit: int | None) -> list[str]:
    return [*(overrides or []), *([] if limit is None else [f"input.limit={limit}"])]


def _show_plan(job: JobConfig, gpu: str, as_json: bool) -> None:
    from jobs.config.job_types import job_type
    from jobs.show.display import Display

    with Display() as display, display.doing("reading the input"), redirect_stdout(sys.stderr):
        ahead = job_type(job.job)(job, display).plan(gpu)
    _show(ahead, as_json)


def _show(found: Any, as_json: bool) -> None:
    if as_json:
        _print_json(found.plain())
        return
    from rich.console import Console

    found.show(Console())


def _variable(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals and name not in os.environ:
        raise UserError(f"--env {name}: it is not set here; write {name}=VALUE")
    return name, value if equals else os.environ[name]


def _confirm(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is here to answer; write --yes if so")
    return typer.confirm(question, err=True)


def _print_json(value: Any) -> None:
    import orjson

    print(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())


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
        from connectors.faults import explain, is_storage_error

        if not is_storage_error(error):
            raise
        _stopped(explain(error) or f"{type(error).__name__}: {error}")


def _stopped(why: str, *, goes_on: bool = True) -> NoReturn:
    print(f"stopped: {why}", file=sys.stderr)
    if goes_on:
        print("what is finished stays; the same command goes on from there", file=sys.stderr)
    sys.exit(1)
