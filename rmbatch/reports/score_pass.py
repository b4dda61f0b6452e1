"""The figures of a report that rest on scores alone, over all rows.

found = ScorePass(columns, roles, group, total_rows, replicates=1000, examples=3)
found.add(table, sources)
found.plain(tally)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rmbatch.correction import columns as corrected
from rmbatch.reports.agreement import Agreement
from rmbatch.reports.candidates import Candidates, Columns, prompt_keys, read_candidates, score_name
from rmbatch.reports.corrections import Corrections
from rmbatch.reports.curve import Curves
from rmbatch.reports.distribution import Distribution
from rmbatch.reports.examples import Examples
from rmbatch.reports.nulls import NullReasons, describe_nulls
from rmbatch.reports.picks import Picks
from rmbatch.rows.messages import combine_chunks
from rmbatch.rows.roles import Roles
from rmbatch.selection.control import mix
from rmbatch.stages.tally import Tally

AGREEMENT_PAIRS = 10_000_000
"""Pairs of candidates that agreement is counted over, or some more; of more prompts a sample is taken."""
MOST_SOURCES = 30
OTHERS = "(others)"
"""Stands for the sources beyond the first MOST_SOURCES that were met."""


class ScorePass:
    """Sums over blocks of whole prompts."""

    def __init__(
        self,
        columns: Columns,
        roles: Roles,
        group: str | None,
        total_rows: int,
        *,
        errors: Sequence[str] = (),
        is_corrected: bool = False,
        replicates: int = 1000,
        examples: int = 3,
    ) -> None:
        self._columns, self._roles, self._group, self._total_rows = columns, roles, group, total_rows
        self.names = [score_name(name) for name in columns.scores]
        self.by = None if columns.by is None else score_name(columns.by)
        self.gold = None if columns.gold is None else score_name(columns.gold)
        choosers = [name for name in self.names if name != self.gold] if self.gold else [self.by] if self.by else []
        self.distributions = {name: Distribution() for name in self.names}
        self._by_source: dict[str, dict[str, Distribution]] = {}
        judged = self.names + ([self.gold] if self.gold and self.gold not in self.names else [])
        self._agreement = Agreement(judged)
        self._curves = Curves([name for name in choosers if name], replicates)
        self._picks = Picks(self.names, self.by, has_gold=self.gold is not None, replicates=replicates)
        self._nulls = NullReasons(errors)
        self._corrections = Corrections(replicates) if is_corrected else None
        self.examples = Examples(examples)
        self._num_prompts = 0

    def add(self, table: pa.Table, sources: pa.Array) -> None:
        """Add rows of whole prompts. sources: text a row, where it stands."""
        found = read_candidates(table, self._roles, self._columns, self._group)
        keys = prompt_keys(self._num_prompts, found.num_prompts)
        self._num_prompts += found.num_prompts
        for name, values in found.scores.items():
            self.distributions[name].add(values)
        self._add_sources(found)
        self._add_agreement(keys, found)
        measure = found.gold if found.gold is not None else found.scores.get(self.by or "")
        if self._curves.choosers and measure is not None:
            self._curves.add(keys, found.scores, measure, found.offsets)
        self._picks.add(keys, found)
        self._nulls.add(table)
        if self._corrections is None:
            self.examples.add(found, sources)
        else:
            self._corrections.add(keys, table)
            self.examples.add(read_gains(table), sources)

    def _add_sources(self, found: Candidates) -> None:
        if found.source is None:
            return
        coded = pc.dictionary_encode(found.source)
        codes = np.asarray(coded.indices)
        for code, name in enumerate(coded.dictionary.to_pylist()):
            if name not in self._by_source and len(self._by_source) >= MOST_SOURCES:
                name = OTHERS
            own = self._by_source.setdefault(name, {each: Distribution() for each in self.names})
            for each, values in found.scores.items():
                own[each].add(values[codes == code])

    def _add_agreement(self, keys: NDArray[Any], found: Candidates) -> None:
        """Add prompts, all or by chance so many that the pairs are about AGREEMENT_PAIRS."""
        if len(self._agreement.names) < 2:
            return
        counts = np.diff(found.offsets)
        pairs = float((counts * (counts - 1) / 2).mean()) if len(counts) else 0.0
        share = min(1.0, AGREEMENT_PAIRS / max(pairs * self._total_rows, 1.0))
        chosen = np.flatnonzero(mix(keys + np.uint64(1)) / 2.0**64 < share) if share < 1 else np.arange(len(counts))
        values = [found.scores.get(name, found.gold) for name in self._agreement.names]
        lists = [found.ragged(np.asarray(each)).take(chosen) for each in values]
        self._agreement.add(np.stack([each.values for each in lists]), lists[0].offsets)

    def plain(self, tally: Tally) -> dict[str, Any]:
        """As plain values. tally: what the job has counted."""
        scores: dict[str, Any] = {}
        for name, found in self.distributions.items():
            scores[name] = found.plain()
            by_source = {source: own[name].plain() for source, own in sorted(self._by_source.items())}
            scores[name]["sources"] = {source: each for source, each in by_source.items() if each["count"]}
        counts = {
            name: {"count": each["count"] + each["infinite"], "nulls": each["nulls"]} for name, each in scores.items()
        }
        pairs = self._agreement.plain()
        return {
            "scores": scores,
            "nulls": describe_nulls(tally, counts, self._nulls),
            "agreement": {"prompts": self._agreement.num_prompts, "of": self._num_prompts, "pairs": pairs}
            if pairs
            else None,
            "curve": self._curves.plain() if self._curves.choosers else None,
            "picks": self._picks.plain(),
            "gains": None if self._corrections is None else self._corrections.plain(),
        }


def read_gains(table: pa.Table) -> Candidates:
    """Corrected rows as prompts with two candidates, the first answer and what came of it."""
    before, after = (
        np.asarray(pc.cast(combine_chunks(table[name]), pa.float64()).to_numpy(zero_copy_only=False))
        for name in (corrected.SCORE_BEFORE, corrected.SCORE)
    )
    rows = np.arange(table.num_rows)
    return Candidates(
        np.arange(table.num_rows + 1) * 2,
        {corrected.SCORE: np.column_stack([before, after]).ravel()},
        corrected.SCORE,
        rank=np.tile(np.array([0, 1], np.int32), table.num_rows),
        row=np.repeat(rows, 2),
        prompt_row=rows,
        gains=after - before,
    )
