"""The principles job: finds principles that explain preferences, and writes a file for judges and a report.

It runs in this process, because a few hundred rows are enough. It keeps every answer below the output. Its questions
depend only on the rows and the seeds, so after a crash the same command continues and pays for nothing twice.

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
from connectors.lease import Lease, may_be_running
from connectors.schema import DEAD
from connectors.storage import Folder
from connectors.units import Range
from jobs.config.principles import MOST_ROWS, PAGE, PRINCIPLES, PROPOSED, REPORT, PrinciplesJob
from jobs.run.input import list_job_input, plan_job_input, view_input
from jobs.run.job import JobType
from jobs.run.sampling import drop_unreadable
from jobs.show.display import Display
from jobs.show.principles import PrinciplesPlan, PrinciplesReport, PrinciplesStatus
from rmbatch.adapters.view import PART, keep_part
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
        self._rows: _SplitRows | None = None

    def identity(self) -> dict[str, Any]:
        return self.job.identity()

    @classmethod
    def read_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        text = output.folder("_rmbatch").read_if_exists(JOB)
        return None if text is None else orjson.loads(text)

    def result(self) -> PrinciplesReport | None:
        if self.read_identity(self.output) is None and self.output.exists(PRINCIPLES):
            raise UserError(f"{self.output.url} holds files of something else; write to another output.path")
        finished = self.output.read_if_exists(REPORT)
        if finished is None:
            return None
        report = orjson.loads(finished)
        if _list_input_files(self.job) != report["files"]:
            self.display.say("warning: the input has changed; to learn from it, write to another output.path")
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
        findings, costs = _run_search(job, self._rows, private, self.display)
        lease.check()
        output.write(PROPOSED, b"".join(orjson.dumps(line) + b"\n" for line in _list_proposals(findings)))
        if findings.worth is None:
            private.delete([JOB])  # so that a changed job may write here, where the answers are kept
            raise UserError(_explain_no_principles(findings, f"{output.url}/{PROPOSED}"))
        report = _build_report(job, self._rows.counts, findings)
        output.write(PRINCIPLES, _render_principles(job, findings, report))
        output.write(PAGE, write_page(report).encode())
        report |= {"files": _list_input_files(job), "spent": costs}
        output.write(REPORT, orjson.dumps(report, option=orjson.OPT_INDENT_2))  # written last: it marks the end
        return PrinciplesReport(output.url, report)

    def plan(self, gpu: str) -> PrinciplesPlan:
        del gpu  # its models run elsewhere
        Trial(self.job.judge, self.job.about)
        rows = _read_rows(self.job)
        judge, writer = f"{self.job.judge.judge}, {self.job.judge.model}", self.job.who_writes().model
        return PrinciplesPlan(rows.counts, judge, writer, len(rows.train), self.job.output.path)

    @classmethod
    def status(cls, output: Folder) -> PrinciplesStatus:
        held = may_be_running(output.folder("_rmbatch/lease"))
        state = "finished" if output.exists(REPORT) else "running" if held else "not finished"
        return PrinciplesStatus(output.url, state)

    def describe_output(self) -> str:
        return "principles that were found" if self.output.exists(REPORT) else "an unfinished principles job"

    def discard(self) -> None:
        self.output.delete([REPORT, PAGE, PRINCIPLES, PROPOSED])
        self.private.delete([JOB])


@dataclass(frozen=True)
class _SplitRows:
    """The preferences of the input, split into those to learn from and those to test on."""

    train: Sequence[Preference]
    held_out: Sequence[Preference]
    counts: Mapping[str, Any]


def _list_input_files(job: PrinciplesJob) -> list[list[Any]]:
    """List name, size and etag of each input file; empty where the input is gone."""
    try:
        return [[file.uri, file.size, file.etag] for file in list_job_input(job).files]
    except UserError:
        return []


def _read_rows(job: PrinciplesJob) -> _SplitRows:
    """Read and split the preferences of the input. Raises UserError where too few can be used."""
    limit = job.input.limit or MOST_ROWS + 1
    dataset = plan_job_input(job, list_job_input(job), limit, without_twins=True)
    if dataset.num_rows > MOST_ROWS:
        raise UserError(f"the input has more than {MOST_ROWS:,} rows; set input.limit, a few hundred are enough")
    dataset = view_input(job.input, dataset)
    roles = guess_roles(dataset.schema, job.input.columns)
    part = job.input.split.part if job.input.split else None
    named = {roles.prompt, roles.id, *job.preferences.columns(), PART}
    dataset = dataset.project([name for name in dataset.schema.names if name in named])
    blocks = [
        block
        for unit in dataset.units.values()
        for block in dataset.read(Range(unit.index, 0, unit.num_rows), MOST_ROWS)
    ]
    table = keep_part(pa.concat_tables(blocks or [dataset.schema.empty_table()], promote_options="default"), part)
    rows = drop_unreadable(table)
    found = read_preferences(rows, roles, job.preferences, _name_rows(table, roles.id))
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
    return _SplitRows(train, held_out, counts | {"train": len(train), "held_out": len(held_out)})


def _name_rows(table: pa.Table, column: str | None) -> list[str]:
    """Name each readable row: by its id where all ids differ, else by its place in the input, from 0."""
    dead = table[DEAD].is_valid().to_pylist() if DEAD in table.column_names else [False] * table.num_rows
    places = [place for place, is_dead in enumerate(dead) if not is_dead]
    ids = [] if column is None else [table[column][place].as_py() for place in places]
    if len({str(each) for each in ids}) == len(places) and None not in ids:
        return [str(each) for each in ids]
    return [str(place) for place in places]


def _run_search(
    job: PrinciplesJob, rows: _SplitRows, private: Folder, display: Display
) -> tuple[Findings, dict[str, str]]:
    """Find principles. The second value holds the costs of judge and writer in this run, as lines."""
    trial = Trial(job.judge, job.about)
    specs = {"judge": job.judge.chat(), "writer": job.who_writes()}
    writer = Writer(specs["writer"], job.about, job.propose.per_row, job.seed)
    embeddings, kept = job.select.embeddings, private.folder(ANSWERS)
    selection = Selection(
        job.select.keep,
        job.select.epsilon,
        job.select.min_gain,
        job.select.trial_rows,
        vectorise_texts if embeddings is None else lambda texts: embed_texts(embeddings, texts, kept),
    )

    def stage(name: str, total: int, unit: str) -> AbstractContextManager[Any]:
        return display.show_progress(name, total, unit)

    with open_clients(specs, private) as clients:
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
            if not clients.usage(specs["judge"]):  # perhaps the URL or the model is wrong: a changed job may try again
                private.delete([JOB])
            raise
    sharing: dict[str, list[str]] = {}
    for who, spec in specs.items():
        sharing.setdefault(spec.client_key, []).append(who)
    costs = {
        " and ".join(names): chat_cost(clients.usage(specs[names[0]]), specs[names[0]].price).line()
        for names in sharing.values()
    }
    return findings, costs


def _list_proposals(findings: Findings) -> list[dict[str, Any]]:
    """List each proposed principle, and each answer that proposed none."""
    kept = {each.text for each in findings.principles}
    lines: list[dict[str, Any]] = []
    for each in findings.proposals:
        start = {"row": each.row, "round": each.round, "outcome": each.outcome, "converged": each.converged}
        if not each.principles:
            lines.append({**start, "error": each.error})
        for principle in each.principles:
            is_kept = each.converged and principle.text in kept
            lines.append({**start, "name": principle.name, "text": principle.text, "kept": is_kept})
    return lines


def _build_report(job: PrinciplesJob, rows: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Build the report, as plain values."""
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


