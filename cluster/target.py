"""Where a job can be submitted to, so that it runs without this process.

A new target is one module with a class that keeps the promises of ``Target``, and one line in ``TARGETS``.

    target = open_target("ray", "http://head:8265")
    print(target.render(submission))            # what would be done, as text; nothing is done
    name = target.submit(submission)
    target.status(name), target.logs(name)
"""

import importlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from connectors.errors import UserError

TARGETS = {
    "local": "cluster.background:Background",
    "ray": "cluster.ray_jobs:RayJobs",
}
"""By name: classes that are made from an address."""

State = Literal["pending", "running", "finished", "failed", "cancelled"]


@dataclass(frozen=True)
class Submission:
    """A job to be run elsewhere: ``rmbatch run`` with these arguments."""

    job_file: str
    overrides: Sequence[str] = ()
    folder: str = "."
    """The folder that the job file and the user's own rewards are in. A target that runs elsewhere sends it along."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the job needs, such as JUDGE_URL."""

    @property
    def command(self) -> list[str]:
        """The command that the target runs in the folder."""
        return ["python", "-m", "jobs", "run", self.job_file, *self.overrides]

    def command_line(self) -> str:
        """The same for a shell."""
        return shlex.join(self.command)


class Target(Protocol):
    """A place that runs jobs. All but ``render`` raise UserError where it cannot be reached or knows no such job."""

    def render(self, submission: Submission) -> str:
        """What ``submit`` would do, as text. Pure: it asks and writes nothing."""

    def submit(self, submission: Submission) -> str:
        """Start the job; the name by which it is known there."""

    def status(self, name: str) -> State:
        """How far a job is."""

    def logs(self, name: str) -> str:
        """What a job has said so far."""

    def cancel(self, name: str) -> None:
        """Stop a job. Its output stays, and the same submission goes on from there."""


def open_target(kind: str, address: str | None = None) -> Target:
    """The target of this kind at an address (None: its own default). Raises UserError for an unknown kind."""
    if kind not in TARGETS:
        raise UserError(f"target: {kind!r} is no place for jobs; write one of: {', '.join(TARGETS)}")
    module, _, name = TARGETS[kind].partition(":")
    made: Any = getattr(importlib.import_module(module), name)
    target: Target = made(address)
    return target
