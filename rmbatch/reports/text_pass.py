"""The figures of a report that rest on texts, over all prompts or a sample of them.

found = TextPass(columns, roles, group, replicates=1000)
found.add(table)
found.plain()
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rmbatch.correction import columns as corrected
from rmbatch.exports.pool import read_corrections
from rmbatch.reports.agreement import Agreement
from rmbatch.reports.candidates import Candidates, Columns, prompt_keys, read_candidates, score_name
from rmbatch.reports.drift import Drift, measure_texts
from rmbatch.reports.length_bias import describe_length
from rmbatch.reports.pairs import PairLengths
from rmbatch.rows.roles import Roles

LENGTH = "length in characters"


class TextPass:
    """Sums over blocks of whole prompts."""

    def __init__(
        self, columns: Columns, roles: Roles, group: str | None, *, is_corrected: bool = False, replicates: int = 1000
    ) -> None:
        self._columns, self._roles, self._group, self._is_corrected = columns, roles, group, is_corrected
        names = [score_name(name) for name in columns.scores]
        gold = [] if columns.gold is None else [score_name(columns.gold)]
        self._agreement = Agreement([*names, *(each for each in gold if each not in names), LENGTH])
        self._drift = Drift(replicates)
        self._pairs = PairLengths()
        self.num_prompts = self.num_candidates = self.num_characters = 0

    def add(self, table: pa.Table) -> None:
        """Add rows of whole prompts."""
        found = self.read(table)
        keys = prompt_keys(self.num_prompts, found.num_prompts)
        self.num_prompts += found.num_prompts
        self.num_candidates += found.num_candidates
        assert found.text is not None
        measured = measure_texts(found.text)
        characters = measured[:, 0]
        self.num_characters += int(np.nansum(characters))
        selected, pool = self._compare(found)
        self._drift.add(keys, found, selected, pool, measured)
        if found.by is not None:
            self._pairs.add(found, found.scores[found.by], characters)
        if not self._is_corrected:
            values = [found.scores.get(name, found.gold) for name in self._agreement.names[:-1]]
            self._agreement.add(np.stack([*map(np.asarray, values), characters]), found.offsets)

    def read(self, table: pa.Table) -> Candidates:
        """The candidates of rows with their texts; of corrected rows the first answer and the one that replaced it."""
        if not self._is_corrected:
            return read_candidates(table, self._roles, self._columns, self._group, with_text=True)
        pool = read_corrections(table, self._roles)
        return Candidates(
            pool.offsets,
            {corrected.SCORE: pool.score},
            corrected.SCORE,
            rank=pool.rank,
            text=pool.response,
            row=pool.row,
            prompt_row=pool.prompt_row,
        )

    def _compare(self, found: Candidates) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The selected candidates, and those that they are compared with: all of the prompt, or its first answer."""
        place = np.arange(found.num_candidates)
        if self._is_corrected:
            first = place == np.repeat(found.offsets[:-1], np.diff(found.offsets))
            return ~first, first
        selected = np.zeros(found.num_candidates, bool)
        if found.rank is not None:
            selected = found.rank > 0
        else:
            picks = found.picks()
            selected[picks[picks >= 0]] = True
        return selected, np.ones(found.num_candidates, bool)

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "drift": self._drift.plain(),
            "pairs": self._pairs.plain(),
            "length": None if self._is_corrected else describe_length(self._agreement, LENGTH),
            "sample": {
                "prompts": self.num_prompts,
                "candidates": self.num_candidates,
                "characters": self.num_characters,
            },
        }
