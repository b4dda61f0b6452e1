"""What an adapter of a dataset promises, and the table of all adapters. To add one: one function, and one line here.

An adapter is a function from a table in a dataset's published columns to the same rows in standard columns:

    @reads("prompt", "response", "helpfulness")
    def helpsteer2(table: pa.Table) -> pa.Table: ...

- It gives one row for each row, in the same order. A row depends on that row alone: the rows of a file come in blocks,
  and a cut between two rows may change nothing.
- Its columns and their types depend on the columns of the table alone, not on its rows. It works on an empty table.
- A row that it cannot read stays: what is unknown in it is null, so a reward gives no score and says why.
- It raises UserError where the table's columns cannot be those of the dataset, and no other error.

The standard columns, of which each adapter gives those that its dataset has:

- ``id`` text: the row's name in the dataset. ``subset`` text: the part of the dataset. ``reference`` text: the answer.
- ``prompt`` list<struct<role, content>>: the conversation that the responses answer. ``prompt_id`` text: equal for rows
  of one prompt, for ``input.group.by``.
- ``response`` text, ``label`` double: one response a row and its rating; higher is better.
- ``chosen`` text, ``rejected`` text, ``margin`` double: a pair, and by how much the first is better; null: unknown.
- ``responses`` list<text>, ``correct`` list<bool>, ``labels`` list<double>: several responses, in the dataset's order.
- ``preference`` int8: of two ``responses``; negative: the first is better, 0: a tie, positive: the second is better.
- ``steps`` list<text>, ``error_steps`` list<int32>: a reasoning, and its wrong steps from 0; empty: none is wrong;
  null: unknown.

Columns that an adapter does not read stay beside its own, unless a column of the same name replaces them. A function
without ``reads`` sees all columns, and only what it returns is there.

    adapt(table, "helpsteer2")                                  # a table in memory
    load_adapter("my_data.py:tickets").fit(schema).schema       # the columns that come out, before any row is read
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa

from connectors.errors import JobError, UserError
from connectors.schema import add_twins, conform
from rmbatch.rewards.registry import load_source, read_source
from rmbatch.rows.roles import RATING_MARK
from rmbatch.settings.names import nearest

ADAPTERS: dict[str, str] = {
    "alpaca": "rmbatch.adapters.chat:alpaca",
    "bigbench_mistake": "rmbatch.adapters.process:bigbench_mistake",
    "chat": "rmbatch.adapters.chat:chat",
    "helpsteer2": "rmbatch.adapters.helpsteer:helpsteer2",
    "helpsteer2_pairs": "rmbatch.adapters.helpsteer:helpsteer2_pairs",
    "helpsteer3": "rmbatch.adapters.helpsteer:helpsteer3",
    "hh": "rmbatch.adapters.hh:hh",
    "judgebench": "rmbatch.adapters.benchmarks:judgebench",
    "llmbar": "rmbatch.adapters.benchmarks:llmbar",
    "math_shepherd": "rmbatch.adapters.process:math_shepherd",
    "pairs": "rmbatch.adapters.pairs:pairs",
    "pku_safe_rlhf": "rmbatch.adapters.safety:pku_safe_rlhf",
    "pku_safe_rlhf_safer": "rmbatch.adapters.safety:pku_safe_rlhf_safer",
    "ppe_correctness": "rmbatch.adapters.benchmarks:ppe_correctness",
    "prm800k": "rmbatch.adapters.process:prm800k",
    "prmbench": "rmbatch.adapters.benchmarks:prmbench",
    "prmbench_correct": "rmbatch.adapters.benchmarks:prmbench_correct",
    "processbench": "rmbatch.adapters.benchmarks:processbench",
    "rewardbench": "rmbatch.adapters.benchmarks:rewardbench",
    "rewardbench2": "rmbatch.adapters.benchmarks:rewardbench2",
    "rm_bench": "rmbatch.adapters.benchmarks:rm_bench",
    "rmb_best_of_n": "rmbatch.adapters.benchmarks:rmb_best_of_n",
    "rmb_pairs": "rmbatch.adapters.benchmarks:rmb_pairs",
    "sharegpt": "rmbatch.adapters.chat:sharegpt",
    "skywork_preference": "rmbatch.adapters.pairs:skywork_preference",
    "stepwise": "rmbatch.adapters.process:stepwise",
    "tulu3_preference": "rmbatch.adapters.pairs:tulu3_preference",
    "ultrafeedback": "rmbatch.adapters.ultrafeedback:ultrafeedback",
    "ultrafeedback_binarized": "rmbatch.adapters.pairs:ultrafeedback_binarized",
}
"""The function of each adapter, by its name. Job files use the names."""

Function = Callable[[pa.Table], pa.Table]
F = TypeVar("F", bound=Function)
_READS = "__rmbatch_reads__"
_FEW = 8
"""Columns of an input that a message names."""


@dataclass(frozen=True)
class Reads:
    """The columns that an adapter reads."""

    needed: tuple[str | tuple[str, ...], ...]
    """A tuple stands for several names of one column, of which the first that is there counts."""
    optional: tuple[str, ...] = ()

    def missing(self, names: Iterable[str]) -> list[str]:
        """The needed columns that are not among these names."""
        known = set(names)
        groups = [(each,) if isinstance(each, str) else each for each in self.needed]
        return [" or ".join(map(repr, group)) for group in groups if not known & set(group)]

    def all_names(self) -> set[str]:
        """Every name that the adapter looks for."""
        needed = ((each,) if isinstance(each, str) else each for each in self.needed)
        return {name for group in needed for name in group} | set(self.optional)

    def describe(self) -> str:
        """The needed columns, as a message names them."""
        return ", ".join(each if isinstance(each, str) else " or ".join(each) for each in self.needed)


def reads(*needed: str | tuple[str, ...], optional: Sequence[str] = ()) -> Callable[[F], F]:
    """Declare the columns that an adapter reads. Only these are read from the files for it."""

    def declare(function: F) -> F:
        setattr(function, _READS, Reads(needed, tuple(optional)))
        return function

    return declare


def reads_of(function: Function) -> Reads | None:
    """What an adapter has declared to read. None: it sees all columns."""
    found: Reads | None = getattr(function, _READS, None)
    return found


@dataclass(frozen=True)
class Adapter:
    """An adapter by its name. It pickles; another process needs no file of the user."""

    ref: str
    """A name in ``ADAPTERS``, ``file.py:function`` or ``package.module:function``."""
    source: str | None = None
    """The text of the user's file."""

    @cached_property
    def function(self) -> Function:
        """The function. Raises UserError where there is none."""
        return _find_function(self.ref, self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {"ref": self.ref, "source": self.source}  # without the function, which another process finds itself

    def fit(self, schema: pa.Schema) -> "FittedAdapter":
        """Fit it to the columns of an input. Raises UserError where they are not those of the dataset."""
        declared = reads_of(self.function)
        missing = declared.missing(schema.names) if declared else []
        if declared and missing:
            raise UserError(
                f"the adapter {self.ref} reads {declared.describe()}, and the input has no {', '.join(missing)} "
                f"(it has {_list_few(schema.names)}); {_suggest(self.ref, schema)}"
            )
        return FittedAdapter(self, schema)


@dataclass(frozen=True)
class FittedAdapter:
    """An adapter for tables of one schema. It pickles."""

    adapter: Adapter
    source: pa.Schema
    """The columns of the input."""
    schema: pa.Schema = field(init=False)
    """The columns that come out."""

    def __post_init__(self) -> None:
        try:
            schema = self._apply(self.source.empty_table()).schema
        except JobError as error:  # before any work it is a mistake of the job
            raise UserError(f"{error}, on a table without rows") from error
        for each in schema:
            if pa.types.is_null(each.type) and each.name not in self.source.names:
                raise UserError(
                    f"the adapter {self.adapter.ref} gives {each.name!r} no type where the table is empty; give it "
                    "one, as pa.array(values, pa.string()) does"
                )
        object.__setattr__(self, "schema", pa.schema([_mark_rating(each) for each in schema]))

    def columns(self, wanted: Iterable[str]) -> list[str]:
        """The columns of the input that are needed to make these, in the input's order."""
        needed = add_twins({*self._read_names(), *(set(wanted) & set(self.source.names))}, self.source)
        return [name for name in self.source.names if name in needed]

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same rows in the columns of ``schema``, as far as the table has what they are made of."""
        adapted = self._apply(table)
        kept = [name for name in self.schema.names if name in adapted.column_names]
        try:
            return conform(adapted.select(kept), pa.schema([self.schema.field(name) for name in kept]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise JobError(
                f"the adapter {self.adapter.ref} gives other types for some rows than for an empty table ({error}); "
                "give each column a type of its own"
            ) from None

    def _read_names(self) -> set[str]:
        declared = reads_of(self.adapter.function)
        return set(self.source.names) & declared.all_names() if declared else set(self.source.names)

    def _apply(self, table: pa.Table) -> pa.Table:
        read = add_twins(self._read_names(), self.source)
        adapted = self._call(table.select([name for name in table.column_names if name in read]))
        for name in table.column_names:
            if name not in read and name not in adapted.column_names:
                adapted = adapted.append_column(table.schema.field(name), table.column(name))
        return adapted

    def _call(self, table: pa.Table) -> pa.Table:
        ref = self.adapter.ref
        try:
            adapted = self.adapter.function(table)
        except (UserError, JobError):
            raise
        except Exception as fault:  # the author of the function mends it, so the message is one line
            raise JobError(f"the adapter {ref} failed: {type(fault).__name__}: {fault}") from fault
        if not isinstance(adapted, pa.Table):
            raise JobError(f"the adapter {ref} gave a {type(adapted).__name__}; return a pyarrow.Table")
        if adapted.num_rows != table.num_rows:
            raise JobError(
                f"the adapter {ref} gave {adapted.num_rows:,} rows for {table.num_rows:,}; give each row once, with "
                "null where it cannot be read"
            )
        return adapted


def _mark_rating(column: pa.Field) -> pa.Field:
    """The field of a rating says that it is one: by its name alone it would be taken for a reference."""
    is_rating = column.name == "label" and pa.types.is_floating(column.type) and not column.metadata
    return column.with_metadata(dict([RATING_MARK])) if is_rating else column


def load_adapter(ref: str, source: str | None = None) -> Adapter:
    """The adapter of this name. Raises UserError naming the nearest adapter, file or function.

    ``source``: the text of the file where ``ref`` is ``file.py:function``; None: it is read.
    """
    where = ref.rpartition(":")[0]
    if where.endswith(".py") and source is None:
        source = read_source(where, "adapter")
    adapter = Adapter(ref, source)
    _ = adapter.function  # raises where there is none
    return adapter


def adapt(table: pa.Table, ref: str) -> pa.Table:
    """The same rows in standard columns. Raises UserError where the table lacks columns that the adapter reads."""
    return load_adapter(ref).fit(table.schema)(table)


def fitting_adapters(schema: pa.Schema) -> list[str]:
    """The names of the adapters that these columns fit, those that read the most of them first."""
    found = []
    for name in ADAPTERS:
        declared = reads_of(load_adapter(name).function)
        if declared is None or declared.missing(schema.names):
            continue
        try:
            load_adapter(name).fit(schema)
        except UserError:
            continue
        found.append((-len(declared.all_names() & set(schema.names)), name))
    return [name for _, name in sorted(found)]


def _find_function(ref: str, source: str | None) -> Function:
    where, _, attribute = ref.rpartition(":")
    if source is not None:
        module = load_source(source, where, "adapter")
    elif ref in ADAPTERS:
        where, _, attribute = ADAPTERS[ref].rpartition(":")
        module = importlib.import_module(where)
    elif not where or where.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(f"no adapter {ref!r}; {nearest(ref, ADAPTERS)} Your own is written path/to/file.py:function")
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError:
            raise UserError(f"the adapter {ref}: no module {where!r}; is it on PYTHONPATH?") from None
    found = getattr(module, attribute, None)
    if not callable(found):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise UserError(f"the adapter {ref}: no function {attribute!r} there; {nearest(attribute, own)}")
    function: Function = found
    return function


def _suggest(ref: str, schema: pa.Schema) -> str:
    others = [name for name in fitting_adapters(schema) if name != ref]
    if not others:
        return "no other adapter fits these columns"
    close = difflib.get_close_matches(ref, others, n=1, cutoff=0.3)
    chosen = list(dict.fromkeys([*others[:2], *close]))
    return f"these columns fit {' or '.join(chosen)}"


def _list_few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_FEW])
    return shown if len(names) <= _FEW else f"{shown} and {len(names) - _FEW:,} more"
