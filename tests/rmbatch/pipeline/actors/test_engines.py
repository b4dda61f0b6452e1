"""Engines as actors: which one is asked, what becomes of one that dies or hangs, and what fits a cluster."""

import asyncio
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from connectors.errors import JobError, UserError
from rmbatch.pipeline.actors.engines import Chunk, choose_replicas
from rmbatch.pipeline.actors.pools import count_replicas, start_engines
from rmbatch.pipeline.actors.replica import Meter, SharedLock
from rmbatch.reward_models.engines.base import Outputs
from rmbatch.reward_models.engines.deduplicated import DeduplicatedEngine
from rmbatch.reward_models.spec import RewardModelSpec
from rmbatch.stores.scores import IDS, VALUES
from tests.tiny_models import make_model


def chunk(num_rows: int, alone: bool = False, deaths: int = 0) -> Chunk:
    return Chunk(np.arange(num_rows), alone, deaths)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (chunk(8), [(4, False), (4, False)]),
        (chunk(5), [(2, False), (3, False)]),
        (chunk(1), [(1, True)]),  # it may have died of a neighbour: once more alone
        (chunk(1, alone=True), [(1, True)]),
        (chunk(1, alone=True, deaths=1), []),
    ],
)
def test_what_is_asked_again_after_a_death(before: Chunk, after: list[tuple[int, bool]]) -> None:
    assert [(len(each.rows), each.alone) for each in before.split_after_death()] == after


def test_every_death_leads_to_one_conversation_in_the_end() -> None:
    waiting, deaths = [chunk(16)], 0
    while waiting:
        worst = next(each for each in waiting if 11 in each.rows)
        waiting = worst.split_after_death()
        deaths += 1
        assert sum(11 in each.rows for each in waiting) <= 1
    assert deaths == 4 + 1 + 2  # one for each halving, one that a neighbour may have caused, two alone


def test_a_prompt_prefers_one_replica_and_moves_only_to_new_ones() -> None:
    prompt = np.random.default_rng(1).integers(0, 2**62, 4000)
    four, five = choose_replicas(prompt, 4), choose_replicas(prompt, 5)
    assert (np.bincount(four, minlength=4) > 900).all()
    moved = four != five
    assert (five[moved] == 4).all()
    assert 0.1 < moved.mean() < 0.3
    assert (choose_replicas(prompt[:10], 4) == four[:10]).all()  # not by what else is in the batch


@pytest.mark.parametrize(
    ("models", "resources", "expected"),
    [
        ({"a": {"gpus": 0, "cpus": 1}}, {"CPU": 2}, {"a": 1}),
        ({"a": {"replicas": (1, 8), "cpus": 1, "gpus": 0}}, {"CPU": 4}, {"a": 3}),  # the rows need some CPU too
        ({"a": {"replicas": (1, 8), "gpus": 0.5}}, {"CPU": 64, "GPU": 2}, {"a": 4}),
        ({"a": {"replicas": (1, 8)}, "b": {"replicas": 2}}, {"CPU": 64, "GPU": 4}, {"a": 2, "b": 2}),
        ({"a": {"tensor_parallel": 4}}, {"CPU": 64, "GPU": 4}, {"a": 1}),
    ],
)
def test_how_many_replicas_fit(models: dict[str, Any], resources: dict[str, float], expected: dict[str, int]) -> None:
    specs = {name: RewardModelSpec(model=name, **settings) for name, settings in models.items()}
    assert count_replicas(specs, resources, may_grow=False) == expected


