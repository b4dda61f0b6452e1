"""What the chaos tests share: the seed, the clean runs to compare with, and the table of kills at the end."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, Kill, table
from tests.chaos.workload import Case, LocalPlace, Rows, check_finished, tally
from tests.jobs.running import run

CleanRun = Callable[[Case], tuple[Rows, dict[str, int]]]


@pytest.fixture(scope="session")
def seed() -> int:
    """RMBATCH_CHAOS_SEED, else a new one; printed, so that a failure can be repeated."""
    chosen = int(os.environ.get("RMBATCH_CHAOS_SEED") or random.SystemRandom().randrange(2**31))
    print(f"\nRMBATCH_CHAOS_SEED={chosen}", flush=True)
    return chosen


@pytest.fixture(scope="session")
def clean_run(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> CleanRun:
    """Rows and tally of a run that nobody disturbed, on local disk; each case runs once."""
    known: dict[Case, tuple[Rows, dict[str, int]]] = {}

    def clean(case: Case) -> tuple[Rows, dict[str, int]]:
        if case not in known:
            place = LocalPlace(tmp_path_factory.mktemp("clean"))
            case.write_input(place)
            run(case.job(place, "out"))
            known[case] = check_finished(place, "out"), tally(place, "out")
        return known[case]

    return clean


@pytest.fixture(scope="module")
def kills() -> Iterator[list[Kill]]:
    """Collects the kills of a module's campaigns; the table is printed at its end."""
    collected: list[Kill] = []
    yield collected
    if collected:
        print(f"\n\n{table(collected)}", flush=True)


@pytest.fixture
def campaign(tmp_path: Path, seed: int, kills: list[Kill]) -> Iterator[Callable[..., Campaign]]:
    """Makes a Campaign whose moments follow from the seed and its name."""
    made: list[Campaign] = []

    def make(name: str, case: Case, place: object, **more: object) -> Campaign:
        made.append(Campaign(name, case, place, tmp_path, random.Random(f"{seed} {name}"), **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        kills += one.kills
