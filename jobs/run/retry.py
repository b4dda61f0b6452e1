"""Does rows of a finished output again: those whose dead letter, or a null of which, has a code.

The rows are opened by ``connectors/retry.py``, and then the job runs as after a crash; that module says what a crash
leaves. Kept answers are found again, so good ones are not asked for twice. Those that have such a code themselves are
asked for again (``rmbatch/chat/again.py``).

    retry_job(job, "endpoint_timeout", display)    # or no_answer, dead_letters, REWARD=CODE, a pattern with *
"""

import itertools
import secrets
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.commit import OUTCOMES, Commit
from connectors.errors import UserError
from connectors.faults import explain_errors
from connectors.lease import Lease
from connectors.ledger import Ledger
from connectors.lookup import read_columns
from connectors.retry import stage_retry
from jobs.config.job_types import job_type
from jobs.config.sections import JobConfig
from jobs.run.exports import discard_exports
from jobs.run.job import run_job
from jobs.run.output import check_same_job
from jobs.run.prepare import output_spec
from jobs.run.rows import RowJob
from jobs.show.display import Display
from rmbatch.correction.columns import ERROR as CORRECTION_ERROR
from rmbatch.generation.candidates import GENERATION
from rmbatch.rows.messages import combine_chunks, is_list, offsets_of
from rmbatch.settings.names import nearest

Bools = NDArray[np.bool_]

NO_ANSWER = "no_answer"
ANSWERS = ("endpoint_refused", "refused_by_*", "verdict_*", "empty_response", "empty", "cut_off")
"""Codes of answers that came and were kept."""
DEAD_LETTERS, KILLED = "dead_letters", "killed_worker"


@dataclass(frozen=True)
class RetryRule:
    """Which rows are done again."""

    code: str
    """A pattern of codes."""
    column: str | None = None
    """The only column of errors that counts. None: all of them, and dead letters."""
    dead_only: bool = False

    @property
    def ask_again(self) -> dict[str, str | None] | None:
        """The kept answers that are asked for again, as plain values. None: none."""
        if self.dead_only or self.code == NO_ANSWER:
            return None
        return {"code": self.code, "reward": None if self.column is None else _name_of(self.column)}

    @classmethod
    def parse(cls, where: str, schema: pa.Schema) -> "RetryRule":
        """Read what ``--where`` says. Raises UserError for an unknown reward."""
        if where == DEAD_LETTERS:
            return cls("*", dead_only=True)
        name, equals, code = where.rpartition("=")
        if not code or (equals and not name):
            raise UserError(f"--where {where}: write CODE, REWARD=CODE, no_answer or dead_letters")
        if not name:
            return cls(code)
        known = {_name_of(column): column for column in error_columns(schema)}
        if name not in known:
            raise UserError(f"--where {where}: nothing called {name!r} has errors; {nearest(name, known)}")
        return cls(code, known[name])

    def matches(self, code: str) -> bool:
        """Whether rows with this code are meant."""
        if self.code == NO_ANSWER:
            return code.startswith("endpoint_") and not _is_of_answer(code)
        return fnmatchcase(code, self.code)

    def reads(self, schema: pa.Schema) -> list[str]:
        """The columns of errors that count, in data and rejected."""
        if self.dead_only:
            return []
        return error_columns(schema) if self.column is None else [self.column]


def error_columns(schema: pa.Schema) -> list[str]:
    """The columns that say why something is null."""
    fixed = (GENERATION, CORRECTION_ERROR)
    return [name for name in schema.names if name.startswith("error.") or name in fixed]


def _is_of_answer(code: str) -> bool:
    return any(fnmatchcase(code, pattern) for pattern in ANSWERS)


def _name_of(column: str) -> str:
    return column.removeprefix("error.").removesuffix(".error")


def retry_job(job: JobConfig, where: str, display: Display) -> Any:
    """Do the rows that ``where`` means again, and return the job's result.

    An output whose job or whose earlier retry was interrupted is only finished. Raises UserError before any change, and
    JobError where it stopped on its way.
    """
    run = job_type(job.job)(job, display)
    if not isinstance(run, RowJob) or not run.can_retry:
        raise UserError(f"job {job.job}: a retry is for score, best_of_n, select, generate and correct; begin it anew")
    with explain_errors(run.output.url):
        before = run.read_identity(run.output)
        if before is None:
            raise UserError(f"{run.output.url} holds nothing to retry; run the job first: rmbatch run")
        check_same_job(before, run.identity(), run.output.url, display)
        ledger = run.ledger
        if ledger.manifest() is None or ledger.read_retry() is not None:
            display.say(f"{run.output.url} is not finished; this continues it, and retries nothing else")
            return run_job(job, display)
        if ledger.read_grouped() is not None:
            raise UserError(
                "the rows of this output were shuffled by their group, and the shuffled rows are gone; a retry is for "
                "nested rows and for input.group.rows: adjacent. Begin anew with --overwrite: kept answers stay"
            )
        run.prepare_input()
        prepared = run.fit_planned()
        if prepared.group is not None and prepared.group not in prepared.output_schema.names:
            raise UserError(
                f"the output lacks the column {prepared.group!r}, which says which rows answer the same prompt; begin "
                "anew with --overwrite and with it in output.columns"
            )
        rule = RetryRule.parse(where, prepared.output_schema)
        with Lease.take(run.private.folder("lease"), waiting=display.say) as lease:
            with display.show_step("looking for the rows"):
                chosen = _Chosen.find(ledger, rule, prepared.output_schema, prepared.group)
            if chosen.rows:
                discard_exports(run.job)  # their rows change; the end of this or the next run writes them anew
                spec = output_spec(run.job, prepared)
                num_rows = stage_retry(ledger, spec, secrets.token_hex(4), chosen.rows, rule.ask_again)
                display.say(f"retry: {num_rows:,} rows are done again, for {chosen.describe()}")
                if rule.ask_again is not None and chosen.num_answers:
                    display.say(chosen.describe_cost())
                return run.complete(run.work(lease))
        display.say(chosen.describe_none(where))
        return run.result()


