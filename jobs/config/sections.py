"""The sections that job files share: what each key means, its unit, and what leaving it out means.

job = parse_job(read_job_file("jobs/examples/best_of_n.yaml", [], os.environ), "jobs/examples/best_of_n.yaml")
job.input.path, job.rewards["math"].knobs, job.run.cpus
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from connectors.formats.base import FORMATS, MAX_COLUMNS, MAX_LINE_BYTES, OddValues, load_format
from jobs.config.exports import Exports
from jobs.config.identity import digest_file
from jobs.config.models import NamedModel
from jobs.config.rewards import Name, RewardConfig
from rmbatch.rewards.evaluation import Reward
from rmbatch.rewards.totals import CombineRule
from rmbatch.rows.roles import Roles, guess_roles
from rmbatch.settings.base import PlainName, Settings
from rmbatch.stages.score import TOTAL

Text = Annotated[str, Field(min_length=1)]
"""Text that is not empty: an empty path would be the current folder."""


def _check_format(name: str, words: Sequence[str] = ()) -> str:
    known = [*words, *FORMATS]
    if name not in known:
        *first, last = map(repr, known)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(first)} or {last}"})
    return name


class StorageConfig(Settings):
    """How to reach a store. Credentials come from the environment or a profile, never from a job file."""

    endpoint: str | None = None
    """URL of an S3-compatible server. None: AWS_ENDPOINT_URL, else AWS."""
    region: str | None = None
    """Region name. None: the environment's."""
    profile: str | None = None
    """Profile of the shared AWS credentials file. None: the environment's credentials."""
    anonymous: bool = False
    """Read a public bucket without credentials."""
    checksums: Literal["default", "when_required"] = "default"
    """when_required: for older servers that answer 411 or 501 to the checksums of new clients."""
    max_attempts: Annotated[int, Field(ge=1)] = 10
    """Tries per request before an error is final."""


class GroupConfig(Settings):
    """Flat rows: which of them answer the same prompt."""

    by: str
    """The column that holds the prompt's key. A row whose key is null is a prompt of its own."""
    rows: Literal["scattered", "adjacent"] = "scattered"
    """scattered: rows of one key may stand anywhere; one hash shuffle brings them together first. adjacent: you promise
    that they follow each other inside one file; they are streamed, and a key that comes back inside a unit stops the
    job.
    """


class SplitConfig(Settings):
    """Two parts of the input by its prompts. No prompt is in both, in whatever order and files the rows stand."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the prompts that are for validation, about."""
    part: Literal["train", "validation"] | None = None
    """The part that the job works on; the rows of the other one are rejected as they are. None: both. The column
    split.part says which part a row is in."""
    by: Text | None = None
    """The column that holds the prompt. None: the one that plays the role. Rows are of one prompt where the first
    message of the user is the same but for case and spaces."""
    seed: int = 0
    """Another seed draws other prompts."""

    def describe(self) -> str:
        """The split in a few words."""
        worked_on = f"works on the {self.part} part" if self.part else "works on both parts"
        return f"{self.validation:.3g} of the prompts for validation; {worked_on}"


class InputConfig(Settings):
    """Where the rows are."""

    path: Text | Annotated[list[Text], Field(min_length=1)]
    """A file, a folder, a glob or a finished rmbatch output; or several of them."""
    format: Annotated[str, AfterValidator(partial(_check_format, words=("auto",)))] = "auto"
    """auto: by the files' names."""
    adapter: Annotated[Text | None, Field(alias="as")] = None
    """Shows the rows of a published dataset in standard columns: a name of docs/datasets.md,
    `path/to/file.py:function` or `package.module:function`. All that follows sees these columns. None: as they are."""
    split: SplitConfig | None = None
    """Train and validation by prompts. None: the input is not split."""
    columns: dict[str, str | list[str] | None] = Field(default_factory=dict)
    """Role, or parameter of a reward, to column: id, prompt, response or responses, reference. Several columns for
    responses are one candidate each. What is left out is guessed from common names; `rmbatch plan` shows it.
    """
    group: GroupConfig | None = None
    """For flat rows (one response a row). None: rows are not grouped."""
    types: dict[str, Literal["json"]] = Field(default_factory=dict)
    """JSONL columns to keep as JSON text, whatever their values are."""
    odd_values: OddValues = "json_twin"
    """JSONL: what becomes of a column where at most 1 in 100 rows has another kind of value than the others. json_twin:
    it keeps its type, and the odd values stand as JSON text in a column beside it, odd.NAME. dead_letter: it keeps its
    type, and the odd rows become dead letters. json_column: all of it is kept as JSON text. The column of group.by has
    no twin, because its values are compared: it is then JSON text.
    """
    max_line_mb: Annotated[int, Field(ge=1, le=1024)] = MAX_LINE_BYTES >> 20
    """JSONL: a longer line, MiB, becomes a dead letter."""
    max_columns: Annotated[int, Field(ge=1)] = MAX_COLUMNS
    """JSONL: rows with more different keys than this stop the job before its work."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first rows. None: all."""
    storage: StorageConfig = StorageConfig()
    """How to reach the input."""

    def identity(self) -> dict[str, Any]:
        """What decides which rows a job sees, as plain values."""
        fields = self.model_dump(mode="json", exclude={"storage"})
        for name in ("as", "split"):
            if fields[name] is None:
                del fields[name]  # as jobs were planned before there was this key
        return fields

    def files(self) -> dict[str, str]:
        """The user's file that holds the adapter: a digest by its path."""
        path = (self.adapter or "").rpartition(":")[0]
        return {path: digest_file(path)} if path.endswith(".py") else {}


