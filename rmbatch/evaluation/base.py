"""What a suite promises, and the table of suites. To add one: one class, and one line here.

A suite is a benchmark's data (read by an adapter), its protocol and its metrics. Its metrics are sums over items: what
``measure`` says of each item is added up, by stratum, for the data and for each replicate of the bootstrap, and
``figures`` makes the figures of these sums. So rows stream, and every figure has its interval.

    suite = load_suite("rewardbench")
    measures = suite.measure(items, judged)                 # by name: one number an item
    suite.figures(sums)["overall"].fair[0]
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.errors import UserError
from rmbatch.evaluation.figures import Measures, Sums, Value
from rmbatch.evaluation.ragged import Bools, Floats, Ragged
from rmbatch.settings.names import nearest

SUITES = {
    "rewardbench": "rmbatch.evaluation.rewardbench:RewardBench",
    "rewardbench2": "rmbatch.evaluation.rewardbench2:RewardBench2",
    "rm_bench": "rmbatch.evaluation.rm_bench:RMBench",
    "rmb": "rmbatch.evaluation.rmb:RMB",
    "judgebench": "rmbatch.evaluation.games:JudgeBench",
    "llmbar": "rmbatch.evaluation.games:LLMBar",
    "ppe_correctness": "rmbatch.evaluation.ppe:PPECorrectness",
    "preferences": "rmbatch.evaluation.preferences:Preferences",
    "processbench": "rmbatch.evaluation.first_error:ProcessBench",
    "first_error": "rmbatch.evaluation.first_error:FirstWrongStep",
    "prmbench": "rmbatch.evaluation.prmbench:PRMBench",
}
"""The class of each suite, by its name. Job files use the names."""


@dataclass(frozen=True)
class Items:
    """Items of a suite, as columns."""

    id: NDArray[np.object_]
    subset: NDArray[np.object_]
    """Text; empty where the data have no subsets."""
    key: NDArray[np.uint64]
    """Equal for items of one prompt."""
    correct: Ragged
    """For each candidate: 1 right, 0 wrong, NaN unknown."""
    lengths: Ragged
    """For each candidate: its length in characters."""
    num_steps: NDArray[np.int64]
    """Of the first candidate; 0 where the data have no steps."""
    error_steps: Ragged
    """The wrong steps, from 0."""
    pairs: Ragged
    """Places of candidates that the data pair up: first, second, first, second …; empty where they do not."""

    @property
    def num_items(self) -> int:
        return len(self.id)

    def take(self, rows: NDArray[np.int64]) -> "Items":
        """The items with these numbers."""
        plain = {name: getattr(self, name)[rows] for name in ("id", "subset", "key", "num_steps")}
        lists = {name: getattr(self, name).take(rows) for name in ("correct", "lengths", "error_steps", "pairs")}
        return replace(self, **plain, **lists)


@dataclass(frozen=True)
class Judged:
    """What one reward, or somebody whose verdicts were recorded, says of the same items."""

    scores: Ragged
    """One score a candidate; NaN: none."""
    compares: bool = False
    """Whether candidates were compared in both orders, so that equal scores are a tie or a contradiction."""
    games: Floats | None = None
    """Of pairs, [items, 2]: the verdict in the data's order and in the other one. 1: the first candidate is better, 0:
    the second, 0.5: a tie, NaN: unreadable. None: follows from the scores."""
    steps: Ragged | None = None
    """The scores of the first candidate's steps. None: it gives none."""
    first_error: Floats | None = None
    """The first wrong step, from 0; -1: none is wrong; NaN: no verdict. None: follows from ``steps``."""

    def take(self, rows: NDArray[np.int64]) -> "Judged":
        """The verdicts on the items with these numbers."""
        return replace(
            self,
            scores=self.scores.take(rows),
            games=None if self.games is None else self.games[rows],
            steps=None if self.steps is None else self.steps.take(rows),
            first_error=None if self.first_error is None else self.first_error[rows],
        )


