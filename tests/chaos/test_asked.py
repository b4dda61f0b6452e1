"""Jobs that ask chat models, killed at random: the same dataset in the end, and no kept answer asked for again.

Drivers, tasks and the actors that send requests are killed, and the whole job at once, at moments told by how many
requests the server has seen. ``make chaos`` runs ten seeds of each job, and some with the output on S3, where answers
of the last half second before a kill may be asked for again; ``make test`` one of each, without Ray.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.storage import StorageOptions
from rmbatch.endpoints.connections import close_all
from rmbatch.stores.answers import ResponseCache, key_of
from tests.chaos.victim import Victim
from tests.editing import Told, editor_server, requests
from tests.jobs.running import by, rows, run
from tests.servers.hostile import HostileServer, Late
from tests.servers.s3 import S3Server

NUM_ROWS = 60
LATE_S = 0.03
SEEDS = range(10)
WAIT_S = 240.0
SAFE_S = 1.5
"""Before a kill: answers that came earlier are kept, also on S3 (half a second, and the time of a put)."""
TARGETS = ("driver", "worker", "job")
JOBS = ("generate", "best_of_n", "correct")


def make_sums() -> str:
    """Sums with a wrong answer each, as JSON lines."""
    draw = random.Random(5)
    lines = []
    for n in range(NUM_ROWS):
        a, b = draw.randrange(100), draw.randrange(100)
        row = {"id": n, "prompt": f"Row {n}: {a} + {b}?", "reference": str(a + b)}
        lines.append(json.dumps({**row, "response": f"It is {a + b + 1}"}))
    return "\n".join(lines)


def answer_sum(told: Told) -> str:
    """Right in one of five seeds, whether it is asked to answer or to edit."""
    a, b = map(int, re.findall(r"(\d+) \+ (\d+)", told.prompt)[-1])
    return f"It is {a + b + told.seed % 5}"


@dataclass(frozen=True)
class Place:
    """Where a job writes to."""

    url: str
    storage: Mapping[str, str] = field(default_factory=dict)

    @property
    def options(self) -> StorageOptions:
        return StorageOptions(**self.storage)

    def rows(self) -> list[dict[str, Any]]:
        return by("id", rows(self.url, options=self.options))


def make_job(kind: str, folder: Path, url: str, on: str, place: Place) -> dict[str, Any]:
    source = folder / "in.jsonl"
    source.write_text(make_sums())
    math = {"math": {"reward": "math_verify"}}
    steps: dict[str, Any] = {
        "generate": {"generate": {"by": "model", "n": 4}, "input": {"path": str(source), "columns": {}}},
        "best_of_n": {"generate": {"by": "model", "n": 8, "stop_when": {"math": 1.0, "wave": 2}}, "rewards": math},
        "correct": {
            "correct": {
                "gate": {"below": 1.0},
                "editor": {"by": "model", "edits": 2},
                "rounds": 3,
                "stop": {"patience": 3},
            },
            "rewards": math,
        },
    }[kind]
    return {
        "job": kind,
        "input": {"path": str(source)},
        "output": {"path": place.url, "storage": {**place.storage}},
        "models": {"model": {"endpoint": url, "model": "editor", "in_flight": 8}},
        "run": {"on": on, "block_rows": 16},
        **steps,
    }


class Kept:
    """The answers that a job had kept when it was killed, and the requests that were answered well before that."""

    def __init__(self, place: Place, server: HostileServer) -> None:
        self._place, self._server = place, server
        self._service = server.url.removeprefix("http://")
        self._at_kills: list[tuple[int, list[Any], ResponseCache]] = []
        self._asked: list[tuple[float, int]] = []
        """When how many requests had come."""
        self._strikes: list[float] = []

    def watch(self) -> None:
        """To be called again and again."""
        self._asked.append((time.monotonic(), len(sent(self._server))))

    def strike(self) -> None:
        """Something is killed now, and may lose what it has not written yet."""
        self.watch()
        self._strikes.append(time.monotonic())

    def note(self) -> None:
        """The job is dead now."""
        answers = f"{self._place.url}/_rmbatch/answers"
        kept = ResponseCache.open(answers, self._place.options, service=self._service, model="editor")
        asked = sent(self._server)
        self._at_kills.append((len(asked), list(self._find_old(asked)), kept))

    def _find_old(self, asked: list[Any]) -> Iterator[Any]:
        """Requests that had come SAFE_S before whatever was killed next, and not while something was dying."""
        seen, looked_at = 0, 0.0
        for at, num in self._asked:
            strike = next((each for each in self._strikes if each >= looked_at), at)
            yield from asked[seen:num] if strike - at >= SAFE_S else ()
            seen, looked_at = num, at

    def count_repeats(self) -> tuple[int, int]:
        """Requests that were sent though their answers had been kept before, or had come well before a kill."""
        asked = sent(self._server)
        of_kept = of_old = 0
        for num_asked, old, kept in self._at_kills:
            known = {orjson.dumps(body) for body in old}
            of_kept += sum(key_of(self._service, orjson.dumps(body)) in kept for body in asked[num_asked:])
            of_old += sum(orjson.dumps(body) in known for body in asked[num_asked:])
        return of_kept, of_old

    def __len__(self) -> int:
        return len(self._at_kills[-1][2]) if self._at_kills else 0

    @property
    def num_old(self) -> int:
        return len(self._at_kills[-1][1]) if self._at_kills else 0


def strike(victim: Victim, target: str, chance: random.Random) -> bool:
    """Kill the driver, something that works for it, or all of it; whether all of it is dead now."""
    if target == "worker":
        deadline = time.monotonic() + 10
        while victim.alive() and not victim.kill_worker(chance) and time.monotonic() < deadline:
            time.sleep(0.02)
        return False
    if target == "job":
        victim.kill_all(chance)
    else:
        victim.kill_driver()
        victim.left_behind_s()
    return True


def wait_for(is_time: Callable[[], bool], victim: Victim, watch: Callable[[], None]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_time() and victim.alive() and time.monotonic() < deadline:
        watch()
        time.sleep(0.01)


def hold_same(
    kind: str, tmp_path: Path, on: str, seed: int, place: Place | None = None, late_s: float = LATE_S
) -> None:
    """Run the job undisturbed and once with three kills, and compare datasets and requests."""
    chance = random.Random(f"{kind} {seed}")
    undisturbed, place = Place(str(tmp_path / "clean")), place or Place(str(tmp_path / "killed"))
    with editor_server(answer_sum) as server:
        run(make_job(kind, tmp_path, server.url, "here", undisturbed))
        close_all()
        expected = len(requests(server))
        server.asked.clear()
        server.always = Late(late_s)
        file = tmp_path / "job.yaml"
        file.write_text(json.dumps(make_job(kind, tmp_path, server.url, on, place)))
        kept = Kept(place, server)
        with Victim(file) as victim:
            for share in sorted(chance.uniform(0.05, 0.9) for _ in TARGETS):
                if not victim.alive():
                    victim.start()
                wait_for(lambda share=share: len(sent(server)) > share * expected, victim, kept.watch)
                kept.strike()
                if victim.alive() and strike(victim, chance.choice(TARGETS), chance):
                    kept.note()
            if not victim.alive():
                victim.start()
            assert victim.wait(WAIT_S) == 0, victim.said()
        of_kept, of_old = kept.count_repeats()
    print(f"  {kind} {on} {seed}: {len(kept)} answers kept at the last kill; asked again: {of_kept}")
    print(f"    of {kept.num_old} that had come {SAFE_S} s before it, asked again: {of_old}")
    assert (of_kept, of_old) == (0, 0)
    assert place.rows() == undisturbed.rows()


def sent(server: HostileServer) -> list[Any]:
    return [body for _, body, _ in list(server.asked) if body is not None and Told(body).text != "Say hi."]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", JOBS)
def test_one_seed_of_kills_without_ray(kind: str, tmp_path: Path) -> None:
    hold_same(kind, tmp_path, "here", 0)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", JOBS)
def test_kills_of_jobs_that_ask(kind: str, seed: int, tmp_path: Path) -> None:
    hold_same(kind, tmp_path, "ray", seed)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("kind", JOBS)
def test_kills_of_jobs_that_ask_and_write_to_s3(kind: str, seed: int, tmp_path: Path, s3: S3Server) -> None:
    storage = {"endpoint": s3.endpoint}
    hold_same(kind, tmp_path, "ray", seed, Place(f"s3://{s3.buckets[0]}/{tmp_path.name}", storage), 5 * LATE_S)
