"""An input as a job sees it: adapted to standard columns, and split by its prompts.

view = InputView(schema, load_adapter("helpsteer2"), Split(by="prompt", share=0.1, part="train"))
dataset.see_through(view)                 # connectors/dataset.py: whoever reads rows gets these columns
keep_part(table, "train")                 # the rows that the job works on
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.errors import UserError
from rmbatch.adapters.base import Adapter, FittedAdapter
from rmbatch.adapters.split import validation_mask
from rmbatch.rows.messages import TEXT

PART = "split.part"
"""The column that says which part a row is in."""
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Split:
    """Two parts of an input, by its prompts; see ``validation_mask``."""

    by: str
    share: float
    seed: int = 0
    part: str | None = None
    """The part to work on. None: both."""


@dataclass(frozen=True)
class InputView:
    """The columns of an input as a job sees them. It pickles."""

    source: pa.Schema
    adapter: Adapter | None = None
    split: Split | None = None
    schema: pa.Schema = field(init=False)
    _fitted: FittedAdapter | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        fitted = self.adapter.fit(self.source) if self.adapter else None
        schema = fitted.schema if fitted else self.source
        if self.split is not None:
            if PART in schema.names:
                cure = "leave input.split out, or the column"
                raise UserError(f"the input has a column {PART!r} already, of an earlier split; {cure}")
            validation_mask(schema.empty_table(), self.split.by)  # raises for a missing column
            schema = schema.append(pa.field(PART, TEXT))
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "_fitted", fitted)

    def columns(self, wanted: Iterable[str]) -> list[str]:
        """The columns of the files that are needed to show these."""
        needed = {*wanted, *([self.split.by] if self.split else [])} - {PART}
        if self._fitted is not None:
            return self._fitted.columns(needed)
        return [name for name in self.source.names if name in needed]

    def __call__(self, table: pa.Table) -> pa.Table:
        if self._fitted is not None:
            table = self._fitted(table)
        if self.split is None:
            return table
        mask = np.asarray(validation_mask(table, self.split.by, self.split.share, self.split.seed))
        parts: Any = np.where(mask, VALIDATION, TRAIN)
        return table.append_column(pa.field(PART, TEXT), pa.array(parts, TEXT))


def in_part(table: pa.Table, part: str | None) -> pa.Array | None:
    """Whether each row is in this part, bool; None where all are."""
    if part is None or PART not in table.column_names:
        return None
    return pa.array(np.asarray(table[PART]) == part)


def keep_part(table: pa.Table, part: str | None) -> pa.Table:
    """The rows in this part."""
    mask = in_part(table, part)
    return table if mask is None else table.filter(mask)