def _render_principles(job: PrinciplesJob, findings: Findings, report: Mapping[str, Any]) -> bytes:
    """Render the file of principles. The same job and answers give the same bytes."""
    worth = report["worth"]
    facts = {name: report[name] for name in ("judge", "writer", "seed", "input", "rows", "proposed", "selected")}
    measures = {
        "found": worth["found"],
        "with": worth["with"]["accuracy"],
        "without": worth["without"]["accuracy"],
        "gain": worth["gain"],
    }
    principles = PrincipleSet(
        topic=job.topic,
        about=job.about,
        principles=findings.principles,
        provenance={"made_by": "rmbatch principles", **facts, "held_out_accuracy": measures},
    )
    with tempfile.TemporaryDirectory() as scratch:  # the output may be in a store that needs options of its own
        path = Path(scratch) / PRINCIPLES
        write_principles(str(path), principles)
        return path.read_bytes()


def _explain_no_principles(findings: Findings, where: str) -> str:
    ended = ", ".join(f"{number:,} {how}" for how, number in count_outcomes(findings.proposals).items())
    if not findings.num_candidates:
        why = "the judge preferred the right answer in none of the rows"
    else:
        useless = "misleads the judge as often as it helps, or helps too little (select.min_gain)"
        why = f"each of the {findings.num_tried:,} that were tried alone {useless}"
    return f"no principle was found: {why} (rows: {ended}); all proposals are in {where}"
