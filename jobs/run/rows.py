"""Runs a job from where its output stands: plans it if it is new, does what no commit record covers, finishes it.

The same command is always right: on an empty output it begins, after a crash it goes on, on a finished output it opens
no data and shows the result. What may have happened in between is told in connectors/ledger.py.

    summary = run_job(job, Display())
"""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from cluster.local import attached, cluster_address
from cluster.submitted import refuse_lost_output
from connectors.attempts import Attempts
from connectors.compaction import compacting
from connectors.dataset import InputDataset, changed_files
from connectors.errors import JobError, UserError
from connectors.faults import explained
from connectors.finish import UnfinishedError, clean, finish, strays
from connectors.lease import Lease
from connectors.ledger import Ledger, Plan
from connectors.listing import Listing, list_input
from connectors.planning import MapInOrder, plan_dataset
from connectors.units import total_rows
from jobs.config.sections import differences, fingerprint_fields
from jobs.run.judged import Judged, clients, job_judges, look_for_judge
from jobs.run.prepare import (
    Job,
    Prepared,
    check_places,
    jsonl_options,
    output_folder,
    output_spec,
    prepare,
    project,
    storage_options,
)
from jobs.run.served import Served, engines, look_for_model, served_models
from jobs.score import built_rewards
from jobs.show.display import Display, mixed_lines
from jobs.show.doctor import check_models
from rmbatch.costs.chat import Spending
from rmbatch.costs.engines import Economics
from rmbatch.judges.reward import judge_rewards
from rmbatch.reward_models.reward import model_rewards
from rmbatch.rewards.composition import NOT_REACHED
from rmbatch.stages.score import null_codes

SAMPLE_ROWS = 1000
"""A job is fitted to so many rows of JSONL before the whole input is scanned."""
POLL_S = 0.5
MIN_JUDGED = 1000
"""Responses before a share of nulls is judged."""


