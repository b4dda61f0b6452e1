"""A job over rows: plans its input if it is new, works off what no commit record covers, finishes the output.

What may happen in between is told in ``connectors/ledger.py``. A kind of job says which stages its rows go through.

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
from typing import Any, TypeVar

import orjson
from rich.console import Console

from connectors.attempts import Attempts
from connectors.commit import FOLDERS
from connectors.compaction import compacting
from connectors.dataset import InputDataset
from connectors.errors import JobError, UserError
from connectors.finish import UnfinishedError, clean, finish, strays
from connectors.lease import Lease
from connectors.ledger import Ledger, Plan
from connectors.listing import Listing
from connectors.storage import Folder
from connectors.units import total_rows
from jobs.config.identity import job_identity
from jobs.config.sections import RewardJob
from jobs.run.ahead import look_ahead
from jobs.run.doctor import check_models
from jobs.run.input import SAMPLE_ROWS, check_unchanged, list_job_input, plan_job_input, plan_sample, say_changes, scan
from jobs.run.job import JobType, Shown
from jobs.run.output import storage_options
from jobs.run.prepare import Prepared, output_spec, prepare, project
from jobs.run.services import start_services
from jobs.run.watch import too_many_nulls, watch
from jobs.run.where import choose_executor
from jobs.show.display import Display, mixed_lines, result_table
from jobs.show.status import OutputStatus, row_status
from rmbatch.chat.limits.accounts import ANSWERS
from rmbatch.costs.chat import ChatCost
from rmbatch.costs.engines import EngineCost
from rmbatch.pipeline.blocks import BlockWork
from rmbatch.pipeline.executor import Executor
from rmbatch.pipeline.servers import check_chat_servers, check_model_servers
from rmbatch.pipeline.task import RowTask, cut_tasks
from rmbatch.rewards.evaluation import Reward
from rmbatch.stages.base import Fit, Needs
from rmbatch.stages.score import needs_of

J = TypeVar("J", bound=RewardJob)


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
    """By reward model: what it cost in this run, as ``rmbatch.costs.engines.EngineCost``."""
    judged: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By judge: what it cost in this run, as ``rmbatch.costs.chat.ChatCost``."""
    mixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By column whose rows are of several kinds: see ``InputDataset.mixed``."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))

    def show(self, console: Console) -> None:
        """Print it for a person."""
        console.print(result_table(self.output, self.rows, self.tally, self.plain()))
        dead = self.rows.get("dead_letters", 0)
        if dead:
            where = f"{self.output}/_dead_letters"
            console.print(f"{dead:,} rows could not be processed; they are in {where} with the reason", highlight=False)


@dataclass(frozen=True)
class _Worked:
    """What one run has done."""

    num_rows: int = 0
    seconds: float = 0.0
    models: Mapping[str, EngineCost] = field(default_factory=dict)
    chats: Mapping[str, ChatCost] = field(default_factory=dict)


