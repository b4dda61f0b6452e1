"""The file of a job that trains a reward model: what each key means, its unit, and what leaving it out means.

job = parse_job(read_job_file("jobs/examples/train_rm.yaml", [], os.environ), "train_rm.yaml")
job.make_recipe().overrides(places)
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from connectors.errors import UserError
from jobs.config.identity import identity_of_fields
from jobs.config.rewards import AnyJudge
from jobs.config.sections import InputConfig, JobConfig, PlaceConfig, Text
from rmbatch.settings.base import Settings
from rmbatch.settings.names import nearest
from rmbatch.training.overrides import flatten_overrides, refuse_legacy
from rmbatch.training.recipe import RECIPES, Recipe, make_recipe
from rmbatch.training.spec import TrainSpec

MODEL, REPORT, CURVES, CARD = "model", "report.json", "curves.png", "README.md"
"""The model's folder and the files of the output; the card lies in the model's folder."""
_NOBODY = "http://nobody:1"
"""The endpoint of a judge that is trained, and asked by nobody meanwhile."""
_JUDGES = {"grpo_pointwise": "pointwise", "grpo_pairwise": "pairwise", "grpo_first_error": "stepwise"}


class TrainPlace(PlaceConfig):
    """Where the results go."""

    path: Text
    """A folder on a disk that all nodes of the training see; it holds model/, checkpoints/, curves.png, report.json and
    _rmbatch/."""


class ClusterConfig(Settings):
    """Where verl works."""

    address: str | None = None
    """The Ray cluster, for grpo_*. None: RAY_ADDRESS, else a Ray of verl's own that ends with the job."""


class TrainJob(JobConfig):
    """A reward model is trained by verl, measured on held-out rows, and written as a folder that engines load."""

    job: Literal["train_rm"]
    recipe: str
    """bradley_terry: a scalar reward model from pairs. grpo_pointwise, grpo_pairwise, grpo_first_error: a judge that
    writes, from ratings, preferences or solutions with their wrong steps."""
    input: InputConfig
    """Where the rows are. columns: prompt, and what the recipe reads."""
    base: Text
    """The model to begin with: a folder, or a name on the Hugging Face hub."""
    train: TrainSpec = TrainSpec()
    """How long, how fast and on what."""
    judge: AnyJudge | None = None
    """grpo_*: the settings of the judge that is trained (principles, scale, template, …), without who is asked. None:
    those of its kind."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the prompts that only measuring sees."""
    verl: dict[str, Any] = Field(default_factory=dict)
    """Raw overrides of verl's configuration, dotted or nested; a key that begins with + is added. They win over
    ``train``."""
    verl_python: str | None = None
    """verl's interpreter. None: RMBATCH_VERL_PYTHON, else .venv-verl/bin/python."""
    run: ClusterConfig = ClusterConfig()
    """Where verl works."""
    output: TrainPlace
    """Where the results go."""

    @field_validator("recipe")
    @classmethod
    def _is_known(cls, recipe: str) -> str:
        if recipe not in RECIPES:
            raise ValueError(f"there is no recipe {recipe!r}; {nearest(recipe, RECIPES)}")
        return recipe

    @model_validator(mode="before")
    @classmethod
    def _complete_judge(cls, written: Any) -> Any:
        if not isinstance(written, Mapping) or written.get("recipe") not in _JUDGES:
            return written
        judge = written.get("judge") or {}
        if not isinstance(judge, Mapping):
            return written
        nobody = {"judge": _JUDGES[written["recipe"]], "endpoint": _NOBODY, "model": "trained"}
        asked = [name for name in ("by", "endpoint", "endpoints", "serve", "model") if name in judge]
        if asked and judge.get("model") != "trained":
            raise ValueError(f"judge.{asked[0]}: the judge is what is trained, and nobody is asked; leave it out")
        return {**written, "judge": {**nobody, **judge}}

    @field_validator("verl")
    @classmethod
    def _is_of_this_verl(cls, written: dict[str, Any]) -> dict[str, Any]:
        found = flatten_overrides(written)
        try:
            refuse_legacy(found)
        except UserError as error:
            raise ValueError(str(error)) from None
        return found

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.input.group is not None:
            raise ValueError("input.group: a row stands for itself; leave it out")
        if self.input.split is not None:
            raise ValueError("input.split: held_out says which share of the prompts is only measured on; leave it out")
        if "://" in self.output.path and not self.output.path.startswith("file://"):
            raise ValueError(f"output.path: verl writes to disks, not to {self.output.path}; write a folder of a disk")
        try:
            self.make_recipe()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def make_recipe(self) -> Recipe:
        """The recipe with all settings."""
        return make_recipe(self.recipe, self.base, self.train, self.judge)

    def identity(self) -> dict[str, Any]:
        """The part of the job that decides its result, as plain values."""
        fields = identity_of_fields(self)
        for name in ("output", "models", "run", "verl_python"):
            fields.pop(name)
        return fields
