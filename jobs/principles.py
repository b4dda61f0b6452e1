"""The principles job: finds what lies behind preferences, and writes it as a file that a judge uses, with a report.

It runs in this process, for a few hundred rows are enough. Every answer is kept below the output, and what is asked
follows from the rows and the seeds alone: a run that was killed goes on with the same command and pays for nothing
twice.

    job: principles
    input: {path: preferences.jsonl}
    about: What counts is whether a support answer solves the customer's problem.
    judge: {endpoint: "http://host:8000", model: qwen3-32b}
    output: {path: principles/support/}

    run_job(parse_job(data, "job.yaml"), Display())        # rmbatch run job.yaml
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from connectors.errors import JobError, UserError
from connectors.lease import Lease, seems_held
from connectors.schema import DEAD
from connectors.storage import Folder
from connectors.units import Range
from jobs.config.principles import MOST_ROWS, PAGE, PRINCIPLES, PROPOSED, REPORT, PrinciplesJob
from jobs.run.input import list_job_input, plan_job_input
from jobs.run.job import JobType
from jobs.run.sampling import readable
from jobs.show.display import Display
from jobs.show.principles import PrinciplesPlan, PrinciplesReport, PrinciplesStatus
from rmbatch.chat.limits.accounts import ANSWERS
from rmbatch.chat.local import open_clients
from rmbatch.costs.chat import chat_cost
from rmbatch.discovery.embeddings import embed_texts
from rmbatch.discovery.finding import Findings, Selection, find_principles
from rmbatch.discovery.preferences import Preference, ReadPreferences, read_preferences, split_by_prompt
from rmbatch.discovery.propose import Writer, count_outcomes
from rmbatch.discovery.report import write_page
from rmbatch.discovery.select import vectorise_texts
from rmbatch.discovery.trial import Trial
from rmbatch.judges.principles import PrincipleSet, write_principles
from rmbatch.rows.roles import guess_roles

FEWEST_ROWS = 10
JOB = "job.json"
"""The identity of the job that began the output."""


class Principles(JobType[PrinciplesJob]):
    """The principles job on its output."""

    config = PrinciplesJob

    def __init__(self, job: PrinciplesJob, display: Display) -> None:
        super().__init__(job, display)
        self._rows: _Rows | None = None

    def identity(self) -> dict[str, Any]:
        return self.job.identity()

    @classmethod
    def recorded_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        text = output.folder("_rmbatch").read_if_exists(JOB)
        return None if text is None else orjson.loads(text)

    def result(self) -> PrinciplesReport | None:
        if self.recorded_identity(self.output) is None and self.output.exists(PRINCIPLES):
            raise UserError(f"{self.output.url} holds files of something else; write to another output.path")
        finished = self.output.read_if_exists(REPORT)
        if finished is None:
            return None
        report = orjson.loads(finished)
        if _input_files(self.job) != report["files"]:
            self.display.say("warning: the input has changed since; to learn from it, write to another output.path")
        return PrinciplesReport(self.output.url, report)

    def check(self) -> None:
        Trial(self.job.judge, self.job.about)
        self._rows = _read_rows(self.job)
        counts = self._rows.counts
        unusable = "".join(f"; {number:,} {why}" for why, number in counts["unusable"].items())
        self.display.say(
            f"{counts['usable']:,} of {counts['read']:,} rows can be used{unusable}; "
            f"{counts['train']:,} to learn from, {counts['held_out']:,} held out"
        )

    def work(self, lease: Lease) -> PrinciplesReport:
        assert self._rows is not None
        job, output, private = self.job, self.output, self.private
        private.write(JOB, orjson.dumps(self.identity(), option=orjson.OPT_INDENT_2))
        findings, costs = _find(job, self._rows, private, self.display)
        lease.check()
        output.write(PROPOSED, b"".join(orjson.dumps(line) + b"\n" for line in _proposed_lines(findings)))
        if findings.worth is None:
            private.delete([JOB])  # so that another try may go here, where the answers are kept
            raise UserError(_nothing_found(findings, f"{output.url}/{PROPOSED}"))
        report = _report(job, self._rows.counts, findings)
        output.write(PRINCIPLES, _principles_file(job, findings, report))
        output.write(PAGE, write_page(report).encode())
        report |= {"files": _input_files(job), "spent": costs}
        output.write(REPORT, orjson.dumps(report, option=orjson.OPT_INDENT_2))  # the last: then it is finished
        return PrinciplesReport(output.url, report)

    def plan(self, gpu: str) -> PrinciplesPlan:
        del gpu  # the models that it asks run elsewhere
        Trial(self.job.judge, self.job.about)
        rows = _read_rows(self.job)
        judge, writer = f"{self.job.judge.judge}, {self.job.judge.model}", self.job.who_writes().model
        return PrinciplesPlan(rows.counts, judge, writer, len(rows.train), self.job.output.path)

    @classmethod
    def status(cls, output: Folder) -> PrinciplesStatus:
        held = seems_held(output.folder("_rmbatch/lease"))
        state = "finished" if output.exists(REPORT) else "running" if held else "not finished"
        return PrinciplesStatus(output.url, state)

    def describe_output(self) -> str:
        return "principles that were found" if self.output.exists(REPORT) else "an unfinished principles job"

    def discard(self) -> None:
        self.output.delete([REPORT, PAGE, PRINCIPLES, PROPOSED])
        self.private.delete([JOB])


@dataclass(frozen=True)
class _Rows:
    """The preferences of the input, split."""

    train: Sequence[Preference]
    held_out: Sequence[Preference]
    counts: Mapping[str, Any]


def _input_files(job: PrinciplesJob) -> list[list[Any]]:
    """Name, size and etag of each input file; empty where there is none any more."""
    try:
        return [[file.uri, file.size, file.etag] for file in list_job_input(job).files]
    except UserError:
        return []


def _read_rows(job: PrinciplesJob) -> _Rows:
    """The preferences of the input. Raises UserError where too few can be used."""
    limit = job.input.limit or MOST_ROWS + 1
    dataset = plan_job_input(job, list_job_input(job), limit, without_twins=True)
    if dataset.num_rows > MOST_ROWS:
        raise UserError(f"the input has more than {MOST_ROWS:,} rows; set input.limit, a few hundred are enough")
    roles = guess_roles(dataset.schema, job.input.columns)
    named = {roles.prompt, roles.id, *job.preferences.columns()}
    dataset = dataset.project([name for name in dataset.schema.names if name in named])
    blocks = [
        block
        for unit in dataset.units.values()
        for block in dataset.read(Range(unit.index, 0, unit.num_rows), MOST_ROWS)
    ]
    table = pa.concat_tables(blocks or [dataset.schema.empty_table()], promote_options="default")
    rows = readable(table)
    found = read_preferences(rows, roles, job.preferences, _row_names(table, roles.id))
    dead = table.num_rows - rows.num_rows
    if dead:
        found = ReadPreferences(found.preferences, {"unreadable": dead, **found.unusable})
    if len(found.preferences) < FEWEST_ROWS:
        reasons = "".join(f"; {number:,} {why}" for why, number in found.unusable.items())
        raise UserError(
            f"{len(found.preferences):,} of {table.num_rows:,} rows are preferences{reasons}; at least "
            f"{FEWEST_ROWS} are needed, better a few hundred; see input.columns.prompt and preferences"
        )
    train, held_out = split_by_prompt(found.preferences, job.held_out, job.seed)
    counts = {"read": table.num_rows, "usable": len(found.preferences), "unusable": dict(found.unusable)}
    return _Rows(train, held_out, counts | {"train": len(train), "held_out": len(held_out)})


def _row_names(table: pa.Table, column: str | None) -> list[str]:
    """A name for each row that can be read: its id where all ids differ, else its place in the input, from 0."""
    dead = table[DEAD].is_valid().to_pylist() if DEAD in table.column_names else [False] * table.num_rows
    places = [place for place, is_dead in enumerate(dead) if not is_dead]
    ids = [] if column is None else [table[column][place].as_py() for place in places]
    if len({str(each) for each in ids}) == len(places) and None not in ids:
        return [str(each) for each in ids]
    return [str(place) for place in places]


def _find(job: PrinciplesJob, rows: _Rows, private: Folder, display: Display) -> tuple[Findings, dict[str, str]]:
    """What was found, and what judge and writer have cost in this run, as lines."""
    trial = Trial(job.judge, job.about)
    asks = {"judge": job.judge.chat(), "writer": job.who_writes()}
    writer = Writer(asks["writer"], job.about, job.propose.per_row, job.seed)
    embeddings, kept = job.select.embeddings, private.folder(ANSWERS)
    selection = Selection(
        job.select.keep,
        job.select.epsilon,
        job.select.min_gain,
        job.select.trial_rows,
        vectorise_texts if embeddings is None else lambda texts: embed_texts(embeddings, texts, kept),
    )

    def stage(name: str, total: int, unit: str) -> AbstractContextManager[Any]:
        return display.stage(name, total, unit)

    with open_clients(asks, private) as clients:
        try:
            findings = find_principles(
                writer,
                trial,
                rows.train,
                rows.held_out,
                selection,
                rounds=job.propose.rounds,
                seed=job.seed,
                stage=stage,
            )
        except JobError:
            if not clients.usage(asks["judge"]):  # a wrong URL or model, perhaps: the job file may be mended
                private.delete([JOB])
            raise
    costs = {who: chat_cost(clients.usage(spec), spec.price).line() for who, spec in asks.items()}
    return findings, costs


def _proposed_lines(findings: Findings) -> list[dict[str, Any]]:
    """A line for each principle that was proposed, and one for each answer without any."""
    kept = {each.text for each in findings.principles}
    lines: list[dict[str, Any]] = []
    for each in findings.proposals:
        start = {"row": each.row, "round": each.round, "outcome": each.outcome, "converged": each.converged}
        if not each.principles:
            lines.append({**start, "error": each.error})
        for principle in each.principles:
            said = {"name": principle.name, "text": principle.text}
            lines.append({**start, **said, "kept": each.converged and principle.text in kept})
    return lines


def _report(job: PrinciplesJob, rows: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """All numbers, as plain values."""
    assert findings.worth is not None
    return {
        "topic": job.topic,
        "about": job.about,
        "input": job.input.path,
        "judge": f"{job.judge.judge}, {job.judge.model}",
        "writer": job.who_writes().model,
        "seed": job.seed,
        "rows": rows,
        "proposed": {
            "principles": sum(len(each.principles) for each in findings.proposals),
            "rows": count_outcomes(findings.proposals),
        },
        "selected": {
            "candidates": findings.num_candidates,
            "tried": findings.num_tried,
            "kept": len(findings.principles),
            "by": "support" if findings.by_support else "usefulness",
        },
        "worth": findings.worth.plain(),
    }


def _principles_file(job: PrinciplesJob, findings: Findings, report: Mapping[str, Any]) -> bytes:
    """The file of principles, as bytes; the same for the same job and answers."""
    worth = report["worth"]
    told = {name: report[name] for name in ("judge", "writer", "seed", "input", "rows", "proposed", "selected")}
    measures = {
        "found": worth["found"],
        "with": worth["with"]["accuracy"],
        "without": worth["without"]["accuracy"],
        "gain": worth["gain"],
    }
    made = PrincipleSet(
        topic=job.topic,
        about=job.about,
        principles=findings.principles,
        provenance={"made_by": "rmbatch principles", **told, "held_out_accuracy": measures},
    )
    with tempfile.TemporaryDirectory() as scratch:  # the output may be a store that needs options of its own
        path = Path(scratch) / PRINCIPLES
        write_principles(str(path), made)
        return path.read_bytes()


def _nothing_found(findings: Findings, where: str) -> str:
    ended = ", ".join(f"{number:,} {how}" for how, number in count_outcomes(findings.proposals).items())
    if not findings.num_candidates:
        why = "the judge preferred the right answer in none of the rows"
    else:
        useless = "misleads the judge as often as it helps, or helps too little (select.min_gain)"
        why = f"each of the {findings.num_tried:,} that were tried alone {useless}"
    return f"no principle was found: {why} (rows: {ended}); what was proposed is in {where}"
