"""A job over rows: plans its input if it is new, processes the rows that no commit record covers, finishes the output.

``connectors/ledger.py`` lists what a crash at each step leaves. A kind of job defines the stages that its rows go
through.

    class Score(RowJob[ScoreJob]):
        config = ScoreJob
        def fits(self) -> list[Fit]: return [partial(fit_score, self.job)]
"""

import secrets
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import orjson
from rich.console import Console

from connectors.attempts import Attempts
from connectors.commit import FOLDERS
from connectors.compaction import compact_in_background
from connectors.dataset import InputDataset
from connectors.errors import JobError, UserError
from connectors.finish import UnfinishedError, clean, find_strays, finish
from connectors.lease import Lease
from connectors.ledger import Ledger, Plan
from connectors.listing import Listing
from connectors.retry import apply_retry
from connectors.storage import Folder
from connectors.units import total_rows
from jobs.config.identity import job_identity
from jobs.config.sections import RowJobConfig
from jobs.run.ask_again import read_ask_again
from jobs.run.doctor import check_models
from jobs.run.exports import check_exports, check_free, discard_exports, write_exports
from jobs.run.input import (
    SAMPLE_ROWS,
    check_adapter,
    check_unchanged,
    list_job_input,
    plan_job_input,
    plan_sample,
    scan,
    view_input,
    warn_of_changes,
)
from jobs.run.job import JobType, Showable
from jobs.run.output import storage_options
from jobs.run.plan import plan_job
from jobs.run.prepare import Prepared, output_spec, prepare, project
from jobs.run.services import start_services
from jobs.run.usage import UsageLog
from jobs.run.watch import find_null_excess, watch
from jobs.run.where import choose_executor
from jobs.show.display import Display, describe_mixed_columns, draw_result
from jobs.show.export import draw_exports
from jobs.show.status import OutputStatus, read_row_status
from rmbatch.chat.limits.accounts import ANSWERS
from rmbatch.costs.chat import ChatCost
from rmbatch.costs.engines import EngineCost
from rmbatch.pipeline.blocks import BlockWork
from rmbatch.pipeline.executor import Executor
from rmbatch.pipeline.servers import check_chat_servers, check_model_servers
from rmbatch.pipeline.task import MIN_SPLIT_ROWS, RowTask, cut_tasks
from rmbatch.rewards.evaluation import Reward
from rmbatch.stages.base import Fit, Needs
from rmbatch.stages.score import needs_of

J = TypeVar("J", bound=RowJobConfig)


