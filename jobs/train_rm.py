"""The train_rm job: verl trains a reward model in an environment of its own; the job prepares, watches and converts.

What stands beside the output says how far it is, and after a crash the same command goes on from there:

    _rmbatch/training.json      the identity of the job that began the output
    _rmbatch/data/counts.json   train.parquet and held_out.parquet are whole
    _rmbatch/attempts/1/        a start of verl: command.json, log, metrics.jsonl, tensorboard/
    checkpoints/                verl's; a later attempt begins with the last complete one
    _rmbatch/trained.json       verl has ended well, at this step
    model/                      the last checkpoint, merged and converted, with its card
    report.json                 the end

    job: train_rm
    recipe: bradley_terry
    input: {path: pairs/, columns: {prompt: prompt, chosen: chosen, rejected: rejected}}
    base: Qwen/Qwen2.5-7B-Instruct
    train: {epochs: 1, learning_rate: 1e-6, batch: 128}
    output: {path: /shared/rm/run1}
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from connectors.errors import JobError
from connectors.lease import Lease, may_be_running
from connectors.storage import Folder
from jobs.config.training import CARD, CURVES, MODEL, REPORT, TrainJob
from jobs.run.input import list_job_input
from jobs.run.job import JobType
from jobs.run.training_rows import HELD_OUT, TRAIN, RowCounts, read_counts, write_training_rows
from jobs.show.display import Display
from jobs.show.training import TrainPlan, TrainReport, TrainStatus
from rmbatch.discovery.measures import estimate_share
from rmbatch.training import command as verl
from rmbatch.training.card import write_card
from rmbatch.training.checkpoints import last_step, step_folder
from rmbatch.training.command import Attempt
from rmbatch.training.metrics import (
    Points,
    first_value,
    join_attempts,
    last_value,
    plot_curves,
    read_metrics,
)
from rmbatch.training.overrides import render
from rmbatch.training.process import Running, ask
from rmbatch.training.recipe import Places, Resources
from rmbatch.training.recipes.bradley_terry import length_baseline

JOB, TRAINED, ATTEMPTS, CHECKPOINTS = "training.json", "trained.json", "attempts", "checkpoints"
POLL_S = 1.0
LATEST = ("train/loss", "train/accuracy", "critic/score/mean")
"""Metrics that status shows beside the recipe's accuracy."""


