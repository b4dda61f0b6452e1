"""Pairs as ms-swift reads them: the conversation with the chosen answer, and beside it the rejected text.

Source: ms-swift, docs "Custom dataset", RLHF: ``messages`` and ``rejected_response``; ``margin`` is optional.
"""

import pyarrow as pa

from rmbatch.exports.base import Block, Exported, ExportRule, PairExport
from rmbatch.exports.conversations import append_answers


class MsSwiftPairs(PairExport):
    """messages: list<struct<role, content>>; rejected_response: text; margin: double above 0."""

    about = "preference pairs as messages and rejected_response, for ms-swift"

    def rows(self, block: Block, rule: ExportRule) -> Exported:
        pool = block.pool
        pairs, left_out = self.find_pairs(block, rule)
        prompts = pool.prompt.take(pa.array(pool.owner[pairs.chosen]))
        columns = {
            "messages": append_answers(prompts, pool.response.take(pa.array(pairs.chosen))),
            "rejected_response": pool.response.take(pa.array(pairs.rejected)),
            "margin": pa.array(pool.score[pairs.chosen] - pool.score[pairs.rejected]),
            "lineage": block.lineage(pairs.chosen, pairs.rejected),
        }
        return Exported(pa.table(columns), left_out)
