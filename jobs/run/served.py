"""What a job does about its served models: finds them among its rewards, runs their engines, tells what they cost.

models = served_models(prepared)                  # {"rm": ModelReward}
with engines(job.run, models, display) as served:
    run_pieces(..., connections=served.connections)
served.told(counts)                               # {"rm": Economics}
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from connectors.errors import UserError
from jobs.config.sections import RunConfig
from jobs.run.prepare import Prepared
from jobs.run.sampling import Sample
from jobs.show.display import Display
from rmbatch.costs.engines import Economics, economics
from rmbatch.costs.estimate import MFU, Interval, estimate, gpu_hours
from rmbatch.costs.gpus import PEAKS, flops_per_token, peak_flops
from rmbatch.endpoints.errors import ServiceError
from rmbatch.reward_models.connect import NoEngine
from rmbatch.reward_models.engines.base import open_engine
from rmbatch.reward_models.reward import USED, ModelReward, model_rewards
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.rows.roles import Roles, flatten
from rmbatch.settings.names import nearest


def served_models(prepared: Prepared) -> dict[str, ModelReward]:
    """The job's served models, those inside compositions too, by the names that their columns end in."""
    return dict(model_rewards(prepared.score_stage.rewards))


@dataclass(frozen=True)
class Served:
    """The engines of a running job; without served models it is empty."""

    models: Mapping[str, ModelReward]
    pools: Any = None

    @property
    def connections(self) -> Mapping[str, Any]:
        """By engine key, for the tasks."""
        return self.pools.connections if self.pools else {}

    @property
    def max_tasks(self) -> int | None:
        """How many tasks may run at a time; None: as many as there is room for."""
        return self.pools.max_tasks if self.pools else None

    def told(self, counts: Mapping[str, int], *, at_the_end: bool = False) -> dict[str, Economics]:
        """What each model has cost so far, by the counts of the tasks; ``at_the_end``: to the second."""
        max_age = {"max_age_s": 0.0} if at_the_end else {}
        meters = self.pools.meters(**max_age) if self.pools else {}
        devices = self.pools.devices() if self.pools else {}
        found = {}
        for name, reward in self.models.items():
            key = reward.spec.engine_key
            mine = {k.removeprefix(f"{USED}{key}."): n for k, n in counts.items() if k.startswith(f"{USED}{key}.")}
            length = mine.get("tokens", 0) / max(mine.get("requests", 0), 1)
            dtype = reward.spec.dtype if reward.spec.dtype != "auto" else _dtype(reward)
            peak = peak_flops(devices.get(key, ""), dtype)
            found[name] = economics(
                mine,
                meters.get(key, {}),
                flops_per_token=flops_per_token(reward.encoder.config.to_dict(), length) if peak else None,
                peak=peak * reward.spec.num_gpus if peak else None,
            )
        return found


def _dtype(reward: ModelReward) -> str:
    return str(getattr(reward.encoder.config, "dtype", None) or "bfloat16").removeprefix("torch.")


def unasked(models: Mapping[str, ModelReward]) -> dict[str, NoEngine]:
    """Connections for a look at a job that loads no model."""
    return {reward.spec.engine_key: NoEngine() for reward in models.values()}


def estimated(name: str, reward: ModelReward, sample: Sample, roles: Roles, gpu: str) -> list[tuple[str, str]]:
    """What a model will have to do, by a sample, as lines for people. Raises UserError for a GPU that is unknown."""
    view = flatten(sample.rows, roles)
    encoded = reward.encoder.encode(view.column("prompt"), view.column("response"))
    offsets = np.arange(sample.rows.num_rows + 1) if view.offsets is None else view.offsets
    place = np.repeat(sample.place, np.diff(offsets))
    found = estimate(encoded.ids, encoded.prompt, place, num_sampled=sample.num_places, num_all=sample.all_places)
    spec = reward.spec
    computed = found.computed if spec.shares_prefixes else found.tokens
    most = "at most " if "." in name else ""  # behind a gate or on a route, only some of the rows come to it
    how = ", each prompt once" if spec.shares_prefixes else ""
    lines = [
        ("tokens", f"{most}{_between(found.tokens)}; {_between(computed)} to compute{how}"),
        ("sample", f"{sample.rows.num_rows:,} rows from {sample.num_places:,} places"),
    ]
    failed = encoded.error.drop_null()
    if len(failed):
        lines.append(("no score", f"{len(failed) / len(encoded.error):.1%} of the sample, e.g. {failed[0]}"))
    flops = flops_per_token(reward.encoder.config.to_dict(), found.length)
    peak = peak_flops(gpu, spec.dtype if spec.dtype != "auto" else _dtype(reward))
    if peak_flops(gpu, "float16") is None:
        raise UserError(f"--gpu: nothing is known of {gpu!r}; {nearest(gpu.lower(), PEAKS)}")
    if not spec.is_remote and spec.num_gpus and flops is not None and peak is not None:
        hours = gpu_hours(computed, flops, peak)
        devices = spec.replica_range[1] * spec.num_gpus
        lines.append(
            ("GPU hours", f"{most}{_between(hours)} of one {gpu}, at {MFU[0]:.0%} to {MFU[1]:.0%} of its peak")
        )
        lines.append(("time", f"{most}{_between(hours.scaled(1 / devices))} h with {devices:g} of them"))
    return lines


def _between(interval: Interval) -> str:
    digits = ".3g" if interval.high < 1000 else ".0f"
    return f"{interval.low:,{digits}} to {interval.high:,{digits}}"


def look_for_model(spec: RewardModelSpec) -> None:
    """Raises UserError where none of the servers of a model is there."""
    try:
        open_engine(spec).close()
    except ServiceError as error:
        raise UserError(f"model {spec.model!r} cannot be served: {error}") from None


@contextmanager
def engines(run: RunConfig, models: Mapping[str, ModelReward], display: Display) -> Iterator[Served]:
    """The engines of the models while rows are worked on; raises UserError for a model that cannot be loaded."""
    if not models:
        yield Served({})
        return
    from rmbatch.pipeline.actors.pools import started

    for reward in models.values():
        reward.pin()
        if reward.spec.store is not None:
            _ = reward.fingerprint  # read here once, and not in every task
        reward.encoder.read()
    may_grow = bool(run.address or os.environ.get("RAY_ADDRESS"))
    with started({name: each.spec for name, each in models.items()}, say=display.say, may_grow=may_grow) as pools:
        yield Served(models, pools)
    for reward in models.values():
        if reward.store is not None:
            reward.store.compact()