@dataclass
class _Chosen:
    """The rows that are done again."""

    rows: dict[str, Bools] = field(default_factory=dict)
    """By record: a truth value for each of its rows."""
    codes: Counter[str] = field(default_factory=Counter)
    """The rows with each code that is meant."""
    others: Counter[str] = field(default_factory=Counter)
    """And with each other code."""

    @classmethod
    def find(cls, ledger: Ledger, rule: RetryRule, schema: pa.Schema, group: str | None) -> "_Chosen":
        """Look through the errors of all rows."""
        chosen = cls()
        for record in ledger.commits():
            again = chosen._find_in(ledger, record, rule, schema)
            if again.any():
                chosen.rows[record.name] = _whole_groups(ledger, record, again, schema, group) if group else again
        return chosen

    def _find_in(self, ledger: Ledger, record: Commit, rule: RetryRule, schema: pa.Schema) -> Bools:
        again = np.zeros(record.num_rows, bool)
        outcomes = None
        for file in record.files:
            is_dead = file.part == DEAD_LETTERS
            columns = (["code"] if rule.column is None else []) if is_dead else rule.reads(schema)
            if not columns:
                continue
            tables = read_columns(ledger.output, file.path, columns, None if is_dead else schema)
            hits = [self._match(table, rule) for table in tables]
            mask = np.concatenate(hits) if hits else np.zeros(0, bool)
            if mask.any():
                outcomes = ledger.outcomes(record) if outcomes is None else outcomes
                again[np.flatnonzero(outcomes == OUTCOMES[file.part])[mask]] = True
        return again

    def _match(self, table: pa.Table, rule: RetryRule) -> Bools:
        """Which rows have one of the codes."""
        found = np.zeros(table.num_rows, bool)
        for name in table.column_names:
            codes, rows = _codes_of(combine_chunks(table[name]))
            encoded = codes.dictionary_encode()
            known = encoded.dictionary.to_pylist()
            wanted = np.array([rule.matches(code) for code in known] + [False])
            places = np.asarray(pc.fill_null(encoded.indices, len(known))).astype(np.int64)
            found[rows[wanted[places]]] = True
            for code, num in zip(known, np.bincount(places, minlength=len(known) + 1).tolist()):
                (self.codes if rule.matches(code) else self.others)[code] += num
        return found

    @property
    def num_answers(self) -> int:
        """The nulls that come of an answer."""
        return sum(num for code, num in self.codes.items() if _is_of_answer(code))

    def describe(self) -> str:
        """The codes that are meant, with the number of nulls and dead letters."""
        return ", ".join(f"{code} {num:,}" for code, num in self.codes.most_common())

    def describe_cost(self) -> str:
        """What it costs to ask for answers again, and what may come of it."""
        return (
            f"the answers behind {self.num_answers:,} of these errors are asked for again and paid for again; a model "
            "that repeats itself (temperature 0, or a seed that its server keeps to) may give the same, and then the "
            "error stays"
        )

    def describe_none(self, where: str) -> str:
        """One line where no row is meant."""
        others = ", ".join(f"{code} {num:,}" for code, num in self.others.most_common(10))
        return f"no row has {where}, so nothing is done again" + (f"; there are: {others}" if others else "")


def _codes_of(values: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """The code of each error, and the row that it belongs to. ``values``: texts, structs with ``error``, or lists."""
    rows = np.arange(len(values))
    if is_list(values.type):
        rows = np.repeat(rows, np.diff(offsets_of(values)))
        values = values.flatten()
    if pa.types.is_struct(values.type):
        has_error = values.type.get_field_index("error") >= 0
        values = pc.struct_field(values, "error") if has_error else pa.nulls(len(values), pa.string())
    texts = pc.cast(values, pa.large_string())
    return pc.list_element(pc.split_pattern(texts, ":", max_splits=1), 0), rows


def _whole_groups(ledger: Ledger, record: Commit, again: Bools, schema: pa.Schema, group: str) -> Bools:
    """Add the rows that answer the same prompts: those beside the chosen ones with the same key."""
    outcomes = ledger.outcomes(record)
    keys: NDArray[Any] = np.full(record.num_rows, None, object)
    for file in record.files:
        is_dead = file.part == DEAD_LETTERS
        name = "code" if is_dead else group
        tables = read_columns(ledger.output, file.path, [name], None if is_dead else schema)
        values = [value for table in tables for value in table[name].to_pylist()]
        if is_dead:  # a group that killed its process is buried as a whole
            values = [KILLED if value == KILLED else None for value in values]
        keys[outcomes == OUTCOMES[file.part]] = [None if value is None else str(value) for value in values]
    same = np.array([a is not None and a == b for a, b in itertools.pairwise(keys)], bool)
    number = np.concatenate([[0], np.cumsum(~same)])
    return np.isin(number, number[again])