class RowJob(JobType[J]):
    """A job whose rows go through stages."""

    parts = tuple(FOLDERS.values())

    def __init__(self, job: J, display: Display) -> None:
        super().__init__(job, display)
        self.ledger = Ledger(self.output)
        self._began = time.monotonic()
        self._unit_bytes = job.run.unit_mb << 20
        self._listing: Listing | None = None
        self._planned: InputDataset | None = None

    @abstractmethod
    def fits(self) -> list[Fit]:
        """The stages, each as a function of the columns that the one before leaves."""

    def identity(self) -> dict[str, Any]:
        return job_identity(self.job)

    @classmethod
    def recorded_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        return Ledger(output).planned_job()

    def rewards(self) -> dict[str, Reward]:
        return self.job.build_rewards()

    def result(self) -> Summary | None:
        """The result of a finished output, in which nothing is left that a killed task has written."""
        manifest = self.ledger.manifest()
        if manifest is None:
            return None
        plan = self.ledger.plan()
        if plan is not None:
            say_changes(plan, self.job, self.display)
        clean(self.ledger)
        self._remove_strays(manifest)
        mixed = plan.dataset.mixed if plan else {}
        summary = Summary(self.output.url, manifest["rows"], manifest["tally"], 0.0, 0.0, 0.0, 0.0, mixed=mixed)
        if not self.private.exists("summary.json"):  # killed between the manifest and the summary
            self._keep(summary)
        return summary

    def check(self) -> None:
        with self.display.doing("reading the input"):
            self._listing = list_job_input(self.job)
            if not self._listing.is_scanned:
                self._planned = self._plan_input(self._listing)
                self._prepared(self._planned)
            else:
                self._check_sample(self._listing)

    def prepare(self) -> None:
        plan = self.ledger.plan(storage_options(self.job.input.storage))
        if plan is None:
            self.check()
            return
        with self.display.doing("reading the input"):
            self._listing = list_job_input(self.job)
            check_unchanged(plan, self._listing, self.display)

    def work(self, lease: Lease) -> Summary:
        plan = self.ledger.plan(storage_options(self.job.input.storage))
        assert self._listing is not None
        num_bytes = sum(file.size for file in self._listing.files)
        with choose_executor(self.job.run, self.needs(), num_bytes, self.display) as executor:
            if plan is None:
                plan = self._begin(executor, self._listing)
            prepared = self._prepared(plan.dataset)
            for name, line in mixed_lines(plan.dataset.mixed):
                self.display.say(f"{name}: {line}")
            try:
                manifest, worked = self._work_and_finish(plan, prepared, executor, lease)
            except UserError:
                self.ledger.withdraw()
                raise
        return self._summarise(manifest, plan, worked)

    def plan(self, gpu: str) -> Shown:
        return look_ahead(self.job, self.fits(), gpu)

    @classmethod
    def status(cls, output: Folder) -> OutputStatus:
        return row_status(output)

    def describe_output(self) -> str:
        with suppress(UserError, JobError):  # damaged, or of another version
            progress = self.ledger.progress()
            return f"{progress.finished_rows if progress else 0:,} finished rows"
        return "an unknown number of rows"

    def discard(self) -> None:
        self.ledger.discard(keep=[ANSWERS])

    def needs(self) -> Needs:
        """The models and judges of the job, before its input is known. A kind with stages of its own adds theirs."""
        return needs_of(self.rewards())

    def _prepared(self, dataset: InputDataset) -> Prepared:
        return prepare(self.job, self.fits(), dataset.schema)

    def _plan_input(self, listing: Listing) -> InputDataset:
        return plan_job_input(self.job, listing, self.job.input.limit, unit_bytes=self._unit_bytes)

    def _check_sample(self, listing: Listing) -> None:
        """Fit the job to the first rows before more is done; raises UserError where it does not fit.

        A column that a sample of JSONL lacks may still come in later rows: that is a warning, and the scan will tell.
        """
        sample = plan_sample(self.job, listing, self._unit_bytes)
        try:
            self._prepared(sample)
        except UserError as error:
            self.rewards()
            has_all = sample.num_rows < SAMPLE_ROWS or sample.num_rows == self.job.input.limit
            if has_all:
                raise
            self.display.say(
                f"warning: by the first {sample.num_rows:,} rows, {error}; reading the whole input to know"
            )

    def _begin(self, executor: Executor, listing: Listing) -> Plan:
        """The plan of a new output, written before any work."""
        dataset = self._planned
        if dataset is None:
            self._check_servers(executor)
            dataset = scan(self.job, listing, executor, self.display, self._unit_bytes)
        plan = Plan(self.identity(), dataset, self.ledger.honours_conditions())
        check_unchanged(plan, list_job_input(self.job), self.display)  # it was read since it was listed
        self._prepared(dataset)
        self.ledger.begin(plan)
        if not plan.conditional_put:
            self.display.say("warning: this store ignores conditional puts; a second run would be noticed only later")
        return plan

    def _check_servers(self, executor: Executor) -> None:
        """Raises UserError where a judge or a model is asked at servers none of which is there, before a long scan."""
        needs = self.needs()
        askers = {asker.chat.digest: (name, asker.chat) for name, asker in needs.askers.items()}
        specs = {each.spec.engine_key: each.spec for each in needs.models.values() if each.spec.is_remote}
        list(executor.map(check_chat_servers, list(askers.values())))
        list(executor.map(check_model_servers, list(specs.values())))

    def _work_and_finish(
        self, plan: Plan, prepared: Prepared, executor: Executor, lease: Lease
    ) -> tuple[dict[str, Any], _Worked]:
        """The manifest, and what was worked off; rows that finishing finds undone get one more round."""
        run, spec = secrets.token_hex(4), output_spec(self.job, prepared)
        worked = self._work(plan, prepared, executor, lease, run)
        lease.check()
        try:
            return finish(self.ledger, plan, spec, run), worked
        except UnfinishedError:
            more = self._work(plan, prepared, executor, lease, run)
            lease.check()
            both = replace(worked, num_rows=worked.num_rows + more.num_rows, seconds=worked.seconds + more.seconds)
            return finish(self.ledger, plan, spec, run), both

    def _work(self, plan: Plan, prepared: Prepared, executor: Executor, lease: Lease, run: str) -> _Worked:
        """Work off every row that no record covers."""
        dataset = project(self._grouped(plan, prepared, executor), prepared)
        commits = self.ledger.commits()
        missing = self.ledger.missing(dataset, commits)
        left = total_rows(missing)
        if commits:
            done = plan.dataset.num_rows - left
            self.display.say(f"resuming: {done:,} of {plan.dataset.num_rows:,} rows are finished")
        worked = _Worked(left)
        if missing:
            spec, needs, board = output_spec(self.job, prepared), prepared.needs, executor.board()
            work = BlockWork(prepared.stages, Attempts(self.private.folder("attempts"), run), prepared.group)
            tasks = cut_tasks(dataset, missing, spec.file_bytes, executor.num_cpus, splittable=prepared.group is None)
            before: Counter[str] = Counter()
            for record in commits:
                before.update(record.tally)
            check_models(needs.models, dataset, prepared.roles, self.display)
            with (
                start_services(executor, needs, self.private, self.display) as services,
                compacting(self.ledger, lease, self.display.say),
                watch(
                    self.job.job,
                    board,
                    services,
                    self.display,
                    total=dataset.num_rows,
                    done=dataset.num_rows - left,
                    before=before,
                    max_null_share=self.job.run.max_null_share,
                ),
            ):
                began = time.monotonic()
                block_rows = self.job.run.block_rows or services.running.block_rows
                task = RowTask(dataset, work, spec, run, lease.epoch, block_rows)
                executor.run(task, tasks, board, services.running)
                counts = board.counts()
                worked = _Worked(
                    left,
                    time.monotonic() - began,
                    services.model_costs(counts, at_the_end=True),
                    services.chat_costs(counts),
                )
        if self.job.run.max_null_share is not None:
            self._refuse_too_many_nulls(self.job.run.max_null_share)
        return worked

    def _refuse_too_many_nulls(self, limit: float) -> None:
        """The last word on the share of nulls, by the ledger; a finished row says the same on every run."""
        progress = self.ledger.progress()
        why = too_many_nulls(progress.finished, limit, at_least=1) if progress else ""
        if why:
            raise JobError(why)

    def _grouped(self, plan: Plan, prepared: Prepared, executor: Executor) -> InputDataset:
        """The rows to work on: as planned, or shuffled together by their group key."""
        group = self.job.input.group
        if prepared.group is None or group is None or group.rows == "adjacent":
            return plan.dataset
        grouped = self.ledger.grouped()
        if grouped is None:
            self.display.say(f"bringing rows of one {prepared.group} together ({plan.dataset.num_rows:,} rows)")
            dataset = project(plan.dataset, prepared)
            grouped = executor.shuffle(dataset, prepared.group, self.private.folder("grouped"))
            self.ledger.keep_grouped(grouped)
        return grouped

    def _remove_strays(self, manifest: Mapping[str, Any]) -> None:
        """What a killed task of an earlier run has left in the finished output, where readers would see it."""
        if not strays(self.output, manifest):
            return
        with Lease.take(self.private.folder("lease"), waiting=self.display.say):
            found = strays(self.output, manifest)
            self.output.delete(found)
        for name in found:
            self.display.say(f"removed {name}, which the manifest does not name: a killed task had left it")

    def _summarise(self, manifest: Mapping[str, Any], plan: Plan, worked: _Worked) -> Summary:
        dataset = plan.dataset
        num_rows = sum(file.num_rows for file in dataset.files.values())  # a limit leaves out the rest
        # Of JSONL it also leaves files, and ends of files, unread whose rows nobody has counted.
        units = dataset.units.values()
        num_bytes = sum(unit.num_bytes for unit in units) if dataset.is_scanned else dataset.num_bytes
        share = worked.num_rows / max(num_rows, 1)
        summary = Summary(
            self.output.url,
            manifest["rows"],
            manifest["tally"],
            time.monotonic() - self._began,
            worked.seconds,
            worked.num_rows / worked.seconds if worked.seconds else 0.0,
            num_bytes * share / worked.seconds if worked.seconds else 0.0,
            {name: each.plain() for name, each in worked.models.items()},
            {name: each.plain() for name, each in worked.chats.items()},
            dataset.mixed,
        )
        self._keep(summary)
        return summary

    def _keep(self, summary: Summary) -> None:
        self.private.write("summary.json", orjson.dumps(summary.plain(), option=orjson.OPT_INDENT_2))
