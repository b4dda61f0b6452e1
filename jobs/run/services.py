"""The models and judges of a job while its rows are worked on, and what they cost.

with start_services(executor, prepared.needs, ledger.private, display) as services:
    executor.run(task, tasks, board, services.running)
services.costs(board.counts())                    # {"rm": EngineCost, "kind": ChatCost}
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from connectors.storage import Folder
from jobs.show.display import Display
from rmbatch.chat.connect import Unasked as UnaskedChat
from rmbatch.costs.chat import ChatCost, chat_cost
from rmbatch.costs.engines import EngineCost, engine_cost
from rmbatch.costs.gpus import flops_per_token, peak_flops
from rmbatch.costs.usage import usage_of
from rmbatch.pipeline.executor import Executor, Running
from rmbatch.reward_models.connect import NoEngine
from rmbatch.reward_models.reward import ModelReward
from rmbatch.stages.base import Needs


@dataclass(frozen=True)
class Services:
    """What a job needs, running."""

    needs: Needs
    running: Running

    def model_costs(self, counts: Mapping[str, int], *, at_the_end: bool = False) -> dict[str, EngineCost]:
        """What each reward model has cost so far, by the counts of the tasks; ``at_the_end``: to the second."""
        meters = self.running.meters(0.0) if at_the_end else self.running.meters()
        devices = self.running.devices()
        found = {}
        for name, reward in self.needs.models.items():
            key = reward.spec.engine_key
            mine = usage_of(reward.counted_as, counts)
            length = mine.get("tokens", 0) / max(mine.get("requests", 0), 1)
            peak = peak_flops(devices.get(key, ""), dtype_of(reward))
            found[name] = engine_cost(
                mine,
                meters.get(key, {}),
                flops_per_token=flops_per_token(reward.encoder.config.to_dict(), length) if peak else None,
                peak=peak * reward.spec.num_gpus if peak else None,
            )
        return found

    def chat_costs(self, counts: Mapping[str, int]) -> dict[str, ChatCost]:
        """What each asker has cost so far, by the counts of the tasks."""
        askers = self.needs.askers.items()
        return {name: chat_cost(usage_of(each.counted_as, counts), each.chat.price) for name, each in askers}

    def line(self, counts: Mapping[str, int]) -> str:
        """All costs so far in one line, for people."""
        costs: dict[str, EngineCost | ChatCost] = {**self.model_costs(counts), **self.chat_costs(counts)}
        return "; ".join(f"{name}: {each.line()}" for name, each in costs.items())


@contextmanager
def start_services(executor: Executor, needs: Needs, folder: Folder, display: Display) -> Iterator[Services]:
    """What the stages need, while rows are worked on. Raises UserError for what cannot be loaded or asked.

    ``folder``: where answers and what was used of budgets are kept.
    """
    for reward in needs.models.values():
        reward.pin()
        if reward.spec.store is not None:
            _ = reward.fingerprint  # read here once, and not in every task
        reward.encoder.read()
    with executor.services(needs, folder, display.say) as running:
        yield Services(needs, running)
    for reward in needs.models.values():
        if reward.store is not None:
            reward.store.compact()


def without_services(needs: Needs) -> dict[str, Any]:
    """Connections for a look at a job that loads no model and asks nobody."""
    models = {reward.spec.engine_key: NoEngine() for reward in needs.models.values()}
    return {**models, **{asker.chat.client_key: UnaskedChat() for asker in needs.askers.values()}}


def dtype_of(reward: ModelReward) -> str:
    """The precision that a model runs in."""
    if reward.spec.dtype != "auto":
        return reward.spec.dtype
    return str(getattr(reward.encoder.config, "dtype", None) or "bfloat16").removeprefix("torch.")