@dataclass(frozen=True)
class Summary:
    """What a finished job came to; also written to ``_rmbatch/summary.json``."""

    output: str
    rows: Mapping[str, int]
    """Rows by part: data, rejected, dead_letters."""
    tally: Mapping[str, int]
    seconds: float
    """Of this run; 0 when the job was finished before."""
    work_seconds: float
    """Of these, in which rows were worked on; the others went into planning, starting Ray and models, finishing."""
    rows_per_s: float
    """Rows that this run worked off, over the seconds of work."""
    bytes_per_s: float
    """Input bytes likewise."""
    served: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By served model: what it cost in this run, as ``rmbatch.costs.engines.Economics``."""
    judged: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By judge: what it cost in this run, as ``rmbatch.costs.chat.Spending``."""
    mixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By column whose rows are of several kinds: see ``InputDataset.mixed``."""


def run_job(job: Job, display: Display) -> Summary:
    """Run the job to its end; raises UserError before any work, JobError when it stopped on its way."""
    refuse_lost_output("output.path", job.output.path)
    check_places(job)
    folder = output_folder(job)
    if folder.url.startswith("memory://"):
        raise UserError(f"output.path {folder.url} is the memory of one process, not of workers; write to a disk")
    with explained(folder.url):
        return _run(job, Ledger(folder), display)


def _run(job: Job, ledger: Ledger, display: Display) -> Summary:
    began, folder = time.monotonic(), ledger.output
    manifest = ledger.manifest()
    if manifest is not None:
        _check_same_job(manifest["job"], job, folder.url, display)
        plan = ledger.plan()
        _say_changes(plan, job, display)
        clean(ledger)
        _remove_strays(ledger, manifest, display)
        display.say(f"{folder.url} is finished; nothing to do")
        mixed = plan.dataset.mixed if plan else {}
        summary = Summary(folder.url, manifest["rows"], manifest["tally"], 0.0, 0.0, 0.0, 0.0, mixed=mixed)
        if not ledger.private.exists("summary.json"):  # killed between the manifest and the summary
            _keep_summary(ledger, summary)
        return summary
    plan = ledger.plan(storage_options(job.input.storage))
    dataset: InputDataset | None = None
    with display.doing("reading the input"):
        listing = list_job_input(job)
        if plan is None and listing.format == "parquet":
            dataset = plan_job_input(job, listing, limit=job.input.limit)
            prepare(job, dataset.schema)
        elif plan is None:
            check_sample(job, listing, display)
        else:
            _check_same_job(plan.job, job, folder.url, display)
            _check_unchanged(plan, listing, display)
    with Lease.take(ledger.private.folder("lease"), waiting=display.say) as lease:
        try:
            with _ray(job, display):
                if plan is None:
                    if dataset is None:
                        _look_for_servers(job)
                        dataset = _scan(job, listing, display)
                    plan = _begin(job, ledger, dataset, display)
                prepared = prepare(job, plan.dataset.schema)
                for name, line in mixed_lines(plan.dataset.mixed):
                    display.say(f"{name}: {line}")
                try:
                    manifest, worked = _work_and_finish(job, ledger, plan, prepared, lease, display)
                except UserError:
                    ledger.withdraw()
                    raise
        except (UserError, JobError):
            if plan is None and not ledger.has_begun():  # no task that may still be alive has this epoch
                lease.forget()
            raise
    return _summarise(ledger, manifest, plan, worked, time.monotonic() - began)


def _begin(job: Job, ledger: Ledger, dataset: InputDataset, display: Display) -> Plan:
    """The plan of a new output, written before any work."""
    plan = Plan(fingerprint_fields(job), dataset, ledger.honours_conditions())
    _check_unchanged(plan, list_job_input(job), display)  # it was read since it was listed
    prepare(job, dataset.schema)
    ledger.begin(plan)
    if not plan.conditional_put:
        display.say("warning: this store ignores conditional puts; a second run would be noticed only later")
    return plan


@contextmanager
def _ray(job: Job, display: Display) -> Iterator[None]:
    """The cluster that the job works on, for as long as it works."""
    with ExitStack() as stack:
        where = cluster_address(job.run.address)
        with display.doing(f"joining the Ray cluster {where}" if where else "starting Ray"):
            stack.enter_context(attached(job.run.address, job.run.cpus))
        yield


def _remove_strays(ledger: Ledger, manifest: Mapping[str, Any], display: Display) -> None:
    """What a killed task of an earlier run has left in the finished output, where readers of folders would see it."""
    if not strays(ledger.output, manifest):
        return
    with Lease.take(ledger.private.folder("lease"), waiting=display.say):
        found = strays(ledger.output, manifest)
        ledger.output.delete(found)
    for name in found:
        display.say(f"removed {name}, which the manifest does not name: a killed task had left it")


@dataclass(frozen=True)
class Worked:
    """What one run has done."""

    num_rows: int = 0
    seconds: float = 0.0
    served: Mapping[str, Economics] = field(default_factory=dict)
    judged: Mapping[str, Spending] = field(default_factory=dict)


def _work_and_finish(
    job: Job, ledger: Ledger, plan: Plan, prepared: Prepared, lease: Lease, display: Display
) -> tuple[dict[str, Any], Worked]:
    """The manifest, and what was worked off; rows that finishing finds undone get one more round."""
    run, spec = secrets.token_hex(4), output_spec(job, prepared)
    worked = _work(job, ledger, plan, prepared, lease, display, run)
    lease.check()
    try:
        return finish(ledger, plan, spec, run), worked
    except UnfinishedError:
        more = _work(job, ledger, plan, prepared, lease, display, run)
        lease.check()
        both = replace(worked, num_rows=worked.num_rows + more.num_rows, seconds=worked.seconds + more.seconds)
        return finish(ledger, plan, spec, run), both


def _work(job: Job, ledger: Ledger, plan: Plan, prepared: Prepared, lease: Lease, display: Display, run: str) -> Worked:
    """Score (and choose) every row that no record covers."""
    from rmbatch.pipeline.actors.pools import TASK_CPUS
    from rmbatch.pipeline.blocks import BlockWork
    from rmbatch.pipeline.progress import Scoreboard
    from rmbatch.pipeline.run import run_pieces

    dataset = project(_grouped(job, ledger, plan, prepared, display), prepared)
    commits = ledger.commits()
    missing = ledger.missing(dataset, commits)
    left = total_rows(missing)
    if commits:
        display.say(f"resuming: {plan.dataset.num_rows - left:,} of {plan.dataset.num_rows:,} rows are finished")
    told: Mapping[str, Economics] = {}
    spent: Mapping[str, Spending] = {}
    seconds = 0.0
    if missing:
        work = BlockWork(prepared.stages, Attempts(ledger.private.folder("attempts"), run), prepared.group)
        board = Scoreboard.start()
        before: Counter[str] = Counter()
        for record in commits:
            before.update(record.tally)
        done = dataset.num_rows - left
        models = served_models(prepared)
        check_models(models, dataset, prepared.roles, display)
        options = storage_options(job.output.storage or job.input.storage)
        with (
            engines(job.run, models, display) as served,
            clients(job_judges(prepared), ledger, options, display) as judged,
            compacting(ledger, lease, display.say),
            _watched(job, board, served, judged, display, total=dataset.num_rows, done=done, before=before),
        ):
            began = time.monotonic()
            run_pieces(
                dataset,
                missing,
                work,
                output_spec(job, prepared),
                run=run,
                epoch=lease.epoch,
                board=board,
                block_rows=job.run.block_rows or judged.block_rows,
                connections={**served.connections, **judged.connections},
                task_cpus=TASK_CPUS if served.models or judged.judges else 1.0,
                max_tasks=served.max_tasks,
            )
            seconds = time.monotonic() - began
            told = served.told(board.counts(), at_the_end=True)
            spent = judged.told(board.counts())
    if job.run.max_null_share is not None:
        _refuse_too_many_nulls(ledger, job.run.max_null_share)
    return Worked(left, seconds, told, spent)


def _refuse_too_many_nulls(ledger: Ledger, limit: float) -> None:
    """The last word on the share of nulls, by the ledger; a finished row says the same on every run."""
    progress = ledger.progress()
    why = too_many_nulls(progress.finished, limit, at_least=1) if progress else ""
    if why:
        raise JobError(why)


def _grouped(job: Job, ledger: Ledger, plan: Plan, prepared: Prepared, display: Display) -> InputDataset:
    """The rows to work on: as planned, or shuffled together by their group key."""
    if prepared.group is None or job.input.group is None or job.input.group.rows == "adjacent":
        return plan.dataset
    grouped = ledger.grouped()
    if grouped is None:
        from rmbatch.pipeline.shuffle import shuffle_groups

        display.say(f"bringing rows of one {prepared.group} together ({plan.dataset.num_rows:,} rows)")
        grouped = shuffle_groups(project(plan.dataset, prepared), prepared.group, ledger.private.folder("grouped"))
        ledger.keep_grouped(grouped)
    return grouped


@contextmanager
def _watched(
    job: Job,
    board: Any,
    served: Served,
    judged: Judged,
    display: Display,
    *,
    total: int,
    done: int,
    before: Mapping[str, int],
) -> Iterator[None]:
    """Shows the tasks' progress while they run, and stops them early when too many scores are null."""
    ended = threading.Event()
    with display.stage(job.job, total, "rows", done) as advance_to:

        def watch() -> None:
            while not ended.wait(POLL_S):
                counts = Counter(board.counts())
                told: dict[str, Economics | Spending] = {**served.told(counts), **judged.told(counts)}
                try:
                    judged.keep_spent()
                except OSError as error:  # another look will keep it; the job itself will hear of a store that is gone
                    display.say(f"warning: what was spent could not be kept: {error}")
                advance_to(done + counts["rows"], "; ".join(f"{name}: {each.line()}" for name, each in told.items()))
                counts.update(before)
                why = too_many_nulls(counts, job.run.max_null_share, MIN_JUDGED)
                if why:
                    board.stop(why)

        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def too_many_nulls(tally: Mapping[str, int], limit: float | None, at_least: int) -> str:
    """Which reward has more nulls than the limit allows, once so many responses are known; empty if none."""
    if limit is None:
        return ""
    for key, scored in tally.items():
        if not key.startswith("scored."):
            continue
        name = key.removeprefix("scored.")
        nulls = null_codes(tally, name)
        nulls.pop(NOT_REACHED, None)  # a part that was not asked has not failed
        missing = sum(nulls.values())
        if scored + missing >= at_least and missing > limit * (scored + missing):
            worst = next(iter(nulls))
            share = missing / (scored + missing)
            return (
                f"score.{name} is null for {share:.0%} of {scored + missing:,} responses, mostly {worst}; "
                f"run.max_null_share allows {limit:.0%}"
            )
    return ""


