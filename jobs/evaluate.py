"""The evaluate job: measures rewards, and recorded verdicts, on benchmarks.

job: evaluate
suites: {rewardbench2: {path: hf://datasets/allenai/reward-bench-2}}
rewards: {ours: {model: checkpoints/rm/hf}}
output: {path: evaluation/}

It has three parts. The items of all suites become one dataset below the output; the job scores its rows like any other
job, so it resumes, keeps answers and stays in its budget; then a pass over the scored rows makes the figures. Each part
begins where the one before has finished, so after a crash the same command goes on.
"""

import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.lease import Lease, may_be_running
from connectors.listing import includes, list_input
from connectors.planning import plan_dataset
from connectors.storage import Folder
from connectors.units import Range
from jobs.config.evaluate import ITEMS, EvaluateJob
from jobs.config.identity import job_identity
from jobs.run.job import Showable
from jobs.run.output import storage_options
from jobs.run.plan import plan_job
from jobs.run.rows import RowJob, Summary
from jobs.run.suites import build_items
from jobs.score import fit_score
from jobs.show.display import Display
from jobs.show.evaluation import LEADERBOARD, draw_leaderboard, write_page
from jobs.show.evaluation_plots import draw_plots
from jobs.show.status import OutputStatus
from rmbatch.evaluation.base import Judged, load_suite
from rmbatch.evaluation.items import METRIC_COLUMNS, RECORDED, to_items, to_judged, to_recorded
from rmbatch.evaluation.report import leaderboard, summarise
from rmbatch.evaluation.tally import SuiteTally
from rmbatch.stages.base import Fit

EVALUATION, PROTOCOL, PLOTS, BY_ITEM = "evaluation.json", "protocol.json", "plots", "items"
"""Files and folders of the output."""
BUILT = "items.json"
"""Written once all items are there: what was read of each suite."""
OF_FIGURES = ("compare", "replicates", "seed")
"""The settings that decide figures and no score: they may change on a finished output, which then is measured again."""
SAMPLE_ITEMS = 64
"""Items of each suite that a job is fitted to before it begins."""
READ_ROWS = 16_384
ITEMS_PER_FILE = 131_072
_PACKAGES = ("rmbatch", "pyarrow", "numpy", "polars", "ray", "vllm", "transformers", "torch")


@dataclass(frozen=True)
class Evaluation(Summary):
    """The result of a finished evaluation."""

    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """As in ``evaluation.json``: suites, comparisons, protocol."""

    def show(self, console: Console) -> None:
        super().show(console)
        draw_leaderboard(self.evaluation, console)
        console.print(f"{self.output}/{EVALUATION}, {LEADERBOARD}, {BY_ITEM}/, {PLOTS}/", highlight=False)


