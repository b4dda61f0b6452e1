"""Shows a training: its plan, its status, its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from jobs.config.training import CARD, CURVES, MODEL, REPORT
from jobs.show.display import draw_table
from rmbatch.training.card import describe_accuracy


@dataclass(frozen=True)
class TrainReport:
    """The report of a training, as in ``report.json``."""

    output: str
    values: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(self.values)

    def show(self, console: Console) -> None:
        """Print it for a person."""
        values = self.values
        rows, held_out = values["rows"], values["held_out"]
        lines = [
            ("recipe", f"{values['recipe']}, from {values['base']}"),
            ("rows", f"{rows['train']:,} {values['noun']} to train on, {rows['held_out']:,} held out"),
            ("steps", f"{values['steps']:,}, in {values['attempts']} attempt{'s' if values['attempts'] > 1 else ''}"),
            ("held out", describe_accuracy(held_out)),
        ]
        if held_out.get("length_alone") is not None:
            lines.append(("length alone", f"{held_out['length_alone']:.1%}"))
        files = [f"{MODEL}/", f"{MODEL}/{CARD}", REPORT, *([CURVES] if values["curves"] else [])]
        lines.append(("files", f"{self.output}: {', '.join(files)}"))
        console.print(draw_table("train_rm", lines))


@dataclass(frozen=True)
class TrainStatus:
    """How far a training is."""

    output: str
    state: str
    """finished, running or not finished."""
    phase: str
    """rows, training, converting or done."""
    step: int
    steps: int | None
    """Planned steps. None: not known yet."""
    checkpoint: int | None
    """The step of the last complete checkpoint."""
    attempts: int
    latest: Mapping[str, float]
    """The latest values of metrics."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))

    def show(self, console: Console) -> None:
        """Print it for a person."""
        more = " (run the same command to go on)" if self.state == "not finished" else ""
        of = "" if self.steps is None else f" of {self.steps:,}"
        saved = "none yet" if self.checkpoint is None else f"step {self.checkpoint:,}"
        lines = [("job", "train_rm"), ("state", self.state + more), ("phase", self.phase)]
        lines += [("step", f"{self.step:,}{of}"), ("checkpoint", saved), ("attempts", str(self.attempts))]
        lines += [(name, f"{value:.4g}") for name, value in self.latest.items()]
        console.print(draw_table(self.output, lines))


@dataclass(frozen=True)
class TrainPlan:
    """What a training would do."""

    recipe: str
    base: str
    rows: str
    steps: int
    gpus: int
    cpus: int
    command: Sequence[str]
    packages: Mapping[str, str | None]
    output: str

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))

    def show(self, console: Console) -> None:
        """Print it for a person."""
        versions = ", ".join(f"{name} {version}" for name, version in self.packages.items() if version is not None)
        needs = f"{self.gpus} GPUs" + (f", {self.cpus} CPUs of Ray" if self.cpus else "")
        lines = [
            ("recipe", f"{self.recipe}, from {self.base}"),
            ("rows", self.rows),
            ("steps", f"{self.steps:,}"),
            ("needs", needs if self.gpus else "no GPU"),
            ("environment", versions),
            ("command", " ".join(self.command)),
            ("output", self.output),
        ]
        console.print(draw_table("train_rm", lines))
