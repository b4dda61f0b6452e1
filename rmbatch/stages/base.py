"""What a stage of a job promises. A job is a list of stages; each is fitted to the columns that the one before leaves.

    stage = make(schema)                       # ``make`` is a ``Fit``: UserError where the columns do not fit
    schema = stage.output_schema(schema)       # what the next stage is made for

So a stage reads what an earlier one adds: ``score`` the responses of a ``generate`` before it, ``select`` the scores.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from connectors.errors import UserError

if TYPE_CHECKING:
    from rmbatch.chat.spec import ChatSpec
    from rmbatch.reward_models.reward import ModelReward
    from rmbatch.rewards.evaluation import Columns, Offsets


class Inquiry(Protocol):
    """A question to a chat model, as an estimate needs it."""

    @property
    def text(self) -> str:
        """What the model would read."""

    @property
    def num_votes(self) -> int:
        """How many answers it would give."""


class Asker(Protocol):
    """What asks a chat model: a judge, a source of candidates, an editor."""

    @property
    def takes_offsets(self) -> bool:
        """Whether it compares the responses of a prompt."""

    @property
    def asks_all(self) -> bool:
        """Whether it asks all of its ``questions`` about rows that come to it. False: they are the most it may ask."""

    @property
    def chat(self) -> "ChatSpec":
        """Who is asked, and how. Those who ask the same model at the same place share a client."""

    @property
    def counted_as(self) -> str:
        """The name that what it uses is counted under (``rmbatch/costs/usage.py``)."""

    def column_types(self, name: str) -> dict[str, pa.DataType]:
        """The columns that it adds under a name."""

    def questions(self, column: "Columns", offsets: "Offsets | None" = None) -> Sequence[Inquiry]:
        """What would be asked about some rows, without asking it."""


@dataclass(frozen=True)
class Needs:
    """The services that have to run while a stage works, by the names that people call them."""

    models: Mapping[str, "ModelReward"] = field(default_factory=dict)
    """Reward models, which need an engine."""
    askers: Mapping[str, Asker] = field(default_factory=dict)
    """Judges, sources of candidates and editors, which need a chat client."""


class Stage(Protocol):
    """One kind of work on blocks of rows, fitted to a schema. It pickles, and gives out each row that it gets."""

    def reads(self) -> Mapping[str, Sequence[str]]:
        """What it reads, as roles or columns, by who reads it (a reward's name)."""

    def columns(self, schema: pa.Schema) -> set[str]:
        """The columns of this schema that it reads."""

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this stage. Raises UserError where it adds one that is there already."""

    def needs(self) -> Needs:
        """What has to run while it works."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same rows in the same order, with columns added."""

    def tally(self, table: pa.Table) -> Mapping[str, int]:
        """What to count over rows that it has worked off; counts of different rows add up."""

    def flush(self) -> None:
        """Write what it has kept back. Called at the end of each task."""


Fit = Callable[[pa.Schema], Stage]
"""Makes a stage for a schema. Raises UserError where the columns do not fit."""


def add_fields(schema: pa.Schema, added: Mapping[str, pa.DataType], cure: str = "rename it") -> pa.Schema:
    """The schema with these columns. Raises UserError, with the cure, where one of them is there already."""
    for name, kind in added.items():
        if name in schema.names:
            raise UserError(f"the input has a column {name!r} already; {cure}")
        schema = schema.append(pa.field(name, kind))
    return schema


def all_needs(stages: Sequence[Stage]) -> Needs:
    """What has to run while any of these stages works."""
    needs = [stage.needs() for stage in stages]
    models: dict[str, Any] = {name: each for need in needs for name, each in need.models.items()}
    askers: dict[str, Any] = {name: each for need in needs for name, each in need.askers.items()}
    return Needs(models, askers)


def all_tallies(stages: Sequence[Stage], table: pa.Table) -> Counter[str]:
    """The counts of all stages over rows."""
    counts: Counter[str] = Counter()
    for stage in stages:
        counts.update(stage.tally(table))
    return counts
