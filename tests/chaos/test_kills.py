"""Jobs whose driver or worker is killed at random moments: the same command, repeated, comes to the same dataset.

``make chaos`` runs the matrix over stores, formats and jobs, on plain stores and behind a proxy that spoils every fifth
request; ``make test`` a small seed of it. The clean runs to compare with are always on local disk, so that a job's
result is also held to be the same on every store.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from tests.chaos.campaign import PHASES, TARGETS, Campaign, Kill
from tests.chaos.conftest import CleanRun
from tests.chaos.faulty_proxy import FaultyProxy
from tests.chaos.workload import (
    SMALL_FILES,
    Case,
    LocalPlace,
    Place,
    S3Place,
    assert_same,
    assert_same_but_dead,
    check_finished,
    tally,
)
from tests.jobs.running import run
from tests.servers.s3 import S3Server

NewCampaign = Callable[..., Campaign]
NewPlace = Callable[[str], Place]
MATRIX = list(itertools.product(("local", "s3"), ("parquet", "jsonl"), ("score", "best_of_n")))
SCATTERED = [("local", "parquet", "scattered"), ("s3", "jsonl", "scattered")]
FAULTY = [("parquet", "score"), ("jsonl", "best_of_n"), ("jsonl", "scattered")]
SLOW = ["score", "adjacent"]
HERE = [("local", "parquet", "score"), ("s3", "jsonl", "best_of_n"), ("local", "jsonl", "scattered")]
MIN_KILLS = 30


def case_of(kind: str, form: str, **more: object) -> Case:
    # The shuffled rows are one bucket, and one task works it off.
    return Case(kind, form, ms=3.0 if kind == "scattered" else 8.0, **more)  # type: ignore[arg-type]


def planned(chance: random.Random, kind: str, drivers: int, workers: int) -> list[Kill]:
    """One driver is killed late, the others in phases of their own; workers while they read, shuffle or score."""
    phases = [phase for phase in PHASES if phase != "shuffle" or kind == "scattered"]
    late = chance.choice(["writing", "unrecorded", "finish"])
    at_work = ["shuffle", "writing"] if kind == "scattered" else ["plan", "writing"]
    return [
        Kill("driver", late),
        *(Kill("driver", phase) for phase in chance.sample(phases, drivers - 1)),
        *(Kill("worker", phase) for phase in chance.choices(at_work, k=workers)),
    ]


def hold_same(campaign: Campaign, clean_run: CleanRun, kills: list[Kill]) -> None:
    """Run the campaign and compare its rows and counts with a clean run's."""
    rows, counts = clean_run(campaign.case)
    campaign.run(kills)
    assert_same(check_finished(campaign.place, campaign.output), rows)
    assert tally(campaign.place, campaign.output) == counts
    print(f"  {campaign.name}: killed runs' processes ended after {max(campaign.left_behind_s):.1f} s at the latest")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    """A new place on the named store."""

    def make(store: str) -> Place:
        if store == "local":
            return LocalPlace(tmp_path / "place")
        return S3Place(request.getfixturevalue("s3"), tmp_path.name)

    return make


@pytest.fixture
def faulty(s3: S3Server, tmp_path: Path, seed: int) -> Iterator[Place]:
    """A place whose every fifth request fails, is cut short, comes late or loses its acknowledgement."""
    with FaultyProxy(s3.endpoint, rate=0.2, seed=seed) as proxy:
        yield S3Place(s3, tmp_path.name, proxy.endpoint)
        counts = proxy.counts()
        print(f"\n  {proxy.requests()} requests, spoiled: {counts}", flush=True)
        assert sum(counts.values()) > proxy.requests() / 10


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("store", "form", "kind"), MATRIX + SCATTERED)
def test_kills_on_a_sound_store(
    store: str, form: str, kind: str, place: NewPlace, campaign: NewCampaign, clean_run: CleanRun, seed: int
) -> None:
    case, where, name = case_of(kind, form), place(store), f"{store} {form} {kind}"
    case.write_input(where)
    chance = random.Random(f"{seed} {name}")
    drivers = 3 if kind == "scattered" else 2
    hold_same(campaign(name, case, where), clean_run, planned(chance, kind, drivers, workers=1))


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("form", "kind"), FAULTY)
def test_kills_on_a_faulty_store(
    form: str, kind: str, faulty: Place, campaign: NewCampaign, clean_run: CleanRun, seed: int
) -> None:
    case, name = case_of(kind, form), f"faulty s3 {form} {kind}"
    case.write_input(faulty)
    chance = random.Random(f"{seed} {name}")
    hold_same(campaign(name, case, faulty), clean_run, planned(chance, kind, drivers=2, workers=1))


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_killed_drivers_on_a_cluster_that_stays(place: NewPlace, campaign: NewCampaign, clean_run: CleanRun) -> None:
    """The cluster outlives its drivers: tasks of a dead run may meet the next one."""
    case, where, name = case_of("best_of_n", "jsonl"), place("local"), "cluster jsonl best_of_n"
    case.write_input(where)
    address = ray.get_runtime_context().gcs_address
    kills = [Kill("driver", moment) for moment in ("plan", "writing", "writing", "unrecorded", "finish")]
    hold_same(campaign(name, case, where, run_options={"address": address}), clean_run, kills)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("store", "form", "kind"), HERE)
