"""The principles job's file: what each key means, its unit, and what leaving it out means.

job = parse_job(read_job_file("jobs/examples/principles.yaml", [], os.environ), "principles.yaml")
job.judge.model, job.who_writes().temperature
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.config.rewards import AnyJudge
from jobs.config.sections import InputConfig, JobConfig, PlaceConfig, Text
from rmbatch.chat.spec import ChatSpec
from rmbatch.discovery.embeddings import Embeddings
from rmbatch.discovery.preferences import PreferenceColumns
from rmbatch.judges.kinds import KINDS
from rmbatch.judges.kinds.base import JudgeKind, load_kind
from rmbatch.settings.base import PlainName, Settings

MOST_ROWS = 5000
"""More are refused: each is asked about several times, and a few hundred say as much."""
WRITER_TEMPERATURE = 0.7
REPORT, PAGE, PROPOSED, PRINCIPLES = "report.json", "report.md", "proposed.jsonl", "principles.yaml"
"""The files of the output."""


class ProposeConfig(Settings):
    """How principles come out of single rows."""

    per_row: Annotated[int, Field(ge=1, le=10)] = 3
    """The most principles that are taken from one row."""
    rounds: Annotated[int, Field(ge=0, le=10)] = 3
    """The most revisions where the judge, going by them, does not prefer what was preferred."""


class SelectPrinciplesConfig(Settings):
    """Which of all that were proposed are kept."""

    keep: Annotated[int, Field(ge=1, le=32)] = 8
    """The most that are kept; a judge reads all of them for every verdict."""
    trial_rows: Annotated[int, Field(ge=0)] = 60
    """Rows to learn from on which four times as many as are kept are tried, each alone, to know which are of use. 0:
    none are tried; then those are preferred of which many rows say the like."""
    epsilon: Annotated[float, Field(gt=0, le=10)] = 0.7
    """Precision of the coding rate: the smaller, the less alike two principles may be and yet count as two."""
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """What the next one must add, as a share of what an entirely new and always useful one would add."""
    embeddings: Embeddings | None = None
    """Who says which principles are alike. None: texts are compared by the parts of their words, offline."""


class PrinciplesOutput(PlaceConfig):
    """Where the results go."""

    path: Text
    """A folder; it holds principles.yaml, report.md, report.json, proposed.jsonl and _rmbatch/."""


class PrinciplesJob(JobConfig):
    """Principles are found in preferences, measured, and written as a file."""

    job: Literal["principles"]
    input: InputConfig
    """Where the rows are; a few hundred, in any order."""
    preferences: PreferenceColumns = PreferenceColumns(chosen="chosen", rejected="rejected")
    """Which columns say what was preferred."""
    topic: PlainName = "found"
    """A short name of the principles, of letters, digits, _ and -."""
    about: Text
    """What is judged, in a sentence or two, for the prompts and for the file."""
    judge: AnyJudge
    """Who judges by the principles: a pairwise judge (which `judge` may leave out), or another kind that compares."""
    writer: ChatSpec | None = None
    """Who writes principles. None: whom the judge asks, with temperature 0.7."""
    propose: ProposeConfig = ProposeConfig()
    """How principles come out of single rows."""
    select: SelectPrinciplesConfig = SelectPrinciplesConfig()
    """Which are kept."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the prompts that only measuring sees."""
    seed: int = 0
    """Of which rows are held out, which ones principles are tried on, and in which order answers are shown."""
    output: PrinciplesOutput
    """Where the results go."""

    @field_validator("judge", mode="before")
    @classmethod
    def _compares(cls, written: Any) -> Any:
        if not isinstance(written, Mapping):
            return written
        name = written.get("judge", "pairwise")
        comparing = [each for each in KINDS if load_kind(each).compares]
        if name not in comparing:
            ways = " or ".join(f"judge: {each}" for each in comparing)
            raise ValueError(f"{name!r} is no judge that compares answers; write {ways}")
        return {**written, "judge": name}

    @field_validator("judge")
    @classmethod
    def _has_no_principles(cls, judge: JudgeKind) -> JudgeKind:
        if judge.principles is not None:
            raise ValueError("principles: these are what the job finds; leave them out")
        return judge

    @model_validator(mode="after")
    def _rows_are_few_and_whole(self) -> Self:
        if self.input.group is not None:
            raise ValueError("input.group: a row has all answers to its prompt; leave it out")
        if self.input.limit is not None and self.input.limit > MOST_ROWS:
            raise ValueError(f"input.limit: {self.input.limit:,} rows are too many; write at most {MOST_ROWS:,}")
        return self

    def who_writes(self) -> ChatSpec:
        """``writer``, with None filled in."""
        if self.writer is not None:
            return self.writer
        judge = self.judge.chat()
        temperature = None if judge.temperature is None else WRITER_TEMPERATURE  # None: the model takes none
        seed = self.seed if judge.seed is None else judge.seed
        return judge.model_copy(update={"temperature": temperature, "seed": seed, "n": 1})

    def identity(self) -> dict[str, Any]:
        """The part of the job that decides its result, as plain values."""
        fields = self.model_dump(mode="json", exclude={"output": True, "models": True, "input": True})
        asked = {"judge": self.judge.identity(), "writer": self.who_writes().identity()}
        return {**fields, "input": self.input.identity(), **asked}
