"""A job process that can be killed and started again, with its own Ray, and all processes that came from it.

The command is what a user types (``python -m jobs run job.yaml``), in a session of its own. Every process that descends
from it carries a token in its environment, so that nothing is killed here that was not started here, and that a test
can tell what outlived a killed driver.

    with Victim(job_file) as victim:
        victim.start()
        victim.kill_worker(random.Random(1))
        victim.kill_driver()
        victim.start()
        assert victim.wait() == 0
"""

import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from tests.servers.s3 import REPOSITORY

TOKEN = "RMBATCH_CHAOS_VICTIM"
RAYS_OWN = ("IDLE", "DashboardAgent", "RuntimeEnvAgent", "_StatsActor", "_Autoscaling", "Autoscaling")
"""Titles of workers that do nothing for the job. (A raylet ends with its agents: that would be the loss of a node.)"""
LEFT_BEHIND_S = 120.0
"""How long the Ray of a killed driver may take to end by itself."""


class Victim:
    """One job file, run again and again."""

    def __init__(self, job_file: Path, env: Mapping[str, str] | None = None) -> None:
        self.job_file = job_file
        self.token = secrets.token_hex(8)
        # Ray's sockets live below it, and a socket's path has at most 107 characters.
        self.ray_folder = Path(tempfile.mkdtemp(prefix="chaos", dir="/tmp"))
        # Without the pytest process's own Ray, but with the token that a job needs to reach it by its address.
        self.env = {key: value for key, value in os.environ.items() if not re.match("RAY_(?!AUTH_)", key)}
        self.env |= {TOKEN: self.token, "RAY_TMPDIR": str(self.ray_folder), **(env or {})}
        self.driver: subprocess.Popen[bytes] | None = None
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the victim
        self.started = 0.0

    def __enter__(self) -> "Victim":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive():
            self.kill_driver()
        for process in self.processes():
            process.kill()
        shutil.rmtree(self.ray_folder, ignore_errors=True)
        self.log.close()

    def start(self) -> None:
        """The command, once more."""
        self.log.seek(0, os.SEEK_END)
        self.log.write(f"--- run {time.time():.0f}\n".encode())
        self.log.flush()
        command = [sys.executable, "-m", "jobs", "run", str(self.job_file)]
        self.driver = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.started = time.monotonic()

    def alive(self) -> bool:
        """Whether the driver runs."""
        return self.driver is not None and self.driver.poll() is None

    def wait(self, timeout_s: float = 240) -> int:
        """The driver's exit code."""
        assert self.driver is not None
        return self.driver.wait(timeout_s)

    def said(self, num_bytes: int = 4000) -> str:
        """The end of what all runs printed."""
        self.log.seek(0)
        return self.log.read()[-num_bytes:].decode(errors="replace")

    def kill_driver(self) -> bool:
        """SIGKILL; False if it had ended before."""
        assert self.driver is not None
        self.driver.send_signal(signal.SIGKILL)
        return self.driver.wait() == -signal.SIGKILL

    def kill_all(self, chance: random.Random) -> bool:
        """SIGKILL the whole job, as when its machines are switched off; False if it had ended before."""
        assert self.driver is not None
        while found := list(self.processes()):
            chance.shuffle(found)
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        return self.driver.wait() == -signal.SIGKILL

    def workers(self) -> list[tuple[psutil.Process, str]]:
        """Workers below this driver that are at work for the job, and their tasks."""
        assert self.driver is not None
        try:
            below = psutil.Process(self.driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        titled = [(process, task_of(process)) for process in below]
        return [(process, task) for process, task in titled if task and not task.startswith(RAYS_OWN)]

    def kill_worker(self, chance: random.Random) -> str:
        """SIGKILL a worker that is at work; the task that it died in, or "" if none was at work."""
        workers = self.workers()
        tasks = [found for found in workers if not found[1].startswith("LocalBoard")]
        if not tasks:
            return ""
        # The actor behind the progress display is there all the time; now and then it is the one.
        process, task = chance.choice(workers if chance.random() < 0.2 else tasks)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            return ""
        return task

    def processes(self) -> Iterator[psutil.Process]:
        """Every living process that came from any run of this victim."""
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(TOKEN) == self.token:
                    yield process
            except psutil.Error:
                continue

    def left_behind_s(self) -> float:
        """Seconds until no process of ended runs is left; raises AssertionError after ``LEFT_BEHIND_S``."""
        began = time.monotonic()
        while left := [process.name() for process in self.processes()]:
            assert time.monotonic() < began + LEFT_BEHIND_S, f"still there after {LEFT_BEHIND_S:.0f} s: {left}"
            time.sleep(0.1)
        return time.monotonic() - began


def task_of(process: psutil.Process) -> str:
    """What a worker is doing: one of Ray's by its title, one of this machine ``here``; "" for any other process."""
    try:
        title = " ".join(process.cmdline())
        if "rmbatch.pipeline.worker" in title:
            return "here"
        return title.removeprefix("ray::").strip() if title.startswith("ray::") else ""
    except psutil.Error:
        return ""
