"""The contract of exports, and the table of their formats. To add one: one small module, and one line in the table.

    export = load_export("dpo")                                  # UserError for a name that is none
    made = export.rows(Block(table, roles, "score.total", sources, Origin(job="9b1c…")), ExportRule())
    made.table, made.left_out                                    # rows for the trainer; prompts without one, by reason

A format is a pure function on a block of rows that holds whole prompts. Its rows hold no null at any depth, and each
has a column ``lineage`` that says where it came from.
"""

import importlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.errors import UserError
from rmbatch.correction.columns import OUTCOME as CORRECTED
from rmbatch.exports.pairs import PairRule, Pairs, make_pairs
from rmbatch.exports.pool import Pool, read_corrections, read_pool
from rmbatch.rows.messages import TEXT, combine_chunks
from rmbatch.rows.roles import Roles
from rmbatch.settings.names import nearest

FORMATS: dict[str, str] = {
    "critique": "rmbatch.exports.corrections:Critiques",
    "dpo": "rmbatch.exports.dpo:TrlPairs",
    "dpo_llama_factory": "rmbatch.exports.llama_factory:LlamaFactoryPairs",
    "dpo_ms_swift": "rmbatch.exports.ms_swift:MsSwiftPairs",
    "dpo_openrlhf": "rmbatch.exports.dpo:OpenRlhfPairs",
    "edit": "rmbatch.exports.corrections:Edits",
    "kto": "rmbatch.exports.kto:Labels",
    "kto_llama_factory": "rmbatch.exports.kto:LlamaFactoryLabels",
    "kto_ms_swift": "rmbatch.exports.kto:MsSwiftLabels",
    "listwise": "rmbatch.exports.listwise:Lists",
    "reward": "rmbatch.exports.dpo:RewardPairs",
    "sft": "rmbatch.exports.sft:Answers",
    "verl": "rmbatch.exports.verl:Prompts",
}
"""The class of each format, by the name that ``--to`` has."""


class ExportRule(PairRule):
    """What is exported."""

    by: str | None = None
    """The score that decides, as in ``score.NAME``. None: the one that the job chose by."""
    data_source: str = "rmbatch"
    """For verl: names the rewards function that a row belongs to."""


UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """Fingerprints of the settings that rows come from: 16 letters each, equal for equal settings."""

    job: str
    """Of the job that made the output."""
    scorer: str = UNKNOWN
    """Of the rewards and of how they were combined."""
    policy: str = UNKNOWN
    """Of what generated the candidates, or corrected them."""


@dataclass(frozen=True)
class Block:
    """Rows of a finished output that hold whole prompts."""

    table: pa.Table
    roles: Roles
    by: str | None
    """The column of the score that decides; of corrected rows ``correct.score`` does. None: there is none."""
    sources: pa.Array
    """text a row: the file of the output and the row in it, ``data/u000000-….parquet#17``."""
    came_from: Origin
    group: str | None = None
    """The column of flat rows that tells their prompts apart."""
    start: int = 0
    """How many rows of the export came before."""

    @property
    def is_corrected(self) -> bool:
        """Whether a job ``correct`` made these rows."""
        return CORRECTED in self.table.column_names

    @cached_property
    def pool(self) -> Pool:
        """The candidates."""
        if self.is_corrected:
            return read_corrections(self.table, self.roles)
        return read_pool(self.table, self.roles, self.by, self.group)

    @property
    def score_name(self) -> str:
        """The column of the score that decides."""
        return "correct.score" if self.is_corrected else str(self.by)

    @cached_property
    def ids(self) -> pa.Array:
        """text a row: its id, or its source where it has none."""
        if self.roles.id is None or self.roles.id not in self.table.column_names:
            return self.sources
        return pc.coalesce(pc.cast(combine_chunks(self.table[self.roles.id]), TEXT), pc.cast(self.sources, TEXT))

    def origin(self, rows: NDArray[np.int64]) -> dict[str, pa.Array]:
        """The part of the lineage that all formats share: of these rows."""
        taken = pa.array(rows)
        return {
            "source": self.sources.take(taken),
            "id": self.ids.take(taken),
            "job": pa.repeat(pa.scalar(self.came_from.job), len(rows)),
        }

    def scored_origin(self, rows: NDArray[np.int64]) -> dict[str, pa.Array]:
        """The same, of formats that write answers: also who wrote and who scored them."""
        named = {"scorer": self.came_from.scorer, "policy": self.came_from.policy, "score_name": self.score_name}
        return self.origin(rows) | {name: pa.repeat(pa.scalar(value), len(rows)) for name, value in named.items()}

    def lineage(self, chosen: NDArray[np.int64], rejected: NDArray[np.int64] | None = None) -> pa.Array:
        """A struct for each of these candidates, or pairs of them."""
        pool = self.pool
        owner = pool.owner[chosen]
        fields = self.scored_origin(pool.row[chosen])
        fields["candidates"] = pa.array(np.diff(pool.offsets)[owner], pa.int32())
        fields["candidate"] = pa.array(chosen - pool.offsets[owner], pa.int32())
        fields["score"] = pa.array(pool.score[chosen])
        if pool.model is not None:
            fields["model"] = pool.model.take(pa.array(chosen))
        if rejected is not None:
            fields["rejected_source"] = self.sources.take(pa.array(pool.row[rejected]))
            fields["rejected_candidate"] = pa.array(rejected - pool.offsets[owner], pa.int32())
            fields["rejected_score"] = pa.array(pool.score[rejected])
            if pool.model is not None:
                fields["rejected_model"] = pool.model.take(pa.array(rejected))
        return as_struct(fields)