class PlaceConfig(Settings):
    """Where results go."""

    path: Text
    """A folder."""
    storage: StorageConfig | None = None
    """How to reach it. None: as the input."""


class OutputConfig(PlaceConfig):
    """Where and how the results are written."""

    path: Text
    """A folder; it holds data/, _rejected/, _dead_letters/ and _rmbatch/."""
    format: Annotated[str, AfterValidator(_check_format)] = "parquet"
    """Of data and rejected; dead letters are always Parquet, because raw bytes are not text."""
    compression: Literal["zstd", "snappy", "gzip", "none"] | None = None
    """None: zstd for Parquet, none for JSONL."""
    file_mb: Annotated[int, Field(ge=1, le=4096)] = 128
    """Target size of a data file, MiB; also how much input one task takes, so files end up smaller than this."""
    row_group_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows in a Parquet row group. None: about 32 MiB of rows in memory."""
    rejected: Literal["keep", "drop"] = "keep"
    """drop: rows that were not chosen are counted and not written."""
    columns: list[str] | None = None
    """Input columns to carry over. None: all."""
    exports: Exports = ()
    """What is written for trainers when the output is finished, each into a folder beside it: OUTPUT.FORMAT. Names of
    formats (sft, dpo, kto, …; docs/exports.md), or a format with its settings: {to: dpo, pairs: adjacent}."""

    @model_validator(mode="after")
    def _codec_fits(self) -> Self:
        known = load_format(self.format).compressions
        if self.compression is not None and self.compression not in known:
            raise ValueError(
                f"{self.format} is not compressed with {self.compression}; set output.compression to one of: "
                f"{', '.join(known)}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the form of the results, as plain values."""
        return self.model_dump(mode="json", exclude={"path", "storage", "exports"})


class RunConfig(Settings):
    """How the job runs; it changes no score that a reward gives, so it may change between runs on one output."""

    on: Literal["auto", "here", "ray"] = "auto"
    """here: processes of this machine. ray: a Ray cluster. auto: here, where nothing asks for a cluster (no address, no
    RAY_ADDRESS, no model that needs an engine) and the input is small; it saves the start of a Ray, and the output is
    the same."""
    address: str | None = None
    """Ray cluster to work on. None: RAY_ADDRESS, else a local Ray that ends with the job."""
    cpus: Annotated[int, Field(ge=1)] | None = None
    """CPUs of this machine to use. None: all."""
    unit_mb: Annotated[int, Field(ge=1)] = 64
    """Input that is planned, read and resumed as one unit, MiB. Decided when the output is planned."""
    block_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows that go through the stages at a time. None: about 16 MiB of input."""
    on_error: Literal["stop", "null"] = "stop"
    """What an exception in a reward does: stop the job naming the row, or no score with the code `reward_raised`."""
    max_null_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Stop when more than this share of a reward's scores is null. None: never."""

    @field_validator("on_error", mode="before")
    @classmethod
    def _null_is_a_word_too(cls, written: Any) -> Any:
        return "null" if written is None else written  # YAML reads `on_error: null` as nothing


class JobConfig(Settings):
    """What every job has: where the rows are, and where the results go."""

    job: str
    """The kind of job."""
    input: InputConfig
    """Where the rows are."""
    output: PlaceConfig
    """Where the results go."""
    models: dict[PlainName, NamedModel] = Field(default_factory=dict)
    """Chat models by name, for all who say ``by: NAME``."""


class RowJobConfig(JobConfig):
    """A job whose rows go through stages."""

    output: OutputConfig
    """Where the results go."""
    run: RunConfig = RunConfig()
    """How the job runs."""

    def guess_roles(self, schema: pa.Schema) -> Roles:
        """Which columns play which role. Raises UserError for one that is not there."""
        return guess_roles(schema, self.input.columns)

    @property
    def chosen_score(self) -> str | None:
        """The score that the job goes by, where it names one."""
        return None

    def build_rewards(self) -> dict[str, Reward]:
        """The rewards by name. Raises UserError."""
        return {}


class RewardJob(RowJobConfig):
    """A job that scores rows."""

    rewards: Annotated[dict[Name, RewardConfig], Field(min_length=1)]
    """By the name that their columns get: score.NAME, error.NAME, reason.NAME."""
    combine: CombineRule | None = None
    """Weights of a total, score.total, and what a missing part does to it. None: no total."""

    @field_validator("rewards")
    @classmethod
    def _total_is_taken(cls, rewards: dict[str, RewardConfig]) -> dict[str, RewardConfig]:
        if TOTAL in rewards:
            raise ValueError(f"the name {TOTAL!r} is taken by the weighted sum; name the reward differently")
        return rewards

    def build_rewards(self) -> dict[str, Reward]:
        """The rewards by name; raises UserError for an unknown reward or knob, or a weight without its reward."""
        rewards = {name: config.build() for name, config in self.rewards.items()}
        if self.combine is not None:
            self.combine.check(list(rewards))
        return rewards
