"""What a recipe promises, and the table of all recipes. To add one: one class, one line here, one test file.

A recipe is a pure function of its settings: which rows it makes of the input, how verl's configuration is changed,
which command is run. It starts nothing and imports nothing of verl.

    recipe = make_recipe("bradley_terry", base="Qwen/Qwen2.5-7B-Instruct", train=TrainSpec(), judge=None)
    recipe.read_rows(table, roles).table            # what is written as Parquet
    recipe.overrides(places)                        # {"optim.lr": 9e-06, …}
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import pyarrow as pa

from connectors.errors import UserError
from rmbatch.judges.kinds.base import JudgeKind
from rmbatch.rows.messages import MESSAGES
from rmbatch.rows.roles import Roles, flatten
from rmbatch.settings.names import nearest
from rmbatch.training.spec import TrainSpec

RECIPES: dict[str, str] = {
    "bradley_terry": "rmbatch.training.recipes.bradley_terry:BradleyTerry",
    "grpo_pointwise": "rmbatch.training.recipes.grpo_pointwise:GrpoPointwise",
    "grpo_pairwise": "rmbatch.training.recipes.grpo_pairwise:GrpoPairwise",
    "grpo_first_error": "rmbatch.training.recipes.grpo_first_error:GrpoFirstError",
}
"""The class of each recipe, by the name that job files use."""


@dataclass(frozen=True)
class Places:
    """Absolute paths, on a file system that all nodes of the training see."""

    train: str
    held_out: str
    """Parquet files."""
    checkpoints: str
    """A folder; verl's."""
    scores: str
    """A file: the scores of the held-out rows."""
    rollouts: str
    """A folder: answers of the held-out rows at each measurement."""


@dataclass(frozen=True)
class Rows:
    """Training rows made of a table."""

    table: pa.Table
    prompts: pa.Array
    """MESSAGES, aligned with the table: what may not be both in training and held out."""
    unusable: Mapping[str, int] = field(default_factory=dict)
    """Rows of the input that are none, by why."""


@dataclass(frozen=True)
class Resources:
    """What a training needs."""

    gpus: int
    """Over all nodes."""
    cpus: int
    """That Ray must have, over all nodes; 0: Ray is not asked."""


class Recipe(ABC):
    """A kind of training."""

    config_name: ClassVar[str]
    """verl's configuration."""
    kind: ClassVar[Literal["scalar", "causal"]]
    """What comes out: a model with one number a conversation, or one that writes."""
    columns: ClassVar[Sequence[str]]
    """The columns that it reads, beside the prompt."""
    accuracy_metric: ClassVar[str]
    """The metric that is the accuracy on the held-out rows."""
    curves: ClassVar[Mapping[str, Sequence[str]]]
    """What the picture of the curves shows: by title, the names of metrics."""
    noun: ClassVar[str]
    """What a row is called."""

    def __init__(self, name: str, base: str, train: TrainSpec, judge: JudgeKind | None) -> None:
        """``train``: with every None filled in. Raises UserError for a judge that does not fit."""
        self.name, self.base, self.train, self.judge = name, base, train, judge

    @abstractmethod
    def read_rows(self, table: pa.Table, roles: Roles, first: int) -> Rows:
        """Make training rows of a table whose first row is row ``first`` of the input. Raises UserError."""

    @abstractmethod
    def overrides(self, places: Places) -> dict[str, Any]:
        """verl's configuration as this recipe wants it: dotted keys to plain values."""

    @abstractmethod
    def command(self, python: str) -> list[str]:
        """The command that trains, without overrides."""

    @abstractmethod
    def resources(self, config: Mapping[str, Any]) -> Resources:
        """What a composed configuration needs."""

    @abstractmethod
    def checkpoint_folder(self, step_folder: str) -> str:
        """The folder with the model's shards in the folder of a step."""

    def describe_use(self, folder: str) -> str:
        """How a job file uses the trained model, as YAML."""
        return f"rewards:\n  rm: {{model: {folder}}}\n"


def make_recipe(name: str, base: str, train: TrainSpec, judge: JudgeKind | None) -> Recipe:
    """The recipe of this name with its settings. Raises UserError for settings that do not fit."""
    if name not in RECIPES:
        raise UserError(f"recipe: there is no {name!r}; {nearest(name, RECIPES)}")
    return load_recipe(name)(name, base, train.for_recipe(name), judge)


def load_recipe(name: str) -> type[Recipe]:
    """The class of a recipe."""
    module, _, attribute = RECIPES[name].partition(":")
    return cast(type[Recipe], getattr(importlib.import_module(module), attribute))


def read_prompts(table: pa.Table, roles: Roles) -> pa.Array:
    """The prompts as MESSAGES; null where there is none, or a message without text. Raises UserError."""
    if roles.prompt is None:
        raise UserError(
            f"no column plays the role 'prompt'; set input.columns.prompt to one of: {', '.join(table.column_names)}"
        )
    prompts = flatten(table, Roles(prompt=roles.prompt)).column("prompt").to_pylist()
    whole = [
        prompt if prompt and all(message["content"] is not None for message in prompt) else None for prompt in prompts
    ]
    return pa.array(whole, MESSAGES)


def read_texts(table: pa.Table, roles: Roles, name: str) -> pa.Array:
    """A column of answers as TEXT. Raises UserError where it is not there."""
    return flatten(table, Roles(response=find_column(table, roles, name))).column("response")


def find_column(table: pa.Table, roles: Roles, name: str) -> str:
    """The column that is given for a name. Raises UserError where it is not there."""
    column = roles.extra.get(name) or (roles.response if name == "response" else None) or name
    if column not in table.column_names:
        raise UserError(f"no column {column!r}; {nearest(column, table.column_names)} input.columns.{name} names it")
    return column


def read_numbers(table: pa.Table, roles: Roles, name: str) -> pa.Array:
    """A column as float64. Raises UserError where it is not there or holds no numbers."""
    column = find_column(table, roles, name)
    kind = table.schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise UserError(f"column {column!r} is {kind}; input.columns.{name} names a column of numbers")
    return pa.concat_arrays(table[column].cast(pa.float64()).chunks or [pa.array([], pa.float64())])
