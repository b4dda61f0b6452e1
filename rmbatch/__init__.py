"""rmbatch turns prompt/response data into scored, selected, corrected and trainable data.

Here is what a notebook or a test wants, without a cluster; jobs over many files are ``rmbatch run job.yaml``.
Importing it is light: nothing heavy comes in before it is used.

    rm = rmbatch.reward("f1_score", tokenizer="words")
    rm.evaluate({"response": "the cat", "reference": "a cat"}).score
    rm.score(pyarrow.parquet.read_table("rollouts.parquet"))
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmbatch.rewards.contract import Scores as Scores
    from rmbatch.rewards.evaluation import Reward


def reward(ref: str | Callable[..., Any], **knobs: Any) -> "Reward":
    """The reward that ``ref`` names (or the function or class itself), with its knobs set, ready to score.

    ``ref``: a built-in name, ``path/to/file.py:func``, ``pkg.module:func``, an installed package's name, or a kind of
    judge or a name of the alignment library, whose knobs are those of ``judge``.
    Raises UserError for an unknown reward, an unknown knob or a value that does not fit. To declare a reward of your
    own, see ``rmbatch.rewards.reward``.
    """
    from rmbatch.judges.library import is_judge
    from rmbatch.rewards.bound import bind

    if isinstance(ref, str) and is_judge(ref):
        return judge(ref, **knobs)
    return bind(ref, knobs)


def reward_model(model: str, **settings: Any) -> "Reward":
    """The reward that a served model gives: a folder or a hub name, loaded here when it is first asked.

    ``settings``: ``engine="vllm" | "transformers" | "endpoint"``, ``max_length``, ``gpus`` and whatever else
    ``rmbatch.served.spec.ServedModel`` lists. Raises UserError for what does not fit.
    """
    from rmbatch.served.reward import reward_model

    return reward_model(model, **settings)


def judge(name: str, **settings: Any) -> "Reward":
    """The reward of an LLM judge: ``pointwise``, ``pairwise``, ``listwise``, ``stepwise``, or a library name.

    ``settings``: ``endpoint``, ``model``, ``principles`` and whatever else ``rmbatch.judges.spec`` lists for the kind.
    Raises UserError for what does not fit.
    """
    from rmbatch.judges.reward import judge

    return judge(name, **settings)


def list_rewards() -> list[str]:
    """The names of all rewards that need no path, the judges of the alignment library among them, sorted."""
    from rmbatch.judges.library import LIBRARY
    from rmbatch.rewards.registry import list_rewards

    return sorted({*list_rewards(), *LIBRARY})


def __getattr__(name: str) -> Any:
    if name == "Scores":
        from rmbatch.rewards.contract import Scores

        return Scores
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
