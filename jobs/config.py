"""The job files' models: what each key means, its unit, and what leaving it out means.

job = parse_job(read_job_file("jobs/examples/best_of_n.yaml", [], os.environ), "jobs/examples/best_of_n.yaml")
job.input.path, job.rewards["math"].knobs, job.select.keep
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from connectors.errors import UserError
from connectors.formats.base import FORMATS, MAX_COLUMNS, MAX_LINE_BYTES, OddValues, load_format
from jobs.jobfile import shown, validate
from jobs.reward_config import COMPOSITIONS, Config, Name, RewardConfig
from rmbatch.chat.spec import HOW_IT_RUNS as HOW_JUDGES_ARE_ASKED
from rmbatch.combine import CombineRule
from rmbatch.judges.reward import JudgeReward
from rmbatch.judges.spec import JudgeSpec
from rmbatch.names import nearest
from rmbatch.scoring import TOTAL
from rmbatch.selection import SelectionRule
from rmbatch.served.spec import HOW_IT_RUNS

Text = Annotated[str, Field(min_length=1)]
"""Text that is not empty: an empty path would be the current folder."""


def _known_format(name: str, words: Sequence[str] = ()) -> str:
    known = [*words, *FORMATS]
    if name not in known:
        *first, last = map(repr, known)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(first)} or {last}"})
    return name


class StorageConfig(Config):
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


class GroupConfig(Config):
    """Flat rows: which of them answer the same prompt."""

    by: str
    """The column that holds the prompt's key. A row whose key is null is a prompt of its own."""
    rows: Literal["scattered", "adjacent"] = "scattered"
    """scattered: rows of one key may stand anywhere; one hash shuffle brings them together first. adjacent: you promise
    that they follow each other inside one file; they are streamed, and a key that comes back inside a unit stops the
    job.
    """


class InputConfig(Config):
    """Where the rows are."""

    path: Text | Annotated[list[Text], Field(min_length=1)]
    """A file, a folder, a glob or a finished rmbatch output; or several of them."""
    format: Annotated[str, AfterValidator(partial(_known_format, words=("auto",)))] = "auto"
    """auto: by the files' names."""
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


class OutputConfig(Config):
    """Where and how the results are written."""

    path: Text
    """A folder; it holds data/, _rejected/, _dead_letters/ and _rmbatch/."""
    format: Annotated[str, AfterValidator(_known_format)] = "parquet"
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
    storage: StorageConfig | None = None
    """How to reach the output. None: as the input."""

    @model_validator(mode="after")
    def _codec_fits(self) -> Self:
        known = load_format(self.format).compressions
        if self.compression is not None and self.compression not in known:
            raise ValueError(
                f"{self.format} is not compressed with {self.compression}; set output.compression to one of: "
                f"{', '.join(known)}"
            )
        return self


class RunConfig(Config):
    """How the job runs; it changes no score that a reward gives, so it may change between runs on one output."""

    address: str | None = None
    """Ray cluster to work on. None: RAY_ADDRESS, else a local Ray that ends with the job."""
    cpus: Annotated[int, Field(ge=1)] | None = None
    """CPUs of a local Ray. None: all of this machine's."""
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


class SelectConfig(SelectionRule):
    """Which candidates are kept, and by which score."""

    by: str | None = None
    """Name of a reward or of one of its parts (score.NAME), or total. None: the total, or the only reward."""


class _RewardJob(Config):
    input: InputConfig
    """Where the rows are."""
    rewards: Annotated[dict[Name, RewardConfig], Field(min_length=1)]
    """By the name that their columns get: score.NAME, error.NAME, reason.NAME."""
    combine: CombineRule | None = None
    """Weights of a total, score.total, and what a missing part does to it. None: no total."""
    output: OutputConfig
    """Where the results go."""
    run: RunConfig = RunConfig()
    """How the job runs."""

    @field_validator("rewards")
    @classmethod
    def _total_is_taken(cls, rewards: dict[str, RewardConfig]) -> dict[str, RewardConfig]:
        if TOTAL in rewards:
            raise ValueError(f"the name {TOTAL!r} is taken by the weighted sum; name the reward differently")
        return rewards


class ScoreJob(_RewardJob):
    """Every response gets the scores of all rewards; every row is kept."""

    job: Literal["score"]


