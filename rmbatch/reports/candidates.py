"""The candidates of whole prompts as a report sees them: their scores, what was kept, who wrote them, their texts.

found = read_candidates(table, roles, columns, group=None)
found.scores["math"], found.gold, found.rank, found.offsets
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.errors import UserError
from rmbatch.evaluation.ragged import Floats, Ragged
from rmbatch.exports.pool import gather_prompts
from rmbatch.rows.messages import MisfitError, combine_chunks, fit_lists, is_list, is_text, offsets_of
from rmbatch.rows.roles import Roles, flatten
from rmbatch.settings.names import nearest
from rmbatch.stages.select import RANK, VALUE

SCORE = "score."


@dataclass(frozen=True)
class Columns:
    """Which columns of an output a report reads."""

    scores: tuple[str, ...] = ()
    """Columns such as ``score.math``, and ``select.value``."""
    by: str | None = None
    """The one of them that chooses."""
    gold: str | None = None
    """The column that tells what a candidate is worth."""
    source: str | None = None
    """The column, or a field of structs as in ``generation.model``, that tells who wrote a candidate."""
    has_rank: bool = False
    """Whether the rows say what was kept."""

    @property
    def names(self) -> list[str]:
        """Columns to read, each once."""
        source = [self.source.partition(".")[0], self.source] if self.source else []
        wanted = [*self.scores, *([self.gold] if self.gold else []), *source, *([RANK] if self.has_rank else [])]
        return list(dict.fromkeys(wanted))


@dataclass(frozen=True)
class Candidates:
    """Candidates, one after the other, and the prompts that they answer."""

    offsets: NDArray[np.int64]
    """Prompt i has the candidates offsets[i]:offsets[i + 1]."""
    scores: dict[str, Floats] = field(default_factory=dict)
    """By the name of the score, without ``score.``; NaN: no score."""
    by: str | None = None
    """The name of the score that chooses."""
    gold: Floats | None = None
    """NaN: not known."""
    rank: NDArray[np.int32] | None = None
    """1 for the best that was kept of its prompt, then 2, …; 0: not kept. None: nothing was selected."""
    source: pa.Array | None = None
    """text a candidate."""
    text: pa.Array | None = None
    """large_string a candidate."""
    row: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The row of the table that holds a candidate."""
    prompt_row: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The row of the table that holds a prompt; of several the first."""
    gains: Floats | None = None
    """Of corrected rows: by how much the score of each prompt has risen."""

    @property
    def num_prompts(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_candidates(self) -> int:
        return int(self.offsets[-1])

    def ragged(self, values: Floats) -> Ragged:
        """One number a candidate as lists of the prompts."""
        return Ragged(np.asarray(values, np.float64), self.offsets)

    def picks(self) -> NDArray[np.int64]:
        """Of each prompt the candidate that was chosen; -1: none.

        It is the one of rank 1; where nothing was selected, the first of those with the highest score ``by``.
        """
        found = np.full(self.num_prompts, -1)
        if self.rank is not None:
            best = np.flatnonzero(self.rank == 1)
        elif self.by is not None:
            lists = self.ragged(self.scores[self.by])
            best = np.flatnonzero(lists.values == np.repeat(lists.maximum(), lists.counts))
        else:
            return found
        owner = np.searchsorted(self.offsets, best, side="right") - 1
        found[owner[::-1]] = best[::-1]
        return found


def score_name(column: str) -> str:
    """The name of a score by its column."""
    return column.removeprefix(SCORE)


def find_columns(
    schema: pa.Schema, roles: Roles, by: str | None, gold: str | None, source: str | None, *, ranked: bool = True
) -> Columns:
    """The columns of a report. gold: the name of a score or of a column; source: of a column, or ``column.field``.

    Raises UserError for a name that is none.
    """
    scores = [name for name in schema.names if name.startswith(SCORE) and _is_number(schema.field(name).type)]
    if VALUE in schema.names and by == VALUE:
        scores.append(VALUE)
    found = None
    if gold is not None:
        found = next((name for name in (f"{SCORE}{gold}", gold) if name in schema.names), None)
        if found is None:
            raise UserError(f"--gold {gold}: no score and no column has this name; {nearest(gold, _golds(schema))}")
        if not _is_number(schema.field(found).type):
            raise UserError(f"--gold {gold}: the column holds {schema.field(found).type}, and a gold is a number")
    if source is not None and source.partition(".")[0] not in schema.names and source not in schema.names:
        raise UserError(f"--source {source}: no column has this name; {nearest(source, schema.names)}")
    return Columns(tuple(scores), by, found, source, ranked and RANK in schema.names)


def read_candidates(
    table: pa.Table, roles: Roles, columns: Columns, group: str | None = None, *, with_text: bool = False
) -> Candidates:
    """The candidates of rows. ``group``: the column of flat rows that tells their prompts apart.

    Raises UserError for columns whose lists are not as long as those of the candidates.
    """
    order = np.arange(table.num_rows)
    cuts = np.arange(table.num_rows + 1)
    if roles.responses is None and group is not None:
        table, cuts, order = gather_prompts(table, group)
    offsets = cuts if roles.responses is None else _find_offsets(table, roles, columns)
    counts = np.diff(offsets)
    row = order if roles.responses is None else np.repeat(order, counts)
    total = int(offsets[-1])

    def flat(name: str) -> pa.Array:
        return _flat(table, name, offsets, nested=roles.responses is not None)

    gold = None if columns.gold is None else _floats(flat(columns.gold))
    return Candidates(
        offsets,
        {score_name(name): _floats(flat(name)) for name in columns.scores},
        None if columns.by is None else score_name(columns.by),
        gold,
        _read_ranks(flat(RANK), total) if columns.has_rank else None,
        _read_sources(table, roles, columns.source, offsets),
        flatten(table, roles).column("response") if with_text else None,
        row,
        order[cuts[:-1]],
    )


def _find_offsets(table: pa.Table, roles: Roles, columns: Columns) -> NDArray[np.int64]:
    """Where the candidates of each row begin: by the responses where they were read, else by a list beside them."""
    if isinstance(roles.responses, tuple):
        return np.arange(table.num_rows + 1, dtype=np.int64) * len(roles.responses)
    names = [str(roles.responses), *columns.names]
    name = next(each for each in names if each in table.column_names and is_list(table.schema.field(each).type))
    return offsets_of(combine_chunks(table[name]))


def _flat(table: pa.Table, name: str, offsets: NDArray[np.int64], *, nested: bool) -> pa.Array:
    values = combine_chunks(table[name])
    if not nested:
        if is_list(values.type):
            raise UserError(f"the column {name!r} holds lists, and the rows hold one response each; name another")
        return values
    if not is_list(values.type):
        raise UserError(
            f"the column {name!r} holds one value a row, and one for each candidate is needed; name another"
        )
    try:
        return fit_lists(values, offsets)
    except MisfitError:
        message = f"the lists in {name!r} are not as long as the lists of candidates; name another column"
        raise UserError(message) from None


def _floats(values: pa.Array) -> Floats:
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    return np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _read_ranks(values: pa.Array, total: int) -> NDArray[np.int32]:
    if pa.types.is_null(values.type):
        return np.zeros(total, np.int32)
    return np.asarray(pc.fill_null(pc.cast(values, pa.int32()), 0))


def _read_sources(table: pa.Table, roles: Roles, source: str | None, offsets: NDArray[np.int64]) -> pa.Array | None:
    """Who wrote each candidate: by a column, or by which column of several holds it."""
    nested = roles.responses is not None
    if source is None:
        if not isinstance(roles.responses, tuple):
            return None
        return pa.array(list(roles.responses) * table.num_rows, pa.string())
    name, _, part = (source, "", "") if source in table.column_names else source.partition(".")
    values = combine_chunks(table[name])
    if nested and not is_list(values.type):
        values = values.take(pa.array(np.repeat(np.arange(table.num_rows), np.diff(offsets))))
    else:
        values = _flat(table, name, offsets, nested=nested)
    if part:
        if not pa.types.is_struct(values.type) or values.type.get_field_index(part) < 0:
            raise UserError(f"--source {source}: {name!r} has no field {part!r}; name another column")
        values = pc.struct_field(values, part)
    if pa.types.is_nested(values.type):
        raise UserError(f"--source {source}: the column holds {values.type}, and a source is a plain value")
    return pc.fill_null(pc.cast(values, pa.string()), "(none)")


def _is_number(kind: pa.DataType) -> bool:
    value = kind.value_type if is_list(kind) else kind
    types = pa.types
    return bool(types.is_floating(value) or types.is_integer(value) or types.is_boolean(value) or types.is_null(value))


def _golds(schema: pa.Schema) -> Sequence[str]:
    return [score_name(each.name) for each in schema if _is_number(each.type) and not is_text(each.type)]


def prompt_keys(start: int, num_prompts: int) -> NDArray[Any]:
    """A number for each prompt by its place in the pass: what stands for it in the bootstrap."""
    return np.arange(start, start + num_prompts).astype(np.uint64)
