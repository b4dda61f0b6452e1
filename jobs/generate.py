"""The generate job: prompts in, a list of candidates a row out; and the same as a block of jobs that score.

job: generate
input: {path: prompts.jsonl}
generate: {by: local, n: 8, temperature: 1.0, max_tokens: 2048, seed: 7}
output: {path: candidates/}
"""

from functools import partial
from typing import Literal, Self, TypeVar

import pyarrow as pa
from pydantic import model_validator

from connectors.errors import UserError
from jobs.config.sections import RewardJob, RowJobConfig
from jobs.run.rows import RowJob
from rmbatch.generation.candidates import RESPONSES
from rmbatch.generation.requests import RequestWriter
from rmbatch.generation.spec import GenerateSpec
from rmbatch.rows.roles import Roles, guess_roles
from rmbatch.settings.names import nearest
from rmbatch.stages.base import Fit
from rmbatch.stages.generate import GenerateStage, candidate_roles, name_writers
from rmbatch.stages.score import ScoreStage


class GenerateJob(RowJobConfig):
    """Every prompt gets candidates from chat models; every row is kept."""

    job: Literal["generate"]
    generate: GenerateSpec
    """Who is asked for candidates, and how many."""

    @model_validator(mode="after")
    def _stops_by_nothing(self) -> Self:
        if self.generate.stop_when is not None:
            raise ValueError("generate.stop_when: this job scores nothing; write job: best_of_n or score, and rewards")
        _refuse_given_responses(self)
        return self

    def guess_roles(self, schema: pa.Schema) -> Roles:
        return roles_with_candidates(self, schema)


class GeneratingJob(RewardJob):
    """A job that scores rows, and may generate their candidates itself."""

    generate: GenerateSpec | None = None
    """Who is asked for candidates, and how many. None: the rows hold responses."""

    @model_validator(mode="after")
    def _generation_fits(self) -> Self:
        if self.generate is None:
            return self
        _refuse_given_responses(self)
        stop = self.generate.stop_when
        for name in () if stop is None else stop.scores:
            if name not in self.rewards:
                raise ValueError(f"generate.stop_when: no reward is called {name!r}; {nearest(name, self.rewards)}")
        return self

    def guess_roles(self, schema: pa.Schema) -> Roles:
        return super().guess_roles(schema) if self.generate is None else roles_with_candidates(self, schema)


G = TypeVar("G", bound=GenerateJob | GeneratingJob)


class GeneratingRowJob(RowJob[G]):
    """A job over rows that may generate candidates."""

    def generators(self) -> dict[str, RequestWriter]:
        return {} if self.job.generate is None else name_writers(self.job.generate)

    def generation_fits(self) -> list[Fit]:
        """The stage that generates the candidates, where the job does."""
        return [] if self.job.generate is None else [partial(_fit_generate, self.job, self.job.generate)]


class Generate(GeneratingRowJob[GenerateJob]):
    """The generate job on its output."""

    config = GenerateJob

    def fits(self) -> list[Fit]:
        return self.generation_fits()


def roles_with_candidates(job: RowJobConfig, schema: pa.Schema) -> Roles:
    """The roles of rows that get, or have got, their candidates from generation."""
    if RESPONSES in schema.names:
        return guess_roles(schema, {**job.input.columns, "responses": RESPONSES})
    return guess_roles(schema, {**job.input.columns, "response": None, "responses": None})


def _fit_generate(job: RowJobConfig, spec: GenerateSpec, schema: pa.Schema) -> GenerateStage:
    """The sources of candidates over these columns. Raises UserError for columns that are missing."""
    roles = job.guess_roles(schema)
    verify = None
    if spec.stop_when is not None:
        built = job.build_rewards()
        rewards = {name: built[name] for name in spec.stop_when.scores}
        comparing = [name for name, reward in rewards.items() if reward.takes_offsets]
        if comparing:
            raise UserError(f"generate.stop_when: {comparing[0]} compares responses, and here each stands alone")
        verify = ScoreStage(rewards, candidate_roles(roles), on_error=job.run.on_error)
    stage = GenerateStage(spec, roles, verify)
    stage.check(schema)
    return stage


def _refuse_given_responses(job: RowJobConfig) -> None:
    """Raises ValueError where the rows are said to hold responses already, or to be cut into groups."""
    given = [role for role in ("response", "responses") if job.input.columns.get(role)]
    if given:
        raise ValueError(f"input.columns.{given[0]}: the candidates come from generate; leave one of the two out")
    if job.input.group is not None:
        raise ValueError("input.group: each row gets a list of candidates, so there is nothing to group; leave it out")
