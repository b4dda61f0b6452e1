"""Any reward of rmbatch as a reward function for TRL's trainers (GRPO, RLOO, online DPO): no score is ``None``.

    trainer = GRPOTrainer(model, reward_funcs=rmbatch.trl.reward_func("math_verify"), train_dataset=dataset, ...)
    rmbatch.trl.reward_func("job.yaml")               # the job's total, with its gates, routes and cascades
    rmbatch.trl.reward_funcs("job.yaml")              # one for each of its rewards, for reward_weights in GRPOConfig

A function's columns are the dataset's: ``reference`` is found among common names (``answer``, ``solution``, …), or
said: ``columns={"reference": "gold"}``. TRL itself is not imported here.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from connectors.errors import JobError, UserError
from rmbatch.rewards.evaluation import Result
from rmbatch.rows.roles import ALL_COLUMNS, flatten, guess_roles
from rmbatch.rows.tables import as_table
from rmbatch.settings.names import nearest
from rmbatch.trainers import RAISED, TrainerReward

_NO_COLUMNS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
_logger = logging.getLogger(__name__)


class RewardFunction:
    """A reward as TRL calls it: columns as lists in, a score or None for each completion out. Picklable."""

    def __init__(self, made: TrainerReward, name: str | None = None, num_generations: int | None = None) -> None:
        """Raises UserError for a reward that compares responses, unless ``num_generations`` says of how many."""
        self.made, self.num_generations = made, num_generations
        self.__name__ = name or made.name  # TRL's metrics are called after it
        if made.reward.takes_offsets and num_generations is None:
            raise UserError(
                f"reward {made.name!r} compares the completions of one prompt: write num_generations=, as in "
                "GRPOConfig, and let per_device_train_batch_size be a multiple of it"
            )

    def __call__(self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **given: Any) -> list[Any]:
        """The score of each completion; None for no score."""
        count = len(completions)
        columns: dict[str, Sequence[Any]] = {
            name: values
            for name, values in given.items()
            if name not in _NO_COLUMNS and isinstance(values, list | tuple) and len(values) == count
        }
        columns["completion"] = completions
        if prompts is not None:
            columns["prompt"] = prompts
        results = self._results([{name: values[row] for name, values in columns.items()} for row in range(count)])
        self._say(results, given)
        return [result.score for result in results]

    def _results(self, rows: Sequence[Mapping[str, Any]]) -> list[Result]:
        if not rows:
            return []
        samples, size = self._samples(rows), self.num_generations
        if size is None or not self.made.reward.takes_offsets:
            return self.made.results(samples)
        firsts = [row.get("prompt") for row in rows[::size] for _ in range(size)]
        if firsts != [row.get("prompt") for row in rows]:
            raise UserError(
                f"reward {self.made.name!r}: {len(samples)} completions do not fall into groups of {size} of one "
                "prompt each; is num_generations that of GRPOConfig, and the batch of a device a multiple of it?"
            )
        groups = [samples[start : start + size] for start in range(0, len(samples), size)]
        nested = [{**group[0], "responses": [sample["response"] for sample in group]} for group in groups]
        for sample in nested:
            del sample["response"]
        return [result for results in self.made.results(nested) for result in results]

    def _samples(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The rows by the names that the reward reads; raises UserError for a column that is not there."""
        reward, here = self.made.reward, rows[0]
        for role, column in self.made.said.items():
            if column not in here:
                raise UserError(f"columns: {role}: the dataset has no column {column!r}; {nearest(column, here)}")
        said = {
            role: column
            for role, column in self.made.columns.items()
            if role not in ("response", "responses", "prompt") and column in here
        }
        prompt = {"prompt": "prompt"} if "prompt" in here else {}
        table = as_table([*rows[:20]])
        view = flatten(table, guess_roles(table.schema, {"response": "completion", **prompt, **said}))
        sources: dict[str, str] = {}
        for column in reward.columns:
            source = {"response": "completion", "prompt": "prompt", "reference": view.roles.reference}.get(
                column, said.get(column, column)
            )
            if source in here:
                sources[column] = source
            elif column not in (*reward.optional, ALL_COLUMNS):
                raise UserError(
                    f"reward {self.made.name!r} reads {column!r}, and the dataset has no such column; name one: "
                    f"columns={{{column!r}: …}}, of: {', '.join(name for name in here if name != 'completion')}"
                )
        rest = [name for name in here if ALL_COLUMNS in reward.columns and name not in sources.values()]
        named = {**{name: name for name in rest}, **sources}
        return [{name: row[source] for name, source in named.items()} for row in rows]

    def _say(self, results: Sequence[Result], given: Mapping[str, Any]) -> None:
        """Log what has no score, to TRL's own logs too; raise JobError where the reward raises on everything."""
        errors = [result.error for result in results]
        raised = [error for error in errors if error and error.startswith(f"{RAISED}:")]
        if len(raised) == len(errors) > 1:
            raise JobError(f"reward {self.made.name!r} raised on all {len(errors)} completions: {raised[0]}")
        if raised:
            _logger.warning("reward %r: %d of %d: %s", self.made.name, len(raised), len(errors), raised[0])
        if callable(given.get("log_metric")):
            missing = sum(error is not None for error in errors)
            given["log_metric"](f"{self.__name__}/no_score", missing / max(len(errors), 1))
        if callable(given.get("log_extra")):
            given["log_extra"](f"{self.__name__}.error", [error or "" for error in errors])


def reward_func(
    reward: Any,
    *,
    columns: Mapping[str, str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    by: str | None = None,
    name: str | None = None,
    num_generations: int | None = None,
) -> RewardFunction:
    """A reward function for TRL, of a reward's name, a ``Reward``, a function, a job file or a dict as ``rewards:``.

    ``columns``: role, or parameter of the reward, to the dataset's column. ``knobs`` go with a name. ``by``: which of a
    job's scores. ``name``: what TRL's metrics call it. ``num_generations``: as in GRPOConfig, for rewards that compare
    the completions of one prompt. Raises UserError for what does not fit.
    """
    return RewardFunction(TrainerReward.make(reward, columns=columns, knobs=knobs, by=by), name, num_generations)


def async_reward_func(reward: Any, **settings: Any) -> Callable[..., Awaitable[list[Any]]]:
    """``reward_func`` as a coroutine function: TRL asks all such at once, which pays for judges and served models."""
    import asyncio

    function = reward_func(reward, **settings)

    async def score(**given: Any) -> list[Any]:
        return await asyncio.to_thread(function, **given)

    score.__name__ = function.__name__
    return score


def reward_funcs(job: str | Mapping[str, Any], *, num_generations: int | None = None) -> list[RewardFunction]:
    """One reward function for each reward of a job file, or of a dict as its ``rewards:``, in order."""
    from jobs.config.job_reward import load_rewards

    made = load_rewards(job)
    parts = [TrainerReward(name, reward, made.columns) for name, reward in made.rewards.items()]
    return [RewardFunction(part, None, num_generations if part.reward.takes_offsets else None) for part in parts]


def reward_weights(job: str | Mapping[str, Any]) -> list[float]:
    """The weights of ``combine:`` in the order of ``reward_funcs``, for GRPOConfig; 0 for a reward without one.

    TRL adds what is there and leaves out None, whatever ``combine.on_null`` says; ``reward_func`` keeps to it.
    """
    from jobs.config.job_reward import load_rewards

    made = load_rewards(job)
    weights = {} if made.combine is None else made.combine.weights
    return [weights.get(name, 0.0) if made.combine else 1.0 for name in made.rewards]
