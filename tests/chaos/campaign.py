"""A run of kills on one output: each at a moment of its own, each followed by the same command, until the job finishes.

A moment is what has become of the output so far, read past the storage layer, and a random delay. What was killed, and
where the job stood, is kept for the table at the end.

    campaign = Campaign("local jsonl score", case, place, tmp_path, random.Random(7))
    campaign.run([Kill("driver", "scan"), Kill("worker", "writing"), Kill("driver", "finish")])
    print(table(campaign.kills))
"""

import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from connectors.attempts import SEEN
from connectors.commit import Commit
from tests.chaos.victim import Victim
from tests.chaos.workload import Case, Place

PHASES = ("start", "scan", "plan", "shuffle", "writing", "unrecorded", "finish", "manifest")
"""Where a job stands, in this order.

- ``start``: nothing is written yet
- ``scan``: it holds the lease, and starts Ray or reads the input to plan it
- ``plan``: the plan is written, no row is finished, and no shuffle is under way
- ``shuffle``: some shuffled rows are written, or none are yet and the input needs it; the shuffle is not complete
- ``writing``: some rows are finished
- ``unrecorded``: a data file stands there whose commit record does not
- ``finish``: all rows are finished, the manifest is not written
- ``manifest``: the manifest is written, the process is still there
"""
TARGETS = ("driver", "worker", "job")
MAX_DELAY_S = {"start": 4.0, "scan": 5.0, "plan": 4.0, "shuffle": 4.0, "writing": 3.0, "finish": 0.3, "manifest": 1.2}
"""How long after its phase was seen a kill may come; the phase may be another by then, which is what is recorded."""
MAX_BLOCK_DELAY_S = 3.0
"""How long after a block was begun the whole job may be killed."""
WAIT_S = 240.0


@dataclass(frozen=True)
class Kill:
    """One kill; planned first, then with what came of it."""

    target: Literal["driver", "worker", "job"]
    """job: the driver, its Ray and all workers at once, while a block is under way."""
    moment: str
    """The phase to wait for."""
    campaign: str = ""
    phase: str = ""
    """The phase in which it hit."""
    finished_rows: int = 0
    """Rows that were finished by then."""
    task: str = ""
    """What the killed worker was doing."""
    effective: bool = False
    """Whether it ended a living process that was at work."""


@dataclass
class Outlook:
    """What can be seen of a job in its output folder; records are read once."""

    place: Place
    output: str
    scattered: bool
    rows: dict[str, int] = field(default_factory=dict)
    old: frozenset[str] = frozenset()
    """Files that earlier runs left."""
    orphans: frozenset[str] = frozenset()
    """Files that may never get a record, because a kill has hit since they were written."""

    def begin(self) -> None:
        """What is there now is of earlier runs."""
        self.old = self.orphans = frozenset(self.place.names(self.output))

    def lost(self) -> None:
        """A worker was killed: its files are no sign of work that is under way."""
        self.orphans = frozenset(self.place.names(self.output))

    def phase(self) -> str:
        """One of PHASES."""
        names = set(self.place.names(self.output))
        private = {name.removeprefix(f"{self.output}/_rmbatch/") for name in names}
        if "manifest.json" in private:
            return "manifest"
        if "plan.json" not in private:
            return "scan" if names - self.old else "start"
        if not any(name.startswith("lease/") for name in private - self._old_private()):
            return "start"
        if self.scattered and "grouped.json" not in private:
            return "shuffle"
        records = {name for name in private if name.startswith("commits/") and name.endswith(".json")}
        if self._unrecorded(names, records):
            return "unrecorded"
        if self._finished(records) == self._planned():
            return "finish"
        return "writing" if records else "plan"

    @property
    def finished_rows(self) -> int:
        """Rows of the records seen so far."""
        return sum(self.rows.values())

    def block_under_way(self) -> bool:
        """Whether a task of this run is at work on a block."""
        markers = set(self.place.names(f"{self.output}/_rmbatch/attempts"))
        return any(not name.endswith(SEEN) for name in markers - self.old)

    def _old_private(self) -> set[str]:
        return {name.removeprefix(f"{self.output}/_rmbatch/") for name in self.old}

    def _unrecorded(self, names: set[str], records: set[str]) -> bool:
        recorded = {name.removeprefix("commits/").rsplit("-", 1)[0] for name in records}
        files = [name for name in names - self.orphans if name.startswith(f"{self.output}/data/u")]
        return any(name.rsplit("/", 1)[-1].rsplit("-", 1)[0] not in recorded for name in files)

    def _finished(self, records: set[str]) -> int:
        for name in records - self.rows.keys():
            self.rows[name] = Commit.from_json(self.place.read(f"{self.output}/_rmbatch/{name}")).num_rows
        return self.finished_rows

    def _planned(self) -> int:
        if not hasattr(self, "_planned_rows"):
            plan = json.loads(self.place.read(f"{self.output}/_rmbatch/plan.json"))
            self._planned_rows = sum(unit[2] for unit in plan["dataset"]["units"])
        return self._planned_rows