class Suite(ABC):
    """A benchmark: which adapter reads its data, what is measured of each item, and its figures."""

    name: ClassVar[str]
    title: ClassVar[str]
    adapters: ClassVar[tuple[str, ...]] = ()
    """The adapters of its published rows: the first that fits. None fits: the rows are in standard columns."""
    main: ClassVar[str] = "overall"
    """The figure that stands for the suite."""
    needs: ClassVar[str] = "scores"
    """What it judges: scores of candidates, or steps."""
    whole: ClassVar[bool] = False
    """Whether a measure needs all items at once. Such suites are small."""
    keeps_hopeless: ClassVar[bool] = False
    """Whether an item none or all of whose candidates are right still counts for something."""
    form: ClassVar[str] = "candidates of which some are right"
    """Of its items; see ``has_form``."""
    credit_of: ClassVar[tuple[str, ...]]
    """The rates that make up an item's credit."""
    official: ClassVar[str]
    """What the official number favours, or that it favours nothing; one sentence."""
    source: ClassVar[str]

    @abstractmethod
    def measure(self, items: Items, judged: Judged) -> Measures:
        """What to add up: by name, one number an item. The names do not depend on the items."""

    @abstractmethod
    def figures(self, sums: Sums) -> dict[str, Value]:
        """The figures by name, in the order in which they are shown; ``main`` is one of them."""

    def has_form(self, correct: Ragged) -> Bools:
        """For each item, by which of its candidates are right, whether it is one that the suite can measure."""
        return np.ones(correct.num_lists, dtype=bool)

    def stratum(self, items: Items) -> NDArray[np.object_]:
        """The stratum of each item. Sums are kept apart by it."""
        return items.subset

    def cluster(self, table: pa.Table, item: pa.Array, prompt: pa.Array) -> pa.Array:
        """A text for each row that is equal for rows of one prompt: the bootstrap draws these."""
        del item
        return table["prompt_id"].combine_chunks() if "prompt_id" in table.column_names else prompt_text(prompt)

    def credit(self, measures: Measures) -> Floats:
        """The fair credit of each item over all its comparisons, 0 to 1; NaN where nothing was decided."""
        scored = np.sum([measures[f"{name}.scored"] for name in self.credit_of], axis=0)
        fair = np.sum([measures[f"{name}.fair"] for name in self.credit_of], axis=0)
        return np.where(scored > 0, fair / np.maximum(scored, 1), np.nan)

    def details(self, sums: Sums) -> Mapping[str, object]:
        """More of what the official code prints, as plain values."""
        del sums
        return {}

    def controls(self, items: Items) -> dict[str, Judged]:
        """What needs no skill: a scorer that gives all the same, the longest and the shortest candidate."""
        return {
            "constant": Judged(items.lengths.with_values(np.zeros(len(items.lengths.values)))),
            "longest": Judged(items.lengths),
            "shortest": Judged(items.lengths.with_values(-items.lengths.values)),
        }


def pick_credit(scores: Ragged, correct: Ragged) -> tuple[Floats, Floats]:
    """Credit for picking the candidate with the highest score, by item: where ties are shared, and where they lose.

    Each list of ``scores`` must be complete.
    """
    top = scores.values == np.repeat(scores.maximum(), scores.counts)
    num_top = np.maximum(scores.sum(top), 1)
    num_right = scores.sum(top & (correct.values == 1))
    return num_right / num_top, (num_right == num_top).astype(np.float64)


def fill_scores(scores: Ragged, correct: Ragged, *, right: bool) -> Ragged:
    """The scores, each missing one as good for the item (``right``) or as bad as it can be."""
    good = np.where(correct.values == 1, np.inf, -np.inf)
    return scores.with_values(np.where(np.isnan(scores.values), good if right else -good, scores.values))


def is_right(correct: Ragged) -> Bools:
    """For each candidate, whether it is known to be right."""
    found: Bools = correct.values == 1
    return found


def prompt_text(prompt: pa.Array) -> pa.Array:
    """The contents of each prompt's messages, joined: equal for equal prompts."""
    contents = pc.fill_null(pc.struct_field(pc.list_flatten(prompt), "content"), "")
    counts = pc.fill_null(pc.list_value_length(prompt), 0).to_numpy(zero_copy_only=False)
    return join_texts(contents, counts, "\x1f")


def join_texts(texts: pa.Array, counts: NDArray[np.int64], separator: str) -> pa.Array:
    """Runs of texts joined: the first ``counts[0]``, the next ``counts[1]``, … At most 2 GiB of text."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts.cast(pa.string())), separator)


def load_suite(name: str) -> Suite:
    """The suite of this name. Raises UserError naming the nearest one."""
    if name not in SUITES:
        raise UserError(f"suites: there is no suite {name!r}; {nearest(name, SUITES)}")
    module, _, attribute = SUITES[name].partition(":")
    return cast(Suite, getattr(import_module(module), attribute)())


def to_objects(column: pa.ChunkedArray | pa.Array) -> NDArray[np.object_]:
    """A text column as an array of Python strings; null is empty."""
    found: NDArray[np.object_] = np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)
    return np.where(found == None, "", found)  # noqa: E711  (elementwise)
