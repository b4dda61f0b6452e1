"""The principles job: finds what lies behind preferences, and writes it as a file that a judge uses, with a report.

It runs in this process, for a few hundred rows are enough. Every answer is kept below the output, and what is asked
follows from the rows and the seeds alone: a run that was killed goes on with the same command and pays for nothing
twice.

    job: principles
    input: {path: preferences.jsonl}
    about: What counts is whether a support answer solves the customer's problem.
    judge: {endpoint: "http://host:8000", model: qwen3-32b}
    output: {path: principles/support/}

    run_principles(parse_principles_job(data, "job.yaml"), Display())        # rmbatch principles job.yaml
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from cluster.submitted import refuse_lost_output
from connectors.errors import JobError, UserError
from connectors.lease import Lease
from connectors.listing import Listing, list_input
from connectors.planning import plan_dataset
from connectors.schema import DEAD
from connectors.storage import Folder
from connectors.units import Range
from jobs.config.sections import differences
from jobs.principles_config import MOST_ROWS, PrinciplesJob, deciding_fields
from jobs.run.prepare import check_places, jsonl_options, storage_options
from jobs.run.sampling import readable
from jobs.show.display import Display
from rmbatch.chat.limits.accounts import ANSWERS
from rmbatch.chat.local import open_clients
from rmbatch.costs.chat import spending
from rmbatch.discovery.embeddings import embedded
from rmbatch.discovery.finding import Findings, Selection, find_principles
from rmbatch.discovery.preferences import Found, Preference, read_preferences, split
from rmbatch.discovery.propose import Writer, outcomes_of
from rmbatch.discovery.report import page, verdict_line
from rmbatch.discovery.select import text_vectors
from rmbatch.discovery.trial import Trial
from rmbatch.judges.principles import PrincipleSet, write_principles
from rmbatch.rows.roles import guess_roles

FEWEST_ROWS = 10
UNIT_BYTES = 64 << 20
PRIVATE = "_rmbatch"
JOB, REPORT, PAGE, PROPOSED, PRINCIPLES = "job.json", "report.json", "report.md", "proposed.jsonl", "principles.yaml"


def run_principles(job: PrinciplesJob, display: Display) -> dict[str, Any]:
    """Run the job to its end and return its report, as in report.json; of a finished one, only that.

    Raises UserError for what the user can mend, JobError when it stopped on its way.
    """
    refuse_lost_output("output.path", job.output.path)
    check_places(job, parts=())
    folder = Folder.open(job.output.path, storage_options(job.output.storage or job.input.storage))
    private = folder.folder(PRIVATE)
    told = _finished(folder, private, job, display)
    if told is not None:
        return told
    trial = Trial(job.judge, job.about)
    found, num_read = _read_rows(job)
    train, held_out = split(found.preferences, job.held_out, job.seed)
    reasons = "".join(f"; {number:,} {why}" for why, number in found.unusable.items())
    display.say(
        f"{len(found.preferences):,} of {num_read:,} rows can be used{reasons}; "
        f"{len(train):,} to learn from, {len(held_out):,} held out"
    )
    with Lease.take(private.folder("lease"), waiting=display.say) as lease:
        told = _finished(folder, private, job, display)  # by another run, which this one has waited for
        if told is not None:
            return told
        private.write(JOB, orjson.dumps(deciding_fields(job), option=orjson.OPT_INDENT_2))
        findings, spent = _findings(job, trial, train, held_out, private, display)
        lease.check()
        folder.write(PROPOSED, b"".join(orjson.dumps(line) + b"\n" for line in _proposed_lines(findings)))
        if findings.worth is None:
            private.delete([JOB])  # so that another try may go here, where the answers are kept
            raise UserError(_nothing_found(findings, f"{folder.url}/{PROPOSED}"))
        counts = {"read": num_read, "usable": len(found.preferences), "unusable": dict(found.unusable)}
        counts |= {"train": len(train), "held_out": len(held_out)}
        report = _report(job, counts, findings)
        folder.write(PRINCIPLES, _principles_file(job, findings, report))
        folder.write(PAGE, page(report).encode())
        report |= {"files": _input_files(job), "spent": spent}
        folder.write(REPORT, orjson.dumps(report, option=orjson.OPT_INDENT_2))  # the last: then it is finished
    return report


def _finished(folder: Folder, private: Folder, job: PrinciplesJob, display: Display) -> dict[str, Any] | None:
    """The report of a finished output, None where there is none yet. Raises UserError for another job's output."""
    _check_same_job(folder, private, job)
    finished = folder.read_if_exists(REPORT)
    if finished is None:
        return None
    told: dict[str, Any] = orjson.loads(finished)
    display.say(f"{folder.url} is finished; nothing to do")
    if _input_files(job) != told["files"]:
        display.say("warning: the input has changed since; to learn from it, write to another output.path")
    return told


