"""The command line: run, plan, doctor, submit, submitted, status, retry, export, report, explain, diff, rewards.

A user's mistake is one line and exit code 2. A job that stopped exits 1 and says how to continue. An interrupt exits
130. With ``--json`` stdout holds the JSON alone; messages and progress bars go to stderr.

    rmbatch run job.yaml input.path=s3://team/rollouts/
    rmbatch plan job.yaml --json
    rmbatch doctor job.yaml
    rmbatch status s3://team/best/
    rmbatch rewards f1_score
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connectors.errors import DeadEndError, JobError, UserError

if TYPE_CHECKING:  # each command imports what it needs when it runs, so that --help and a mistake come at once
    from cluster.target import Submission, Target
    from jobs.config.sections import JobConfig
    from jobs.run.job import Showable

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
_RESUMED = ("run", "retry")
"""The commands that keep what is finished when they stop."""
_SECRET_NAME = re.compile(r"(^|_)(key|token|secret|pass|password|passwd|credentials?|auth|authorization)s?(_|$)")

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
Endpoint = Annotated[str | None, typer.Option(help="URL of an S3-compatible server.")]
Region = Annotated[str | None, typer.Option(help="Region of the store.")]
Profile = Annotated[str | None, typer.Option(help="Profile of the AWS credentials file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program, and nothing else, to stdout.")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"rmbatch {version('rmbatch')}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
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
    """Run a job. Run the same command after a crash: it continues."""
    if yes and not overwrite:
        raise UserError("--yes answers the question of --overwrite; write both, or neither")
    if dry_run:
        _show_plan(_read_job(job_file, overrides, limit), "H100", as_json)
        return
    from rmbatch.pipeline.worker_process import start_early_worker

    may_be_here = not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules
    with start_early_worker() if may_be_here else nullcontext():
        job = _read_job(job_file, overrides, limit)
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
    _show_plan(_read_job(job_file, overrides, limit), gpu, as_json)


@app.command()
def doctor(job_file: JobFile, overrides: Overrides = None, limit: Limit = None) -> None:
    """Examine the job's models and judges: how they read the rows, and whether their scores can be trusted."""
    job = _read_job(job_file, overrides, limit)
    from rich.console import Console

    from jobs.run.doctor import examine_job
    from jobs.show.display import Display

    if not examine_job(job, Display(Console())):
        raise typer.Exit(1)


@app.command()
def submit(
    job_file: JobFile,
    overrides: Overrides = None,
    to: Annotated[str, typer.Option(help="local: the background of this machine. ray: a Ray cluster.")] = "ray",
    address: Annotated[str | None, typer.Option(help="Of the target, such as http://head:8265.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, or NAME: as it is here.")] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show what would be submitted, without secrets; submit nothing.")
    ] = False,
) -> None:
    """Run a job elsewhere, without this process; prints its name there. The job file is checked first."""
    from cluster.target import Submission, open_target

    _read_job(job_file, overrides, None)
    submission = Submission(job_file, overrides or [], environment=dict(map(_parse_variable, env or [])))
    target = open_target(to, address)
    typer.echo(_render_masked(target, submission) if show else target.submit(submission))


@app.command()
def submitted(
    name: Annotated[str, typer.Argument(help="The name that `rmbatch submit` printed.", show_default=False)],
    to: Annotated[str, typer.Option(help="Where it was submitted to: local, ray.")] = "ray",
    address: Annotated[str | None, typer.Option(help="Of the target, such as http://head:8265.")] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Show the job's log.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the job; the same submission continues.")] = False,
) -> None:
    """Show the state of a submitted job or its log, or stop it."""
    from cluster.target import open_target

    target = open_target(to, address)
    if cancel:
        target.cancel(name)
    typer.echo(target.logs(name) if logs else target.status(name))