def check_sample(job: Job, listing: Listing, display: Display) -> None:
    """Fit the job to the first rows before more is done; raises UserError where it does not fit.

    A column that a sample of JSONL lacks may still come in later rows: that is a warning, and the scan will tell.
    """
    limit = min(SAMPLE_ROWS, job.input.limit or SAMPLE_ROWS)
    sample = plan_job_input(job, listing, limit=limit)
    try:
        prepare(job, sample.schema)
    except UserError as error:
        built_rewards(job)
        if listing.format == "parquet" or sample.num_rows < limit or limit == job.input.limit:
            raise
        display.say(f"warning: by the first {limit:,} rows, {error}; reading the whole input to know")


def list_job_input(job: Job) -> Listing:
    """The files of the job's input."""
    paths = [job.input.path] if isinstance(job.input.path, str) else list(job.input.path)
    return list_input(paths, storage_options(job.input.storage), job.input.format)


def plan_job_input(job: Job, listing: Listing, limit: int | None, run: MapInOrder[Any, Any] = map) -> InputDataset:
    """The planned input; for JSONL that reads every row up to the limit."""
    group = job.input.group
    return plan_dataset(
        listing,
        storage_options(job.input.storage),
        unit_bytes=job.run.unit_mb << 20,
        limit=limit,
        group_key=group.by if group and group.rows == "adjacent" else None,
        jsonl=jsonl_options(job.input),
        run=run,
    )


