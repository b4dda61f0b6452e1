"""The models and judges of a job while its rows are processed, and their cost.

with start_services(executor, prepared.needs, ledger.private, display) as services:
    executor.run(task, tasks, board, services.running)
services.model_costs(board.counts())              # {"rm": EngineCost}
services.chat_costs(board.counts())               # {"kind": ChatCost}
services.usage(board.counts())                    # {"rm": ModelUsage, "kind": ModelUsage}
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from connectors.storage import Folder
from jobs.show.display import Display
from rmbatch.chat.connect import PretendedChat, UnaskedChat
from rmbatch.costs.chat import ChatCost, chat_cost
from rmbatch.costs.engines import EngineCost, engine_cost
from rmbatch.costs.gpus import flops_per_token, peak_flops
from rmbatch.costs.prices import cost
from rmbatch.costs.series import ModelUsage
from rmbatch.costs.usage import usage_of
from rmbatch.pipeline.executor import Executor, RunningServices
from rmbatch.reward_models.connect import NoEngine
from rmbatch.reward_models.reward import ModelReward
from rmbatch.stages.base import Needs


@dataclass(frozen=True)
class Services:
    """The running models and judges of a job."""

    needs: Needs
    running: RunningServices

    def model_costs(self, counts: Mapping[str, int], *, at_the_end: bool = False) -> dict[str, EngineCost]:
        """The cost of each reward model so far, by the tasks' counts. ``at_the_end``: with meters read just now."""
        meters = self.running.meters(0.0) if at_the_end else self.running.meters()
        devices = self.running.devices()
        costs = {}
        for name, reward in self.needs.models.items():
            key = reward.spec.engine_key
            usage = usage_of(reward.counted_as, counts)
            length = usage.get("tokens", 0) / max(usage.get("requests", 0), 1)
            peak = peak_flops(devices.get(key, ""), dtype_of(reward))
            costs[name] = engine_cost(
                usage,
                meters.get(key, {}),
                flops_per_token=flops_per_token(reward.encoder.config.to_dict(), length) if peak else None,
                peak=peak * reward.spec.num_gpus if peak else None,
            )
        return costs

    def chat_costs(self, counts: Mapping[str, int]) -> dict[str, ChatCost]:
        """The cost of each asker so far, by the tasks' counts."""
        askers = self.needs.askers.items()
        return {name: chat_cost(usage_of(each.counted_as, counts), each.chat.price) for name, each in askers}

    def usage(self, counts: Mapping[str, int]) -> dict[str, ModelUsage]:
        """What each user of a model has used so far. Users that are counted together are one, so all of them add up."""
        users: dict[str, tuple[list[str], ModelUsage]] = {}
        for name, reward in self.needs.models.items():
            usage = ModelUsage("reward_model", reward.spec.model, usage_of(reward.counted_as, counts), None)
            users.setdefault(reward.counted_as, ([], usage))[0].append(name)
        for name, asker in self.needs.askers.items():
            used, price = usage_of(asker.counted_as, counts), asker.chat.price
            usage = ModelUsage("chat", asker.chat.model, used, cost(used, price).known_usd if price else None)
            users.setdefault(asker.counted_as, ([], usage))[0].append(name)
        return {", ".join(names): usage for names, usage in users.values()}

    def describe_costs(self, counts: Mapping[str, int]) -> str:
        """All costs so far, in one line to show."""
        costs: dict[str, EngineCost | ChatCost] = {**self.model_costs(counts), **self.chat_costs(counts)}
        return "; ".join(f"{name}: {each.line()}" for name, each in costs.items())


@contextmanager
def start_services(executor: Executor, needs: Needs, folder: Folder, display: Display) -> Iterator[Services]:
    """Start the models and judges that stages need, and stop them at the end.

    ``folder``: where answers and the usage of budgets are kept. Raises UserError where one cannot be loaded or asked.
    """
    for reward in needs.models.values():
        reward.pin()
        if reward.spec.store is not None:
            _ = reward.fingerprint  # reads the weights here once, not in every task
        reward.encoder.read()
    with executor.services(needs, folder, display.say) as running:
        yield Services(needs, running)
    for reward in needs.models.values():
        if reward.store is not None:
            reward.store.compact()


def stub_connections(needs: Needs, *, pretend: bool = False) -> dict[str, Any]:
    """Connections for a plan: no model is loaded, and nobody is asked. ``pretend``: answers are text of some length."""
    models = {reward.spec.engine_key: NoEngine() for reward in needs.models.values()}
    chat = PretendedChat() if pretend else UnaskedChat()
    return {**models, **{asker.chat.client_key: chat for asker in needs.askers.values()}}


def dtype_of(reward: ModelReward) -> str:
    """The precision that a model runs in."""
    if reward.spec.dtype != "auto":
        return reward.spec.dtype
    return str(getattr(reward.encoder.config, "dtype", None) or "bfloat16").removeprefix("torch.")