def told_lines(report: Mapping[str, Any], output: str) -> list[tuple[str, str]]:
    """A report in a few lines, names and values, for a terminal."""
    lines = [("found", verdict_line(report["worth"]))]
    for place, each in enumerate(report["worth"]["principles"], 1):
        lines.append((f"{place}", f"{each['name']}: {each['text']}" if each["name"] else each["text"]))
    lines += [(who, line) for who, line in report["spent"].items()]
    return [*lines, ("files", f"{output.rstrip('/')}/{PRINCIPLES}, {PAGE}, {REPORT}, {PROPOSED}")]


def _input_files(job: PrinciplesJob) -> list[list[Any]]:
    """Name, size and etag of each input file; empty where there is none any more."""
    try:
        return [[file.uri, file.size, file.etag] for file in _listing(job).files]
    except UserError:
        return []


def _listing(job: PrinciplesJob) -> Listing:
    paths = [job.input.path] if isinstance(job.input.path, str) else list(job.input.path)
    return list_input(paths, storage_options(job.input.storage), job.input.format)


def _read_rows(job: PrinciplesJob) -> tuple[Found, int]:
    """The preferences, and how many rows were read. Raises UserError where too few can be used."""
    dataset = plan_dataset(
        _listing(job),
        storage_options(job.input.storage),
        unit_bytes=UNIT_BYTES,
        limit=job.input.limit or MOST_ROWS + 1,
        jsonl=jsonl_options(job.input, without_twins=True),
    )
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
        found = Found(found.preferences, {"unreadable": dead, **found.unusable})
    if len(found.preferences) < FEWEST_ROWS:
        reasons = "".join(f"; {number:,} {why}" for why, number in found.unusable.items())
        raise UserError(
            f"{len(found.preferences):,} of {table.num_rows:,} rows are preferences{reasons}; at least "
            f"{FEWEST_ROWS} are needed, better a few hundred; see input.columns.prompt and preferences"
        )
    return found, table.num_rows


def _row_names(table: pa.Table, column: str | None) -> list[str]:
    """A name for each row that can be read: its id where all ids differ, else its place in the input, from 0."""
    dead = table[DEAD].is_valid().to_pylist() if DEAD in table.column_names else [False] * table.num_rows
    places = [place for place, is_dead in enumerate(dead) if not is_dead]
    ids = [] if column is None else [table[column][place].as_py() for place in places]
    if len({str(each) for each in ids}) == len(places) and None not in ids:
        return [str(each) for each in ids]
    return [str(place) for place in places]


def _findings(
    job: PrinciplesJob,
    trial: Trial,
    train: Sequence[Preference],
    held_out: Sequence[Preference],
    private: Folder,
    display: Display,
) -> tuple[Findings, dict[str, str]]:
    """What was found, and what judge and writer have cost in this run, as lines."""
    asks = {"judge": job.judge.chat(), "writer": job.who_writes()}
    writer = Writer(asks["writer"], job.about, job.propose.per_row, job.seed)
    embeddings, kept = job.select.embeddings, private.folder(ANSWERS)
    selection = Selection(
        job.select.keep,
        job.select.epsilon,
        job.select.min_gain,
        job.select.trial_rows,
        text_vectors if embeddings is None else lambda texts: embedded(embeddings, texts, kept),
    )

    def stage(name: str, total: int, unit: str) -> AbstractContextManager[Any]:
        return display.stage(name, total, unit)

    with open_clients(asks, private) as clients:
        try:
            findings = find_principles(
                writer, trial, train, held_out, selection, rounds=job.propose.rounds, seed=job.seed, stage=stage
            )
        except JobError:
            if not clients.usage(asks["judge"]):  # a wrong URL or model, perhaps: the job file may be mended
                private.delete([JOB])
            raise
    spent = {who: spending(clients.usage(spec), spec.price).line() for who, spec in asks.items()}
    return findings, spent


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
            "rows": outcomes_of(findings.proposals),
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
    ended = ", ".join(f"{number:,} {how}" for how, number in outcomes_of(findings.proposals).items())
    if not findings.num_candidates:
        why = "the judge preferred the right answer in none of the rows"
    else:
        useless = "misleads the judge as often as it helps, or helps too little (select.min_gain)"
        why = f"each of the {findings.num_tried:,} that were tried alone {useless}"
    return f"no principle was found: {why} (rows: {ended}); what was proposed is in {where}"


def _check_same_job(folder: Folder, private: Folder, job: PrinciplesJob) -> None:
    before, output = private.read_if_exists(JOB), folder.url
    if before is None and (folder.exists(PRINCIPLES) or private.exists("plan.json")):
        raise UserError(f"{output} holds files of something else; write to another output.path")
    lines = differences(orjson.loads(before), deciding_fields(job)) if before is not None else []
    if lines:
        raise UserError(
            f"{output} belongs to another job: {'; '.join(lines[:5])} (then -> now); "
            "write to another output.path, or put the job file back"
        )
