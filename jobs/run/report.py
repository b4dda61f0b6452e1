"""Makes the report of a finished output: one pass over its scores, one over a sample of its texts, and a page.

    result = write_report("out/best/", ReportOptions(gold="math"))
    result.folder, result.report["findings"]

The first pass reads the columns of the scores alone, of all rows, in blocks. The second reads texts: of all prompts
where there are few, else of a sample that is spread evenly over the files. What rests on a sample says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import orjson
import pyarrow as pa

from connectors.errors import JobError, UserError
from connectors.faults import explain_errors
from connectors.ledger import Ledger
from connectors.storage import Folder, StorageOptions
from connectors.units import Range
from jobs.run.finished import FinishedRows, choose_score, read_manifest
from jobs.run.usage import read_usage
from jobs.show.display import Display
from jobs.show.report import ReportResult, find_report_place, save_report
from rmbatch.chat.templates import format_conversation
from rmbatch.correction import columns as corrected
from rmbatch.generation.candidates import GENERATION
from rmbatch.reports.candidates import Columns, find_columns, score_name
from rmbatch.reports.corrections import COLUMNS as CORRECTION
from rmbatch.reports.examples import KINDS, KINDS_OF_CORRECTION, KINDS_WITHOUT_GOLD, show
from rmbatch.reports.findings import find_all
from rmbatch.reports.nulls import ERROR
from rmbatch.reports.progress import describe_progress
from rmbatch.reports.score_pass import ScorePass
from rmbatch.reports.text_pass import TextPass
from rmbatch.reports.usage import describe_usage
from rmbatch.rows.messages import is_list
from rmbatch.rows.roles import flatten
from rmbatch.stages.tally import Tally

FORMAT = 1
"""Version of ``report.json``."""
BLOCK_ROWS = 16384
TEXT_ROWS = 1024
MANY_PROMPTS = 50_000
"""With more prompts intervals rest on 200 replicates, not 1,000: they are narrow then."""
SAMPLE_PROMPTS, SAMPLE_BYTES = 20_000, 48 << 20
"""Prompts whose texts are read at most, and bytes of files that they come from at most, about."""
SAMPLE_PIECES = 24
_CORRECTED = (corrected.RESPONSE, corrected.SCORE_BEFORE, corrected.SCORE, corrected.OUTCOME, corrected.HISTORY)


@dataclass(frozen=True)
class ReportOptions:
    """What a report is asked to show."""

    gold: str | None = None
    """The score or column that tells what a candidate is worth. None: what the selection was measured by, if that is
    another score than it went by."""
    by: str | None = None
    """The score that chooses, as in ``score.NAME``. None: the one that the job chose by."""
    source: str | None = None
    """The column that tells who wrote a candidate. None: the model that generated it, where that is known."""
    examples: int = 3
    """Prompts that are shown, of each kind."""
    sample: int = SAMPLE_PROMPTS
    """Prompts whose texts are read at most."""


def write_report(
    output: str,
    asked: ReportOptions | None = None,
    *,
    out: str | None = None,
    options: StorageOptions | None = None,
    display: Display | None = None,
) -> ReportResult:
    """Write the report of a finished output. ``out``: a folder on this machine's disk; None: ``OUTPUT.report``.

    Raises UserError for a mistake, before anything is written.
    """
    asked, display = asked or ReportOptions(), display or Display()
    if asked.examples < 0 or asked.sample < 1:
        raise UserError(f"--examples {asked.examples} --sample {asked.sample}: write 0 or more, and 1 or more")
    folder = Folder.open(output, options)
    with explain_errors(output):
        manifest, _ = read_manifest(folder)
    place = find_report_place(folder, out)
    report = build_report(folder, manifest, asked, display)
    report["output"] = output.rstrip("/")  # as it was written: the page travels to other machines
    save_report(place, report, display.say)
    return ReportResult(str(place), report)


def build_report(folder: Folder, manifest: Mapping[str, Any], asked: ReportOptions, display: Display) -> dict[str, Any]:
    """All figures of the report, as plain values."""
    job, tally = manifest["job"], Tally(manifest.get("tally") or {})
    rows = FinishedRows.open(folder, manifest, ("data", "rejected"))
    columns = _choose_columns(rows, job, asked)
    is_corrected = corrected.OUTCOME in rows.dataset.schema.names
    replicates = 1000 if rows.dataset.num_rows <= MANY_PROMPTS else 200
    schema = rows.dataset.schema
    counted = {*tally.scored}
    errors = [
        f"{ERROR}{name}"
        for name in map(score_name, columns.scores)
        if name not in counted and f"{ERROR}{name}" in schema.names
    ]
    scores = ScorePass(
        columns,
        rows.roles,
        rows.group,
        rows.dataset.num_rows,
        errors=errors,
        is_corrected=is_corrected,
        replicates=replicates,
        examples=asked.examples,
    )
    _read_scores(rows, columns, errors, scores, is_corrected=is_corrected, display=display)
    texts = TextPass(columns, rows.roles, rows.group, is_corrected=is_corrected, replicates=replicates)
    wide = _with_texts(rows, columns, is_corrected=is_corrected)
    has_text = rows.roles.response is not None or rows.roles.responses is not None
    if has_text:
        _read_texts(wide, texts, asked.sample, display)
    found = scores.plain(tally)
    gains = found.pop("gains")
    report: dict[str, Any] = {
        "format": FORMAT,
        "rmbatch": version("rmbatch"),
        "output": folder.url,
        "job": job.get("job"),
        "created": manifest.get("created"),
        "finished": manifest.get("finished"),
        "rows": dict(manifest.get("rows") or {}),
        "read_rows": rows.dataset.num_rows,
        "has_pools": True,
        "columns": {"by": scores.by, "gold": scores.gold, "source": columns.source},
        "num_prompts": found["picks"]["prompts"],
        "num_candidates": found["picks"]["candidates"],
        **found,
        **texts.plain(),
        "choices": tally.choices,
        "dead": tally.dead,
        "generation_errors": tally.generation_errors,
        "correction": _describe_correction(tally, gains) if is_corrected else None,
        "progress": _read_progress(folder),
        "costs": _read_costs(folder),
        "usage": _read_usage(folder, display),
        "examples": _read_examples(wide, texts, scores.examples.places()) if has_text else [],
    }
    if tally.comparison is not None and report["picks"]["kept"]:
        report["picks"]["kept_by_tie"] = tally.comparison.tied  # over all rows, also those that were not written
    if rows.group is not None and (report["rows"].get("rejected", 0) and _drops_rejected(job)):
        _leave_out_pools(report)
    report["sample"]["of"] = report["num_prompts"]
    kinds = KINDS_OF_CORRECTION if is_corrected else KINDS if columns.gold else KINDS_WITHOUT_GOLD
    report["kinds_of_examples"] = dict(kinds)
    report["findings"] = find_all(report)
    return report


def _drops_rejected(job: Mapping[str, Any]) -> bool:
    return bool((job.get("output") or {}).get("rejected") == "drop")


def _leave_out_pools(report: dict[str, Any]) -> None:
    """Leave out what compares picks with their pool: of flat rows without the rejected ones it is not known."""
    report |= {"has_pools": False, "curve": None, "agreement": None, "drift": None, "pairs": None, "length": []}
    report["picks"] |= {"worth": None, "ties": {}, "ties_that_matter": None}


def _choose_columns(rows: FinishedRows, job: Mapping[str, Any], asked: ReportOptions) -> Columns:
    schema = rows.dataset.schema
    by = choose_score(job, schema, asked.by, needed=False)
    if by is None:
        by = next((name for name in schema.names if name.startswith("score.")), None)
    gold = asked.gold
    measure = ((job.get("select") or {}).get("control") or {}).get("measure")
    if gold is None and measure is not None and f"score.{measure}" in schema.names and f"score.{measure}" != by:
        gold = measure
    source = asked.source
    if source is None and GENERATION in schema.names and rows.roles.responses is not None:
        kind = schema.field(GENERATION).type
        value = kind.value_type if is_list(kind) else kind
        source = f"{GENERATION}.model" if pa.types.is_struct(value) and value.get_field_index("model") >= 0 else None
    ranked = asked.by is None or by == choose_score(job, schema, None, needed=False)
    return find_columns(schema, rows.roles, by, gold, source, ranked=ranked)


def _read_scores(
    rows: FinishedRows,
    columns: Columns,
    errors: Sequence[str],
    scores: ScorePass,
    *,
    is_corrected: bool,
    display: Display,
) -> None:
    """The first pass: all rows, without their texts."""
    names = [*columns.names, *errors, *([rows.group] if rows.group else []), *(CORRECTION if is_corrected else ())]
    names += [corrected.SCORE] if is_corrected else []
    schema = rows.dataset.schema
    found = [name for name in names if name in schema.names]
    has_shape = rows.roles.responses is None or any(is_list(schema.field(name).type) for name in found)
    if not found or not has_shape or isinstance(rows.roles.responses, tuple):
        several = rows.roles.responses if isinstance(rows.roles.responses, tuple) else (rows.roles.responses,)
        found += [name for name in (*several, rows.roles.response) if name is not None][: None if not has_shape else 1]
    read = 0
    with display.show_progress("scores", rows.dataset.num_rows, "rows") as advance_to:
        for table, sources in rows.select(found).blocks(BLOCK_ROWS):
            scores.add(table, sources)
            read += table.num_rows
            advance_to(read)


def _with_texts(rows: FinishedRows, columns: Columns, *, is_corrected: bool) -> FinishedRows:
    """The rows with all that the second pass and the examples read."""
    names = [*rows.roles.columns(), *columns.names, *([rows.group] if rows.group else [])]
    names += [*_CORRECTED, GENERATION] if is_corrected else []
    return rows.select(names)


def _read_texts(rows: FinishedRows, texts: TextPass, sample: int, display: Display) -> None:
    """The second pass: all rows, or a sample of them."""
    total = rows.dataset.num_rows
    row_bytes = rows.dataset.num_bytes / max(total, 1)
    wanted = min(sample, max(int(SAMPLE_BYTES / max(row_bytes, 1)), SAMPLE_PIECES))
    pieces = choose_pieces(rows, wanted)
    num_rows, read = sum(part.num_rows for piece in pieces for part in piece), 0
    with display.show_progress("texts", num_rows, "rows") as advance_to:
        for piece in pieces:
            for table, _ in rows.read_piece(piece, TEXT_ROWS):
                texts.add(table)
                read += table.num_rows
                advance_to(read)


def choose_pieces(rows: FinishedRows, wanted: int) -> list[list[Range]]:
    """Pieces of whole prompts with about so many rows, spread evenly over all; all where there are no more."""
    total = rows.dataset.num_rows
    if total <= wanted:
        return rows.pieces()
    if rows.group is not None:  # prompts may lie anywhere in a piece, so a piece is read whole
        pieces = rows.pieces()
        sizes = [sum(part.num_rows for part in piece) for piece in pieces]
        step = max(int(len(pieces) * wanted / total), 1)
        chosen = {round((number + 0.5) * len(pieces) / step - 0.5) for number in range(step)}
        return [pieces[place] for place in sorted(chosen) if sizes[place]]
    chosen_rows: list[list[Range]] = []
    num_pieces = min(SAMPLE_PIECES, wanted)
    units = [part for piece in rows.pieces() for part in piece]
    at, before = 0, 0
    for number in range(num_pieces):
        start = int((number + 0.5) * total / num_pieces - wanted / num_pieces / 2)
        while start >= before + units[at].num_rows:
            before += units[at].num_rows
            at += 1
        own = units[at]
        first = start - before
        stop = min(first + -(-wanted // num_pieces), own.num_rows)
        chosen_rows.append([Range(own.unit, first, stop)])
    return chosen_rows


def _read_examples(
    rows: FinishedRows, texts: TextPass, places: Mapping[str, Sequence[Sequence[str]]]
) -> list[dict[str, Any]]:
    """The prompts at these sources, with their texts."""
    found = []
    for kind, prompts in places.items():
        for sources in prompts:
            table = pa.concat_tables([*_read_rows(rows, sources)])
            candidates = texts.read(table)
            prompt = replace(rows.roles, response=None, responses=None)
            conversation = None
            if rows.roles.prompt is not None:
                messages = flatten(table.slice(0, 1), prompt).column("prompt")[0].as_py()
                conversation = _show_prompt(messages)
            shown = show(candidates, kind, 0, conversation)
            if shown is not None:
                found.append({**shown, "rows": list(sources)})
    return found


def _show_prompt(messages: Sequence[Mapping[str, Any]] | None) -> str | None:
    if messages is None:
        return None
    if len(messages) == 1 and messages[0]["role"] == "user":
        text: str | None = messages[0]["content"]
        return text
    return format_conversation(messages)


def _read_rows(rows: FinishedRows, sources: Sequence[str]) -> Iterator[pa.Table]:
    for source in sources:
        path, _, number = source.rpartition("#")
        for unit in rows.dataset.units.values():
            at = int(number) - unit.first_row
            if rows.paths[unit.file] == path and 0 <= at < unit.num_rows:
                yield from (table for table, _ in rows.read_piece([Range(unit.index, at, at + 1)], 1))


def _describe_correction(tally: Tally, gains: Mapping[str, Any] | None) -> dict[str, Any]:
    """Outcomes, decisions and rounds as the job has counted them, and the gains by the rows."""

    def describe(*, is_control: bool) -> dict[str, Any]:
        return {
            "outcomes": tally.outcomes(is_control=is_control),
            "decisions": tally.decisions(is_control=is_control),
            "rounds": [
                {
                    **{key: value for key, value in vars(each).items() if key != "held_out"},
                    "held_out": {**each.held_out},
                }
                for each in tally.rounds(is_control=is_control)
            ],
        }

    return {"corrected": describe(is_control=False), "control": describe(is_control=True), "gains": gains}


def _read_progress(folder: Folder) -> dict[str, Any] | None:
    try:
        commits = Ledger(folder).commits()
    except (JobError, UserError):  # of another version, or removed; the rest of the report does not need them
        return None
    return describe_progress((each.at, each.num_rows, each.tally) for each in commits)


def _read_usage(folder: Folder, display: Display) -> dict[str, Any] | None:
    """What all runs of the job have used. None: no model was asked, or an older version ran the job."""
    runs, num_damaged = read_usage(folder)
    if num_damaged:
        display.say(f"warning: the usage of {num_damaged} runs cannot be read, so the report does not count it")
    found = describe_usage(runs)
    return {**found, "damaged": num_damaged} if found else None


def _read_costs(folder: Folder) -> dict[str, Any] | None:
    """What the last run of the job has used, as its summary says."""
    content = folder.read_if_exists("_rmbatch/summary.json")
    try:
        summary = orjson.loads(content) if content else None
    except ValueError:
        return None
    if not isinstance(summary, dict):
        return None
    wanted = ("seconds", "work_seconds", "rows_per_s", "bytes_per_s", "served", "judged")
    return {name: summary.get(name) for name in wanted}