class Evaluate(RowJob[EvaluateJob]):
    """The evaluate job on its output."""

    config = EvaluateJob
    can_retry = False

    def __init__(self, job: EvaluateJob, display: Display) -> None:
        super().__init__(job, display)
        for name, suite in job.suites.items():
            for path in (path for paths in suite.paths().values() for path in paths):
                if includes(path, self.output.url, storage_options(suite.storage)):
                    raise UserError(
                        f"output.path: {job.output.path} lies inside the data of suites.{name} ({path}), which would "
                        "then hold results; choose a folder outside of it"
                    )

    def fits(self) -> list[Fit]:
        return [partial(fit_score, self.job)] if self.job.rewards else []

    def identity(self) -> dict[str, Any]:
        identity = job_identity(self.job)
        del identity["input"]  # it follows from the suites
        return {name: value for name, value in identity.items() if name not in OF_FIGURES}

    def result(self) -> Evaluation | None:
        text = self.output.read_if_exists(EVALUATION)
        scored = None if text is None else super().result()
        if text is None or scored is None:
            return None
        report = orjson.loads(text)
        if {name: report["protocol"][name] for name in OF_FIGURES} != self._figure_settings():
            return None  # the same scores, measured differently
        return Evaluation(**vars(scored), evaluation=report)

    def check(self) -> None:
        with self._sample(SAMPLE_ITEMS) as sample:
            super(Evaluate, sample).check()  # of this job, whatever its output holds

    def prepare(self) -> None:
        if self.private.exists(BUILT):
            self._prepare_items()
        else:
            self.check()

    def work(self, lease: Lease) -> Evaluation:
        if not self.private.exists(BUILT):
            with self.display.show_step("reading the suites"):
                self.output.remove(ITEMS)
                built = build_items(self.job, self.output.folder(ITEMS))
            self.private.write(BUILT, _to_json({name: data.plain() for name, data in built.items()}))
        self._prepare_items()
        summary = super().result() or super().work(lease)
        lease.check()
        with self.display.show_step("metrics"):
            report = self._measure()
        return Evaluation(**vars(summary), evaluation=report)

    def plan(self, gpu: str) -> Showable:
        with self._sample(None) as sample:
            plan = plan_job(sample.job, sample.fits(), gpu)
        return plan

    @contextmanager
    def first_rows(self) -> Iterator[InputDataset]:
        with self._sample(SAMPLE_ITEMS) as sample, super(Evaluate, sample).first_rows() as dataset:
            yield dataset

    @classmethod
    def status(cls, output: Folder) -> OutputStatus:
        status = super().status(output)
        if status.state == "finished" and not output.exists(EVALUATION):  # scored, and the figures are still to come
            held = may_be_running(output.folder("_rmbatch/lease"))
            return replace(status, state="running" if held else "not finished")
        return status

    def discard(self) -> None:
        self.output.delete([EVALUATION, PROTOCOL, LEADERBOARD])
        for folder in (PLOTS, BY_ITEM):
            self.output.remove(folder)
        super().discard()

    def _prepare_items(self) -> None:
        """List the items below the output; check the job against them where they are not planned yet."""
        if self.ledger.plan(self.output.options) is None:
            super().check()
        else:
            super().prepare()

    @contextmanager
    def _sample(self, limit: int | None) -> Iterator["Evaluate"]:
        """The same job over items in a folder that is gone afterwards; nothing is written to the output."""
        scratch = tempfile.mkdtemp(prefix="rmbatch-")
        try:
            build_items(self.job, Folder.open(scratch), limit)
            read = self.job.input.model_copy(update={"path": scratch})
            yield Evaluate(self.job.model_copy(update={"input": read}), self.display)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _measure(self) -> dict[str, Any]:
        """Make the figures of the scored rows, and write them."""
        job = self.job
        built = orjson.loads(self.private.read(BUILT))
        tallies: dict[str, SuiteTally] = {}
        self.output.remove(BY_ITEM)
        with tempfile.TemporaryDirectory() as scratch:
            files = _ItemFiles(self.output.folder(BY_ITEM), Path(scratch))
            for name, table in self._read_scored():
                suite = load_suite(job.suite_of(name))
                judged = self._judge(name, table, built[name].get("verdict_kinds", {}))
                here = [each for each in job.scorers if each in judged]
                compare = [pair for pair in job.pairs if {*pair} <= {*here}]
                if name not in tallies:
                    tallies[name] = SuiteTally(suite, here, compare, job.replicates, job.seed)
                files.write(name, table, tallies[name].add(to_items(table), judged))
            files.finish()
        results = {name: (tallies[name].suite, tallies[name].result()) for name in job.suites if name in tallies}
        report = summarise(results, job.scorers, job.pairs)
        report["leaderboard"] = leaderboard(report)
        report["protocol"] = self._describe_protocol(built)
        self.output.write(PROTOCOL, _to_json(report["protocol"]))
        self.output.write(LEADERBOARD, write_page(report).encode())
        for plot, image in draw_plots(report, self.display.say).items():
            self.output.write(f"{PLOTS}/{plot}.png", image)
        self.output.write(EVALUATION, _to_json(report))  # written last: it marks the end
        return report

    def _read_scored(self) -> Iterator[tuple[str, pa.Table]]:
        """Blocks of scored rows by suite, with the columns that metrics read. A suite that is whole comes in one."""
        listing = list_input([self.output.url], self.output.options)
        dataset = plan_dataset(listing, self.output.options, unit_bytes=self._unit_bytes)
        prefixes = ("score.", "steps.", RECORDED)
        wanted = [each for each in dataset.schema.names if each in METRIC_COLUMNS or each.startswith(prefixes)]
        dataset = dataset.project(wanted)
        kept: dict[str, list[pa.Table]] = {}
        for unit in dataset.units.values():
            for block in dataset.read(Range(unit.index, 0, unit.num_rows), READ_ROWS):
                for name in pc.unique(block["suite"]).to_pylist():
                    rows = block.filter(pc.equal(block["suite"], name))
                    if load_suite(self.job.suite_of(name)).whole:
                        kept.setdefault(name, []).append(rows)
                    else:
                        yield name, rows
        for name, blocks in kept.items():
            yield name, pa.concat_tables(blocks)

    def _judge(self, suite: str, table: pa.Table, kinds: Mapping[str, Sequence[str]]) -> dict[str, Judged]:
        """What each reward, and each that was recorded, says of scored rows of one suite.

        The names are the same for each block of the suite. ``kinds``: of the recorded verdicts, by name.
        """
        compares = {name: reward.takes_offsets for name, reward in self.rewards().items()}
        names = [each for each in self.job.scorers if f"score.{each}" in table.column_names]
        judged = {name: to_judged(table, name, compares.get(name, False)) for name in names}
        for name, sources in self.job.recorded.items():
            if suite in sources:
                judged[name] = to_recorded(table, name, kinds.get(name))
        return judged

    def _figure_settings(self) -> dict[str, Any]:
        return self.job.model_dump(mode="json", include=set(OF_FIGURES))

    def _describe_protocol(self, built: Mapping[str, Any]) -> dict[str, Any]:
        """What somebody needs to measure the same again."""
        identity = self.identity()
        return {
            "suites": built,
            **self._figure_settings(),
            "bootstrap": "over prompts, Poisson weights by a hash of prompt, seed and replicate",
            "ties": "official: as the suite's own code; fair: shared among the candidates with the highest score",
            "nulls": "never won: official and worst lose them, fair leaves them out, best wins them",
            "rewards": identity["rewards"],
            "reward_files": identity["reward_files"],
            "recorded": identity["recorded"],
            "versions": {"python": platform.python_version(), **_find_versions()},
        }