@dataclass(frozen=True)
class Summary:
    """The result of a finished job. It is also written to ``_rmbatch/summary.json``."""

    output: str
    rows: Mapping[str, int]
    """Rows by part: data, rejected, dead_letters."""
    tally: Mapping[str, int]
    seconds: float
    """The time of this run. 0 when the job was finished before."""
    work_seconds: float
    """The part of it that went into rows. The rest went into planning, starting Ray and models, and finishing."""
    rows_per_s: float
    """Rows that this run processed, over ``work_seconds``."""
    bytes_per_s: float
    """Input bytes that this run processed, over ``work_seconds``."""
    served: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By reward model: its cost in this run, as ``rmbatch.costs.engines.EngineCost``."""
    judged: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By judge: its cost in this run, as ``rmbatch.costs.chat.ChatCost``."""
    mixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By column whose rows are of several kinds: see ``InputDataset.mixed``."""
    exports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name: what an export holds, as ``ExportResult``."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))

    def show(self, console: Console) -> None:
        """Print it for a person."""
        console.print(draw_result(self.output, self.rows, self.tally, self.plain()))
        if self.exports:
            console.print(draw_exports(self.exports))
        dead = self.rows.get("dead_letters", 0)
        if dead:
            where = f"{self.output}/_dead_letters"
            console.print(f"{dead:,} rows could not be processed; they are in {where} with the reason", highlight=False)


@dataclass(frozen=True)
class _RunStats:
    """What one run has processed, in what time and at what cost."""

    num_rows: int = 0
    seconds: float = 0.0
    models: Mapping[str, EngineCost] = field(default_factory=dict)
    chats: Mapping[str, ChatCost] = field(default_factory=dict)


class RowJob(JobType[J]):
    """A job whose rows go through stages."""

    parts = tuple(FOLDERS.values())
    can_retry: ClassVar[bool] = True
    """Whether rows of its finished output can be done again. False where a report is made of them afterwards."""
    num_waves: ClassVar[int] = 1
    """How many times as many rows a block holds as chat clients are busy with. A job that asks in rounds takes more, so
    that the ends of its rounds, where fewer requests are under way, weigh less."""

    def __init__(self, job: J, display: Display) -> None:
        super().__init__(job, display)
        self.ledger = Ledger(self.output)
        self._began = time.monotonic()
        self._unit_bytes = job.run.unit_mb << 20
        self._listing: Listing | None = None
        self._planned: InputDataset | None = None

    @abstractmethod
    def fits(self) -> list[Fit]:
        """Return the stages, each as a function of the columns that the stage before it leaves."""

    def identity(self) -> dict[str, Any]:
        return job_identity(self.job)

    @classmethod
    def read_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        return Ledger(output).read_job()

    def rewards(self) -> dict[str, Reward]:
        return self.job.build_rewards()

    def result(self) -> Summary | None:
        """Return the result of a finished output. First remove files that killed tasks have left in it."""
        manifest = self.ledger.manifest()
        if manifest is None or self.ledger.read_retry() is not None:
            return None
        plan = self.ledger.plan()
        if plan is not None:
            warn_of_changes(plan, self.job, self.display)
        clean(self.ledger)
        self._remove_strays(manifest)
        mixed = plan.dataset.mixed if plan else {}
        summary = Summary(self.output.url, manifest["rows"], manifest["tally"], 0.0, 0.0, 0.0, 0.0, mixed=mixed)
        if not self.private.exists("summary.json"):  # killed between the manifest and the summary
            self._write_summary(summary)
        return summary

    def complete(self, result: Showable) -> Showable:
        """Write the exports of the finished output."""
        if not self.job.output.exports or not isinstance(result, Summary):
            return result
        return replace(result, exports=write_exports(self.job, self.display))

    def check(self) -> None:
        with self.display.show_step("reading the input"):
            self._listing = list_job_input(self.job)
            if not self._listing.is_scanned:
                self._planned = self._plan_input(self._listing)
                self._prepare(view_input(self.job.input, self._planned))
            else:
                self._check_sample(self._listing)

    def prepare(self) -> None:
        check_free(self.job)
        self.prepare_input()

    def prepare_input(self) -> None:
        """Look the input over: whether the job fits it, or whether it is still the one that was planned."""
        plan = self.ledger.plan(storage_options(self.job.input.storage))
        if plan is None:
            self.check()
            return
        with self.display.show_step("reading the input"):
            self._listing = list_job_input(self.job)
            check_unchanged(plan, self._listing, self.display)

    def fit_planned(self) -> Prepared:
        """Fit the job to the rows that its output has planned."""
        plan = self.ledger.plan(storage_options(self.job.input.storage))
        assert plan is not None
        return self._prepare(view_input(self.job.input, plan.dataset))

    def work(self, lease: Lease) -> Summary:
        apply_retry(self.ledger)
        plan = self.ledger.plan(storage_options(self.job.input.storage))
        assert self._listing is not None
        num_bytes = sum(file.size for file in self._listing.files)
        with choose_executor(self.job.run, self.needs(), num_bytes, self.display) as executor:
            if plan is None:
                executor.load_early(self.needs(), self.display.say)
                plan = self._begin(executor, self._listing)
            plan = replace(plan, dataset=view_input(self.job.input, plan.dataset))
            prepared = self._prepare(plan.dataset)
            for name, line in describe_mixed_columns(plan.dataset.mixed):
                self.display.say(f"{name}: {line}")
            try:
                manifest, stats = self._work_and_finish(plan, prepared, executor, lease)
            except UserError:
                self.ledger.withdraw()
                raise
        return self._summarise(manifest, plan, stats)

    def plan(self, gpu: str) -> Showable:
        return plan_job(self.job, self.fits(), gpu)

    @classmethod
    def status(cls, output: Folder) -> OutputStatus:
        return read_row_status(output)

    def describe_output(self) -> str:
        with suppress(UserError, JobError):  # damaged, or of another version
            progress = self.ledger.progress()
            return f"{progress.finished_rows if progress else 0:,} finished rows"
        return "an unknown number of rows"

    def discard(self) -> None:
        discard_exports(self.job)
        self.ledger.discard(keep=[ANSWERS])

    def why_stop(self, counts: Mapping[str, int]) -> str:
        """Why the job should stop on its way, by what all its runs have counted; empty where it should go on."""
        del counts
        return ""

    def needs(self) -> Needs:
        """The models and chat models of the job, before its input is known."""
        needs = needs_of(self.rewards())
        return replace(needs, askers={**self.generators(), **needs.askers})

    def _prepare(self, dataset: InputDataset) -> Prepared:
        prepared = prepare(self.job, self.fits(), dataset.schema)
        check_exports(self.job, self.identity(), prepared.output_schema)
        return prepared

    def _plan_input(self, listing: Listing) -> InputDataset:
        return plan_job_input(self.job, listing, self.job.input.limit, unit_bytes=self._unit_bytes)

    def _check_sample(self, listing: Listing) -> None:
        """Fit the job to the first rows. Raises UserError where it does not fit.

        Where later rows of JSONL may still have a missing column, this only warns; the scan decides.
        """
        sample = plan_sample(self.job, listing, self._unit_bytes)
        try:
            self._prepare(view_input(self.job.input, sample))
        except UserError as error:
            check_adapter(self.job.input)
            self.rewards()
            has_all = sample.num_rows < SAMPLE_ROWS or sample.num_rows == self.job.input.limit
            if has_all:
                raise
            self.display.say(f"warning: by the first {sample.num_rows:,} rows, {error}; now reading the whole input")

    def _begin(self, executor: Executor, listing: Listing) -> Plan:
        """Plan a new output, and write the plan before any work."""
        dataset = self._planned
        if dataset is None:
            self._check_servers(executor)
            dataset = scan(self.job, listing, executor, self.display, self._unit_bytes)
        plan = Plan(self.identity(), dataset, self.ledger.honours_conditions())
        check_unchanged(plan, list_job_input(self.job), self.display)  # a file may have changed while it was read
        self._prepare(view_input(self.job.input, dataset))
        self.ledger.begin(plan)
        if not plan.conditional_put:
            self.display.say("warning: this store ignores conditional puts; a second run is noticed only later")
        return plan

    def _check_servers(self, executor: Executor) -> None:
        """Raises UserError for a judge or a model none of whose servers answers, before a long scan."""
        needs = self.needs()
        elsewhere = {name: each.chat for name, each in needs.askers.items() if each.chat.serve is None}
        askers = {chat.digest: (name, chat) for name, chat in elsewhere.items()}
        specs = {each.spec.engine_key: each.spec for each in needs.models.values() if each.spec.is_remote}
        list(executor.map(check_chat_servers, list(askers.values())))
        list(executor.map(check_model_servers, list(specs.values())))

    def _work_and_finish(
        self, plan: Plan, prepared: Prepared, executor: Executor, lease: Lease
    ) -> tuple[dict[str, Any], _RunStats]:
        """Process all rows and write the manifest. Rows that are then found missing are processed in one more round."""
        run, spec = secrets.token_hex(4), output_spec(self.job, prepared)
        stats = self._work(plan, prepared, executor, lease, run)
        lease.check()
        try:
            return finish(self.ledger, plan, spec, run), stats
        except UnfinishedError:
            more = self._work(plan, prepared, executor, lease, run)
            lease.check()
            both = replace(stats, num_rows=stats.num_rows + more.num_rows, seconds=stats.seconds + more.seconds)
            return finish(self.ledger, plan, spec, run), both

    def _work(self, plan: Plan, prepared: Prepared, executor: Executor, lease: Lease, run: str) -> _RunStats:
        """Process every row that no commit record covers."""
        dataset = project(self._group_rows(plan, prepared, executor), prepared)
        commits = self.ledger.commits()
        missing = self.ledger.missing(dataset, commits)
        left = total_rows(missing)
        if commits:
            done = plan.dataset.num_rows - left
            self.display.say(f"resuming: {done:,} of {plan.dataset.num_rows:,} rows are finished")
        stats = _RunStats(left)
        if missing:
            spec, needs, board = output_spec(self.job, prepared), prepared.needs, executor.board()
            attempts = Attempts(self.private.folder("attempts"), run)
            work = BlockWork(prepared.stages, attempts, prepared.group, prepared.part)
            # a retry's rows are scattered, and servers answer those of a task at the same time
            gathers = bool(needs.askers) and self.ledger.read_retried() is not None
            tasks = cut_tasks(
                dataset,
                missing,
                spec.file_bytes,
                executor.num_cpus,
                splittable=prepared.group is None,
                min_rows=MIN_SPLIT_ROWS if gathers else 1,
            )
            before: Counter[str] = Counter()
            for record in commits:
                before.update(record.tally)
            check_models(needs.models, dataset, prepared.roles, self.display)
            with (
                start_services(executor, needs, self.private, self.display) as services,
                compact_in_background(self.ledger, lease, self.display.say),
                watch(
                    self.job.job,
                    board,
                    services,
                    UsageLog(self.private, services, self.display.say),
                    self.display,
                    total=dataset.num_rows,
                    done=dataset.num_rows - left,
                    before=before,
                    max_null_share=self.job.run.max_null_share,
                    why_stop=self.why_stop,
                ),
            ):
                began = time.monotonic()
                at_once = services.running.block_rows
                block_rows = self.job.run.block_rows or (at_once and at_once * self.num_waves)
                again = read_ask_again(self.ledger, needs)
                task = RowTask(dataset, work, spec, run, lease.epoch, block_rows, again)
                executor.run(task, tasks, board, services.running)
                counts = board.counts()
                stats = _RunStats(
                    left,
                    time.monotonic() - began,
                    services.model_costs(counts, at_the_end=True),
                    services.chat_costs(counts),
                )
        if self.job.run.max_null_share is not None:
            self._refuse_too_many_nulls(self.job.run.max_null_share)
        return stats

    def _refuse_too_many_nulls(self, limit: float) -> None:
        """Raises JobError for too many nulls in the ledger, so that each run of a finished output says the same."""
        progress = self.ledger.progress()
        why = find_null_excess(progress.finished, limit, at_least=1) if progress else ""
        if why:
            raise JobError(why)

    def _group_rows(self, plan: Plan, prepared: Prepared, executor: Executor) -> InputDataset:
        """Return the rows in the order to process them: as planned, or shuffled by their group key."""
        group = self.job.input.group
        if prepared.group is None or group is None or group.rows == "adjacent":
            return plan.dataset
        grouped = self.ledger.read_grouped()
        if grouped is None:
            self.display.say(f"shuffling {plan.dataset.num_rows:,} rows by {prepared.group}")
            dataset = project(plan.dataset, prepared)
            grouped = executor.shuffle(dataset, prepared.group, self.private.folder("grouped"))
            self.ledger.write_grouped(grouped)
        return grouped

    def _remove_strays(self, manifest: Mapping[str, Any]) -> None:
        """Remove files that killed tasks have left in the finished output, where readers would see them."""
        if not find_strays(self.output, manifest):
            return
        with Lease.take(self.private.folder("lease"), waiting=self.display.say):
            files = find_strays(self.output, manifest)
            self.output.delete(files)
        for name in files:
            self.display.say(f"removed {name}, which the manifest does not name: a killed task left it")

    def _summarise(self, manifest: Mapping[str, Any], plan: Plan, stats: _RunStats) -> Summary:
        dataset = plan.dataset
        num_rows = sum(file.num_rows for file in dataset.files.values())  # with a limit, more than was processed
        # With a limit, JSONL files and ends of files stay unread, and their rows are not counted.
        units = dataset.units.values()
        num_bytes = sum(unit.num_bytes for unit in units) if dataset.is_scanned else dataset.num_bytes
        share = stats.num_rows / max(num_rows, 1)
        summary = Summary(
            self.output.url,
            manifest["rows"],
            manifest["tally"],
            time.monotonic() - self._began,
            stats.seconds,
            stats.num_rows / stats.seconds if stats.seconds else 0.0,
            num_bytes * share / stats.seconds if stats.seconds else 0.0,
            {name: each.plain() for name, each in stats.models.items()},
            {name: each.plain() for name, each in stats.chats.items()},
            dataset.mixed,
        )
        self._write_summary(summary)
        return summary

    def _write_summary(self, summary: Summary) -> None:
        self.private.write("summary.json", orjson.dumps(summary.plain(), option=orjson.OPT_INDENT_2))