def _look_for_servers(job: Job) -> None:
    """Raises UserError where a judge or a model is asked at servers none of which is there, before a long scan."""
    from rmbatch.pipeline.run import run_in_order

    rewards = built_rewards(job)
    judges = {judge.spec.chat().client_key: (name, judge.spec.chat()) for name, judge in judge_rewards(rewards)}
    models = {each.spec.engine_key: each.spec for _, each in model_rewards(rewards) if each.spec.engine == "endpoint"}
    list(run_in_order(look_for_judge, list(judges.values())))
    list(run_in_order(look_for_model, list(models.values())))


def _scan(job: Job, listing: Listing, display: Display) -> InputDataset:
    """Plan JSONL by reading it on the cluster."""
    from rmbatch.pipeline.run import run_in_order

    total = sum(file.size for file in listing.files)
    with display.stage("scan", total, "bytes") as advance_to:

        def run(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterable[Any]:
            position = 0
            for part, profile in zip(parts, run_in_order(function, parts), strict=True):
                position += part.stop - part.start
                advance_to(position)
                yield profile

        return plan_job_input(job, listing, limit=job.input.limit, run=run)


def _check_same_job(planned: Mapping[str, Any], job: Job, output: str, display: Display) -> None:
    """Another job is refused; a changed file of rewards, which a job that stopped may need, is named."""
    now, before = fingerprint_fields(job), dict(planned)
    digests = before.pop("reward_files", {})
    for file, digest in now.pop("reward_files").items():
        if digests.get(file, digest) != digest:
            display.say(f"warning: {file} has changed; rows that are finished keep the scores that it gave before")
    lines = differences(before, now)
    if lines:
        raise UserError(
            f"{output} belongs to another job: {'; '.join(lines[:5])} (planned -> now); "
            "write to another output.path, or put the job file back"
        )


def _check_unchanged(plan: Plan, listing: Listing, display: Display) -> None:
    """A changed or vanished file stops the job; a new one is named and left alone."""
    lines = changed_files(plan.dataset, listing.files)
    changed = [line for line in lines if not line.endswith("is new")]
    if changed:
        raise JobError(
            f"the input is not what was planned: {'; '.join(changed[:5])}; restore it, or start a new output"
        )
    for line in lines[:5]:
        display.say(f"warning: {line}, and not part of this job's plan")


def _say_changes(plan: Plan | None, job: Job, display: Display) -> None:
    if plan is None:
        return
    try:
        found = list_job_input(job).files
    except UserError as error:
        display.say(f"warning: {error}")
        return
    for line in changed_files(plan.dataset, found)[:5]:
        display.say(f"warning: {line} since this job was planned")


def _summarise(ledger: Ledger, manifest: Mapping[str, Any], plan: Plan, worked: Worked, seconds: float) -> Summary:
    dataset = plan.dataset
    num_rows = sum(file.num_rows for file in dataset.files.values())  # a limit leaves out the rest
    # Of JSONL it also leaves files, and ends of files, unread whose rows nobody has counted.
    num_bytes = dataset.num_bytes if dataset.format == "parquet" else sum(u.num_bytes for u in dataset.units.values())
    share = worked.num_rows / max(num_rows, 1)
    summary = Summary(
        ledger.output.url,
        manifest["rows"],
        manifest["tally"],
        seconds,
        worked.seconds,
        worked.num_rows / worked.seconds if worked.seconds else 0.0,
        num_bytes * share / worked.seconds if worked.seconds else 0.0,
        {name: each.plain() for name, each in worked.served.items()},
        {name: each.plain() for name, each in worked.judged.items()},
        dataset.mixed,
    )
    _keep_summary(ledger, summary)
    return summary


def _keep_summary(ledger: Ledger, summary: Summary) -> None:
    ledger.private.write("summary.json", orjson.dumps(vars(summary), option=orjson.OPT_INDENT_2))
