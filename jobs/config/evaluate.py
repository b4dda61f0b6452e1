"""The evaluate job's file: what each key means, and what leaving it out means.

job = parse_job(read_job_file("jobs/examples/evaluate.yaml", [], os.environ), "evaluate.yaml")
job.suites["rewardbench2"].path, job.scorers, job.pairs
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from jobs.config.rewards import Name, RewardConfig
from jobs.config.sections import OutputConfig, RewardJob, StorageConfig, Text
from rmbatch.evaluation.base import SUITES
from rmbatch.settings.base import PlainName, Settings
from rmbatch.settings.names import nearest
from rmbatch.stages.score import TOTAL

ITEMS = "_rmbatch/items"
"""The folder of the output that holds the items before they are scored: the input of the scoring pass."""
Paths = Text | Annotated[list[Text], Field(min_length=1)]


class SourceConfig(Settings):
    """Where the rows of a suite, or recorded verdicts on it, are."""

    model_config = ConfigDict(populate_by_name=True)

    path: Paths | Annotated[dict[Text, Paths], Field(min_length=1)]
    """A file, a folder or a glob: Parquet, JSONL, or JSON with one list; local, s3:// or hf://datasets/…. Several of
    them; or by subset, for data whose files are the subsets."""
    adapter: Annotated[Text | None, Field(alias="as")] = None
    """How to read it. Of a suite: an adapter of datasets; None: the suite's own, or none where the rows are in standard
    columns. Of recorded verdicts: a reader; None: the rows have the columns scores, games, steps or first_error. Your
    own is path/to/file.py:function."""
    storage: StorageConfig = StorageConfig()
    """How to reach it."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, written: Any) -> Any:
        return {"path": written} if isinstance(written, str | Sequence) else written

    def paths(self) -> dict[str, list[str]]:
        """The paths by subset; the subset is empty where the rows say it."""
        by_subset: Mapping[str, Any] = self.path if isinstance(self.path, Mapping) else {"": self.path}
        return {subset: [path] if isinstance(path, str) else list(path) for subset, path in by_subset.items()}

    def identity(self) -> dict[str, Any]:
        """What decides which rows they are, as plain values."""
        return self.model_dump(mode="json", exclude={"storage"})


class SuiteConfig(SourceConfig):
    """A suite and its data."""

    suite: str | None = None
    """Which suite it is. None: the one that the key names."""


class EvaluateOutput(OutputConfig):
    """Where the results go."""

    path: Text
    """A folder; it holds evaluation.json, leaderboard.md, items/, plots/, and the scored rows in data/."""

    @field_validator("format")
    @classmethod
    def _is_parquet(cls, name: str) -> str:
        if name != "parquet":
            raise ValueError("the scored rows of an evaluation are Parquet; leave it out")
        return name

    @field_validator("columns")
    @classmethod
    def _keeps_all(cls, columns: list[str] | None) -> None:
        if columns is not None:
            raise ValueError("an evaluation keeps all columns of its items; leave it out")


class EvaluateJob(RewardJob):
    """Rewards are measured on benchmarks."""

    job: Literal["evaluate"]
    suites: Annotated[dict[PlainName, SuiteConfig], Field(min_length=1)]
    """By the name of a suite, or by any name where ``suite`` says which: where its data are."""
    rewards: dict[Name, RewardConfig] = Field(default_factory=dict)
    """By name: the rewards to measure. May be empty where verdicts are recorded."""
    recorded: dict[Name, Annotated[dict[PlainName, SourceConfig], Field(min_length=1)]] = Field(default_factory=dict)
    """By name, and by suite: verdicts that somebody recorded. They are measured like a reward's scores."""
    compare: list[Name] = Field(default_factory=list)
    """Rewards and recorded verdicts to compare with each other: every two of them on every suite."""
    replicates: Annotated[int, Field(ge=100, le=20_000)] = 1000
    """Draws of the bootstrap over prompts."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap. Another seed is another draw."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first rows of each suite's data, or of each of its subsets where they are files. None: all."""
    output: EvaluateOutput
    """Where the results go."""

    @model_validator(mode="before")
    @classmethod
    def _derive_input(cls, written: Any) -> Any:
        """The items are the input of the scoring pass. ``input.limit`` is what ``--limit`` writes."""
        if not isinstance(written, Mapping):
            return written
        given = dict(written.get("input") or {})
        limit = given.pop("limit", None)
        if given.keys() - {"path", "storage"} or (given and not str(given.get("path", "")).endswith(ITEMS)):
            raise ValueError(
                "input: an evaluation reads the data of its suites; name them in suites, and leave input out"
            )
        output = written.get("output")
        place = output if isinstance(output, Mapping) else {}
        path = str(place.get("path") or "out").rstrip("/")
        derived = {"path": f"{path}/{ITEMS}", "storage": place.get("storage") or {}}
        return {**written, "input": derived, **({} if limit is None else {"limit": limit})}

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for name, suite in self.suites.items():
            kind = suite.suite or name
            if kind not in SUITES:
                more = "" if suite.suite else " Which suite it is can also stand beside its path: {suite: …, path: …}"
                raise ValueError(f"suites.{name}: there is no suite {kind!r}; {nearest(kind, SUITES)}{more}")
        if not self.rewards and not self.recorded:
            raise ValueError("rewards: nothing to measure; name a reward, or verdicts in recorded")
        for name, sources in self.recorded.items():
            if name in self.rewards or name == TOTAL:
                raise ValueError(f"recorded.{name}: a reward has this name; name the verdicts differently")
            for suite_name in sources:
                if suite_name not in self.suites:
                    raise ValueError(
                        f"recorded.{name}: no suite is called {suite_name!r}; {nearest(suite_name, self.suites)}"
                    )
        known = self.scorers
        for name in self.compare:
            if name not in known:
                raise ValueError(f"compare: nothing is called {name!r}; {nearest(name, known)}")
        if len(self.compare) == 1 or len({*self.compare}) < len(self.compare):
            raise ValueError("compare: name at least two, each once; every two of them are compared")
        return self

    @property
    def scorers(self) -> list[str]:
        """All that is measured, by name."""
        return [*self.rewards, *([TOTAL] if self.combine else []), *self.recorded]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What is compared with what."""
        return list(combinations(self.compare, 2))

    def suite_of(self, name: str) -> str:
        """The suite that a key of ``suites`` stands for."""
        return self.suites[name].suite or name
