"""Verdicts that somebody else recorded, from published result files to the columns of ``items.RECORDED_TYPES``.

A reader is a function from a table to the same rows: ``id`` (where the file has one), and one of ``scores``, ``games``,
``steps`` and ``first_error``, with the meaning of ``base.Judged``. A file that has these columns needs no reader.

    read_recorded(table, "llmbar_results")            # games: [[1.0, 0.0], …]
    read_recorded(table, "my_results.py:verdicts")
"""

import importlib
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import UserError
from connectors.schema import find_twins, is_json
from rmbatch.evaluation.items import RECORDED_TYPES
from rmbatch.rewards.registry import load_source, read_source
from rmbatch.rows.messages import TEXT, combine_chunks
from rmbatch.settings.names import nearest

READERS = {
    "llmbar_results": "rmbatch.evaluation.recorded:llmbar_results",
    "judgebench_outputs": "rmbatch.evaluation.recorded:judgebench_outputs",
    "processbench_outputs": "rmbatch.evaluation.recorded:processbench_outputs",
}
"""The function of each reader, by its name. Job files use the names."""

Reader = Callable[[pa.Table], pa.Table]


def read_recorded(table: pa.Table, ref: str | None) -> pa.Table:
    """The recorded verdicts of a table: ``id`` columns of ``RECORDED_TYPES``. Raises UserError for others.

    ``ref``: a reader, or ``file.py:function``. None: the columns are there already.
    """
    found = table if ref is None else find_reader(ref)(table)
    if found.num_rows != table.num_rows:
        raise UserError(f"recorded: {ref} gave {found.num_rows:,} rows for {table.num_rows:,}; give each row once")
    kinds = [name for name in RECORDED_TYPES if name in found.column_names]
    if not kinds:
        raise UserError(
            f"recorded: the rows have {', '.join(found.column_names)}, and none of {', '.join(RECORDED_TYPES)}; name a "
            f"reader in as: one of {', '.join(READERS)}, or path/to/file.py:function"
        )
    columns = {name: _read_column(found[name], name) for name in kinds}
    if "id" in found.column_names:
        columns = {"id": combine_chunks(found["id"]).cast(TEXT), **columns}
    return pa.table(columns)


def _read_column(column: pa.ChunkedArray, name: str) -> pa.Array:
    """The verdicts of one kind in their type. Raises UserError for others."""
    try:
        verdicts = combine_chunks(column).cast(RECORDED_TYPES[name])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"recorded: the column {name} is {column.type}; write {RECORDED_TYPES[name]}, and null for no verdict "
            f"({error})"
        ) from None
    if name == "games":
        said = pc.list_flatten(verdicts)
        odd = said.filter(pc.fill_null(pc.or_(pc.less(said, 0), pc.greater(said, 1)), False))
        if len(odd):
            raise UserError(
                f"recorded: games has {odd[0]}; write 1 (the first is better), 0 (the second) or 0.5 (a tie)"
            )
    return verdicts


def find_reader(ref: str) -> Reader:
    """The reader of this name. Raises UserError."""
    where, _, attribute = READERS.get(ref, ref).rpartition(":")
    if where.endswith(".py"):
        module: Any = load_source(read_source(where, "reader"), where, "reader")
    elif ref in READERS:
        module = importlib.import_module(where)
    else:
        raise UserError(f"recorded: as: there is no reader {ref!r}; {nearest(ref, READERS)}")
    reader: Reader | None = getattr(module, attribute, None)
    if reader is None:
        raise UserError(f"recorded: as: {ref}: no function {attribute!r} there")
    return reader


def llmbar_results(table: pa.Table) -> pa.Table:
    """LLMBar's ``result.json``: the last result's winners, without and with the outputs swapped; "1" is the first.

    A winner that is neither "1" nor "2" is unreadable.
    """
    games = []
    for results in _read_values(table, "results"):
        last = results[-1] if isinstance(results, list) and results else {}
        winners = [_dig(last, f"swap = {swapped}", "winner") for swapped in ("False", "True")]
        games.append([{"1": 1.0, "2": 0.0}.get(str(winner)) for winner in winners])
    return pa.table({"games": pa.array(games, RECORDED_TYPES["games"])})


def judgebench_outputs(table: pa.Table) -> pa.Table:
    """JudgeBench's output of a judge: ``judgments``, one or two, each with a ``decision`` A>B, B>A or A=B.

    The second game shows the responses swapped, so its decision is turned. A single game counts for both.
    """
    games = []
    for judgments in _read_values(table, "judgments"):
        said = [_dig(each, "decision") for each in judgments] if isinstance(judgments, list) else []
        verdicts = [{"A>B": 1.0, "B>A": 0.0, "A=B": 0.5}.get(str(each)) for each in said]
        first = verdicts[0] if verdicts else None
        second = None if len(verdicts) < 2 or verdicts[1] is None else 1 - verdicts[1]
        games.append([first, second if len(verdicts) > 1 else first])
    ids = {"id": combine_chunks(table["pair_id"])} if "pair_id" in table.column_names else {}
    return pa.table({**ids, "games": pa.array(games, RECORDED_TYPES["games"])})


def processbench_outputs(table: pa.Table) -> pa.Table:
    """ProcessBench's output of a critic: ``prediction``, the first wrong step, -1 for none, null for no answer."""
    return pa.table({"id": combine_chunks(table["id"]), "first_error": combine_chunks(table["prediction"])})


def _read_values(table: pa.Table, name: str) -> list[Any]:
    """The values of a column of a deep shape, JSON text decoded, odd values in their places."""
    if name not in table.column_names:
        raise UserError(f"recorded: the rows have no column {name!r} (they have {', '.join(table.column_names)})")
    values: list[Any] = table[name].to_pylist()
    if is_json(table.schema.field(name)):
        values = [None if each is None else orjson.loads(each) for each in values]
    twin = find_twins(table.schema).get(name)
    if twin is not None:
        odd = table[twin].to_pylist()
        values = [value if other is None else orjson.loads(other) for value, other in zip(values, odd)]
    return values


def _dig(value: Any, *names: str) -> Any:
    """What stands in an object under these names, one inside the other; None where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
