"""One governor as an actor: clients in other actors share its limits, and its death costs neither counts nor money."""

import asyncio
import time

import pytest
import ray

from rmbatch.chat.limits.admission import REPORT_S, GovernedAdmission
from rmbatch.chat.limits.governor import GATHER_S, Consumption, Report
from rmbatch.chat.spec import Limits
from rmbatch.costs.prices import Usage
from rmbatch.endpoints.balancer import BudgetExhausted
from rmbatch.pipeline.actors.governor import GovernorHandle


class Answered:
    usage = Usage(10, 5)


@ray.remote(num_cpus=0)
class Client:
    """Uses as much as it may, 32 at a time."""

    async def use(self, governor: GovernorHandle, seconds: float) -> int:
        admission, ends, sent = GovernedAdmission(governor.grant), time.monotonic() + seconds, 0

        async def one() -> None:
            nonlocal sent
            while time.monotonic() < ends:
                permit = await admission.admit(10, again=False, max_tokens=5)
                sent += 1
                await asyncio.sleep(0.02)
                permit.settle(Answered())

        done = await asyncio.gather(*(one() for _ in range(32)), return_exceptions=True)
        assert {type(each) for each in done} <= {type(None), BudgetExhausted}
        await admission.close()
        return sent


@pytest.mark.ray
def test_actors_share_a_rate_and_a_budget(local_ray: None) -> None:
    governor = GovernorHandle.start(Limits(requests=24_000), Limits(requests=1000), used_before={"requests": 100})
    clients = [Client.remote() for _ in range(2)]  # type: ignore[attr-defined]  # mypy does not know Ray
    ray.get([client.use.remote(governor, 0.0) for client in clients])  # they have started
    began = time.monotonic()
    sent = ray.get([client.use.remote(governor, 60.0) for client in clients])
    took = time.monotonic() - began
    assert sum(sent) == 900
    assert took > 0.9 * (900 / 400 - 0.75)  # what had gathered comes at once
    assert min(sent) > 200
    assert governor.usage() == {
        "requests": 1000,
        "prompt_tokens": 9000,
        "completion_tokens": 4500,
        "cached_tokens": 0,
    }
    governor.close()
    for client in clients:
        ray.kill(client)


@pytest.mark.ray
def test_restarted_governor_knows_what_was_spent(local_ray: None) -> None:
    governor = GovernorHandle.start(None, Limits(requests=300), used_before={"requests": 100})

    async def work() -> int:
        admission, sent = GovernedAdmission(governor.grant), 0

        async def one() -> None:
            nonlocal sent
            (await admission.admit(10, again=False)).settle(Answered())
            sent += 1

        await asyncio.gather(*(one() for _ in range(150)))
        await governor.grant(Report("one that dies", 1, used=Consumption(requests=20)))
        await asyncio.sleep(2 * REPORT_S)
        assert governor.usage()["requests"] == 270
        ray.kill(governor.actor, no_restart=False)
        began = time.monotonic()
        try:
            while True:
                await one()
                await asyncio.to_thread(governor.usage)  # who has seen more tells the new one
        except BudgetExhausted:
            assert time.monotonic() - began > 0.9 * GATHER_S
        await admission.close()
        return sent

    assert asyncio.run(work()) == 180  # none of what the dead one has used is used again
    assert governor.usage()["requests"] == 300
    governor.close()
