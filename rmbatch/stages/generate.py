"""Adds candidates to each row: ``responses``, and beside it ``generation`` with what is known of each of them.

stage = GenerateStage(spec, roles)
table = stage(table)                                 # list columns; the next stage scores them as nested rows
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from connectors.schema import HIDDEN
from rmbatch.generation.candidates import COLUMNS, GENERATION, RESPONSES, as_columns
from rmbatch.generation.requests import RequestWriter
from rmbatch.generation.sampling import ask_models, sample
from rmbatch.generation.spec import GenerateSpec
from rmbatch.rows.messages import is_list
from rmbatch.rows.roles import Roles, flatten, guess_roles
from rmbatch.rows.tables import as_table, with_columns
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Needs, add_fields
from rmbatch.stages.score import ScoreStage
from rmbatch.stages.tally import count_candidates

NAME = "generate"
"""What people call those who are asked; several sources have numbers behind it."""
_CANDIDATE = f"{HIDDEN}candidate"
"""The column of the one candidate that ``verify`` scores. No column of the rows has this name, and one that is called
``response`` may be the reference."""


@dataclass(frozen=True)
class GenerateStage:
    """Sources of candidates, and what may stop a prompt early."""

    spec: GenerateSpec
    roles: Roles
    """Of the rows: the prompt, and what ``verify`` reads. They hold no responses yet."""
    verify: ScoreStage | None = None
    """The rewards that ``stop_when`` names. None: nothing stops early."""

    @cached_property
    def _named(self) -> dict[str, RequestWriter]:
        return name_writers(self.spec)

    @property
    def writers(self) -> list[RequestWriter]:
        """Of each source. Raises UserError for a template that cannot be read."""
        return list(self._named.values())

    def reads(self) -> dict[str, tuple[str, ...]]:
        """What each source shows the model."""
        return {name: self._read_by(writer) for name, writer in self._named.items()}

    def columns(self, schema: pa.Schema) -> set[str]:
        """The columns that the sources and the rewards read."""
        found = set() if self.verify is None else self.verify.columns(schema)
        for writer in self.writers:
            found |= {self.roles.column_of(name) for name in self._read_by(writer)}
        return {name for name in found if name in schema.names}

    def check(self, schema: pa.Schema) -> None:
        """Raises UserError for a column that is not there."""
        if self.roles.prompt is None and any(writer.reads_prompt for writer in self.writers):
            raise UserError(
                f"no column holds the prompt; set input.columns.prompt to one of: {', '.join(schema.names)}"
            )
        for writer in self.writers:
            for name in writer.columns:
                if self.roles.column_of(name) not in schema.names:
                    raise UserError(f"generate reads a column {name!r}; {nearest(name, schema.names)}")

    def needs(self) -> Needs:
        """Those who are asked for candidates, and what the rewards need that may stop a prompt."""
        needs = Needs() if self.verify is None else self.verify.needs()
        return replace(needs, askers={**needs.askers, **self._named})

    def flush(self) -> None:
        """Write new scores of reward models to their stores."""
        if self.verify is not None:
            self.verify.flush()

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this stage; raises UserError where one of them is there already."""
        return add_fields(schema, COLUMNS, "rename it, or score what is there")

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the candidates of each row. Raises JobError where all must stop."""
        view = flatten(table, self.roles)
        raw = self._raw_prompts(table)
        prompts = [writer.read(view, raw) for writer in self.writers]

        def passes(rows: Sequence[int], texts: Sequence[str | None]) -> list[bool]:
            return self._have_passed(table, rows, texts)

        candidates = sample(self.spec, self.writers, prompts, ask_models(self.writers), passes if self.verify else None)
        for name, column in as_columns(candidates).items():
            table = table.append_column(name, column)
        return table

    def tally(self, table: pa.Table) -> Counter[str]:
        """Candidates with a text, and those without or cut off by the code of their error."""
        texts, details = pc.list_flatten(table[RESPONSES]), pc.list_flatten(table[GENERATION])
        errors = pc.struct_field(details, "error").drop_null().to_pylist()
        codes = Counter(error.partition(":")[0] for error in errors)
        tokens = pc.sum(pc.struct_field(details, "tokens")).as_py() or 0
        return count_candidates(len(texts.drop_null()), codes, tokens)

    def _read_by(self, writer: RequestWriter) -> tuple[str, ...]:
        return (*(("prompt",) if writer.reads_prompt else ()), *writer.columns)

    def _raw_prompts(self, table: pa.Table) -> list[Any] | None:
        """The prompts as they are written, where they are lists of messages: those may hold tool calls."""
        column = None if self.roles.prompt is None else table[self.roles.prompt]
        if column is None or not is_list(column.type) or not pa.types.is_struct(column.type.value_type):
            return None
        names = {column.type.value_type.field(place).name for place in range(column.type.value_type.num_fields)}
        return column.to_pylist() if "tool_calls" in names or "tool_call_id" in names else None

    def _have_passed(self, table: pa.Table, rows: Sequence[int], texts: Sequence[str | None]) -> list[bool]:
        """Whether each text reaches all the scores that ``stop_when`` names, as an answer to its row."""
        if self.verify is None or self.spec.stop_when is None or not rows:
            return [False] * len(rows)
        asked = table.take(pa.array(rows, pa.int64()))
        asked = asked.append_column(_CANDIDATE, pa.array(texts, pa.string()))
        scored = self.verify(asked)
        passed = np.ones(len(rows), bool)
        for name, least in self.spec.stop_when.scores.items():
            reached = pc.greater_equal(scored[f"score.{name}"], least)
            passed &= np.asarray(pc.fill_null(reached, False))
        return [bool(each) for each in passed]


def candidate_roles(roles: Roles) -> Roles:
    """The roles of rows with one candidate each, as ``verify`` gets them."""
    return replace(roles, response=_CANDIDATE, responses=None)


def name_writers(spec: GenerateSpec) -> dict[str, RequestWriter]:
    """What writes the requests of each source, by what people call it. Raises UserError for a template that is none."""
    if len(spec.sources) == 1:
        return {NAME: RequestWriter(spec.sources[0])}
    return {f"{NAME}_{place}": RequestWriter(source) for place, source in enumerate(spec.sources, 1)}


def generate_table(prompts: Any, spec: GenerateSpec, columns: Mapping[str, Any] | None = None) -> Any:
    """The same table with the candidates of each row, as a job would add them; a list of prompts becomes rows.

    Raises UserError for what is no table, for columns that are missing or there already, and for ``stop_when``.
    """
    if spec.stop_when is not None:
        raise UserError("generate: stop_when needs rewards; run a job of the kind best_of_n or score")
    rows = _as_rows(prompts)
    if isinstance(rows, list | tuple) and not rows:
        return rows  # without a row there are no columns either
    table = as_table(rows)
    stage = GenerateStage(spec, guess_roles(table.schema, {**(columns or {}), "response": None, "responses": None}))
    stage.check(table.schema)
    stage.output_schema(table.schema)
    generated = stage(table)
    return with_columns(rows, {name: generated[name].combine_chunks() for name in COLUMNS})


def _as_rows(prompts: Any) -> Any:
    """A table as it is; a list of texts or conversations as a list of rows. Raises UserError for one text alone."""
    if isinstance(prompts, str):
        raise UserError(f"generate: prompts are a list or a table; for one, write [{prompts[:40]!r}]")
    if isinstance(prompts, list | tuple) and not all(isinstance(each, Mapping) for each in prompts):
        return [{"prompt": each} for each in prompts]
    return prompts