@pytest.mark.parametrize(
    ("settings", "resources", "message"),
    [
        ({"gpus": 0, "cpus": 2}, {"CPU": 2}, r"more CPUs than the cluster has \(a 1 x 2, .* 2 CPUs"),
        ({}, {"CPU": 8}, r"more GPUs than the cluster has \(a 1 x 1, .* 0 GPUs\); gpus: 0 runs a model on CPUs"),
        ({"replicas": 3}, {"CPU": 8, "GPU": 2}, "more GPUs"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], resources: dict[str, float], message: str) -> None:
    spec = {"a": RewardModelSpec(model="a", **settings)}
    with pytest.raises(UserError, match=message):
        count_replicas(spec, resources, may_grow=False)
    assert count_replicas(spec, resources, may_grow=True)["a"] == spec["a"].replica_range[0]  # nodes may still come


def test_on_a_growing_cluster_engines_wait_for_gpus_only() -> None:
    models = {
        "gpu": RewardModelSpec(model="a", replicas=(1, 8)),
        "cpu": RewardModelSpec(model="b", replicas=(1, 8), gpus=0),
    }
    assert count_replicas(models, {"CPU": 2, "GPU": 1}, may_grow=True) == {"gpu": 8, "cpu": 1}
    assert count_replicas(models, {"CPU": 5, "GPU": 1}, may_grow=True) == {"gpu": 8, "cpu": 3}


def test_alone_waits_for_the_others_and_keeps_them_out() -> None:
    async def story() -> list[str]:
        lock, told = SharedLock(), []

        async def share(name: str, seconds: float) -> None:
            async with lock.share():
                told.append(f"{name} in")
                await asyncio.sleep(seconds)
                told.append(f"{name} out")

        async def alone() -> None:
            await lock.acquire()
            told.append("alone in")
            await asyncio.sleep(0.05)
            told.append("alone out")
            lock.release()

        first = asyncio.create_task(share("a", 0.1))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(alone())
        await asyncio.sleep(0.01)
        third = asyncio.create_task(share("b", 0.0))
        await asyncio.gather(first, second, third)
        return told

    assert asyncio.run(story()) == ["a in", "a out", "alone in", "alone out", "b in", "b out"]


def test_a_meter_tells_work_from_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rmbatch.pipeline.actors.replica.time.monotonic", lambda: now)
    meter = Meter()
    now = 130.0
    meter.begin()  # loading counts as neither
    now = 140.0
    meter.enter()
    now = 141.0
    meter.enter()
    now = 145.0
    assert meter.stuck_s() == 5.0
    meter.leave()
    assert meter.stuck_s() == 0.0
    now = 150.0
    meter.leave()
    now = 170.0
    assert meter.read() == {"busy_s": 10.0, "idle_s": 30.0}
    assert meter.stuck_s() == 0.0  # nothing is asked of it


class Counting:
    """An engine whose output is the sum of the ids, and that counts what it is asked."""

    width = 1

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    async def score(self, ids: pa.Array) -> Outputs:
        self.asked += ids.to_pylist()
        await asyncio.sleep(0.02)
        rows = ids.to_pylist()
        values = [None if 0 in row else [float(sum(row))] for row in rows]
        errors = ["bad: it holds 0" if 0 in row else None for row in rows]
        return Outputs(pa.array(values, VALUES), pa.array(errors, pa.string()), {"requests": len(rows)})

    def close(self) -> None:
        pass


def test_equal_conversations_are_computed_once() -> None:
    async def story() -> tuple[Counting, list[Outputs]]:
        inner = Counting()
        once = DeduplicatedEngine(inner)
        calls = [[[1, 2], [3], [1, 2]], [[3], [4], [0]]]
        found = list(await asyncio.gather(*(once.score(pa.array(call, IDS)) for call in calls)))
        found.append(await once.score(pa.array([[4], [0]], IDS)))
        return inner, found

    inner, found = asyncio.run(story())
    assert [each.values.to_pylist() for each in found] == [[[3.0], [3.0], [3.0]], [[3.0], [4.0], None], [[4.0], None]]
    assert inner.asked == [[1, 2], [3], [4], [0], [0]]  # an error is no answer to keep
    assert [each.usage["repeated"] for each in found] == [1, 1, 1]


DANGEROUS = """
import os, time
from transformers import Qwen2ForSequenceClassification


class Dangerous(Qwen2ForSequenceClassification):
    def forward(self, input_ids=None, **kwargs):
        if (input_ids == 77).any():
            os._exit(1)
        if (input_ids == 88).any():
            time.sleep(3600)
        return super().forward(input_ids=input_ids, **kwargs)
"""


SETTINGS: dict[str, Any] = {
    "engine": "transformers",
    "trust_remote_code": True,
    "dtype": "float32",
    "gpus": 0,
    "cpus": 0.4,
}


@pytest.fixture(scope="module")
def dangerous(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that ends its process at token 77 and hangs at token 88."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("dangerous")
    make_model(folder, "scalar")
    (folder / "modeling_dangerous.py").write_text(DANGEROUS)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForSequenceClassification": "modeling_dangerous.Dangerous"}}
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Dangerous"]}))
    return str(folder)


def conversations(num_rows: int, bad: dict[int, int]) -> tuple[pa.Array, np.ndarray]:
    """Random ids without 77 and 88, but where ``bad`` says so."""
    draw = np.random.default_rng(3)
    rows = [draw.integers(100, 500, int(draw.integers(5, 60))).tolist() for _ in range(num_rows)]
    for place, token in bad.items():
        rows[place][2] = token
    return pa.array(rows, IDS), np.arange(num_rows) // 2


@pytest.mark.served
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("token", "num_rows", "replicas"), [(77, 4, 2), (88, 2, 1)])
def test_only_the_conversation_that_kills_engines_has_no_score(
    local_ray: None, dangerous: str, monkeypatch: pytest.MonkeyPatch, token: int, num_rows: int, replicas: int
) -> None:
    monkeypatch.setattr("rmbatch.pipeline.actors.engines.DEATHS_TO_GIVE_UP", 1)  # each death takes 20 s here
    spec = RewardModelSpec(model=dangerous, **SETTINGS, replicas=replicas, hang_timeout_s=10.0)
    told: list[str] = []
    with start_engines({"rm": spec}, say=told.append, may_grow=False) as pools:
        pool = pools.connections[spec.engine_key]
        expected = pool.ask(*conversations(num_rows, {}))
        outputs = pool.ask(*conversations(num_rows, {1: token}))
    assert outputs.values.is_valid().to_pylist() == [place != 1 for place in range(num_rows)]
    assert outputs.error[1].as_py().startswith("killed_engine: ")
    for place in {*range(num_rows)} - {1}:
        assert outputs.values[place].as_py() == pytest.approx(expected.values[place].as_py(), abs=1e-4)
    assert any(" ready after " in line for line in told)


@pytest.mark.served
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_engines_that_die_without_end_stop_the_job(
    local_ray: None, dangerous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmbatch.pipeline.actors.engines.MAX_DEATHS", 1)
    spec = RewardModelSpec(model=dangerous, **SETTINGS)
    with (
        start_engines({"rm": spec}, say=lambda text: None, may_grow=False) as pools,
        pytest.raises(JobError, match="engines died in a row"),
    ):
        pools.connections[spec.engine_key].ask(*conversations(4, dict.fromkeys(range(4), 77)))
