"""The rows of a finished output as an export reads them, and whether an export fits an output.

fitted = fit_export(export, rule, schema, job)     # UserError: it does not fit; the job need not have run yet
source = ExportSource.open(folder, manifest, rule, export)
for block in source.blocks(): ...
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from connectors.errors import UserError
from connectors.listing import MANIFEST
from connectors.schema import add_twins
from connectors.storage import Folder
from jobs.config.identity import digest
from jobs.run.finished import FinishedRows, choose_score, guess_output_roles
from rmbatch.correction import columns as corrected
from rmbatch.exports.base import UNKNOWN, Block, Export, ExportRule, Origin
from rmbatch.exports.pool import FINISH_REASON
from rmbatch.generation.candidates import GENERATION
from rmbatch.rows.roles import Roles
from rmbatch.stages.select import RANK, REASON

BLOCK_ROWS = 4096
_CORRECTED = (corrected.RESPONSE, corrected.SCORE_BEFORE, corrected.SCORE, corrected.OUTCOME, corrected.HISTORY)


@dataclass(frozen=True)
class Fitted:
    """How an export reads the rows of an output."""

    roles: Roles
    by: str | None
    """The column of the score that decides. None: rows are corrected, or have no score and need none."""
    group: str | None
    """The key column of flat rows that share prompts."""
    columns: list[str]
    """The columns to read."""
    is_corrected: bool

    @property
    def score_column(self) -> str | None:
        return corrected.SCORE if self.is_corrected else self.by


def fit_export(export: Export, rule: ExportRule, schema: pa.Schema, job: Mapping[str, Any]) -> Fitted:
    """Fit an export to the columns of an output of this job (its identity). Raises UserError where it does not fit."""
    settings = job.get("input") or {}
    roles = guess_output_roles(schema, settings.get("columns") or {})
    if roles.prompt is None:
        raise UserError("no column plays the role 'prompt'; every export needs the prompt: input.columns.prompt")
    group = (settings.get("group") or {}).get("by") if roles.responses is None else None
    is_corrected = corrected.OUTCOME in schema.names
    if export.reads_candidates and not is_corrected:
        _check_candidates(export, roles, group, job)
    if is_corrected and export.reads_candidates and roles.responses and corrected.HISTORY not in schema.names:
        raise UserError(
            "the rows have several candidates and no correct.history, so nothing tells which was corrected; "
            "run the job with correct.history: true"
        )
    export.check_columns(roles, schema.names)
    by = None if is_corrected else choose_score(job, schema, rule.by, needed=export.reads_candidates)
    details = (RANK, REASON, GENERATION, FINISH_REASON, *(_CORRECTED if is_corrected else ()))
    names = {*roles.columns(), *details, *([group] if group else []), *([by] if by else [])}
    read = {*add_twins([name for name in schema.names if name in names], schema)}
    return Fitted(roles, by, group, [name for name in schema.names if name in read], is_corrected)


def _check_candidates(export: Export, roles: Roles, group: str | None, job: Mapping[str, Any]) -> None:
    """Raises UserError where the rows hold no responses, or an export of pairs would see one a prompt."""
    if roles.response is None and roles.responses is None:
        raise UserError("no column plays the role 'response' or 'responses', so there is no answer to export")
    if not export.compares or roles.responses is not None:
        return
    if group is None:
        raise UserError(
            "it compares the candidates of a prompt, and the rows hold one response each; name the column that tells "
            "which of them answer the same prompt: input.group: {by: COLUMN}"
        )
    keep = (job.get("select") or {}).get("keep")
    if (job.get("output") or {}).get("rejected") == "drop" and keep == 1:
        raise UserError(
            "it compares the candidates of a prompt, and the job writes one of them; set output.rejected: keep"
        )


@dataclass(frozen=True)
class ExportSource:
    """The rows of an output, and how they are read."""

    rows: FinishedRows
    fitted: Fitted
    origin: Origin

    @classmethod
    def open(cls, folder: Folder, manifest: Mapping[str, Any], rule: ExportRule, export: Export) -> "ExportSource":
        """Plan the reading of an output. Raises UserError where it has no rows or the export does not fit."""
        job = manifest["job"]
        rows = FinishedRows.open(folder, manifest)
        fitted = fit_export(export, rule, rows.dataset.schema, job)
        return cls(rows.select(fitted.columns), fitted, find_origin(job, folder))

    def blocks(self) -> Iterator[Block]:
        """All rows, in blocks of whole prompts."""
        fitted = self.fitted
        for table, sources in self.rows.blocks(BLOCK_ROWS):
            yield Block(table, fitted.roles, fitted.by, sources, self.origin, fitted.group)


def fingerprint(value: Any) -> str:
    """16 letters that are the same for equal plain values."""
    return digest(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


MAX_JOBS = 8
"""How many jobs are followed from an output to the output that it was made from."""


def find_origin(job: Mapping[str, Any], folder: Folder) -> Origin:
    """The fingerprints of a job, of what scored its rows and of what wrote their candidates.

    A job that only chooses reads scores that another job wrote, and a job that scores may read candidates that another
    one generated. Their settings are in the manifests of the outputs that are the inputs, where these can be read.
    """
    scorer = policy = None
    each: Mapping[str, Any] | None = job
    for _ in range(MAX_JOBS):
        if each is None:
            break
        if scorer is None and each.get("rewards"):
            scorer = fingerprint({name: each.get(name) for name in ("rewards", "combine", "reward_files")})
        if policy is None and (each.get("generate") or each.get("correct")):
            policy = fingerprint({name: each.get(name) for name in ("generate", "correct")})
        if scorer is not None and policy is not None:
            break
        each = _job_before(each, folder)
    return Origin(fingerprint(job), scorer or UNKNOWN, policy or UNKNOWN)


def _job_before(job: Mapping[str, Any], folder: Folder) -> Mapping[str, Any] | None:
    """The identity of the job whose output this job reads. None: it reads something else."""
    path = (job.get("input") or {}).get("path")
    if not isinstance(path, str) or any(sign in path for sign in "*?["):
        return None
    try:
        content = Folder.open(path, folder.options).read_if_exists(MANIFEST)
        found = orjson.loads(content) if content is not None else {}
    except (OSError, ValueError, UserError):
        return None
    before = found.get("job") if isinstance(found, dict) else None
    return before if isinstance(before, dict) else None