class _ItemFiles:
    """Writes Parquet files with a row for each item: SUITE.parquet, and further ones where there are many items."""

    def __init__(self, folder: Folder, scratch: Path) -> None:
        self._folder, self._scratch = folder, scratch
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._rows: Counter[str] = Counter()

    def write(self, name: str, table: pa.Table, credits: Mapping[str, Any]) -> None:
        """Write the items of a block with the credit of each scorer; null where it has no score."""
        columns = {each: table[each] for each in ("item", "subset")}
        for scorer, credit in credits.items():
            columns[f"credit.{scorer}"] = pa.array(credit, from_pandas=True)
        rows = pa.table(columns)
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self._scratch / name, rows.schema)
        self._writers[name].write_table(rows)
        before = self._rows[name]
        self._rows[name] += rows.num_rows
        if before // ITEMS_PER_FILE < self._rows[name] // ITEMS_PER_FILE:
            self._upload(name, before // ITEMS_PER_FILE)

    def finish(self) -> None:
        """Write what is left."""
        for name in list(self._writers):
            self._upload(name, self._rows[name] // ITEMS_PER_FILE)

    def _upload(self, name: str, number: int) -> None:
        self._writers.pop(name).close()
        part = f".{number:05}" if number else ""
        self._folder.write(f"{name}{part}.parquet", (self._scratch / name).read_bytes())


def _find_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _to_json(values: Any) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
