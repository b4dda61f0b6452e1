"""A scalar head on verl's engines, and the Bradley-Terry loss on it.

verl has no reward-model trainer. Its engine for value models gives one number a token; the last one of a
conversation is the reward. A batch holds pairs: chosen and rejected by turns, which stay together in every micro-batch.
Sources: Bradley and Terry 1952; margin: Llama 2, arXiv 2307.09288; centring: Eisenstein et al., arXiv 2312.09244.
"""

from typing import Any

import torch
from torch.nn.functional import logsigmoid
from verl.utils import tensordict_utils as tu
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithValueHead
from verl.workers.engine_workers import TrainingWorker

MODEL_TYPE = "rmbatch_reward_model"


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp", "fsdp2"], device=["cuda", "npu", "cpu"])
class RewardEngine(FSDPEngineWithValueHead):  # type: ignore[misc]
    """verl's FSDP engine with one output a token."""

    def _build_module(self) -> Any:
        # verl's own value models insist on flash attention; this branch takes the class that the configuration names
        self.model_config.model_type = "language_model"
        return super()._build_module()


def last_values(values: torch.Tensor) -> torch.Tensor:
    """The value at the last token of each sequence: nested [n, tokens] -> float32 [n]."""
    return values.values()[values.offsets()[1:] - 1].float()


def bradley_terry_loss(
    model_output: dict[str, Any], data: Any, dp_group: Any = None, *, centring: float = 0.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """-log sigmoid(chosen - rejected - margin), and centring * (chosen + rejected)^2, per pair of the whole batch.

    ``data``: of 2n sequences, chosen and rejected by turns; ``global_batch_size`` counts sequences of all ranks. Also
    gives sums over the pairs of this micro-batch, whose names begin with ``sum/``.
    """
    del dp_group
    last = last_values(model_output["values"])
    chosen, rejected = last[0::2], last[1::2]
    margin = data["margin"].values()[0::2].to(last)
    num_pairs = data["global_batch_size"] / 2
    losses = -logsigmoid(chosen - rejected - margin)
    if centring:
        losses = losses + centring * (chosen + rejected) ** 2
    loss = losses.sum() / num_pairs * data["dp_size"]  # ranks average their gradients
    with torch.no_grad():
        sums = {
            "sum/pairs": float(len(chosen)),
            "sum/right": _count_right(chosen, rejected),
            "sum/difference": (chosen - rejected).sum().item(),
            "sum/chosen": chosen.sum().item(),
            "sum/rejected": rejected.sum().item(),
        }
    return loss, sums


def _count_right(chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """A tie is half right: a model that scores all the same is at chance."""
    return float((chosen > rejected).float().sum() + 0.5 * (chosen == rejected).float().sum())


class RewardWorker(TrainingWorker):  # type: ignore[misc]
    """verl's training worker, which keeps pairs together and averages the metrics over them."""

    def train_batch(self, data: Any) -> Any:
        tu.assign_non_tensor(data, force_group_size=2)
        output = super().train_batch(data)
        if output is None:
            return None
        return tu.get_tensordict(tensor_dict={}, non_tensor_dict={"metrics": average_sums(tu.get(output, "metrics"))})

    def infer_batch(self, data: Any) -> Any:
        tu.assign_non_tensor(data, force_group_size=2)
        return super().infer_batch(data)


def average_sums(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics with each ``sum/NAME``, a list of lists over ranks and micro-batches, as a mean over pairs."""
    sums = {name: sum(_flatten(value)) for name, value in metrics.items() if name.startswith("sum/")}
    rest = {name: value for name, value in metrics.items() if name not in sums}
    pairs = max(sums.pop("sum/pairs", 0.0), 1.0)
    names = {"sum/right": "accuracy"}
    return rest | {names.get(name, name.removeprefix("sum/")): total / pairs for name, total in sums.items()}


def _flatten(value: Any) -> list[float]:
    return [each for part in value for each in _flatten(part)] if isinstance(value, list) else [float(value)]