@dataclass
class Campaign:
    """Kills on one output, in a place of its own."""

    name: str
    case: Case
    place: Place
    folder: Path
    """For the job file."""
    chance: random.Random
    output: str = "out"
    source: Place | None = None
    """Where the input is. None: in ``place``."""
    env: Mapping[str, str] = field(default_factory=dict)
    run_options: Mapping[str, Any] = field(default_factory=dict)
    """More keys of the job's ``run``."""
    kills: list[Kill] = field(default_factory=list)
    left_behind_s: list[float] = field(default_factory=list)
    """How long the processes of each killed driver lived on, where the next run waited for their end."""

    def run(self, planned: Sequence[Kill]) -> None:
        """All kills, and then to the end; AssertionError if a run that was not killed fails."""
        job = self.case.job(self.place, self.output, self.source)
        job["run"] |= self.run_options
        job_file = self.folder / f"{self.name.replace(' ', '-')}.yaml"
        job_file.write_text(yaml.safe_dump(job, sort_keys=False))
        outlook = Outlook(self.place, self.output, self.case.kind == "scattered")
        with Victim(job_file, self.env) as victim:
            for kill in sorted(planned, key=lambda kill: PHASES.index(kill.moment)):
                if not victim.alive():
                    self._start(victim, outlook)
                self.kills.append(self._strike(victim, outlook, kill))
                print(f"  {self.name}: {_told(self.kills[-1])}", flush=True)
            while True:
                if not victim.alive() and victim.driver is not None and victim.driver.returncode == 0:
                    break
                if not victim.alive():
                    self._start(victim, outlook)
                code = victim.wait(WAIT_S)
                assert code == 0, f"{self.name}: exit {code} without a kill\n{victim.said()}"
            self.left_behind_s.append(victim.left_behind_s())

    def _start(self, victim: Victim, outlook: Outlook) -> None:
        code = victim.driver.returncode if victim.driver else -9
        assert code in (0, -9), f"{self.name}: exit {code} without a kill\n{victim.said()}"
        if self.chance.random() < 0.3:  # else the new run may meet what the killed one left running
            self.left_behind_s.append(victim.left_behind_s())
        outlook.begin()
        victim.start()

    def _strike(self, victim: Victim, outlook: Outlook, kill: Kill) -> Kill:
        """Wait for the kill's moment and do it."""
        deadline = time.monotonic() + WAIT_S
        wanted, phase = PHASES.index(kill.moment), ""
        while victim.alive() and time.monotonic() < deadline:
            phase = outlook.phase()
            if kill.moment == phase or (PHASES.index(phase) > wanted and kill.moment != "unrecorded"):
                break
            if kill.moment == "unrecorded" and phase == "finish":
                break
            time.sleep(0.001)
        delay = self.chance.uniform(0, MAX_DELAY_S.get(kill.moment, 0))
        if kill.moment != "unrecorded" and (phase == kill.moment or kill.moment == "writing"):
            time.sleep(delay)
            phase = outlook.phase()
        task = ""
        if kill.target == "driver":
            effective = victim.alive() and victim.kill_driver()
        elif kill.target == "job":
            while victim.alive() and not outlook.block_under_way() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(self.chance.uniform(0, MAX_BLOCK_DELAY_S))
            effective = victim.alive() and victim.kill_all(self.chance)
        else:
            while victim.alive() and not task and time.monotonic() < deadline:
                task = victim.kill_worker(self.chance)
                time.sleep(0.005)
            effective = bool(task)
            outlook.lost()
        found = {"phase": phase, "finished_rows": outlook.finished_rows, "task": task, "effective": effective}
        return replace(kill, campaign=self.name, **found)


def _told(kill: Kill) -> str:
    what = f"{kill.target} killed" if kill.effective else f"{kill.target} was not there to kill"
    return f"{what} in {kill.phase}, {kill.finished_rows} rows finished{f', in {kill.task}' if kill.task else ''}"


def table(kills: Sequence[Kill]) -> str:
    """Effective kills by campaign, target and phase."""
    hit = [kill for kill in kills if kill.effective]
    names = list(dict.fromkeys(kill.campaign for kill in kills))
    counts = Counter((kill.campaign, kill.phase, kill.target) for kill in hit)
    width = max(map(len, [*names, "campaign"]))
    lines = [f"{'campaign':{width}}  " + "".join(f"{phase:>11}" for phase in PHASES) + "      all"]
    for name in [*names, "all"]:
        cells = []
        for phase in PHASES:
            told = []
            for target in TARGETS:
                hits = sum(n for key, n in counts.items() if name in (key[0], "all") and key[1:] == (phase, target))
                told.append(f"{hits}{target[0]}" if hits else "")
            cells.append(f"{' '.join(filter(None, told)) or '.':>11}")
        lines.append(f"{name:{width}}  " + "".join(cells) + f"{sum(name in (k.campaign, 'all') for k in hit):9}")
    told = ", ".join(f"{name[0]} = {name} ({sum(kill.target == name for kill in hit)})" for name in TARGETS)
    lines.append(f"{len(hit)} effective kills of {len(kills)}: {told}")
    return "\n".join(lines)