@app.command()
def status(
    output: Annotated[str, typer.Argument(help="The output folder of a job.", show_default=False)],
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Show how far an output is, while its job runs and after."""
    from connectors.storage import StorageOptions
    from jobs.run.job import read_output_status
    from jobs.show.display import Display

    with Display() as display, display.show_step("reading the ledger"):
        found = read_output_status(output, StorageOptions(endpoint, region, profile))
    _show(found, as_json)


@app.command()
def retry(
    job_file: JobFile,
    overrides: Overrides = None,
    where: Annotated[
        str, typer.Option(help="CODE, REWARD=CODE (* for any letters), no_answer or dead_letters.", show_default=False)
    ] = ...,  # type: ignore[assignment]
    as_json: Json = False,
) -> None:
    """Do rows of a finished output again whose dead letter or null has a code, and merge them into it."""
    job = _read_job(job_file, overrides, None)
    from jobs.run.retry import retry_job
    from jobs.show.display import Display

    with Display() as display, redirect_stdout(sys.stderr):  # rewards may print
        result = retry_job(job, where, display)
    _show(result, as_json)


@app.command()
def export(
    output: Annotated[str, typer.Argument(help="The output folder of a finished job.", show_default=False)],
    to: Annotated[str, typer.Option(help="A format, such as sft, dpo, kto, reward, verl; see docs/exports.md.")],
    out: Annotated[str | None, typer.Option(help="The new folder; OUTPUT.FORMAT where none is named.")] = None,
    by: Annotated[str | None, typer.Option(help="The score that decides; the job's own where none is named.")] = None,
    pairs: Annotated[
        str,
        typer.Option(help="best_worst, below_mean_2sd, adjacent, random, threshold or all_above_margin."),
    ] = "best_worst",
    min_margin: Annotated[float, typer.Option(help="The least difference of scores in a pair.")] = 0.0,
    same_length_band: Annotated[
        float | None, typer.Option(help="By which share the lengths of a pair may differ, such as 0.3.")
    ] = None,
    max_pairs: Annotated[int, typer.Option(help="The most pairs of a prompt.")] = 64,
    above: Annotated[float | None, typer.Option(help="The lowest score that counts as good.")] = None,
    below: Annotated[float | None, typer.Option(help="The highest score that counts as bad.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random pairs.")] = 0,
    data_source: Annotated[str, typer.Option(help="For verl: names the reward function of the rows.")] = "rmbatch",
    file_format: Annotated[str, typer.Option("--as", help="parquet or jsonl.")] = "parquet",
    push: Annotated[
        str | None, typer.Option(help="Also put it on the Hugging Face hub: hf://datasets/USER/NAME, private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: a new dataset is public.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Write a finished output as rows for a trainer: SFT, preference pairs, KTO, reward models, RL prompts."""
    from connectors.storage import StorageOptions
    from jobs.run.export import export_output
    from jobs.run.push import Push
    from jobs.show.display import Display
    from rmbatch.exports.base import ExportRule
    from rmbatch.settings.mistakes import validate

    given = {"by": by, "pairs": pairs, "min_margin": min_margin, "above": above, "below": below, "seed": seed}
    more = {"same_length_band": same_length_band, "max_pairs": max_pairs, "data_source": data_source}
    rule = validate(ExportRule, given | more, where="export", noun="option")
    options = StorageOptions(endpoint, region, profile)
    if public and push is None:
        raise UserError("--public says who sees what --push uploads; write both, or neither")
    with Display() as display:
        result = export_output(
            output,
            to,
            rule,
            out=out,
            file_format=file_format,
            options=options,
            push=None if push is None else Push(push, public),
            display=display,
        )
    _show(result, as_json)


@app.command()
def report(
    output: Annotated[str, typer.Argument(help="The output folder of a finished job.", show_default=False)],
    gold: Annotated[
        str | None, typer.Option(help="The score or column that tells what a candidate is worth.", show_default=False)
    ] = None,
    by: Annotated[str | None, typer.Option(help="The score that picks; the job's own where none is named.")] = None,
    source: Annotated[
        str | None, typer.Option(help="The column that tells who wrote a candidate, such as generation.model.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The folder of the report; OUTPUT.report where none is named.")
    ] = None,
    examples: Annotated[int, typer.Option(help="How many prompts to show of each kind.")] = 3,
    sample: Annotated[int, typer.Option(help="The most prompts whose texts are read.")] = 20_000,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Write a page about a finished output: distributions, best-of-N curve, drift, ties, nulls, costs, examples."""
    from connectors.storage import StorageOptions
    from jobs.run.report import ReportOptions, write_report
    from jobs.show.display import Display

    asked = ReportOptions(gold, by, source, examples, sample)
    options = StorageOptions(endpoint, region, profile)
    with Display() as display:
        result = write_report(output, asked, out=out, options=options, display=display)
    _show(result, as_json)


@app.command()
def explain(
    output: Annotated[str, typer.Argument(help="The output folder of a job.", show_default=False)],
    row: Annotated[str, typer.Argument(help="An id, UNIT:ROW of the plan, or FILE#ROW.", show_default=False)],
    id_column: Annotated[str | None, typer.Option("--id", help="The column that ROW is a value of.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show all of each text.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Tell the story of one row: where it came from, its scores and reasons, why it was kept, critiques and edits."""
    from dataclasses import replace

    from connectors.storage import StorageOptions
    from jobs.run.explain import explain_row

    found = explain_row(output, row, id_column=id_column, options=StorageOptions(endpoint, region, profile))
    _show(replace(found, full=full), as_json)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="The output folder of a finished job.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another one of the same rows, or the same.", show_default=False)],
    by_a: Annotated[str | None, typer.Option(help="The score of A; all that both have where none is named.")] = None,
    by_b: Annotated[str | None, typer.Option(help="The score of B.")] = None,
    on: Annotated[str | None, typer.Option(help="The column that tells the rows; the id where none is named.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="The number of flips to show of each score.")] = 5,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Compare two scorings or selections of the same rows: scores, rank flips, Kendall's tau, what is kept."""
    from connectors.storage import StorageOptions
    from jobs.run.diff import compare_outputs
    from jobs.show.display import Display

    options = StorageOptions(endpoint, region, profile)
    with Display() as display:
        found = compare_outputs(a, b, by_a=by_a, by_b=by_b, on=on, limit=limit, options=options, display=display)
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

    from jobs.show.catalogue import build_catalogue, show_rewards

    if as_json:
        _print_json(build_catalogue(name))
    else:
        show_rewards(name, Console())


def _read_job(job_file: str, overrides: list[str] | None, limit: int | None) -> JobConfig:
    from jobs.config.job_types import read_job

    return read_job(job_file, overrides or [], limit)


def _show_plan(job: JobConfig, gpu: str, as_json: bool) -> None:
    from jobs.config.job_types import job_type
    from jobs.show.display import Display

    with Display() as display, display.show_step("reading the input"), redirect_stdout(sys.stderr):
        plan = job_type(job.job)(job, display).plan(gpu)
    _show(plan, as_json)


def _show(view: Showable, as_json: bool) -> None:
    if as_json:
        _print_json(view.plain())
        return
    from rich.console import Console

    view.show(Console())


def _parse_variable(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals and name not in os.environ:
        raise UserError(f"--env {name}: it is not set here; write {name}=VALUE")
    return name, value if equals else os.environ[name]


def _render_masked(target: Target, submission: Submission) -> str:
    """Show what ``submit`` would do, without the values of variables whose names look like those of secrets."""
    from dataclasses import replace

    from rmbatch.endpoints.masking import MASKED, Mask

    secrets = {name: value for name, value in submission.environment.items() if _SECRET_NAME.search(name.lower())}
    hidden = replace(submission, environment={**submission.environment, **dict.fromkeys(secrets, MASKED)})
    return Mask(secrets.values()).mask_text(target.render(hidden))


def _confirm(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is here to answer; write --yes if so")
    return typer.confirm(question, err=True)


def _print_json(value: Any) -> None:
    import orjson

    print(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())


def main(arguments: list[str] | None = None) -> None:
    """The console script ``rmbatch``."""
    goes_on = next(iter(sys.argv[1:] if arguments is None else arguments), "") in _RESUMED
    try:
        app(arguments)  # it reports a wrong command itself, and always ends in SystemExit
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _say_stopped("interrupted", goes_on)
        raise
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except JobError as error:
        _say_stopped(f"stopped: {error}", goes_on and not isinstance(error, DeadEndError))
        sys.exit(1)
    except Exception as error:
        from connectors.faults import explain, is_storage_error

        if not is_storage_error(error):
            raise
        _say_stopped(f"stopped: {explain(error) or f'{type(error).__name__}: {error}'}", goes_on)
        sys.exit(1)


def _say_stopped(what: str, goes_on: bool) -> None:
    print(what, file=sys.stderr)
    if goes_on:
        print("what is finished stays; the same command goes on from there", file=sys.stderr)