@dataclass(frozen=True)
class Exported:
    """Rows of an export."""

    table: pa.Table
    left_out: Counter[str]
    """Prompts (of corrections: rows) that gave no row, by the reason."""


class Export(Protocol):
    """A format. It has no state."""

    about: ClassVar[str]
    """What a row is and who reads it, in one line."""
    reasons: ClassVar[Mapping[str, str]]
    """Why prompts give no row, and what it means."""
    is_paired: ClassVar[bool]
    """Whether the policy of pairs decides about its rows."""
    compares: ClassVar[bool]
    """Whether a row holds several candidates of a prompt."""
    reads_candidates: ClassVar[bool]
    """Whether its rows are made of candidates."""

    def check(self, rule: ExportRule) -> None:
        """Raises UserError for a rule that does not fit."""

    def check_columns(self, roles: Roles, names: Collection[str]) -> None:
        """Raises UserError where rows with columns of these names cannot be exported."""

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        """The rows of a block."""

    def files_beside(self, name: str, file_format: str) -> dict[str, bytes]:
        """Further files of the folder, by their paths. ``name``: the folder's."""


class PairExport:
    """What formats of pairs share."""

    about: ClassVar[str]
    reasons: ClassVar[Mapping[str, str]] = {
        "not_selected": "the job kept none of the prompt's candidates",
        "no_pair": "no two usable candidates are a pair by the policy: too few, equal, too close, or of other lengths",
    }
    is_paired: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    reads_candidates: ClassVar[bool] = True

    def check(self, rule: ExportRule) -> None:
        by_policy = {
            "threshold": {"above", "below", "max_pairs"},
            "all_above_margin": {"max_pairs"},
            "random": {"seed"},
        }
        read = {"pairs", "min_margin", "same_length_band", *by_policy.get(rule.pairs, ())}
        check_unread(f"pairs: {rule.pairs}", rule, read)
        if rule.pairs == "threshold":
            check_thresholds("pairs: threshold", rule)

    def check_columns(self, roles: Roles, names: Collection[str]) -> None:
        """Candidates are enough."""

    def files_beside(self, name: str, file_format: str) -> dict[str, bytes]:
        return {}

    def find_pairs(self, block: Block, rule: ExportRule) -> tuple[Pairs, Counter[str]]:
        """The pairs of a block, and the prompts without one."""
        pool = block.pool
        kept = pool.kept
        usable = pool.usable & kept[pool.owner]
        texts, passed = pool.response, pool.passed
        pairs = make_pairs(pool.score, pool.offsets, usable, rule, response=texts, rank=pool.rank, may_be_chosen=passed)
        paired = np.zeros(pool.num_prompts, bool)
        paired[pool.owner[pairs.chosen]] = True
        return pairs, count_reasons({"not_selected": ~kept, "no_pair": kept & ~paired})


def check_unread(what: str, rule: ExportRule, read: Collection[str]) -> None:
    """Raises UserError for a setting that would change nothing. ``read``: those that are read, beside ``by``."""
    for name, field in ExportRule.model_fields.items():
        if name not in {"by", *read} and getattr(rule, name) != field.default:
            raise UserError(f"{name}: {getattr(rule, name)} changes nothing here ({what}); leave it out")


def check_thresholds(what: str, rule: ExportRule) -> None:
    """Raises UserError unless there are two thresholds, the good one above the bad one."""
    if rule.above is None or rule.below is None:
        raise UserError(f"{what} needs two thresholds, above and below; give 0.8 and 0.2, for example")
    if rule.above <= rule.below:
        raise UserError(f"above, {rule.above:g}, has to be higher than below, {rule.below:g}")


def count_reasons(prompts: Mapping[str, NDArray[np.bool_]]) -> Counter[str]:
    """How many prompts each reason has, without those that have none."""
    return Counter({code: int(np.count_nonzero(found)) for code, found in prompts.items() if found.any()})


def as_struct(fields: Mapping[str, pa.Array]) -> pa.Array:
    """A struct of these columns."""
    return pa.StructArray.from_arrays(list(fields.values()), list(fields))


def load_export(name: str) -> Export:
    """The format of this name. Raises UserError where there is none."""
    if name not in FORMATS:
        raise UserError(f"there is no export called {name!r}; {nearest(name, FORMATS)}")
    module, _, attribute = FORMATS[name].partition(":")
    return cast(Export, getattr(importlib.import_module(module), attribute)())
