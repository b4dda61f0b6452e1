"""The engines of a job, seen from its driver: it counts, starts, loads, meters and ends them.

``engines.py`` connects tasks to them. ``replica.py`` is the actor itself.

    with start_engines({"rm": spec}, say=print, may_grow=False) as pools:
        ...                                             # pools.connections are for tasks
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

from connectors.errors import JobError, UserError
from rmbatch.pipeline.actors.engines import Pool
from rmbatch.pipeline.actors.replica import Replica
from rmbatch.reward_models.spec import RewardModelSpec

TASK_CPUS = 0.25
"""The CPUs of a task that mostly waits for engines."""
CLOSE_S = 10.0
METER_EVERY_S = 5.0


class Replicated(Protocol):
    """Something that runs in several replicas on the cluster."""

    @property
    def cpus(self) -> float:
        """CPUs of one."""

    @property
    def num_gpus(self) -> float:
        """GPUs of one."""

    @property
    def replica_range(self) -> tuple[int, int]:
        """The fewest and the most of them."""


class Pools:
    """All pools of a job, seen from the driver."""

    def __init__(self, replicas: Mapping[str, tuple[RewardModelSpec, Sequence[Any]]]) -> None:
        self._replicas = replicas
        self._meters: dict[tuple[str, int], dict[str, float]] = {}
        self._before: dict[tuple[str, int], dict[str, float]] = {}
        self._devices: dict[str, str] = {}
        self._read_at = -math.inf

    @property
    def connections(self) -> dict[str, Pool]:
        """By engine key, for ``use_connections``."""
        return {key: Pool(spec, replicas) for key, (spec, replicas) in self._replicas.items()}

    @property
    def cpus(self) -> float:
        """The CPUs of all engines that have a place. A restarted engine needs them again."""
        resources = ray.cluster_resources()
        engine_cpus = 0.0
        for spec, replicas in self._replicas.values():
            placed = len(replicas)
            if spec.num_gpus:
                placed = min(placed, max(int(resources.get("GPU", 0.0) / spec.num_gpus), spec.replica_range[0]))
            engine_cpus += spec.cpus * placed
        return engine_cpus

    def meters(self, max_age_s: float = METER_EVERY_S) -> dict[str, dict[str, float]]:
        """By engine key: ``busy_s`` and ``idle_s`` of all its engines since they were loaded, and ``replicas``."""
        if time.monotonic() - self._read_at > max_age_s:
            self._read_at = time.monotonic()
            self._read_meters()
        totals: dict[str, dict[str, float]] = {}
        for (key, _), meter in [*self._meters.items(), *self._before.items()]:
            total = totals.setdefault(key, {"busy_s": 0.0, "idle_s": 0.0, "replicas": 0.0})
            for name, value in meter.items():
                total[name] += value
        return totals

    def _read_meters(self) -> None:
        calls = {
            (key, index): replica.meter.remote()
            for key, (_, replicas) in self._replicas.items()
            for index, replica in enumerate(replicas)
        }
        ready, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=0.5) if calls else ([], [])
        for place, reference in calls.items():
            if reference in ready:
                self._update_meter(place, reference)

    def devices(self) -> dict[str, str]:
        """By engine key: the device of its first engine."""
        for key, (_, replicas) in self._replicas.items():
            if key not in self._devices:
                try:
                    device = ray.get(replicas[0].device.remote(), timeout=1.0)
                except (RayError, GetTimeoutError):
                    continue
                if device:
                    self._devices[key] = device
        return self._devices

    def _update_meter(self, place: tuple[str, int], reference: Any) -> None:
        try:
            meter = {**ray.get(reference), "replicas": 1.0}
        except RayError:
            return
        last = self._meters.get(place)
        if last is not None and last["busy_s"] + last["idle_s"] > meter["busy_s"] + meter["idle_s"]:  # it was restarted
            before = self._before.setdefault(place, {"busy_s": 0.0, "idle_s": 0.0})
            for name in before:
                before[name] += last[name]
        self._meters[place] = meter


@contextmanager
def start_engines(
    models: Mapping[str, RewardModelSpec],
    *,
    say: Callable[[str], None],
    may_grow: bool,
    taken: Mapping[str, float] | None = None,
) -> Iterator[Pools]:
    """Start the engines of these models (by reward), as many as fit, and end them at the end.

    Returns when they have their places on the cluster; they load while tasks begin to read. Engines of ``endpoint`` run
    elsewhere. ``may_grow``: the cluster may get more nodes later. ``taken``: the resources of other servers. Raises
    UserError for models that are too large for the cluster, and for a model that cannot be loaded.
    """
    named = {spec.engine_key: (name, spec) for name, spec in models.items() if not spec.is_remote}
    resources = {kind: amount - (taken or {}).get(kind, 0.0) for kind, amount in ray.cluster_resources().items()}
    num_replicas = count_replicas(dict(named.values()), resources, may_grow)
    actors: dict[str, tuple[RewardModelSpec, list[Any]]] = {}
    try:
        for key, (name, spec) in named.items():
            make = ray.remote(Replica).options(
                num_cpus=spec.cpus, num_gpus=spec.num_gpus, max_restarts=-1, max_task_retries=0, max_concurrency=1000
            )
            actors[key] = (spec, [make.remote(spec) for _ in range(num_replicas[name])])
        for key, (name, spec) in named.items():
            _await_placed(name, spec, actors[key][1])
        with _Loading([(name, spec, actors[key][1]) for key, (name, spec) in named.items()], say):
            yield Pools(actors)
    finally:
        _close([replica for _, replicas in actors.values() for replica in replicas])


def _close(replicas: Sequence[Any]) -> None:
    """Close the engines, so that they free their shared memory. Then kill them, also those that do not answer."""
    with suppress(RayError):
        ray.wait([replica.close.remote() for replica in replicas], num_returns=len(replicas), timeout=CLOSE_S)
    for replica in replicas:
        ray.kill(replica)


def count_replicas(models: Mapping[str, Replicated], resources: Mapping[str, float], may_grow: bool) -> dict[str, int]:
    """Count the replicas of each model to start. Raises UserError where even the fewest do not fit.

    ``may_grow``: any number fits, and engines may wait for GPUs of later nodes. An engine without GPUs may not wait: it
    would take the CPUs of the tasks.
    """
    counts = {name: spec.replica_range[0] for name, spec in models.items()}
    left = {"CPU": resources.get("CPU", 0.0) - TASK_CPUS, "GPU": resources.get("GPU", 0.0)}
    needs = {name: {"CPU": spec.cpus, "GPU": spec.num_gpus} for name, spec in models.items()}
    for kind in left:
        left[kind] -= sum(counts[name] * needs[name][kind] for name in models)
        if left[kind] < -1e-9 and not may_grow:
            wanted = ", ".join(f"{name} {counts[name]} x {needs[name][kind]:g}" for name in models)
            cure = "gpus: 0 runs a model on CPUs" if kind == "GPU" else "set fewer replicas or cpus"
            raise UserError(
                f"the job's models need more {kind}s than the cluster has ({wanted}, {TASK_CPUS:g} CPU for the rows; "
                f"the cluster has {resources.get(kind, 0.0):g} {kind}s); {cure}"
            )
    for name, spec in models.items():
        if may_grow and spec.num_gpus:
            counts[name] = spec.replica_range[1]
            continue
        room = [int(left[kind] / needs[name][kind] + 1e-9) for kind in left if needs[name][kind] > 0]
        more = max(min([spec.replica_range[1] - counts[name], *room]), 0)
        counts[name] += more
        for kind in left:
            left[kind] -= more * needs[name][kind]
    return counts


def _await_placed(name: str, spec: RewardModelSpec, replicas: Sequence[Any]) -> None:
    """Wait until the fewest replicas have their CPUs and GPUs. Tasks that run before would take these for ever."""
    wanted = min(spec.replica_range[0], len(replicas))
    waiting = [replica.alive.remote() for replica in replicas]
    placed, _ = ray.wait(waiting, num_returns=wanted, timeout=spec.startup_timeout_s)
    if len(placed) < wanted:
        raise JobError(
            f"reward {name!r}: {len(placed)} of {wanted} engines of {spec.model!r} had a place after "
            f"{spec.startup_timeout_s:.0f} s (startup_timeout_s); the cluster has too few free CPUs or GPUs"
        )


class _Loading:
    """Loads engines while tasks begin. An error of loading replaces the error that tasks raise because of it."""

    def __init__(
        self, models: Sequence[tuple[str, RewardModelSpec, Sequence[Any]]], say: Callable[[str], None]
    ) -> None:
        self._failure: UserError | JobError | None = None
        self._threads = [threading.Thread(target=self._load, args=(*model, say), daemon=True) for model in models]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, JobError):
            for thread in self._threads:
                thread.join(CLOSE_S)
            if self._failure is not None:
                raise self._failure from error

    def _load(self, name: str, spec: RewardModelSpec, replicas: Sequence[Any], say: Callable[[str], None]) -> None:
        try:
            _await_loaded(name, spec, replicas, say)
        except (UserError, JobError) as error:
            self._failure = error
            for replica in replicas:
                ray.kill(replica)  # for good, so that no task waits for it
        except RayError:
            return  # the job has ended before the engines were needed


def _await_loaded(name: str, spec: RewardModelSpec, replicas: Sequence[Any], say: Callable[[str], None]) -> None:
    """Wait until the fewest replicas have loaded the model."""
    began, wanted = time.monotonic(), min(spec.replica_range[0], len(replicas))
    say(f"{name}: loading {spec.model} with {spec.engine}, {len(replicas)} replica{'s' * (len(replicas) > 1)}")
    waiting = [replica.load.remote() for replica in replicas]
    num_loaded = 0
    while num_loaded < wanted:
        left = spec.startup_timeout_s - (time.monotonic() - began)
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(left, 0.0))
        if not ready:
            raise JobError(
                f"reward {name!r}: {num_loaded} of {wanted} engines of {spec.model!r} were ready after "
                f"{spec.startup_timeout_s:.0f} s (startup_timeout_s)"
            )
        try:
            why = ray.get(ready[0])
        except ActorUnavailableError as lost:  # it died, and Ray restarts it
            raise JobError(
                f"reward {name!r}: an engine of {spec.model!r} died while it was loading, perhaps for want of "
                f"memory: {str(lost).strip().splitlines()[0]}"
            ) from lost
        if why:
            raise UserError(f"reward {name!r}: model {spec.model!r} cannot be served: {why}")
        num_loaded += 1
    say(f"{name}: {num_loaded} ready after {math.ceil(time.monotonic() - began)} s")