class BestOfNJob(_RewardJob):
    """Every response is scored, and the best of each prompt are kept."""

    job: Literal["best_of_n"]
    select: SelectConfig = SelectConfig()
    """Which candidates are kept."""

    @model_validator(mode="after")
    def _knows_what_to_select_by(self) -> Self:
        by = self.select.by
        if by is None and self.combine is None and len(self.rewards) > 1:
            raise ValueError(
                f"{len(self.rewards)} rewards and no say in which decides: give weights in combine: "
                f"{{{', '.join(f'{name}: 1.0' for name in self.rewards)}}}, or name one in select.by"
            )
        known = [*self.rewards, *([TOTAL] if self.combine else [])]
        of_a_part = by is not None and by.split(".")[0] in self.rewards  # which parts there are, the reward knows
        if by is not None and by not in known and not of_a_part:
            raise ValueError(f"select.by: no score is called {by!r}; {nearest(by, known)}")
        return self


JOBS: dict[str, type[ScoreJob] | type[BestOfNJob]] = {"score": ScoreJob, "best_of_n": BestOfNJob}
"""The job types, by what stands behind `job:`."""


def parse_job(data: Mapping[str, Any], where: str) -> ScoreJob | BestOfNJob:
    """The job that a job file's content asks for; raises UserError in the file's own words."""
    kind = data.get("job")
    if kind == "principles":
        raise UserError(f"{where}: job: principles is run by `rmbatch principles {where}`")
    if not isinstance(kind, str) or kind not in JOBS:
        hint = nearest(str(kind), list(JOBS)) if kind else f"write one of: {', '.join(JOBS)}"
        raise UserError(f"{where}: job: {shown(kind)} is no job type; {hint}")
    return validate(JOBS[kind], data, where=where)


def fingerprint_fields(job: ScoreJob | BestOfNJob) -> dict[str, Any]:
    """The part of a job that decides its result, as plain values."""
    fields = job.model_dump(mode="json", exclude={"run"})
    fields["input"].pop("storage")
    fields["rewards"] = _without_how_it_runs(fields["rewards"])
    fields["reward_files"] = {path: _digest(path) for path in sorted(_reward_files(fields["rewards"]))}
    for name, config in job.rewards.items():
        fields["reward_files"] |= _judged_by(name, config)
    fields["output"] = {key: value for key, value in fields["output"].items() if key not in ("path", "storage")}
    plain: dict[str, Any] = _plain(fields)
    return plain


def _reward_files(rewards: Any) -> set[str]:
    """The user's own files among rewards that may be made of rewards: code, chat templates, folders of models."""
    if not isinstance(rewards, dict):
        return set()
    found = {path for value in rewards.values() for path in _reward_files(value)}
    model = rewards.get("model")
    if isinstance(model, str) and Path(model).is_dir():
        found.add(model)
    template = rewards.get("chat_template")
    if isinstance(template, str) and template.endswith(".jinja"):  # else it is the template itself
        found.add(template)
    ref = rewards.get("reward")
    if isinstance(ref, str) and ref.rpartition(":")[0].endswith(".py"):
        found.add(ref.rpartition(":")[0])
    return found


def _judged_by(name: str, part: Any) -> dict[str, str]:
    """What the judges in a part of a job go by, wherever it is written, and who they ask: a digest of each."""
    if isinstance(part, JudgeSpec):
        with suppress(UserError):  # a file may be gone since the job has finished
            judge = JudgeReward(part)
            principles = {} if judge.principles is None else {f"the principles of {name}": judge.principles.digest}
            template = hashlib.sha256(judge.template.encode()).hexdigest()[:16]
            return {f"the template of {name}": template, **principles, f"the service of {name}": part.service_name}
    inner = part if isinstance(part, Mapping) else dict(part) if isinstance(part, BaseModel) else {}
    found: dict[str, str] = {}
    for key, value in inner.items():
        found |= _judged_by(name if key in ("judged", "parts", "to", *COMPOSITIONS) else f"{name}.{key}", value)
    return found


def _without_how_it_runs(rewards: Any) -> Any:
    """Rewards that may be made of rewards, without the settings of served models and judges that change no score."""
    if not isinstance(rewards, dict):
        return rewards
    dropped: Collection[str] = HOW_IT_RUNS if isinstance(rewards.get("model"), str) else ()
    if isinstance(rewards.get("judge"), str):
        dropped = HOW_JUDGES_ARE_ASKED
    return {key: _without_how_it_runs(value) for key, value in rewards.items() if key not in dropped}


def _digest(path: str) -> str:
    file = Path(path)
    if file.is_dir():  # a model: its weights are too many to read here
        files = sorted(each for each in file.iterdir() if each.is_file())
        seen = [
            (each.name, each.stat().st_size, each.read_bytes() if each.suffix == ".json" else b"") for each in files
        ]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""


def _plain(value: Any) -> Any:
    """The value as it comes back from the plan's JSON, which has no inf and no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two jobs' fields, a line each: ``select.keep: 1 -> 2``."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {shown(before)} -> {shown(after)}")
    return lines


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()
