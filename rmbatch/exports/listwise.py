"""All usable candidates of a prompt, best first, with their scores and ranks: for listwise losses and rerankers."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa

from rmbatch.exports.base import Block, Exported, ExportRule, count_reasons
from rmbatch.exports.single import SingleExport
from rmbatch.selection.order import sort_within


class Lists(SingleExport):
    """prompt: list<struct<role, content>>; completions: list<text>, scores: list<double>, ranks: list<int32>, aligned.

    Ranks begin at 1; equal scores share a rank, and the next one follows by 1. A candidate that a filter of the
    selection left out is in the list only where its score is lower than that of each that passed.
    """

    about = "all candidates of a prompt, best first, with scores and ranks, for listwise losses"
    compares = True
    reasons: ClassVar[Mapping[str, str]] = {"too_few": "the prompt has fewer than two usable candidates"}

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        lowest = np.full(pool.num_prompts, np.inf)
        good = pool.usable & pool.passed
        np.minimum.at(lowest, pool.owner[good], pool.score[good])
        usable = np.flatnonzero(good | (pool.usable & (pool.score < lowest[pool.owner])))
        counts = np.bincount(pool.owner[usable], minlength=pool.num_prompts)
        places = usable[(counts >= 2)[pool.owner[usable]]]
        places = sort_within(places, -pool.score, pool.owner)
        owner, score = pool.owner[places], pool.score[places]
        prompts = np.flatnonzero(counts >= 2)
        offsets = np.concatenate([[0], np.cumsum(counts[prompts])])
        is_new = np.ones(len(places), bool)
        is_new[1:] = (owner[1:] != owner[:-1]) | (score[1:] != score[:-1])
        level = np.cumsum(is_new)
        rank = level - level[offsets[:-1]][np.repeat(np.arange(len(prompts)), counts[prompts])] + 1
        starts = pa.array(offsets)

        def nest(values: pa.Array) -> pa.Array:
            return pa.LargeListArray.from_arrays(starts, values)

        best = places[offsets[:-1]]
        columns = {
            "prompt": pool.prompt.take(pa.array(prompts)),
            "completions": nest(pool.response.take(pa.array(places))),
            "scores": nest(pa.array(score)),
            "ranks": nest(pa.array(rank, pa.int32())),
            "lineage": block.lineage(best),
        }
        return Exported(pa.table(columns), count_reasons({"too_few": counts < 2}))
