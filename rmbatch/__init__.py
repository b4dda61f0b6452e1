"""rmbatch turns prompt/response data into scored, selected, corrected and trainable data.

Here is what a notebook, a test or a trainer wants; jobs over many files are ``rmbatch run job.yaml``, or ``run`` below.
Importing it is light: nothing heavy comes in before it is used. This is the face, above all floors: see
docs/architecture.md.

    rm = rmbatch.reward("f1_score", tokenizer="words")
    rm.evaluate({"response": "the cat", "reference": "a cat"}).score
    rm.score(pyarrow.parquet.read_table("rollouts.parquet"))
    rmbatch.run("job.yaml")
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.errors import JobError as JobError
    from connectors.errors import UserError as UserError
    from jobs.run.rows import Summary
    from rmbatch.rewards.contract import RewardError as RewardError
    from rmbatch.rewards.contract import Scores as Scores
    from rmbatch.rewards.evaluation import Candidate as Candidate
    from rmbatch.rewards.evaluation import Result as Result
    from rmbatch.rewards.evaluation import Reward as Reward


def reward(ref: str | Mapping[str, Any] | Callable[..., Any], **knobs: Any) -> "Reward":
    """The reward that ``ref`` names (or the function or class itself), with its knobs set, ready to score.

    ``ref``: a built-in name, ``path/to/file.py:func``, ``pkg.module:func``, an installed package's name, or a kind of
    judge or a name of the alignment library, whose knobs are those of ``judge``. Also a job file (``job.yaml``) or a
    dict as its ``rewards:``: what that job selects by, its total or its only reward; ``by`` names another.
    Raises UserError for an unknown reward, an unknown knob or a value that does not fit. To write a reward of your
    own, see docs/own_rewards.md.
    """
    from rmbatch.judges.library import is_judge
    from rmbatch.rewards.function import bind

    if isinstance(ref, Mapping) or (isinstance(ref, str) and ref.endswith((".yaml", ".yml"))):
        return _job_reward(ref, **knobs)
    if isinstance(ref, str) and is_judge(ref):
        return judge(ref, **knobs)
    return bind(ref, knobs)


def _job_reward(ref: str | Mapping[str, Any], by: str | None = None, **knobs: Any) -> "Reward":
    from connectors.errors import UserError
    from jobs.config.job_reward import load_rewards

    if knobs:
        raise UserError(f"{ref!r} has its knobs inside; only `by`, the name of a score, goes with it")
    return load_rewards(ref).choose(by)[1]


def _as_reward(ref: Any) -> "Reward":
    from rmbatch.rewards.evaluation import Reward

    return ref if isinstance(ref, Reward) else reward(ref)


def reward_model(model: str, **settings: Any) -> "Reward":
    """The reward that a served model gives: a folder or a hub name, loaded here when it is first asked.

    ``settings``: ``engine="vllm" | "transformers" | "endpoint"``, ``max_length``, ``gpus`` and whatever else
    ``rmbatch.reward_models.spec.RewardModelSpec`` lists. Raises UserError for what does not fit.
    """
    from rmbatch.reward_models.reward import reward_model

    return reward_model(model, **settings)


def judge(name: str, **settings: Any) -> "Reward":
    """The reward of an LLM judge: ``pointwise``, ``pairwise``, ``listwise``, ``stepwise``, or a library name.

    ``settings``: ``endpoint``, ``model``, ``principles`` and whatever else ``rmbatch.judges.spec`` lists for the kind.
    Raises UserError for what does not fit.
    """
    from rmbatch.judges.reward import judge

    return judge(name, **settings)


def correct(
    samples: Any,
    *,
    reward: "str | Mapping[str, Any] | Callable[..., Any] | Reward",
    editor: Mapping[str, Any],
    held_out: "str | Mapping[str, Any] | Reward | None" = None,
    columns: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """The samples, their responses corrected: ``correct.response``, ``correct.score``, ``correct.outcome`` and more.

    ``samples`` is a list of dicts, or a table of Arrow, pandas, polars or ``datasets``, and comes back as it came.
    ``reward``: a reward, what ``reward()`` takes, or a dict as a job's ``rewards:``, perhaps with its ``combine:``.
    ``editor``: ``{"endpoint": URL, "model": NAME, "edits": 2}``; ``settings``: ``gate``, ``critics``, ``rounds``,
    ``accept``, ``stop`` and whatever else ``rmbatch.correction.spec.CorrectSpec`` lists, as in a job file. The same
    kernel as ``job: correct``; see docs/correction.md. Raises UserError for what does not fit.
    """
    from jobs.config.job_reward import JobRewards, load_rewards
    from rmbatch.correction.spec import CorrectSpec
    from rmbatch.settings.mistakes import validate
    from rmbatch.stages.correction import correct_table

    if isinstance(reward, Mapping) or (isinstance(reward, str) and reward.endswith((".yaml", ".yml"))):
        found = load_rewards(reward)
    else:
        only = _as_reward(reward)
        found = JobRewards({only.name: only})
    spec = validate(CorrectSpec, {"editor": dict(editor), **settings}, where="correct")
    watching = None if held_out is None else _as_reward(held_out)
    return correct_table(samples, spec, found.rewards, combine=found.combine, held_out=watching, columns=columns)


def generate(
    prompts: Any, *, by: Mapping[str, Any] | None = None, columns: Mapping[str, Any] | None = None, **settings: Any
) -> Any:
    """Sample candidates for a handful of prompts: the same rows, with ``responses`` and ``generation`` added.

    ``prompts``: a list of texts or of conversations, or a table (Arrow, pandas, polars, ``datasets.Dataset``, a list of
    dicts). ``by``: the model, such as ``{"endpoint": "http://host:8000", "model": "qwen3-32b"}``. ``columns``: the
    column by role where names do not tell. ``settings``: ``n``, ``temperature``, ``max_tokens``, ``seed``, ``system``
    and whatever else ``rmbatch.generation.spec`` lists. Raises UserError for what does not fit, JobError where no
    server can be asked.
    """
    from rmbatch.generation.spec import GenerateSpec
    from rmbatch.settings.mistakes import validate
    from rmbatch.stages.generate import generate_table

    spec = validate(GenerateSpec, {**(by or {}), **settings}, where="generate", noun="setting")
    return generate_table(prompts, spec, columns)


def list_rewards() -> list[str]:
    """The names of all rewards that need no path, the judges of the alignment library among them, sorted."""
    from rmbatch.judges.library import LIBRARY
    from rmbatch.rewards.registry import list_rewards

    return sorted({*list_rewards(), *LIBRARY})


def run(job_file: str, *overrides: str, limit: int | None = None) -> "Summary":
    """Run a job to its end, as ``rmbatch run`` does, and say what it came to.

    ``rmbatch.run("job.yaml", "input.path=s3://team/rollouts/", limit=1000)``; after a crash the same call goes on.
    Raises UserError for a mistake in the job, JobError where it stopped on its way.
    """
    from jobs.run.job import run_job_file

    summary: Summary = run_job_file(job_file, *overrides, limit=limit)
    return summary


_HOME = {
    "Candidate": "rmbatch.rewards.evaluation",
    "JobError": "connectors.errors",
    "Result": "rmbatch.rewards.evaluation",
    "Reward": "rmbatch.rewards.evaluation",
    "RewardError": "rmbatch.rewards.contract",
    "Scores": "rmbatch.rewards.contract",
    "UserError": "connectors.errors",
}
"""Where names live that are imported when they are first used."""
_MODULES = ("rewards", "trl", "verl")
__all__ = [
    "correct",
    "generate",
    "judge",
    "list_rewards",
    "reward",
    "reward_model",
    "rewards",
    "run",
    "trl",
    "verl",
    *_HOME,
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"rmbatch.{name}")
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("rmbatch")
        except PackageNotFoundError:  # a checkout that is only on the path
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
