"""Rows that kill the process which scores them become dead letters; all other rows get what a clean run gives them."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, Kill
from tests.chaos.conftest import CleanRun
from tests.chaos.test_kills import NewCampaign
from tests.chaos.workload import CANDIDATES, SMALL_FILES, Case, LocalPlace, assert_same_but_dead, check_finished, tally

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

FIRST, SECOND = 5, 40
"""Prompts of two units."""


def run_poisoned(
    case: Case, poison: dict[int, str], campaign: NewCampaign, folder: Path, kills: list[Kill]
) -> tuple[Campaign, LocalPlace]:
    place = LocalPlace(folder / "place")
    poisoned = replace(case, poison=tuple(poison.items()))
    poisoned.write_input(place)
    one = campaign(f"poison {case.format} {case.kind}", poisoned, place)
    one.run(kills)
    return one, place


@pytest.mark.parametrize(
    ("form", "kind", "poison"),
    [
        ("parquet", "score", {FIRST: "[dies: exit]", SECOND: "[dies: sigkill]"}),
        ("jsonl", "best_of_n", {FIRST: "[dies: segfault]", SECOND: "[dies: exit]"}),
        ("jsonl", "adjacent", {SECOND: "[dies: sigkill]"}),
        ("parquet", "scattered", {FIRST: "[dies: segfault]"}),
    ],
)
def test_rows_that_kill_their_worker(
    form: str, kind: str, poison: dict[int, str], campaign: NewCampaign, clean_run: CleanRun, tmp_path: Path
) -> None:
    case = Case(kind, form, ms=1.0, files=SMALL_FILES, cpus=2)  # type: ignore[arg-type]
    clean, _ = clean_run(case)
    _, place = run_poisoned(case, poison, campaign, tmp_path, [])
    dead = {}
    for number, mark in poison.items():
        if kind == "best_of_n":
            dead[f"p{number:05}"] = mark
        elif kind == "score":
            dead[f"p{number:05}-1"] = mark
        else:  # a group is scored as a whole, and given up as a whole
            dead |= {f"p{number:05}-{place}": mark if place == 1 else "question" for place in range(CANDIDATES)}
    assert_same_but_dead(check_finished(place, "out"), clean, dead)
    assert tally(place, "out")["dead.killed_worker"] == len(dead)


def test_a_row_that_kills_while_drivers_are_killed_too(
    campaign: NewCampaign, clean_run: CleanRun, tmp_path: Path
) -> None:
    case = Case("score", "jsonl", ms=1.0, files=SMALL_FILES, cpus=2)
    clean, _ = clean_run(case)
    kills = [Kill("driver", "plan"), Kill("driver", "writing")]
    _, place = run_poisoned(case, {SECOND: "[dies: segfault]"}, campaign, tmp_path, kills)
    assert_same_but_dead(check_finished(place, "out"), clean, {f"p{SECOND:05}-1": "[dies: segfault]"})