class TrainRm(JobType[TrainJob]):
    """A training on its output."""

    config = TrainJob
    parts = (MODEL, CHECKPOINTS)

    def __init__(self, job: TrainJob, display: Display) -> None:
        super().__init__(job, display)
        self.recipe = job.make_recipe()
        if Path(self.recipe.base).is_dir():
            self.recipe.base = str(Path(self.recipe.base).absolute())  # verl's processes work elsewhere
        self._root = Path(job.output.path.removeprefix("file://")).absolute()
        self._own = self._root / "_rmbatch"
        self._python = ""
        self._composed: dict[str, Any] = {}

    def identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = json.loads(json.dumps(self.job.identity()))
        return identity

    @classmethod
    def read_identity(cls, output: Folder) -> Mapping[str, Any] | None:
        text = output.folder("_rmbatch").read_if_exists(JOB)
        return None if text is None else orjson.loads(text)

    def result(self) -> TrainReport | None:
        finished = self.output.read_if_exists(REPORT)
        return None if finished is None else TrainReport(self.output.url, orjson.loads(finished))

    def check(self) -> None:
        verl.check_base(self.job.base)
        verl.check_ray_job(os.environ)
        self._python = verl.find_python(self.job.verl_python, os.environ)
        with self.display.show_step("composing verl's configuration"):
            self._composed = self._compose()
        self._check_resources()
        if read_counts(self._own / "data") is None:
            with self.display.show_step("reading the input"):
                counts = write_training_rows(self.job, self.recipe, list_job_input(self.job), None, self.display)
            self.display.say(counts.line(self.recipe.noun))

    def work(self, lease: Lease) -> TrainReport:
        self.private.write(JOB, orjson.dumps(self.identity(), option=orjson.OPT_INDENT_2))
        counts = read_counts(self._own / "data") or write_training_rows(
            self.job, self.recipe, list_job_input(self.job), self._own / "data", self.display
        )
        if not (self._own / TRAINED).exists():
            self._train(counts, lease)
        lease.check()
        step = json.loads((self._own / TRAINED).read_text())["step"]
        report = self._build_report(counts, step)
        with self.display.show_step("converting the model"):
            self._convert(step, report)
        self.output.write(REPORT, orjson.dumps(report, option=orjson.OPT_INDENT_2))  # written last: it marks the end
        return TrainReport(self.output.url, report)

    def plan(self, gpu: str) -> TrainPlan:
        del gpu
        verl.check_base(self.job.base)
        self._python = verl.find_python(self.job.verl_python, os.environ)
        self._composed = self._compose()
        counts = read_counts(self._own / "data") or write_training_rows(
            self.job, self.recipe, list_job_input(self.job), None, self.display
        )
        needs = self.recipe.resources(self._composed["config"])
        attempt = Attempt(str(self._own / ATTEMPTS / "1"))
        overrides = self._overrides(self._composed["facts"], attempt)
        command = verl.train_command(self.recipe, self._python, overrides, attempt)
        return TrainPlan(
            self.job.recipe,
            self.job.base,
            counts.line(self.recipe.noun),
            self._count_steps(counts),
            needs.gpus,
            needs.cpus,
            command,
            self._composed["facts"]["packages"],
            self.job.output.path,
        )

    @classmethod
    def status(cls, output: Folder) -> TrainStatus:
        root = Path(output.path())
        identity = cls.read_identity(output) or {}
        points = _read_points(root / "_rmbatch" / ATTEMPTS)
        is_finished = output.exists(REPORT)
        is_running = may_be_running(output.folder("_rmbatch/lease"))
        counts = read_counts(root / "_rmbatch/data")
        phase = "done" if is_finished else "rows" if counts is None else "training"
        if phase == "training" and (root / "_rmbatch" / TRAINED).exists():
            phase = "converting"
        accuracy = f"val-core/{identity.get('recipe')}/acc/mean@1"
        names = (*LATEST, "held_out/accuracy", accuracy)
        values = {name: last_value(points, name) for name in names}
        total = last_value(points, "train/total_steps")
        return TrainStatus(
            output.url,
            "finished" if is_finished else "running" if is_running else "not finished",
            phase,
            max(points, default=0),
            None if total is None else int(total),
            last_step(root / CHECKPOINTS),
            len(_list_attempts(root / "_rmbatch" / ATTEMPTS)),
            {name: value for name, value in values.items() if value is not None},
        )

    def describe_output(self) -> str:
        if self.output.exists(REPORT):
            return "a trained model and its checkpoints"
        step = last_step(self._root / CHECKPOINTS)
        return "an unfinished training" + ("" if step is None else f" at step {step:,}")

    def discard(self) -> None:
        self.output.delete([REPORT, CURVES])
        for name in (MODEL, CHECKPOINTS, "rollouts"):
            shutil.rmtree(self._root / name, ignore_errors=True)
        for name in ("data", ATTEMPTS):
            shutil.rmtree(self._own / name, ignore_errors=True)
        self.private.delete([TRAINED, JOB])

    def _places(self) -> Places:
        data = self._own / "data"
        return Places(
            str(data / TRAIN),
            str(data / HELD_OUT),
            str(self._root / CHECKPOINTS),
            str(self._own / "held_out_scores.jsonl"),
            str(self._root / "rollouts"),
        )

    def _overrides(self, facts: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        cluster: dict[str, str] = {}
        if self._address() is not None and self.recipe.config_name == "ppo_trainer":
            cluster = verl.cluster_overrides(self._python, self._environment(attempt))
        return verl.all_overrides(self.recipe.overrides(self._places()), self.job.verl, facts, cluster)

    def _environment(self, attempt: Attempt) -> dict[str, str]:
        environment = verl.environment(os.environ, self.recipe.train.device, attempt)
        return environment | ({"RAY_ADDRESS": self._address() or ""} if self._address() else {})

    def _address(self) -> str | None:
        return self.job.run.address or os.environ.get("RAY_ADDRESS") or None

    def _compose(self) -> dict[str, Any]:
        """The composed configuration and the facts of verl's environment. Raises UserError for what does not fit."""
        command = verl.compose_command(self.recipe, self._python)
        facts = ask(command, "[]")["facts"]
        verl.check_packages(facts, self._python, self.recipe)
        composed: dict[str, Any] = ask(command, json.dumps(render(self._overrides(facts, Attempt(str(self._own))))))
        verl.check_unknown(composed, self.job.verl)
        return composed

    def _check_resources(self) -> None:
        needed = self.recipe.resources(self._composed["config"])
        if needed.cpus and self._address():
            from cluster.local import attached, read_resources

            with attached(self._address()):
                cpus, gpus = read_resources()
            verl.check_resources(needed, Resources(gpus, cpus), f"the Ray cluster at {self._address()}")
            return
        told = self._composed["config"].get("ray_kwargs", {}).get("ray_init", {}).get("num_cpus")
        there = Resources(self._composed["facts"]["gpus"], int(told or os.cpu_count() or 1))
        verl.check_resources(needed, there, "this machine")

    def _count_steps(self, counts: RowCounts) -> int:
        train = self.recipe.train
        return train.steps or counts.train // train.batch * train.epochs

    def _train(self, counts: RowCounts, lease: Lease) -> None:
        """Start verl and watch it to its end. Raises JobError where it failed."""
        attempts = self._own / ATTEMPTS
        folder = attempts / str(max((int(each.name) for each in _list_attempts(attempts)), default=0) + 1)
        folder.mkdir(parents=True)
        attempt = Attempt(str(folder))
        overrides = self._overrides(self._composed["facts"], attempt)
        command = verl.train_command(self.recipe, self._python, overrides, attempt)
        (folder / "command.json").write_text(json.dumps(command, indent=1))
        begun = last_step(self._root / CHECKPOINTS)
        if begun is not None:
            self.display.say(f"going on from the checkpoint of step {begun:,}")
        total = self._count_steps(counts)
        with (
            self.display.show_progress("train", total, "steps", begun or 0) as advance_to,
            Running(command, self._environment(attempt), attempt.log) as running,
        ):
            while running.status() is None:
                time.sleep(POLL_S)
                lease.check()
                points = _read_points(attempts)
                advance_to(min(max(points, default=begun or 0), total), self._note(points))
            if running.status() != 0:
                raise JobError(
                    f"verl stopped: {running.explain_failure()}. The same command goes on from the last checkpoint"
                )
        step = last_step(self._root / CHECKPOINTS)
        if step is None:
            raise JobError(f"verl ended without a checkpoint in {self._root / CHECKPOINTS}; see {attempt.log}")
        (self._own / TRAINED).write_text(json.dumps({"step": step}))

    def _note(self, points: Points) -> str:
        names = {"loss": "train/loss", "reward": "critic/score/mean", "held out": self.recipe.accuracy_metric}
        found = {label: last_value(points, name) for label, name in names.items()}
        return ", ".join(f"{label} {value:.3f}" for label, value in found.items() if value is not None)

    def _build_report(self, counts: RowCounts, step: int) -> dict[str, Any]:
        recipe, attempts = self.recipe, self._own / ATTEMPTS
        points = _read_points(attempts)
        has_curves = plot_curves(points, recipe.curves, str(self._root / CURVES))
        if not has_curves:
            self.display.say("no picture of the curves was drawn: pip install 'rmbatch[report]'")
        return {
            "job": "train_rm",
            "recipe": recipe.name,
            "base": recipe.base,
            "noun": recipe.noun,
            "rows": counts.plain(),
            "train": recipe.train.model_dump(mode="json"),
            "verl": self.job.verl,
            "packages": self._composed["facts"]["packages"],
            "steps": step,
            "attempts": len(_list_attempts(attempts)),
            "held_out": self._measure(points, counts),
            "curves": has_curves,
        }

    def _measure(self, points: Points, counts: RowCounts) -> dict[str, Any]:
        """The accuracy on held-out rows with its interval, and what it is compared with."""
        name = self.recipe.accuracy_metric
        accuracy = last_value(points, name)
        rows = int(last_value(points, "held_out/pairs") or counts.held_out)
        share = None if accuracy is None else estimate_share(round(accuracy * rows), rows)
        found: dict[str, Any] = {"accuracy": accuracy, "rows": rows, "before": first_value(points, name)}
        found |= {"low": share and share.low, "high": share and share.high}
        if self.recipe.kind == "scalar":
            train, held_out = (
                pq.read_table(self._own / "data" / file, columns=["chosen", "rejected"]) for file in (TRAIN, HELD_OUT)
            )
            found["length_alone"] = length_baseline(train, held_out)
        return found

    def _convert(self, step: int, report: Mapping[str, Any]) -> None:
        """Make the checkpoint of a step a model folder with its card. Raises JobError where that fails."""
        model = self._root / MODEL
        if model.exists():
            return
        unfinished = self._root / f"{MODEL}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        shards = self.recipe.checkpoint_folder(step_folder(self._root / CHECKPOINTS, step))
        environment = self._environment(Attempt(str(self._own)))
        command = verl.convert_command(self.recipe, self._python, shards, str(unfinished))
        with Running(command, environment, str(self._own / "convert.log")) as running:
            while running.status() is None:
                time.sleep(POLL_S / 4)
            if running.status() != 0:
                raise JobError(f"the checkpoint {shards} could not be converted: {running.explain_failure()}")
        (unfinished / CARD).write_text(write_card(report, self.recipe.describe_use(str(model))), encoding="utf-8")
        unfinished.rename(model)


def _list_attempts(folder: Path) -> list[Path]:
    """The folders of the attempts, in order."""
    if not folder.is_dir():
        return []
    return sorted((each for each in folder.iterdir() if each.name.isdecimal()), key=lambda each: int(each.name))


def _read_points(folder: Path) -> Points:
    """The metrics of all attempts."""
    texts = []
    for attempt in _list_attempts(folder):
        file = Path(Attempt(str(attempt)).metrics)
        texts.append(file.read_text(encoding="utf-8", errors="replace") if file.exists() else "")
    return join_attempts([read_metrics(text) for text in texts])