def test_kills_of_processes_of_this_machine(
    store: str, form: str, kind: str, place: NewPlace, campaign: NewCampaign, clean_run: CleanRun, seed: int
) -> None:
    """Without Ray; what comes out is what an undisturbed run on Ray gives."""
    case, where, name = case_of(kind, form), place(store), f"here {store} {form} {kind}"
    case.write_input(where)
    kills = planned(random.Random(f"{seed} {name}"), kind, drivers=2, workers=1)
    hold_same(campaign(name, case, where, run_options={"on": "here"}), clean_run, kills)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", SLOW)
def test_kills_of_the_whole_job_lose_no_row_of_a_slow_block(
    kind: str, place: NewPlace, campaign: NewCampaign, clean_run: CleanRun
) -> None:
    """Five times all processes are killed while the same rows are under way: none of them becomes a dead letter."""
    case, where = Case(kind, "jsonl", ms=700.0, files=(2,), cpus=1), place("local")  # type: ignore[arg-type]
    case.write_input(where)
    one = campaign(f"slow local jsonl {kind}", case, where)
    hold_same(one, clean_run, [Kill("job", "plan")] * 5)
    assert [(kill.effective, kill.finished_rows) for kill in one.kills] == [(True, 0)] * 5


@pytest.mark.chaos
def test_there_were_enough_kills(kills: list[Kill], request: pytest.FixtureRequest) -> None:
    campaigns = {kill.campaign for kill in kills if not kill.campaign.startswith("small")}
    if len(campaigns) < len([*MATRIX, *SCATTERED, *FAULTY, *HERE, *SLOW]) + 1:
        pytest.skip("counts the kills of a whole run of this file")
    hit = [kill for kill in kills if kill.effective]
    assert len(hit) >= MIN_KILLS
    assert {kill.target for kill in hit} == set(TARGETS)
    assert len({kill.phase for kill in hit}) >= 6


def test_a_small_seed_of_kills(tmp_path: Path, campaign: NewCampaign, clean_run: CleanRun) -> None:
    """A worker and a driver are killed, beside a row that kills its worker by itself."""
    case = Case("best_of_n", "jsonl", ms=4.0, files=SMALL_FILES, cpus=2)
    clean, _ = clean_run(case)
    poisoned, place = replace(case, poison=((5, "[dies: segfault]"),)), LocalPlace(tmp_path / "place")
    poisoned.write_input(place)
    one = campaign("small local jsonl best_of_n", poisoned, place)
    one.run([Kill("worker", "plan"), Kill("driver", "writing")])
    assert_same_but_dead(check_finished(place, "out"), clean, {"p00005": "[dies: segfault]"})
    assert sum(kill.effective for kill in one.kills) == 2


def test_a_small_seed_of_storage_faults(faulty: Place, clean_run: CleanRun) -> None:
    case = Case("score", "jsonl", ms=0.0, files=SMALL_FILES, cpus=2)
    case.write_input(faulty)
    run(case.job(faulty, "out"))
    clean, counts = clean_run(case)
    assert_same(check_finished(faulty, "out"), clean)
    assert tally(faulty, "out") == counts
